"""What the adapters share: completions as a framework hands them over in, rewards of whole groups out.

A framework's batch becomes rows, one dict per completion: ``group`` (rows of one problem in this batch have the same),
``problem_id``, ``task`` and the columns of `laconic.rewards.group.COLUMNS` that the reward reads.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from laconic.rewards import answers, registry
from laconic.rewards.compose import compose, judge_of
from laconic.rewards.errors import DataError, RecipeError
from laconic.rewards.group import COLUMNS, Batch, Group, Progress
from laconic.rewards.judge import Judge, verdicts
from laconic.rewards.mode.reading import is_well_formed, label_of, mode_of
from laconic.rewards.records import Problem
from laconic.rewards.registry import Scorer, abstentions_as_none

Row: TypeAlias = dict[str, Any]
Verify: TypeAlias = Callable[..., bool | None]
"""``verify(completion, /, **columns)``: is this text right? None if that cannot be checked."""

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
_ALWAYS = frozenset({"correct", "length", "finished"})
_JUDGE_READS = frozenset({"question", "text", "golds"})
# Properties of the completion: a data-set column of that name means something else (often the gold answer).
_OF_THE_COMPLETION = _ALWAYS | {"text", "ids", "answer", "label"}


_MAY_BE_NONE = frozenset({"correct", "task", "answer", "mode", "label"})


@dataclass(frozen=True)
class Completion:
    """One completion as a framework knows it."""

    prompt: str
    text: str
    length: int
    """Generated tokens, end-of-sequence included."""
    finished: bool
    """It ended with an end-of-sequence token."""
    gold: Any = None
    """The gold answer; None where the data have none."""
    ids: Sequence[int] | None = None
    think_length: int | None = None
    """Tokens up to and including ``</think>``; None where nobody can tell."""
    task: str | None = None
    """For rewards that are for some tasks, where the row has no column ``task``, which also names the verifier."""
    given: Mapping[str, Any] = field(default_factory=dict)
    """The row's other columns."""


class RowReward:
    """A reward in its wrappers, for rows.

    Args:
        name: Registered name, or ``module:function``.
        framework: Who calls, as messages name it.
        judge: A function (async or not), or its place as ``module:function``, for a reward that needs a judge.
        keys: Parameters and wrapper keys of a recipe's entry, without ``weight``.

    Raises:
        RecipeError: a key is wrong; see `laconic.rewards.compose.check_entry`.
    """

    def __init__(self, name: str, framework: str, judge: Judge | str | None, keys: Mapping[str, Any]) -> None:
        if "weight" in keys:
            raise RecipeError(f"reward {name}: weight is {keys['weight']!r}", cure=f"set it where {framework} weighs")
        self.entry = {"name": name, **keys} | ({} if judge is None else {"judge": judge})
        self.reward = registry.find(name)
        self.scorer: Scorer = compose(self.entry)
        self._judge = judge_of(self.entry)

    @property
    def one_by_one(self) -> bool:
        """The reward of a rollout depends on no other rollout, of this batch or an earlier one."""
        return self.reward.scope == "rollout" and not self.reward.stateful and "gate" not in self.entry

    @property
    def columns(self) -> frozenset[str]:
        """The columns that rows need or may have."""
        return _ALWAYS | {*self.reward.needs, *self.reward.uses} | (_JUDGE_READS if self._judge else frozenset())

    def refuse_schedules(self, framework: str) -> None:
        """Raise a RecipeError if the reward follows training, of which the framework tells reward functions nothing."""
        for key in ("warmup", "schedule"):
            if key in self.entry:
                cure = f"leave it out: {framework} does not tell reward functions where training is"
                raise RecipeError(f"reward {self.reward.name}: {key} needs the training step", cure=cure)

    def rows(self, completions: Sequence[Completion], groups: Sequence[str], verify: Verify | None) -> list[Row]:
        """Read and verify completions; ask the judge about those that count.

        Args:
            completions: In the framework's order.
            groups: Which problem each answers.
            verify: Decides `correct`; None takes the data's verdict or gold answer.

        Raises:
            DataError: nothing tells whether a completion is right.
        """
        rows = [self._row(*item, verify) for item in zip(completions, groups, strict=True)]
        if self._judge is not None:
            self._ask([row for row in rows if row["correct"] is not None])
        return rows

    def score(
        self,
        rows: Sequence[Row],
        progress: Progress | None = None,
        *,
        size: int | None = None,
        scorer: Scorer | None = None,
    ) -> list[float | None]:
        """One reward per row, None where the reward abstains or the row has no verdict.

        Args:
            rows: A whole batch.
            progress: Of the training run.
            size: Rollouts per group; None takes all rows of one `group` as one.
            scorer: Another memory than the reward's own.

        Raises:
            DataError: a group is not whole, or the rows lack a column that the reward needs.
        """
        parts = [[at for at in part if rows[at]["correct"] is not None] for part in _groups(rows, size)]
        parts = [part for part in parts if part]
        rewards = np.full(len(rows), np.nan)
        if parts:
            batch = Batch(tuple(_group([rows[at] for at in part], progress) for part in parts))
            rewards[np.concatenate(parts)] = (scorer or self.scorer)(batch)
        return abstentions_as_none(rewards)

    def _row(self, completion: Completion, group: str, verify: Verify | None) -> Row:
        given = {name: value for name, value in completion.given.items() if value is not None}
        correct, answer = _verdict(completion, given, group, verify)
        row = {name: given.get(name) for name in self.columns - _OF_THE_COMPLETION}
        read = _readings(completion, answer)
        row |= {name: read[name]() for name in self.columns if name in read and row.get(name) is None}
        row |= {"correct": correct, "length": completion.length, "finished": completion.finished}
        row |= {
            "group": group,
            "problem_id": str(given.get("problem_id", group)),
            "task": given.get("task", completion.task),
        }
        return {name: value for name, value in row.items() if value is not None or name in _MAY_BE_NONE}

    def _ask(self, rows: Sequence[Row]) -> None:
        assert self._judge is not None
        judge, judged = self._judge
        tasks = self.entry.get("tasks")
        rows = [row for row in rows if tasks is None or row["task"] in tasks]
        # In a thread of its own: a notebook already runs an event loop in this one.
        with ThreadPoolExecutor(1) as pool:
            found = pool.submit(asyncio.run, verdicts(judge, judged, rows)).result()
        for row, verdict in zip(rows, found, strict=True):
            row[judged.column] = float("nan") if verdict is None else verdict


