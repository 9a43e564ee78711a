"""Drawing the next token of each row from its own random numbers, whatever the row is batched with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from laconic.inference.engine import Sampling
from laconic.rewards.errors import ModelError, RecipeError


def check_sampling(sampling: Sampling) -> None:
    """Refuse parameters that describe no distribution.

    Raises:
        RecipeError: names the parameter, its value and what is legal.
    """
    legal = {
        "temperature": (sampling.temperature >= 0, "0 (most likely token) or more"),
        "top_p": (0 < sampling.top_p <= 1, "above 0, at most 1"),
        "top_k": (sampling.top_k is None or sampling.top_k >= 1, "null or at least 1"),
        "max_tokens": (sampling.max_tokens >= 1, "at least 1"),
    }
    for key, (holds, wanted) in legal.items():
        if not holds:
            raise RecipeError(f"sampling.{key}: {getattr(sampling, key)} is out of range", cure=f"it must be {wanted}")


def random_numbers(seed: int, path: Sequence[int] = ()) -> np.random.Generator:
    """A request's own stream of numbers in [0, 1), one per token: a function of its seed alone (Philox).

    Args:
        seed: Of the request.
        path: Of a branch: which fork of which fork it is; every path has a stream of its own.
    """
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=tuple(path))))


class NumbersAhead:
    """A stream of random numbers whose next ones can be seen before they are used.

    Args:
        generator: Gives them.
    """

    def __init__(self, generator: np.random.Generator) -> None:
        self._generator = generator
        self._ahead: list[float] = []

    def ahead(self, count: int) -> list[float]:
        """The next ones, which stay the next until they are used."""
        if (missing := count - len(self._ahead)) > 0:
            self._ahead += self._generator.random(missing).tolist()
        return self._ahead[:count]

    def use(self, count: int = 1) -> None:
        """The next ones were used."""
        del self._ahead[:count]


def broken_rows(logits: torch.Tensor) -> torch.Tensor:
    """Which rows hold NaN, plus infinity, or nothing that can be drawn; shape (B,)."""
    return ~logits.amax(-1).isfinite()


def not_finite() -> ModelError:
    """What is said about such rows."""
    return ModelError(
        "the model's logits are not finite (NaN or infinity)",
        cure="use an earlier checkpoint; training has diverged, or the dtype is too narrow for this model",
    )


def draw(logits: torch.Tensor, numbers: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """One token per row by inverting the cumulative distribution.

    Temperature comes first, then top_k, then top_p on what is left, as in transformers. A token stays under top_p if
    those more likely than it hold less than `top_p`, so at least one always stays.

    Args:
        logits: Next-token logits, shape (B, V).
        numbers: One uniform number per row, float64, shape (B,).
        sampling: Temperature 0 takes the most likely token.

    Returns:
        Token ids, shape (B,).

    Raises:
        ModelError: a row's logits hold NaN or infinity.
    """
    if broken_rows(logits).any():
        raise not_finite()
    return draw_finite(logits, numbers, sampling)


def draw_finite(logits: torch.Tensor, numbers: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """The same for logits that were looked at."""
    if sampling.temperature == 0:
        return logits.argmax(-1)
    # The peak goes first: a small temperature must not push the largest logit out of range.
    scaled = (logits - logits.amax(-1, keepdim=True)).float() / sampling.temperature
    if sampling.top_k is None and sampling.top_p >= 1:
        return _invert(scaled.softmax(-1), numbers)
    width = min(sampling.top_k or scaled.shape[-1], scaled.shape[-1])
    values, tokens = scaled.topk(width, dim=-1)
    shares = values.softmax(-1)
    before = shares.cumsum(-1) - shares
    chosen = _invert(shares.masked_fill(before >= sampling.top_p, 0.0), numbers)
    return tokens.gather(-1, chosen[:, None]).squeeze(-1)


def _invert(shares: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """The first index whose cumulative share exceeds number x total; doubles, since shares may be many and small."""
    cumulative = shares.double().cumsum(-1)
    target = (numbers * cumulative[:, -1])[:, None]
    return torch.searchsorted(cumulative, target, right=True).squeeze(-1).clamp(max=shares.shape[-1] - 1)
