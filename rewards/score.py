"""What rewards would say to a file of rollouts: read it, put it into groups and batches, run them in step order.

::

    table = arrange(read_file("rollouts.jsonl"), [Chosen("hapo", {"length_weight": 0.5})])
    score = score_one(table, table.chosen[0])
    table.joined(score.rewards)        # shape (rows of the file,), NaN where there is no reward

`laconic score` prints this.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from reprlib import repr as shortened
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from laconic.rewards import advantages
from laconic.rewards.errors import DataError
from laconic.rewards.group import COLUMNS, Array, Batch, Group, Progress
from laconic.rewards.judge import Judge, answers
from laconic.rewards.registry import Reward, Scorer, abstentions_as_none, build
from laconic.rewards.rollouts_file import RolloutsFile, Row, column_of
from laconic.rewards.score_columns import Chosen, columns_to_read

Kind: TypeAlias = Literal["grpo", "paper"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""Of advantages: TRL's, or the paper's own."""


@dataclass(frozen=True)
class Table:
    """A rollouts file as groups and batches, with the way back to its rows."""

    file: RolloutsFile
    chosen: tuple[Chosen, ...]
    batches: tuple[Batch, ...]
    """One per training step, in that order; one in all where the file knows no steps."""
    places: tuple[tuple[Array, ...], ...]
    """Per batch and group, which rows of the file its rollouts are."""
    notes: tuple[str, ...] = ()
    """What a reader of the numbers ought to know about the file."""

    def siblings(self, at: int) -> list[Row]:
        """The rows of one group with the row `at`, itself among them."""
        inside = next(places for groups in self.places for places in groups if at in places)
        return [self.file.rows[place] for place in inside]

    def joined(self, values: Sequence[Array]) -> Array:
        """One array of shape (N,) per batch as one of shape (rows of the file,); NaN for rows without a verdict."""
        whole = np.full(len(self.file.rows), np.nan)
        for places, part in zip(self.places, values, strict=True):
            whole[np.concatenate(places)] = part
        return whole


@dataclass(frozen=True)
class Score:
    """What one reward said; one array of shape (N,) per batch of the table."""

    chosen: Chosen
    batches: tuple[Batch, ...]
    """As the reward saw them, with the judge's verdicts if there was one."""
    rewards: tuple[Array, ...]
    """NaN where the reward abstains."""
    advantages: tuple[Array, ...]
    """0 where the reward abstains."""
    notes: tuple[str, ...] = ()
    """What a reader of the numbers ought to know about the judge."""


def arrange(
    file: RolloutsFile, chosen: Sequence[Chosen], *, progress: Progress | None = None, judge: Judge | None = None
) -> Table:
    """Put the rows into groups, by prompt, and batches, by step, with the columns that the rewards read.

    Args:
        file: The rows; those without a verdict are left out.
        chosen: The rewards that are going to score.
        progress: Of the training run; the step comes from the file where its rows have one.
        judge: Asked by `score_one`, so that the columns it fills may be missing.

    Raises:
        DataError: a column that a reward needs is missing, a value is wrong, or no rollout has a verdict.
    """
    kept = file.with_verdict
    if not kept:
        raise DataError(f"{file.path}: no rollout has a verdict", cure="give the rows the key 'correct': true or false")
    prompts: dict[tuple[int | None, str], list[int]] = {}
    for at, prompt in zip(kept, _prompt_ids(file, kept), strict=True):
        prompts.setdefault((file.step(at), prompt), []).append(at)
    rows = [[file.rows[at] for at in places] for places in prompts.values()]
    names, notes = columns_to_read(rows, chosen, has_judge=judge is not None)
    if left_out := len(file.rows) - len(kept):
        notes = [f"{left_out} of {len(file.rows)} rollouts have no verdict (correct: null) and are left out", *notes]
    steps = sorted({step for step, _ in prompts}, key=lambda step: step or 0)
    inside = [{prompt: places for (at, prompt), places in prompts.items() if at == step} for step in steps]
    return Table(
        file,
        tuple(chosen),
        batches=tuple(
            Batch(tuple(_group(file, prompt, places, names, moment) for prompt, places in groups.items()))
            for moment, groups in zip(_moments(file, steps, progress), inside, strict=True)
        ),
        places=tuple(tuple(np.array(places) for places in groups.values()) for groups in inside),
        notes=tuple(notes),
    )