def digest(text: str) -> str:
    """A short name for a text, the same in every process and every run."""
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def think_length(ids: Sequence[int], think_end_id: int | None, text: str) -> int | None:
    """Tokens up to and including ``</think>``, all of them if thinking never ended, 0 without any; None if unknown."""
    if think_end_id is not None and think_end_id in ids:
        return list(ids).index(think_end_id) + 1
    if THINK_CLOSE in text:
        return None
    return len(ids) if text.lstrip().startswith(THINK_OPEN) else 0


def think_end(tokenizer: Any) -> int | None:
    """The id of ``</think>``; None if several tokens spell it."""
    ids = tokenizer.encode(THINK_CLOSE, add_special_tokens=False)
    return ids[0] if len(ids) == 1 else None


def _verdict(
    completion: Completion, given: Mapping[str, Any], group: str, verify: Verify | None
) -> tuple[bool | None, str | None]:
    """Whether the completion is right, and the answer that was read if one was."""
    if verify is not None:
        correct = verify(completion.text, **completion.given)
        return (None if correct is None else bool(correct)), None
    if "correct" in given:
        return bool(given["correct"]), None
    if completion.gold is None:
        raise DataError(
            "nothing tells whether a completion is right",
            cure="pass verify=(a function of the completion), or give the data a gold answer per prompt",
        )
    problem = Problem(
        id=group,
        prompt=completion.prompt,
        answer=str(completion.gold),
        task=given.get("task", "math"),
        meta=given.get("meta", {}),
    )
    verdict = answers.judge(_answer_part(completion.text), problem)
    return verdict.correct, verdict.answer


def _answer_part(text: str) -> str | None:
    thinking, closed, answer = text.partition(THINK_CLOSE)
    if closed:
        return answer.strip()
    return None if thinking.lstrip().startswith(THINK_OPEN) else text.strip()


def _readings(completion: Completion, answer: str | None) -> dict[str, Callable[[], Any]]:
    """What can be read from a completion, by column; functions, because most rewards read few of them."""
    text = completion.text
    return {
        "text": lambda: text,
        "ids": lambda: completion.ids,
        "answer": lambda: answer,
        "think_length": lambda: completion.think_length,
        "mode": lambda: mode_of(text),
        "label": lambda: label_of(text),
        "well_formed": lambda: is_well_formed(text),
        "question": lambda: completion.prompt,
        "golds": lambda: None if completion.gold is None else [str(completion.gold)],
    }


def _groups(rows: Sequence[Row], size: int | None) -> list[list[int]]:
    """The places of each group's rows, in order."""
    places: dict[str, list[int]] = {}
    for at, row in enumerate(rows):
        places.setdefault(row["group"], []).append(at)
    if size is None:
        return list(places.values())
    for group, found in places.items():
        if len(found) % size:
            raise DataError(
                f"problem {group} has {len(found)} rollouts in this batch, which is no multiple of {size}",
                cure="make every batch that is scored hold whole groups",
            )
    return [found[start : start + size] for found in places.values() for start in range(0, len(found), size)]


def _group(rows: Sequence[Row], progress: Progress | None) -> Group:
    names: Collection[str] = COLUMNS.keys() & set.intersection(*(set(row) for row in rows))
    columns = {
        name: rows[0][name] if COLUMNS[name].owner == "problem" else [row[name] for row in rows] for name in names
    }
    return Group.of(**columns, problem_id=rows[0]["problem_id"], task=rows[0]["task"], progress=progress)
