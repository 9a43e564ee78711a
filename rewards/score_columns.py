"""Which columns of a rollouts file are given to the rewards, and what a reader of their numbers ought to know about it.

A needed column that is missing is an error; one that a reward would only have read goes missing with a note, because
the reward is then another number.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from laconic.rewards.errors import DataError
from laconic.rewards.group import COLUMNS
from laconic.rewards.registry import Reward, find
from laconic.rewards.rollouts_file import PROMPT_KEYS, Row, lacking, missing

_REQUIRED = ("correct", "length")


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
    """Names of the columns that are there and that somebody reads; notes on other names, and on those not there.

    Args:
        prompts: The rows of each prompt.
        chosen: The rewards that are going to score.
        has_judge: Somebody fills the columns of judges.

    Raises:
        DataError: a column that a reward needs is missing, or lengths are given as budgets.
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
    absent |= {"step"} if prompts[0][0].values.get("step") is None else set()
    rows = [row for rows in prompts for row in rows]
    if "budget" in present:
        _refuse_lengths_as_budgets(rows)
    return present, [*_other_names(rows, present), *notes, *_defaults(chosen, absent, present)]


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
    if "step" in absent and reward.stateful:
        yield "step"


def _other_names(rows: Sequence[Row], present: Sequence[str]) -> Iterator[str]:
    """At most one note: which columns stand under other keys than their own names."""
    sources = [("prompt_id", {found[0] for row in rows if (found := row.find(PROMPT_KEYS))})]
    sources += [(name, {row.source(COLUMNS[name]) for row in rows}) for name in present]
    keys = ((name, sorted(found - {name, None})) for name, found in sources)
    said = [f"{name} is read from {' and '.join(others)}" for name, others in keys if others]
    if said:
        yield ", ".join(said)


def _refuse_lengths_as_budgets(rows: Sequence[Row]) -> None:
    """`num_tokens` is the budget in the data of L1, and a rollout's own length in those of others."""
    key, budget, length = "num_tokens", COLUMNS["budget"], COLUMNS["length"]
    if len(rows) > 1 and all(row.source(budget) == key and row.value(budget) == row.value(length) for row in rows):
        cure = "leave it out: it is the rollout's own length; a budget that its prompt asked for is called 'budget'"
        raise DataError(f"{rows[0].path}: {key} would be read as the budget and is the length in every row", cure=cure)