def score_one(table: Table, chosen: Chosen, *, kind: Kind = "grpo", judge: Judge | None = None) -> Score:
    """Run one reward over all batches of the table, its memory going with it.

    Args:
        table: From `arrange`, which must have known of the reward.
        chosen: The reward.
        kind: ``grpo`` for TRL's advantages; ``paper`` for the paper's own where it has its own.
        judge: For a reward that needs one.

    Raises:
        DataError: a value in the file is none that the reward knows, or the reward is not a finite number and does
            not say that it may abstain.
    """
    batches, notes = table.batches, ()
    if judge is not None and chosen.reward.judged is not None:
        batches, notes = _with_verdicts(table, chosen.reward, judge)
    scorer = build(chosen.name, chosen.parameters)
    rewards = tuple(
        _scored(table, chosen, scorer, batch, places) for batch, places in zip(batches, table.places, strict=True)
    )
    _refuse_odd_numbers(table, chosen, table.joined(rewards))
    relative = (_advantages(chosen, kind, batch, values) for batch, values in zip(batches, rewards, strict=True))
    return Score(chosen, batches, rewards, tuple(map(np.nan_to_num, relative)), notes)


def moved_by_progress(score: Score) -> bool:
    """Whether some rollout of the file would have got another reward at the start of training."""
    scorer = build(score.chosen.name, score.chosen.parameters)
    for batch, rewards in zip(score.batches, score.rewards, strict=True):
        early = Batch(tuple(dataclasses.replace(group, progress=Progress()) for group in batch))
        if not np.array_equal(np.asarray(scorer(early), dtype=float), rewards, equal_nan=True):
            return True
    return False


def as_rows(table: Table, scores: Sequence[Score]) -> list[dict[str, Any]]:
    """One JSON object per row of the file, in its order; null where there is no reward, advantage 0 there."""
    rewards = {score.chosen.name: abstentions_as_none(table.joined(score.rewards)) for score in scores}
    relative = {score.chosen.name: np.nan_to_num(table.joined(score.advantages)).tolist() for score in scores}
    return [
        {
            "prompt_id": table.file.prompt_id(at),
            "rewards": {name: values[at] for name, values in rewards.items()},
            "advantages": {name: values[at] for name, values in relative.items()},
        }
        for at in range(len(table.file.rows))
    ]


def _prompt_ids(file: RolloutsFile, places: Sequence[int]) -> Iterator[str]:
    """The prompt of each row as text; 1 and "1" are not told apart by that, so a file has only one of them."""
    first: dict[str, int] = {}
    for at in places:
        given = file.prompt_id(at)
        known = first.setdefault(str(given), at)
        if type(file.prompt_id(known)) is not type(given):
            other = f"{file.prompt_id(known)!r} in line {file.rows[known].line}"
            raise DataError(
                f"{file.rows[at].where}: prompt_id is {given!r} here and {other}",
                cure="write it as a text in every row, or as a number in every row",
            )
        yield str(given)


def _moments(file: RolloutsFile, steps: Sequence[int | None], progress: Progress | None) -> list[Progress]:
    given = progress or Progress()
    if steps == [None]:
        return [given]
    if given.step:
        raise DataError(f"{file.path}: the rows have steps of their own", cure="leave out --step, or the key 'step'")
    return [Progress(step or 0, given.total) for step in steps]


def _group(file: RolloutsFile, prompt: str, places: Sequence[int], names: Sequence[str], moment: Progress) -> Group:
    rows = [file.rows[at] for at in places]
    values = {name: column_of(COLUMNS[name], rows) for name in names}
    task = rows[0].values.get("task")
    if task is not None and not isinstance(task, str):
        raise rows[0].error("task", task, "a text")
    return Group.of(**values, problem_id=prompt, task=task, progress=moment)


def _advantages(chosen: Chosen, kind: Kind, batch: Batch, rewards: Array) -> Array:
    if kind == "paper":
        return advantages.paper(chosen.reward.name, batch, rewards, chosen.parameters)
    return advantages.grpo(batch, rewards)


