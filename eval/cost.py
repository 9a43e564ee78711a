"""What answers cost in tokens, and accuracy under a budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from laconic.eval.samples import Array, Samples


@dataclass(frozen=True, slots=True)
class AesWeights:
    """Coefficients of the accuracy-efficiency score. Papers differ (1, 3, 5 or 1, 5, 10): always print them."""

    alpha: float = 1.0
    """Weight of the relative saving of tokens."""
    beta: float = 3.0
    """Weight of a relative gain of accuracy."""
    gamma: float = 5.0
    """Weight of a relative loss of accuracy; larger than `beta`."""


def token_summary(samples: Samples) -> dict[str, float | None]:
    """Mean, median and 90th percentile over all n * K samples, by part and by verdict.

    A mean over no samples (nothing was right, or nothing wrong) is None.
    """
    tokens = samples.tokens
    return {
        "tokens": float(tokens.mean()),
        "tokens_median": float(np.median(tokens)),
        "tokens_p90": float(np.percentile(tokens, 90)),
        "think_tokens": float(samples.think_tokens.mean()),
        "answer_tokens": float(samples.answer_tokens.mean()),
        "tokens_correct": _mean(tokens[samples.correct]),
        "tokens_wrong": _mean(tokens[~samples.correct]),
        "tokens_per_correct": tokens_per_correct(samples.correct, tokens),
    }


def _mean(values: Array) -> float | None:
    return float(values.mean()) if values.size else None


def tokens_per_correct(correct: Array, tokens: Array) -> float | None:
    """All tokens spent per right answer obtained, ``sum T / sum s``; None (no finite price) if nothing was right."""
    return float(tokens.sum() / correct.sum()) if correct.any() else None


def aes(tokens: Array, accuracy: Array, base_tokens: Array, base_accuracy: Array, weights: AesWeights) -> Array:
    """Accuracy-efficiency score against a base (O1-Pruner, arXiv:2501.12570).

    With ``dL = (L_base - L) / L_base`` and ``dA = (A - A_base) / A_base``:
    ``alpha * dL + beta * |dA|`` if accuracy did not fall, else ``alpha * dL - gamma * |dA|``.
    Half the tokens at equal accuracy score 0.5; one percent of relative accuracy lost costs 5 percent of length.

    Args:
        tokens: Mean tokens; any shape, as are the others (a bootstrap passes one value per replicate).
        accuracy: Mean accuracy.
        base_tokens: Mean tokens of the base.
        base_accuracy: Mean accuracy of the base; where it is 0 the score is undefined and NaN.
        weights: The coefficients.
    """
    tokens, accuracy, base = np.asarray(tokens), np.asarray(accuracy), np.asarray(base_accuracy, dtype=float)
    saved = (base_tokens - tokens) / base_tokens
    gained = (accuracy - base) / np.where(base > 0, base, np.nan)
    return weights.alpha * saved + np.where(gained >= 0, weights.beta, weights.gamma) * gained


def accuracy_at_budget(correct: Array, tokens: Array, budgets: Sequence[float]) -> Array:
    """Accuracy if every answer had to fit a budget: hard truncation, wrong if longer. No answer is forced.

    Args:
        correct: (n, K) bool.
        tokens: (n, K).
        budgets: m numbers of tokens.

    Returns:
        (m,): ``acc(b) = mean(s * 1[T <= b])``.
    """
    spent = np.sort(tokens[correct])
    return np.searchsorted(spent, np.asarray(budgets), side="right") / correct.size


def budget_area(correct: Array, tokens: Array, limit: float) -> Array:
    """Mean of `accuracy_at_budget` over all budgets from 0 to `limit`, per question.

    The integral has a closed form, ``s * max(0, B - T) / B`` (OptimalThinkingBench's score with B thinking tokens).

    Args:
        correct: (n, K) bool.
        tokens: (n, K).
        limit: B, in tokens.

    Returns:
        (n,) in [0, 1].
    """
    return (correct * np.clip(limit - tokens, 0, None) / limit).mean(axis=1)


def budget_grid(limit: int, *, points: int = 8) -> list[int]:
    """Budgets to tabulate when a recipe names none: the token limit halved again and again, ascending."""
    halves = [limit // 2**step for step in range(points)]
    return sorted({budget for budget in halves if budget >= 4} or {limit})
