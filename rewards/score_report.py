"""What a reward does on a file of rollouts, in numbers: whom it favours, what length does, where it says nothing.

Right and wrong are the file's verdicts. Comparisons are made inside a group, because only they move a policy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from laconic.rewards.group import Array, Group
from laconic.rewards.score import Score, Table
from laconic.rewards.score_length import length_changes

EQUAL = 1e-9
"""Rewards nearer than this are the same."""


@dataclass(frozen=True)
class Pair:
    """A wrong rollout above a right one of its group."""

    prompt_id: Any
    wrong_line: int
    wrong_reward: float
    right_line: int
    right_reward: float


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation between reward and length; None where one of them does not vary."""

    right: float | None
    wrong: float | None
    all: float | None


@dataclass(frozen=True)
class Properties:
    """What one reward does on one file."""

    reward: str
    rollouts: int
    groups: int
    steps: int
    abstained: int
    mean_right: float | None
    mean_wrong: float | None
    pairs: int
    """Of a wrong and a right rollout of one group."""
    wrong_above_right: int
    """Pairs in which the wrong one has the higher reward."""
    first_wrong_above_right: Pair | None
    wrong: int
    """Wrong rollouts."""
    wrong_tried: int
    """Those whose own length was changed, everything else kept: all, or in a long file some, evenly spread."""
    wrong_moved: int
    """Those whose reward changed."""
    change_at_twice_the_length: float | None
    """Mean change of reward over all that were tried."""
    change_at_half_the_length: float | None
    groups_without_signal: int
    """Groups in which all rewards are equal, so that every advantage is 0."""
    spearman: Correlation
    """Over all rollouts of the file."""
    spearman_within_groups: Correlation
    """Over ranks taken inside each group, so that harder problems being longer does not show."""

    @property
    def share_without_signal(self) -> float:
        """Of the groups."""
        return self.groups_without_signal / self.groups

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return dataclasses.asdict(self)


def properties_of(table: Table, score: Score) -> Properties:
    """Measure what the reward did; see `Properties`."""
    rewards, correct = np.concatenate(score.rewards), np.concatenate([batch.correct for batch in score.batches])
    lengths, given = np.concatenate([batch.length for batch in score.batches]), ~np.isnan(rewards)
    right, wrong = given & correct, given & ~correct
    whose = np.repeat(np.arange(len(list(_groups(score)))), [group.size for group, _ in _groups(score)])
    changes = length_changes(score)
    pairs, above, first = _wrong_above_right(table, score)
    parts = {"right": right, "wrong": wrong, "all": given}
    return Properties(
        reward=score.chosen.name,
        rollouts=len(rewards),
        groups=int(whose[-1]) + 1,
        steps=len(score.batches),
        abstained=int((~given).sum()),
        mean_right=_mean(rewards[right]),
        mean_wrong=_mean(rewards[wrong]),
        pairs=pairs,
        wrong_above_right=above,
        first_wrong_above_right=first,
        wrong=int((~correct).sum()),
        wrong_tried=changes.shape[1],
        wrong_moved=int((np.abs(changes) > EQUAL).any(axis=0).sum()),
        change_at_twice_the_length=_mean(changes[0]),
        change_at_half_the_length=_mean(changes[1]),
        groups_without_signal=sum(_spread(values) <= EQUAL for _, values in _groups(score)),
        spearman=Correlation(**{name: spearman(rewards[of], lengths[of]) for name, of in parts.items()}),
        spearman_within_groups=Correlation(
            **{name: spearman(rewards[of], lengths[of], whose[of]) for name, of in parts.items()}
        ),
    )


def spearman(first: Array, second: Array, whose: Array | None = None) -> float | None:
    """Rank correlation, ties sharing their mean rank; None where one of the two does not vary.

    Args:
        first: Shape (N,).
        second: Shape (N,).
        whose: Shape (N,), the group of each; ranks are then taken, and centred, inside every group.
    """
    whose = np.zeros(len(first), dtype=int) if whose is None else whose
    ranks = [_centred_ranks(values, whose) for values in (first, second)]
    norm = np.sqrt((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum())
    return float((ranks[0] * ranks[1]).sum() / norm) if norm > EQUAL else None


def _centred_ranks(values: Array, whose: Array) -> Array:
    """Rank inside the group less the group's mean rank, shape (N,)."""
    order = np.lexsort((values, whose))
    ordered, group = values[order], whose[order]
    # Equal neighbours of one group form a tie; rewards that differ by rounding only are equal.
    starts = np.flatnonzero(np.r_[True, (np.diff(ordered) > EQUAL) | (np.diff(group) != 0)][: len(values)])
    sizes = np.diff(np.r_[starts, len(values)])
    ranks = np.empty(len(values))
    ranks[order] = np.repeat(starts + (sizes - 1) / 2, sizes)
    _, place = np.unique(whose, return_inverse=True)
    counts = np.bincount(place)
    return ranks - (np.bincount(place, weights=ranks) / np.maximum(counts, 1))[place]


def _groups(score: Score) -> Iterator[tuple[Group, Array]]:
    """Every group with its rewards, shape (G,)."""
    for batch, values in zip(score.batches, score.rewards, strict=True):
        yield from zip(batch, batch.split(values), strict=True)


def _wrong_above_right(table: Table, score: Score) -> tuple[int, int, Pair | None]:
    """Pairs of a wrong and a right rollout of one group, those with the wrong one above, and the first of these."""
    pairs, above, first = 0, 0, None
    places = (group for groups in table.places for group in groups)
    for (group, values), rows in zip(_groups(score), places, strict=True):
        given = ~np.isnan(values)
        wrong, right = np.flatnonzero(given & ~group.correct), np.flatnonzero(given & group.correct)
        higher = values[wrong][:, None] > values[right][None, :] + EQUAL
        pairs, above = pairs + higher.size, above + int(higher.sum())
        if first is None and higher.any():
            at = np.argwhere(higher)[0]
            one, other = int(wrong[at[0]]), int(right[at[1]])
            first = _pair(table, rows, values, one, other)
    return pairs, above, first


def _pair(table: Table, rows: Array, values: Array, wrong: int, right: int) -> Pair:
    file = table.file
    lines = [file.rows[rows[at]].line for at in (wrong, right)]
    return Pair(file.prompt_id(int(rows[wrong])), lines[0], float(values[wrong]), lines[1], float(values[right]))


def _spread(values: Array) -> float:
    given = values[~np.isnan(values)]
    return float(np.ptp(given)) if given.size else 0.0


def _mean(values: Array) -> float | None:
    return float(values.mean()) if values.size else None