def _scored(table: Table, chosen: Chosen, scorer: Scorer, batch: Batch, places: Sequence[Array]) -> Array:
    try:
        return np.asarray(scorer(batch), dtype=float)
    except DataError as error:
        where = _culprit(table, chosen, batch, places, error.message) or str(table.file.path)
        who = "" if chosen.name in error.message else f"reward {chosen.name}: "
        raise DataError(f"{where}: {who}{error.message}", cure=error.cure) from None


def _culprit(table: Table, chosen: Chosen, batch: Batch, places: Sequence[Array], complaint: str) -> str | None:
    """``file:line`` of the first row, else the prompt with its lines, that alone draws the same complaint."""
    for group, rows in zip(batch, places, strict=True):
        for alone, row in zip(_one_by_one(group), rows, strict=True):
            if _complaint(chosen, alone) == complaint:
                return table.file.rows[row].where
    for group, rows in zip(batch, places, strict=True):
        if _complaint(chosen, group) == complaint:
            lines = ", ".join(str(table.file.rows[row].line) for row in rows)
            return f"{table.file.path}: prompt {group.problem_id} (lines {lines})"
    return None


def _complaint(chosen: Chosen, group: Group) -> str | None:
    try:
        build(chosen.name, chosen.parameters)(Batch.of(group))
    except DataError as error:
        return error.message
    return None


def _one_by_one(group: Group) -> Iterator[Group]:
    """A group of one for each rollout."""
    own = [name for name, column in COLUMNS.items() if column.owner == "rollout" and getattr(group, name) is not None]
    for at in range(group.size):
        yield dataclasses.replace(group, **{name: getattr(group, name)[at : at + 1] for name in own})


def _with_verdicts(table: Table, reward: Reward, judge: Judge) -> tuple[tuple[Batch, ...], tuple[str, ...]]:
    """The batches with the judge's verdicts, and a note if some could not be read."""
    assert reward.judged is not None
    prompts = [[table.file.rows[at] for at in places] for groups in table.places for places in groups]
    rows = [seen for prompt in prompts for seen in _judge_rows(prompt)]
    names = [row.where for prompt in prompts for row in prompt]
    said = asyncio.run(answers(judge, rows, names=names))
    read = [reward.judged.parse(answer) for answer in said]
    column, verdicts = COLUMNS[reward.judged.column], iter(read)
    batches = tuple(
        Batch(
            tuple(
                dataclasses.replace(group, **{column.name: column.convert([next(verdicts) for _ in range(group.size)])})
                for group in batch
            )
        )
        for batch in table.batches
    )
    return batches, tuple(_unread(reward, [at for at, verdict in enumerate(read) if verdict is None], said, names))


def _unread(reward: Reward, unread: Sequence[int], said: Sequence[Any], names: Sequence[str]) -> Iterator[str]:
    """At most one note: how many verdicts were none, the first of them, and what was asked."""
    assert reward.judged is not None
    if unread:
        counted = f"{len(unread)} of {len(said)} verdicts of the judge cannot be read, so {reward.name} abstains there"
        example = f"{shortened(said[unread[0]])} for {names[unread[0]]}"
        yield f"{counted}: for example {example}. It is asked: {reward.judged.asks}"


def _judge_rows(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """What the judge is shown: every column the rows have, those of the problem too."""
    shared = {
        name: column_of(column, rows)
        for name, column in COLUMNS.items()
        if column.owner == "problem" and any(row.has(column) for row in rows)
    }
    own = [(name, column) for name, column in COLUMNS.items() if column.owner == "rollout"]
    return [shared | {name: row.value(column) for name, column in own if row.has(column)} for row in rows]


def _refuse_odd_numbers(table: Table, chosen: Chosen, values: Array) -> None:
    kept = table.file.with_verdict
    odd = [at for at in kept if np.isinf(values[at]) or (np.isnan(values[at]) and not chosen.reward.abstains)]
    if not odd:
        return
    row = table.file.rows[odd[0]]
    names = dict.fromkeys((*chosen.needs, *chosen.reward.uses))
    # What is null in one row can spoil its siblings.
    empty = [
        f"{name!r} in line {other.line}" for name in names for other in table.siblings(odd[0]) if other.is_null(name)
    ]
    cure = f"give {empty[0]} a value; it is null" if empty else "look at the row's values and the parameters"
    raise DataError(f"{row.where}: reward {chosen.name} is {values[odd[0]]}", cure=cure)
