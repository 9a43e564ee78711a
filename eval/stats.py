"""Errors of means over questions, and paired comparisons of two models on the same questions.

The question is the unit everywhere: K samples of one question are not K independent observations.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from laconic.eval.samples import Array
from laconic.inference.bounds import betting, lower_bound, upper_bound

FEW = 10
"""Below this many clusters, normal tests and the bootstrap say nothing: their levels hold for many alone. Ours."""
_CHUNK = 500
"""Bootstrap replicates held in memory at once."""
_ROUNDING = 1e-12


def clustered_se(values: Array, clusters: Array | None = None) -> float | None:
    """Standard error of the mean of per-question values.

    ``SE^2 = G / (G - 1) / n^2 * sum over clusters of (sum of deviations)^2``; with one question per cluster this is
    the plain standard error ``sd / sqrt(n)``. The small-cluster factor is inspect_ai's.

    Args:
        values: (n,).
        clusters: (n,) int; questions with the same number are not independent. None: all are.

    Returns:
        The standard error; None where it cannot be known: there is one cluster only, or no spread between clusters,
        from which it does not follow that there is none between those that were not seen.
    """
    values = np.asarray(values, dtype=float)
    labels = _labels(len(values), clusters)
    sums = np.bincount(labels, weights=values - values.mean())
    groups = len(sums)
    if groups < 2 or np.abs(sums).max() <= _ROUNDING * max(1.0, np.abs(values).max()):
        return None
    return float(np.sqrt(groups / (groups - 1) * (sums**2).sum()) / len(values))


def count_clusters(n: int, clusters: Array | None = None) -> int:
    """How many independent observations n questions are."""
    return n if clusters is None else len(np.unique(clusters))


def _labels(n: int, clusters: Array | None) -> Array:
    """(n,) int from 0 on without gaps."""
    return np.arange(n) if clusters is None else np.unique(clusters, return_inverse=True)[1]


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
    labels = _labels(len(columns), clusters)
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


def non_inferiority(
    differences: Array, *, margin: float, level: float = 0.95, clusters: Array | None = None
) -> NonInferiority:
    """One-sided test whether a mean difference (new minus baseline, higher is better) is above ``-margin``.

    Not rejecting a difference would reward small samples; non-inferiority has to be shown, which small samples cannot.
    The test is by betting (`laconic.inference.bounds`) and holds its level for every number of clusters. A normal one
    would not: few questions mostly hold none of the rare losses, and so no spread. The price: with differences that
    are all zero, a margin of one point takes about 620 questions.

    Args:
        differences: (n,) of paired per-question values, each in [-1, 1].
        margin: Largest loss that would be accepted, >= 0.
        level: 0.95 tests at 5 percent.
        clusters: (n,) int or None, as in `clustered_se`.
    """
    means, width = _bounded(differences, clusters)
    lower = _of_share(lower_bound((means / width + 1.0) / 2.0, confidence=level, bound="betting"), width)
    if margin >= width:
        return NonInferiority(lower, 0.0, True)
    p_value = float(betting(((1.0 - means / width) / 2.0)[:, None], (1.0 + margin / width) / 2.0)[0])
    return NonInferiority(lower, p_value, p_value <= 1.0 - level)


def bounded_interval(differences: Array, *, level: float = 0.95, clusters: Array | None = None) -> tuple[float, float]:
    """Two-sided interval of a mean of differences in [-1, 1] that holds for every number of clusters, by betting."""
    means, width = _bounded(differences, clusters)
    shares, side = (means / width + 1.0) / 2.0, (1.0 + level) / 2.0
    low, high = (bound(shares, confidence=side, bound="betting") for bound in (lower_bound, upper_bound))
    return _of_share(low, width), _of_share(high, width)


def _bounded(differences: Array, clusters: Array | None) -> tuple[Array, float]:
    """One value per cluster whose mean is the mean over questions, and what none exceeds: 1 for equal clusters."""
    differences = np.asarray(differences, dtype=float)
    labels = _labels(len(differences), clusters)
    per_cluster = len(differences) / (labels.max() + 1)
    return np.bincount(labels, weights=differences) / per_cluster, float(np.bincount(labels).max() / per_cluster)


def _of_share(share: float, width: float) -> float:
    return (2.0 * share - 1.0) * width


def difference_p(differences: Array, *, clusters: Array | None = None) -> float:
    """Two-sided p-value of H0: the mean of paired differences is zero.

    Normal, with the clustered error. Below `FEW` clusters it is 1: nothing is claimed. Without any spread, where no
    error can be estimated, it is that of the sign test, ``2^(1 - clusters)``.
    """
    groups, mean = count_clusters(len(differences), clusters), float(np.mean(differences))
    if groups < FEW or mean == 0.0:
        return 1.0
    se = clustered_se(differences, clusters)
    return 2.0 ** (1 - groups) if se is None else two_sided_p(mean, se)


def two_sided_p(difference: float, se: float) -> float:
    """Normal two-sided p-value of H0: no difference; for many clusters."""
    return min(1.0, 2 * NormalDist().cdf(-abs(difference) / se))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values that keep the chance of any false alarm in the family below the level (Holm 1979)."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p)
    scaled = np.minimum(1.0, p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(scaled)
    return adjusted.tolist()
