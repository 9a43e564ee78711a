"""Does the length of a wrong rollout move its own reward? Tried out: everything else stays as it is in the file.

Rollouts are changed together only where none can see another: all of a batch for a reward of scope ``rollout``, one of
every group for ``group``, a single one for ``batch``. In a long file some wrong rollouts, evenly spread, stand for all;
for scope ``batch`` evenly spread groups then also stand for the batch.
"""

from __future__ import annotations

import dataclasses
import math
import pickle
from collections.abc import Iterator, Sequence

import numpy as np

from laconic.rewards.group import Array, Batch, Group
from laconic.rewards.registry import Scorer, build
from laconic.rewards.score import Score

FACTORS = (2.0, 0.5)
"""What the length of a wrong rollout is multiplied with."""
FEWEST = 64
"""Wrong rollouts that are tried at least, if there are so many."""
_EACH = 1 + len(FACTORS)
_MOST_SCORED = 300_000
"""Rollouts scored for all of that, unless `FEWEST` takes more."""
_MOST_IN_BATCH = 2_048
"""Rollouts of a batch that are scored beside a changed one."""


def length_changes(score: Score) -> Array:
    """The change of reward at each of `FACTORS` of every wrong rollout that was tried, shape (2, tried).

    The reward is asked with the memory that it had then. Where it abstains there is nothing to move.
    """
    scorer = build(score.chosen.name, score.chosen.parameters)
    changes: list[Array] = [np.zeros((len(FACTORS), 0))]
    for batch, turns in zip(score.batches, _turns(score), strict=True):
        memory = pickle.dumps(scorer.state_dict())
        changes += [_changes(scorer, memory, *turn) for turn in turns]
        scorer.load_state_dict(pickle.loads(memory))
        scorer(batch)
    return np.nan_to_num(np.concatenate(changes, axis=1))


def _changes(scorer: Scorer, memory: bytes, batch: Batch, chosen: Array) -> Array:
    def scored(given: Batch) -> Array:
        scorer.load_state_dict(pickle.loads(memory))
        return np.asarray(scorer(given), dtype=float)[chosen]

    before = scored(batch)
    return np.array([scored(_with_length(batch, chosen, factor)) - before for factor in FACTORS])


def _turns(score: Score) -> Iterator[list[tuple[Batch, Array]]]:
    """For every batch what is scored, and, of shape (N,), which of its rollouts are changed."""
    scope = score.chosen.reward.scope
    if scope == "batch":
        yield from _single(score.batches)
    elif scope == "group":
        having = sum(bool((~group.correct).any()) for batch in score.batches for group in batch)
        affordable = _MOST_SCORED // (_EACH * sum(batch.size for batch in score.batches))
        most = max(1, affordable, math.ceil(FEWEST / max(1, having)))
        yield from (_one_of_each_group(batch, most) for batch in score.batches)
    else:
        yield from ([(batch, ~batch.correct)] for batch in score.batches)


def _single(batches: Sequence[Batch]) -> Iterator[list[tuple[Batch, Array]]]:
    """Wrong rollouts one by one."""
    ends = np.cumsum([(~batch.correct).sum() for batch in batches])
    most = max(FEWEST, _MOST_SCORED // (_EACH * max(min(batch.size, _MOST_IN_BATCH) for batch in batches)))
    tried = _spread(np.arange(ends[-1]), most)
    for batch, end in zip(batches, ends, strict=True):
        wrong = np.flatnonzero(~batch.correct)
        inside = tried[(tried >= end - len(wrong)) & (tried < end)] - (end - len(wrong))
        yield [_beside(batch, int(place)) for place in wrong[inside]]


def _beside(batch: Batch, place: int) -> tuple[Batch, Array]:
    """The batch, or a part of it, with the rollout at this place in it marked."""
    marks = batch.split(np.arange(batch.size) == place)
    own = next(at for at, marked in enumerate(marks) if marked.any())
    kept = _spread(np.arange(len(marks)), max(1, len(marks) * _MOST_IN_BATCH // batch.size))
    kept = np.union1d(kept, [own]).tolist()
    return Batch(tuple(batch.groups[at] for at in kept)), np.concatenate([marks[at] for at in kept])


def _one_of_each_group(batch: Batch, most: int) -> list[tuple[Batch, Array]]:
    """One wrong rollout of every group at a time, at most so many times."""
    wrong = [_spread(np.flatnonzero(~group.correct), most) for group in batch]
    starts = np.cumsum([0, *(group.size for group in batch)])[:-1]
    turns = []
    for turn in range(max(map(len, wrong))):
        places = [start + places[turn] for start, places in zip(starts, wrong, strict=True) if turn < len(places)]
        turns.append((batch, np.isin(np.arange(batch.size), places)))
    return turns


def _spread(places: Array, most: int) -> Array:
    """At most so many of them, at even distances."""
    if len(places) <= most:
        return places
    return places[((np.arange(most) + 0.5) * len(places) / most).astype(int)]


def _with_length(batch: Batch, chosen: Array, factor: float) -> Batch:
    """The batch with the chosen rollouts longer or shorter, their thinking in proportion."""
    scales = batch.split(np.where(chosen, factor, 1.0))
    return Batch(tuple(_scaled(group, scale) for group, scale in zip(batch, scales, strict=True)))


def _scaled(group: Group, scale: Array) -> Group:
    thinking = {} if group.think_length is None else {"think_length": np.round(group.think_length * scale)}
    return dataclasses.replace(group, length=np.round(group.length * scale), **thinking)
