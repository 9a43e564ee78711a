"""Confidence as DeepConf measures it: of tokens, of groups of tokens, of traces; and the bar that it has to reach."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np

from laconic.inference.engine import Token
from laconic.rewards.errors import LaunchError

Statistic: TypeAlias = Literal["mean", "tail", "lowest", "min"]
# Sums of confidences are kept as integers of this unit: exact, so a window's mean does not depend on earlier windows.
_UNIT = 2**64


def token_confidence(top: Sequence[float], *, top_k: int | None = 20) -> float:
    """The negative mean of a token's largest log-probabilities, rounded to 3 decimals.

    Entries beyond the `top_k` largest are dropped, and so are those of tokens that cannot come (minus infinity).

    >>> token_confidence([-0.7, -0.9, -3.3, -9.0], top_k=3), token_confidence([-0.7, -0.9, -3.3, -9.0], top_k=None)
    (1.633, 3.475)

    Args:
        top: Log-probabilities, in any order.
        top_k: How many of them count. None: all.

    Raises:
        LaunchError: there are none.
    """
    largest = sorted((value for value in top if value > -math.inf), reverse=True)[:top_k]
    if not largest:
        raise LaunchError("a token came without log-probabilities", cure="use an engine that reports the most likely")
    # Adding zero turns the confidence of a token without alternatives from -0.0 to 0.0.
    return _round(-sum(largest) / len(largest)) + 0.0


def token_confidences(tokens: Sequence[Token], *, top_k: int = 20) -> list[float]:
    """The confidence of every token; an end-of-sequence token counts only if the engine gave its log-probabilities.

    Raises:
        LaunchError: a token with a text has none.
    """
    return [token_confidence(token.top or (), top_k=top_k) for token in tokens if token.text or token.top]


def group_confidences(confidences: Sequence[float], *, window: int = 2048) -> list[float]:
    """Means of all windows of as many tokens, one token apart, rounded to 3 decimals.

    Of fewer tokens than a window, the one mean of all, not rounded; of none, 0.

    >>> group_confidences([2.2, 1.3, 1.7], window=2), group_confidences([], window=2)
    ([1.75, 1.5], [0.0])
    """
    means = _window_means(confidences, window)
    return [_round(mean) for mean in means] if means else [_mean(confidences)]


def lowest_group(confidences: Sequence[float], *, window: int = 2048) -> float:
    """The lowest of `group_confidences`."""
    return min(group_confidences(confidences, window=window))


def trace_confidence(
    confidences: Sequence[float], *, statistic: Statistic, window: int = 2048, share: float = 0.1
) -> float:
    """How confident a trace is, from the confidences of its tokens; 0 without any.

    Args:
        confidences: Of its tokens, in order.
        statistic: ``mean`` of all; ``tail``: of the last `window`; ``lowest``: mean of the lowest `share` of all
            windows (rounded down, but at least one; the mean of all tokens if they fill no window); ``min``:
            `lowest_group`.
        window: Tokens of a window.
        share: Of the windows, for ``lowest``.
    """
    if statistic == "min":
        return lowest_group(confidences, window=window)
    if statistic == "lowest":
        means = sorted(_window_means(confidences, window))
        return _mean(means[: max(1, int(len(means) * share))] or confidences)
    return _mean(confidences[-window:] if statistic == "tail" else confidences)


def confidence_bar(confidences: Sequence[float], *, keep: float) -> float:
    """The percentile 100 - `keep`, interpolated between neighbours.

    >>> confidence_bar([1.0, 2.0, 3.0, 4.0, 5.0], keep=90)
    1.4
    """
    return float(np.percentile(confidences, 100 - keep))


def most_confident(confidences: Sequence[float], *, keep: float) -> list[int]:
    """Places at or above `confidence_bar`.

    >>> most_confident([1.0, 5.0, 3.0], keep=50)
    [1, 2]
    """
    if not confidences:
        return []
    bar = confidence_bar(confidences, keep=keep)
    return [place for place, confidence in enumerate(confidences) if confidence >= bar]


class LowConfidence:
    """A token hook: true once a full window's mean, rounded to 3 decimals, is below the bar.

    Args:
        bar: From the warm-up.
        window: Tokens of a group.
        top_k: Log-probabilities per token.
    """

    def __init__(self, *, bar: float, window: int = 2048, top_k: int = 20) -> None:
        self.bar, self.top_k = bar, top_k
        self.seen = 0
        """Tokens so far."""
        self.low = False
        """Whether a group was below the bar."""
        self._means = _SlidingMean(window)

    def __call__(self, token: Token) -> bool:
        """The next token came."""
        for confidence in token_confidences([token], top_k=self.top_k):
            self.push(confidence)
        return self.low

    def catch_up(self, confidences: Sequence[float]) -> bool:
        """All confidences so far: a hook does not see a token that ends a generation by itself. Returns `low`."""
        for confidence in confidences[self.seen :]:
            self.push(confidence)
        return self.low

    def push(self, confidence: float) -> None:
        """The next token's confidence."""
        self.seen += 1
        mean = self._means.push(confidence)
        self.low = self.low or (mean is not None and _round(mean) < self.bar)


class _SlidingMean:
    def __init__(self, window: int) -> None:
        self.window, self.total = window, 0
        self.values: deque[int] = deque()

    def push(self, value: float) -> float | None:
        """The mean of the last `window` values; None before there are so many."""
        self.values.append(int(value * _UNIT))
        self.total += self.values[-1]
        if len(self.values) > self.window:
            self.total -= self.values.popleft()
        return self.total / (self.window * _UNIT) if len(self.values) == self.window else None


def _window_means(confidences: Sequence[float], window: int) -> list[float]:
    sliding = _SlidingMean(window)
    return [mean for mean in map(sliding.push, confidences) if mean is not None]


def _round(value: float) -> float:
    # To 3 decimals as numpy does, which the authors' figures went through: 1.9165 becomes 1.916, not 1.917.
    return round(value * 1000) / 1000


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else 0.0
