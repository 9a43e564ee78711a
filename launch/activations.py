"""What one micro-batch holds besides weights: activations kept for the backward pass, tiles of logits, keys and values.

Coefficients are bytes that PyTorch's autograd really saves for the decoders of transformers 5.23 (a test counts them
again); they follow from the layers' code, not from a fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from laconic.launch.shapes import Shape
from laconic.recipes.arithmetic import MOST_LOGITS

Precision: TypeAlias = Literal["float32", "mixed", "half"]
"""Of a forward pass: 32 bits, 16 bits by autocast over 32-bit weights, or 16 bits weights and all."""

TILE_TOKENS, TILE_VOCABULARY = 4096, 32768
"""TRL 1.16 projects so many tokens onto so much of the vocabulary at once, and keeps no logits for later."""

_UNFUSED = 33
"""Bytes of one logit of a tile without Triton: eight 32-bit copies and a mask. With Triton it is computed in place."""

_KEPT = 16
"""Bytes of one logit that is kept: its logarithm, its share, and twice the gradient."""


@dataclass(frozen=True, slots=True)
class _Saved:
    """Bytes per token and layer for each unit of a width."""

    hidden: int
    intermediate: int
    heads: int
    """Of queries, and of keys and values."""
    normed_heads: int
    """The same where queries and keys are normalised, as in Qwen3."""
    spread: int
    """Those of rotated keys and of values, which padding makes as wide as queries."""


_SAVED: dict[Precision, _Saved] = {
    "float32": _Saved(24, 16, 8, 16, 8),
    "mixed": _Saved(26, 8, 4, 10, 4),
    "half": _Saved(16, 8, 4, 10, 4),
}


def width(precision: Precision) -> int:
    """Bytes of one number in matrix products."""
    return 4 if precision == "float32" else 2


def layer_bytes(shape: Shape, precision: Precision, *, rows: float, length: int, padded: bool) -> float:
    """Saved in one layer for the backward pass.

    Args:
        shape: Of the model.
        precision: Of the forward pass.
        rows: Sequences; shorter ones count by their share.
        length: Tokens of each, padding included.
        padded: With an attention mask: attention then keeps one number per pair of tokens, and keys and values once
            per query head. (Flash attention does neither.)
    """
    saved = _SAVED[precision]
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    per_head = saved.normed_heads if shape.architecture == "qwen3" else saved.heads
    token = saved.hidden * shape.hidden + saved.intermediate * shape.intermediate + per_head * (queries + keys)
    if not padded:
        return rows * length * token
    return rows * length * (token + saved.spread * (queries - keys) + width(precision) * length)


def activation_bytes(
    shape: Shape, precision: Precision, *, rows: float, length: int, padded: bool, checkpointing: bool
) -> float:
    """Saved in all layers; with gradient checkpointing their inputs, and all of the layer that is computed again."""
    layer = layer_bytes(shape, precision, rows=rows, length=length, padded=padded)
    if not checkpointing:
        return shape.layers * layer
    return shape.layers * rows * length * shape.hidden * (2 if precision == "half" else 4) + layer


def logit_bytes(
    shape: Shape, precision: Precision, *, tokens: int, fused: bool, trains_head: bool, keeps: bool = False
) -> int:
    """The tile of logits or all of them, and what the projection's gradient is summed up in.

    Args:
        shape: Of the model.
        precision: Of the forward pass.
        tokens: Whose log-probability is taken.
        fused: By a Triton kernel, on a GPU.
        trains_head: Whether the output matrix is trained.
        keeps: Logits are kept if there are at most `MOST_LOGITS` of them.
    """
    if keeps and tokens * shape.vocab <= MOST_LOGITS:
        return tokens * shape.vocab * _KEPT + 4 * shape.hidden * (tokens + (shape.vocab if trains_head else 0))
    one = TILE_VOCABULARY * width(precision) if fused else min(shape.vocab, TILE_VOCABULARY) * _UNFUSED
    tile = min(tokens, TILE_TOKENS) * one
    return tile + 4 * shape.hidden * (tokens + (shape.vocab if trains_head else 0))


def cache_bytes(shape: Shape, precision: Precision, *, rows: int, length: int) -> int:
    """Keys and values of so many sequences at their longest, and room for what they grow into (`engines.kv`)."""
    token = 2 * shape.layers * shape.kv_heads * shape.head_dim * width(precision)
    # Half as many rows and a quarter more columns than are needed; the last growth copies what is 4/5 as large.
    return int(rows * 1.5 * length * 1.25 * token * 1.8)
