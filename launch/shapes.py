"""Sizes of decoder models, from what is at hand: a scratch spec, a local folder, or the table of well-known models."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ARCHITECTURES = ("qwen3", "qwen2", "llama")
"""Model types whose parameters are counted from the configuration."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The sizes of a decoder that decide its parameters and its memory."""

    architecture: str
    vocab: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    tied: bool
    """Input and output embeddings are one matrix."""

    @property
    def parameters(self) -> int:
        """How many there are, exactly, for one of `ARCHITECTURES`."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = 2 * self.hidden * queries + 2 * self.hidden * keys
        if self.architecture == "qwen2":
            attention += queries + 2 * keys
        if self.architecture == "qwen3":
            attention += 2 * self.head_dim
        layer = attention + 3 * self.hidden * self.intermediate + 2 * self.hidden
        embeddings = self.vocab * self.hidden * (1 if self.tied else 2)
        return embeddings + self.layers * layer + self.hidden

    def lora_parameters(self, rank: int) -> int:
        """Trained parameters of a LoRA of this rank on all linear layers."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = 2 * (self.hidden + queries) + 2 * (self.hidden + keys)
        return rank * self.layers * (attention + 3 * (self.hidden + self.intermediate))


def _qwen2(hidden: int, layers: int, heads: int, kv_heads: int, intermediate: int, vocab: int, tied: bool) -> Shape:
    return Shape(
        architecture="qwen2",
        vocab=vocab,
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=hidden // heads,
        intermediate=intermediate,
        tied=tied,
    )


def _qwen3(hidden: int, layers: int, heads: int, intermediate: int, tied: bool) -> Shape:
    return Shape(
        architecture="qwen3",
        vocab=151936,
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=8,
        head_dim=128,
        intermediate=intermediate,
        tied=tied,
    )


_QWEN2_05B = _qwen2(896, 24, 14, 2, 4864, 151936, True)
_QWEN2_15B = _qwen2(1536, 28, 12, 2, 8960, 151936, True)
_QWEN2_7B = _qwen2(3584, 28, 28, 4, 18944, 152064, False)

KNOWN: dict[str, Shape] = {
    "deepseek-ai/deepseek-r1-distill-qwen-1.5b": _qwen2(1536, 28, 12, 2, 8960, 151936, False),
    "deepseek-ai/deepseek-r1-distill-qwen-7b": _QWEN2_7B,
    "qwen/qwen2.5-0.5b": _QWEN2_05B,
    "qwen/qwen2.5-0.5b-instruct": _QWEN2_05B,
    "qwen/qwen2.5-1.5b": _QWEN2_15B,
    "qwen/qwen2.5-1.5b-instruct": _QWEN2_15B,
    "qwen/qwen2.5-math-1.5b": _QWEN2_15B,
    "qwen/qwen2.5-3b": _qwen2(2048, 36, 16, 2, 11008, 151936, True),
    "qwen/qwen2.5-3b-instruct": _qwen2(2048, 36, 16, 2, 11008, 151936, True),
    "qwen/qwen2.5-7b": _QWEN2_7B,
    "qwen/qwen2.5-7b-instruct": _QWEN2_7B,
    "qwen/qwen3-0.6b": _qwen3(1024, 28, 16, 3072, True),
    "qwen/qwen3-1.7b": _qwen3(2048, 28, 16, 6144, True),
    "qwen/qwen3-4b": _qwen3(2560, 36, 32, 9728, True),
    "qwen/qwen3-8b": _qwen3(4096, 36, 32, 12288, False),
}
"""Well-known models by lower-case hub id, from their published config.json."""


def shape_from_config(config: dict[str, Any]) -> Shape | None:
    """Read a Hugging Face `config.json`; None for an architecture that is not counted here."""
    if config.get("model_type") not in ARCHITECTURES:
        return None
    heads = config["num_attention_heads"]
    return Shape(
        architecture=config["model_type"],
        vocab=config["vocab_size"],
        hidden=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or config["hidden_size"] // heads,
        intermediate=config["intermediate_size"],
        tied=config.get("tie_word_embeddings", True),
    )


def local_folder(model: str, revision: str | None = None) -> Path | None:
    """Where a model's files are on this machine: the folder itself, or its copy in the hub cache; None if neither."""
    if Path(model).is_dir():
        return Path(model)
    cache = _hub_cache() / f"models--{model.replace('/', '--')}"
    ref = cache / "refs" / (revision or "main")
    commit = ref.read_text().strip() if ref.is_file() else revision or ""
    snapshot = cache / "snapshots" / commit
    return snapshot if commit and snapshot.is_dir() else None


def pretrained_shape(model: str, revision: str | None = None) -> Shape | None:
    """The shape of a hub id or a local folder, from its config.json if that is at hand, else from `KNOWN`."""
    folder = local_folder(model, revision)
    if folder is not None and (folder / "config.json").is_file():
        return shape_from_config(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    return KNOWN.get(model.lower())


def _hub_cache() -> Path:
    if cache := os.environ.get("HF_HUB_CACHE"):
        return Path(cache)
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface"
    return Path(home).expanduser() / "hub"
