"""Which models are worth having: the Pareto front of accuracy against tokens, and its hypervolume."""

from __future__ import annotations

import numpy as np

from laconic.eval.samples import Array


def pareto(tokens: Array, accuracy: Array) -> Array:
    """Which models no other model beats: none is at least as cheap and as accurate, and better in one of the two.

    Args:
        tokens: (..., m) mean tokens of m models; leading axes are independent cases (bootstrap replicates).
        accuracy: (..., m).

    Returns:
        (..., m) bool.
    """
    tokens, accuracy = np.asarray(tokens), np.asarray(accuracy)
    mine, other = np.s_[..., :, None], np.s_[..., None, :]
    as_good = (tokens[other] <= tokens[mine]) & (accuracy[other] >= accuracy[mine])
    better = (tokens[other] < tokens[mine]) | (accuracy[other] > accuracy[mine])
    return ~(as_good & better).any(axis=-1)


def hypervolume(tokens: Array, accuracy: Array, reference: float) -> float:
    """Area under the front, from 0 accuracy and up to `reference` tokens, as a share of the whole rectangle.

    Equals the mean over budgets in [0, reference] of the best accuracy among models whose mean tokens fit.

    Args:
        tokens: (m,) mean tokens.
        accuracy: (m,) in [0, 1].
        reference: Tokens beyond which nothing counts.
    """
    order = np.argsort(tokens)
    edges = np.minimum(np.append(np.asarray(tokens, dtype=float)[order], reference), reference)
    best = np.maximum.accumulate(np.asarray(accuracy)[order])
    return float((np.diff(edges) * best).sum() / reference)
