"""What searching cost and what it was good for: numbers of one model on one task, with intervals.

Every number is a ratio of two sums over episodes, so that all of them can be resampled by question alike. With m the
executed searches of an episode and c whether it was right:

- ``tool_productivity``: mean of c / (1 + m) (MASH); ``right_per_search``: sum of c / sum of m (OTC);
- ``parametric_accuracy``: mean of c [m = 0]; ``parametric_precision``: mean of c among m = 0 (MASH);
- ``distinct_searches``: share of questions whose episodes differ in m: without any there is nothing to learn from;
- ``over_search``, ``under_search``: shares of episodes; ``useful``, ``redundant``, ``repeated_query``: shares of
  searches; see `search_columns` for what they mean where;
- ``searched_known``, ``searched_missing``: episodes that search, among questions that take no search and those that do;
- ``abstention_precision``, ``abstention_recall``, ``founded_abstention``: answers that say that nobody knows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from laconic.eval.policy_results import Prices
from laconic.eval.samples import Array
from laconic.eval.search_columns import columns_of
from laconic.eval.stats import FEW, bootstrap_means, count_clusters, interval
from laconic.inference.bounds import lower_bound, upper_bound
from laconic.rewards.errors import DataError
from laconic.rewards.records import Problem, Rollout

_ROUNDING = 1e-12
UNBOUNDED = frozenset(
    ("searches", "searches_right", "searches_wrong", "right_per_search", "ise", "tokens", "price_per_1000")
) | {"retrieved_tokens", "forced_tokens", "prompt_tokens", "seconds"}
"""Numbers that are no shares, and may be above 1 where they were not seen to be."""
Ratio = tuple[Array, Array]
"""What is summed above and below the line, both (n problems, K samples)."""


@dataclass(frozen=True, eq=False)
class Episodes:
    """K episodes of each of n problems by one model."""

    problems: tuple[Problem, ...]
    clusters: Array
    """(n,) int, as in `laconic.eval.samples.Samples`."""
    columns: Mapping[str, Array]
    """(n, K) each; nan where undefined."""

    @property
    def shape(self) -> tuple[int, int]:
        """(n problems, K samples)."""
        return self.columns["right"].shape

    def of_task(self, task: str) -> Episodes:
        """The problems of one task; all of them for ``"all"``."""
        keep = np.array([task in ("all", problem.task) for problem in self.problems])
        problems = tuple(problem for problem, kept in zip(self.problems, keep, strict=True) if kept)
        return Episodes(problems, self.clusters[keep], {name: held[keep] for name, held in self.columns.items()})


def episodes_of(rollouts: Iterable[Rollout], problems: Sequence[Problem], *, samples: int, source: str) -> Episodes:
    """Arrange the episodes of one model.

    Raises:
        DataError: one is missing, or a rollout is no search episode.
    """
    found = {(row.problem_id, row.sample): row for row in rollouts}
    wanted = [(problem, sample) for problem in problems for sample in range(samples)]
    for problem, sample in wanted:
        row = found.get((problem.id, sample))
        if row is None or "search" not in row.meta:
            what = "has no search episode" if row is None else "is no search episode"
            message = f"{source}: problem {problem.id!r}, sample {sample} {what}"
            raise DataError(message, cure="delete the rollouts file and run the stage again")
    rows = [columns_of(problem, found[problem.id, sample]) for problem, sample in wanted]
    shape = (len(problems), samples)
    columns = {name: np.array([row[name] for row in rows], dtype=float).reshape(shape) for name in rows[0]}
    clusters = [str(problem.meta.get("cluster", problem.id)) for problem in problems]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(clusters))}
    return Episodes(tuple(problems), np.array([numbers[name] for name in clusters]), columns)


def ratios(episodes: Episodes, *, prices: Prices | None = None) -> dict[str, Ratio]:
    """Every number of a row, by name."""
    c, m = episodes.columns["right"], episodes.columns["searches"]
    direct, ones = (m == 0).astype(float), np.ones_like(m)
    distinct = np.broadcast_to((m != m[:, :1]).any(axis=1, keepdims=True).astype(float), m.shape)
    column = episodes.columns
    found: dict[str, Ratio] = {
        "accuracy": (c, ones),
        **{name: (column[of], ones) for name, of in {"em": "em", "f1": "f1", "cover_em": "cover"}.items()},
        "searches": (m, ones),
        "searches_right": (m * c, c),
        "searches_wrong": (m * (1 - c), 1 - c),
        "searched": (1 - direct, ones),
        "tool_productivity": (c / (1 + m), ones),
        "right_per_search": (c, m),
        "parametric_accuracy": (c * direct, ones),
        "parametric_precision": (c * direct, direct),
        "distinct_searches": (distinct, ones),
        "over_search": (column["over"], ones),
        "under_search": (column["under"], ones),
        "useful": (column["useful"], m),
        "redundant": (column["redundant"], m),
        "repeated_query": (column["repeated_query"], m),
        "repeated_documents": (column["repeated_documents"], column["documents"]),
        "isr": (column["isr"], ones),
        "ise": (column["ise"], ones),
        "searched_known": ((1 - direct) * column["known"], column["known"]),
        "searched_missing": ((1 - direct) * column["missing"], column["missing"]),
        "abstention_precision": (column["right_abstention"], column["abstained"]),
        "abstention_recall": (column["right_abstention"], 1 - column["answerable"]),
        "founded_abstention": (column["founded_abstention"], column["right_abstention"]),
        "invalid": ((column["invalid"] > 0).astype(float), ones),
        "refused": ((column["refused"] > 0).astype(float), ones),
        "cut": (column["cut"], ones),
        "tokens": (column["generated"], ones),
        **{name: (column[of], ones) for name, of in _COUNTS.items()},
    }
    return found | _money(column, ones, prices)


_COUNTS = {
    "retrieved_tokens": "retrieved",
    "forced_tokens": "forced",
    "prompt_tokens": "prompt",
    "seconds": "seconds",
}


def _money(column: Mapping[str, Array], ones: Array, prices: Prices | None) -> dict[str, Ratio]:
    """What a thousand questions cost."""
    price = np.full_like(ones, np.nan)
    if prices is not None:
        read = column["prompt"] + column["retrieved"] + column["forced"]
        price = (read * prices.prompt + column["generated"] * prices.generated) / 1e3
    return {"price_per_1000": (price, ones)}


def distribution(episodes: Episodes, most: int) -> dict[str, Ratio]:
    """Shares of episodes by their number of searches, from 0 to `most`."""
    m = episodes.columns["searches"]
    return {str(number): ((m == number).astype(float), np.ones_like(m)) for number in range(most + 1)}


@dataclass(frozen=True, eq=False)
class Measured:
    """Ratios as numbers, and their bootstrap replicates."""

    values: dict[str, float | None]
    replicates: dict[str, Array]
    """(B,) each; nan where a resample leaves it undefined."""
    clusters: int
    """Independent questions."""

    intervals: dict[str, tuple[float, float] | None]
    """95 %: of the bootstrap (`span`), else what holds for every number of questions (`bounded`), else None."""

    def flat(self) -> dict[str, Any]:
        """Every number, and every interval under the name with ``_ci``."""
        return self.values | {f"{name}_ci": found for name, found in self.intervals.items()}


def span(replicates: Array, *, clusters: int) -> tuple[float, float] | None:
    """The 95 % interval of bootstrap replicates; None where they say nothing about questions that were not seen.

    So it is where the questions are few, where none differs from the others, and where more than one resample in a
    hundred leaves the number undefined, as a rare kind of question does.
    """
    defined = replicates[np.isfinite(replicates)]
    if clusters < FEW or len(defined) < 0.99 * len(replicates) or np.ptp(defined) <= _ROUNDING:
        return None
    return interval(defined)


def bounded(above: Array, below: Array, clusters: Array) -> tuple[float, float] | None:
    """The 95 % interval of a mean of shares that holds for every number of questions, by betting.

    Args:
        above: (n,) sums of one ratio by question.
        below: (n,) likewise; questions with 0 are not in it.
        clusters: (n,).

    Returns:
        None unless every question in it weighs the same and is a cluster of its own.
    """
    held = below > 0
    if not held.any() or np.ptp(below[held]) > _ROUNDING or count_clusters(len(clusters), clusters) < len(clusters):
        return None
    shares = above[held] / below[held]
    low, high = (bound(shares, confidence=0.975, bound="betting") for bound in (lower_bound, upper_bound))
    return float(low), float(high)


def measure(found: Mapping[str, Ratio], clusters: Array, *, seed: int, repetitions: int = 10_000) -> Measured:
    """Numbers and replicates; equal seeds resample the same questions, whatever the ratios.

    Args:
        found: Ratios over the same problems. An episode without a number (nan on either side) is in neither sum.
        clusters: (n,), as in `Episodes`.
        seed: Of the bootstrap.
        repetitions: B.
    """
    sides = [_defined(ratio) for ratio in found.values()]
    columns = np.stack([side.sum(axis=1) for pair in sides for side in pair], axis=1)
    drawn = bootstrap_means(columns, seed=seed, repetitions=repetitions, clusters=clusters)
    below, totals = drawn[:, 1::2], columns.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        replicates = np.where(below > 0, drawn[:, 0::2] / below, np.nan)
    values = {
        name: float(totals[2 * at] / totals[2 * at + 1]) if totals[2 * at + 1] > 0 else None
        for at, name in enumerate(found)
    }
    drawn_by_name, groups = dict(zip(found, replicates.T, strict=True)), count_clusters(len(clusters), clusters)
    intervals = {name: span(drawn_by_name[name], clusters=groups) for name in found}
    for at, name in enumerate(found):
        if values[name] is None:
            intervals[name] = None
        elif intervals[name] is None and name not in UNBOUNDED:
            intervals[name] = bounded(columns[:, 2 * at], columns[:, 2 * at + 1], clusters)
    return Measured(values, drawn_by_name, groups, intervals)


def _defined(ratio: Ratio) -> Ratio:
    held = np.isfinite(ratio[0]) & np.isfinite(ratio[1])
    return np.where(held, ratio[0], 0.0), np.where(held, ratio[1], 0.0)
