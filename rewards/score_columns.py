"""Which columns of a rollouts file are given to the rewards, and what a reader of their numbers ought to know about it.

A needed column that is missing is an error; one that a reward would only have read goes missing with a note, because
the reward is then another number.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from laconic.rewards.group import COLUMNS, Array, Batch
from laconic.rewards.registry import Reward, build, find
from laconic.rewards.rollouts_file import Row, lacking, missing
from laconic.rewards.worked_group import example_group

_REQUIRED = ("correct", "length")
_OWN_MODULE = "laconic.rewards."


@dataclass(frozen=True)
class Chosen:
    """A reward by its name, with the parameters that are not to be the default."""

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def reward(self) -> Reward:
        """What the registry has under the name."""
        return find(self.name)

    @property
    def needs(self) -> tuple[str, ...]:
        """Columns that it cannot do without; the one that a judge fills is one of them."""
        reward = self.reward
        filled = () if reward.judged is None else (reward.judged.column,)
        return tuple(dict.fromkeys((*reward.needs, *filled)))


def columns_to_read(
    prompts: Sequence[Sequence[Row]], chosen: Sequence[Chosen], *, has_judge: bool
) -> tuple[list[str], list[str]]:
    """Names of the columns that are there and that somebody reads, and notes on those that are not.

    Args:
        prompts: The rows of each prompt.
        chosen: The rewards that are going to score.
        has_judge: Somebody fills the columns of judges.

    Raises:
        DataError: a column that a reward needs is missing.
    """
    needed = _needed(chosen)
    filled = {item.reward.judged.column for item in chosen if item.reward.judged} if has_judge else set()
    used = [name for item in chosen for name in item.reward.uses]
    present, notes, absent = [], [], set()
    for name in dict.fromkeys((*needed, "finished", *used)):
        column = COLUMNS[name]
        without = lacking(column, prompts)
        if without is None:
            present.append(name)
        elif name in needed and name not in filled:
            raise missing(without, name, f"{column.unit}: {column.about}", column.keys, who=needed[name])
        elif any(row.has(column) for rows in prompts for row in rows):
            notes.append(f"{name} is not used: only some rows have it ({without.where} does not)")
        elif near := without.near(column.keys):
            notes.append(f"nobody reads the key {near!r} ({without.where}); was {name!r} meant?")
        elif name not in needed:
            absent.add(name)
    absent |= set() if "step" in prompts[0][0].values else {"step"}
    return present, [*notes, *_defaults(chosen, absent, present)]


def _needed(chosen: Sequence[Chosen]) -> dict[str, str]:
    """By name of the column, who needs it."""
    needed = {name: f"; reward {item.name} needs it" for item in chosen for name in item.needs}
    needed |= {
        item.reward.judged.column: f"; --judge can fill it for {item.name}" for item in chosen if item.reward.judged
    }
    return needed | dict.fromkeys(_REQUIRED, "")


def _defaults(chosen: Sequence[Chosen], absent: Collection[str], present: Collection[str]) -> Iterator[str]:
    """At most one note: who would also read what."""
    found = {item.name: list(_also_reads(item, absent, present)) for item in chosen}
    said = [f"{name} also reads {', '.join(columns)}" for name, columns in found.items() if columns]
    if said:
        yield f"{'; '.join(said)}: not in the file, so the default is taken"


def _also_reads(item: Chosen, absent: Collection[str], present: Collection[str]) -> Iterator[str]:
    reward = item.reward
    # An answer is read from the text; with answer and form given there is nothing left to read.
    spared = {"answer"} if "text" in reward.uses and "text" in present else set()
    spared |= {"text"} if {"answer", "well_formed"} <= {*present} & {*reward.uses} else set()
    yield from (name for name in reward.uses if name in absent and name not in spared)
    if "finished" in absent and "finished" not in reward.uses and reads_finished(item):
        yield "finished"
    if "step" in absent and reward.stateful:
        yield "step"


def reads_finished(item: Chosen) -> bool:
    """Whether being cut by the token limit changes the reward of a rollout of the worked group.

    Every reward is given the column `finished`, so that none declares it; one from elsewhere, which may not like the
    worked group, may declare it in ``uses``.
    """
    if not item.reward.function.__module__.startswith(_OWN_MODULE):
        return False
    group = example_group()
    cut = dataclasses.replace(group, finished=np.zeros(group.size, dtype=bool))
    return not np.array_equal(_seen_twice(item, Batch.of(group)), _seen_twice(item, Batch.of(cut)), equal_nan=True)


def _seen_twice(item: Chosen, batch: Batch) -> Array:
    scorer = build(item.name, item.parameters)
    return np.stack([scorer(batch), scorer(batch)])
