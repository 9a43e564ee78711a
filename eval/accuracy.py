"""Accuracy of repeated samples: per-question values of shape (n,), whose mean is the number to report.

Per-question values rather than the mean, because standard errors and paired comparisons need them (`stats`).
"""

from __future__ import annotations

from functools import cache
from math import comb

import numpy as np

from laconic.eval.samples import INVALID, RIGHT, Array


def accuracy(correct: Array) -> Array:
    """Share of right samples per question, also called avg@K or pass@1.

    Args:
        correct: (n, K) bool.

    Returns:
        (n,) in [0, 1].
    """
    return correct.mean(axis=1)


def pass_at_k(correct: Array, k: int) -> Array:
    """Probability that k of the K samples, drawn without replacement, hold a right one; unbiased.

    ``1 - C(K - c, k) / C(K, k)`` with c right samples (Chen et al. 2021, arXiv:2107.03374), from exact binomials.

    Args:
        correct: (n, K) bool.
        k: 1 to K.

    Returns:
        (n,) in [0, 1].
    """
    samples = correct.shape[1]
    assert 1 <= k <= samples
    by_count = np.array([1 - comb(samples - right, k) / comb(samples, k) for right in range(samples + 1)])
    return by_count[correct.sum(axis=1)]


def majority_at_k(votes: Array, k: int) -> Array:
    """Probability that the most frequent answer among k of the K samples is the right one; exact.

    The expectation over all C(K, k) subsets, not one draw. A tie between t leading answers, one of them right, counts
    1/t. Samples without an answer do not vote; a subset without any vote is wrong. One vote costs the tokens of all k
    samples.

    Args:
        votes: (n, K) int as in `Samples.votes`.
        k: 1 to K.

    Returns:
        (n,) in [0, 1].
    """
    assert 1 <= k <= votes.shape[1]
    return np.array([_majority(*_signature(row), k) for row in votes])


def _signature(row: Array) -> tuple[int, tuple[int, ...], int]:
    """How often the right answer, each wrong answer (sorted) and no answer occur."""
    wrong = np.unique(row[row > RIGHT], return_counts=True)[1]
    return int((row == RIGHT).sum()), tuple(sorted(wrong.tolist())), int((row == INVALID).sum())


@cache
def _majority(right: int, wrong: tuple[int, ...], invalid: int, k: int) -> float:
    """Counts the subsets in which the right answer leads, by its number of votes."""
    total = 0.0
    for lead in range(1, min(right, k) + 1):
        for (used, ties), ways in _ways_below(wrong, lead).items():
            rest = k - lead - used
            if 0 <= rest <= invalid:
                total += comb(right, lead) * ways * comb(invalid, rest) / (1 + ties)
    return total / comb(right + sum(wrong) + invalid, k)


@cache
def _ways_below(wrong: tuple[int, ...], lead: int) -> dict[tuple[int, int], int]:
    """Ways to draw wrong answers so that none gets more than `lead` votes: (votes drawn, answers at `lead`) -> ways."""
    ways = {(0, 0): 1}
    for count in wrong:
        longer: dict[tuple[int, int], int] = {}
        for (used, ties), number in ways.items():
            for drawn in range(min(count, lead) + 1):
                key = (used + drawn, ties + (drawn == lead))
                longer[key] = longer.get(key, 0) + number * comb(count, drawn)
        ways = longer
    return ways
