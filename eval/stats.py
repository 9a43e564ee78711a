"""Errors of means over questions, and paired comparisons of two models on the same questions.

The question is the unit everywhere: K samples of one question are not K independent observations.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from laconic.eval.samples import Array

_CHUNK = 500
"""Bootstrap replicates held in memory at once."""


def clustered_se(values: Array, clusters: Array | None = None) -> float:
    """Standard error of the mean of per-question values.

    ``SE^2 = G / (G - 1) / n^2 * sum over clusters of (sum of deviations)^2``; with one question per cluster this is
    the plain standard error ``sd / sqrt(n)``. The small-cluster factor is inspect_ai's.

    Args:
        values: (n,).
        clusters: (n,) int; questions with the same number are not independent. None: all are.

    Returns:
        The standard error; 0.0 where there is one cluster only and the error cannot be known.
    """
    values = np.asarray(values, dtype=float)
    n = len(values)
    labels = np.arange(n) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    sums = np.bincount(labels, weights=values - values.mean())
    groups = len(sums)
    return float(np.sqrt(groups / (groups - 1) * (sums**2).sum()) / n) if groups > 1 else 0.0


def bootstrap_means(columns: Array, *, seed: int, repetitions: int = 10_000, clusters: Array | None = None) -> Array:
    """Means of per-question columns over resampled questions; all columns see the same resample, so they stay paired.

    Questions (whole clusters of them) are drawn with replacement. Samples within a question are *not* drawn again:
    the spread of question means already contains the noise of sampling K answers, and a second draw would count it
    twice (95 % intervals then cover nearly 99 %).

    Args:
        columns: (n, m) per-question values; any statistic that is a function of column means can follow.
        seed: Equal seeds give equal replicates.
        repetitions: B.
        clusters: (n,) int or None, as in `clustered_se`.

    Returns:
        (B, m) means, one row per replicate.
    """
    columns = np.asarray(columns, dtype=float)
    labels = np.arange(len(columns)) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    groups = int(labels.max()) + 1
    sizes = np.bincount(labels)
    sums = np.stack([np.bincount(labels, weights=column) for column in columns.T], axis=1)
    blocks = [(counts @ sums) / (counts @ sizes)[:, None] for counts in _resampled(groups, repetitions, seed)]
    return np.concatenate(blocks)


def _resampled(groups: int, repetitions: int, seed: int) -> Iterator[Array]:
    """How often each group was drawn: blocks of shape (replicates, groups)."""
    rng = np.random.default_rng(seed)
    for start in range(0, repetitions, _CHUNK):
        rows = min(_CHUNK, repetitions - start)
        drawn = rng.integers(groups, size=(rows, groups)) + groups * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * groups).reshape(rows, groups).astype(float)


def interval(replicates: Array, *, level: float = 0.95) -> tuple[float, float] | None:
    """Percentile interval of bootstrap replicates; None if some replicate is undefined."""
    if not np.isfinite(replicates).all():
        return None
    low, high = np.quantile(replicates, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@dataclass(frozen=True, slots=True)
class NonInferiority:
    """Outcome of a one-sided test of "not worse by more than the margin"."""

    bound: float
    """One-sided lower confidence bound of the difference."""
    p_value: float
    """Of H0: the true difference is at most -margin."""
    shown: bool
    """Whether H0 is rejected, that is, whether the bound lies above -margin."""


def non_inferiority(difference: float, se: float, *, margin: float, level: float = 0.95) -> NonInferiority:
    """One-sided normal test whether a difference (new minus baseline, higher is better) is above ``-margin``.

    Not rejecting a difference would reward small samples; non-inferiority has to be shown, which small samples cannot.

    Args:
        difference: Observed difference of means.
        se: Its standard error, paired by question.
        margin: Largest loss that would be accepted, >= 0.
        level: 0.95 tests at 5 percent.
    """
    bound = difference - NormalDist().inv_cdf(level) * se
    return NonInferiority(bound, _upper_tail(difference + margin, se), bound > -margin)


def two_sided_p(difference: float, se: float) -> float:
    """Normal two-sided p-value of H0: no difference."""
    return min(1.0, 2 * _upper_tail(abs(difference), se))


def _upper_tail(value: float, se: float) -> float:
    if se == 0:
        return 0.0 if value > 0 else 1.0
    return NormalDist().cdf(-value / se)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values that keep the chance of any false alarm in the family below the level (Holm 1979)."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p)
    scaled = np.minimum(1.0, p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(scaled)
    return adjusted.tolist()
