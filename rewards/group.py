"""`Group`: all rollouts of one problem in one batch, as arrays; `Batch`: the groups that are scored together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from laconic.rewards.columns import (
    Array,
    column,
    columns_of,
    flags,
    flat,
    flat_lists,
    lists,
    nested,
    numbers,
    words,
)
from laconic.rewards.errors import DataError
from laconic.rewards.records import Problem, Rollout

__all__ = [
    "COLUMNS",
    "READ_FROM_COMPLETIONS",
    "READ_FROM_EPISODES",
    "READ_FROM_WORLDS",
    "Array",
    "Batch",
    "Group",
    "Progress",
]


@dataclass(frozen=True)
class Progress:
    """How far training is; what schedules look at."""

    step: int = 0
    """Optimiser steps done before this batch."""
    total: int | None = None
    """Optimiser steps of the whole run; None when nobody knows."""

    @property
    def share(self) -> float:
        """`step / total`, from 0 to 1; 0 when the total is unknown."""
        return min(self.step / self.total, 1.0) if self.total else 0.0


@dataclass(frozen=True)
class Group:
    """Rollouts of one problem, in one order.

    Columns of the rollout have shape (G,): arrays for flags and numbers (a missing number is NaN), tuples for texts and
    lists. Columns of the problem hold one value. Lengths are generated tokens of the model's own tokenizer,
    end-of-sequence included, retrieved and forced text not. All but `correct` and `length` are optional and None when
    the rollouts do not carry them; a reward that needs one says so in its registration and is refused before it runs.
    """

    correct: Array = column("bool", "the verifier's verdict", flags, default=MISSING)
    length: Array = column("tokens", "generated tokens, end-of-sequence included", numbers, default=MISSING)
    finished: Array = column("bool", "an end-of-sequence token came before the token limit", flags)
    """All true where nothing else is said."""

    # What the completion is made of.
    think_length: Array | None = column("tokens", "tokens up to and including </think>", numbers)
    text: tuple[str, ...] | None = column("text", "the completion, without the prompt", words)
    ids: tuple[tuple[int, ...], ...] | None = column("list of token ids", "the generated token ids", lists)
    answer: tuple[str | None, ...] | None = column("text", "the answer read from the completion", words)
    well_formed: Array | None = column("bool", "the completion has the form the prompt asked for", flags)
    budget: Array | None = column("tokens", "the length that the prompt asked for; negative: at most that", numbers)
    prefix_length: Array | None = column(
        "tokens", "shortest start of the thinking that already holds the answer; null if none was found", numbers
    )
    answer_prob: Array | None = column("probability", "of the gold answer after this thinking, by the model", numbers)
    direct_answer_prob: Array | None = column("probability", "of the gold answer without any thinking", numbers)
    judgement: Array | None = column("number", "an injected judge's verdict; null if it could not be read", numbers)

    # How the model chose to think.
    mode: tuple[str | None, ...] | None = column("text", "think, no_think, or the name of a format", words)
    label: tuple[str | None, ...] | None = column("text", "the difficulty the model wrote down: easy or hard", words)

    # What it did with its search engine.
    searches: Array | None = column("searches", "executed searches", numbers)
    queries: tuple[tuple[str, ...], ...] | None = column("list of texts", "the query of each executed search", lists)
    retrieved: tuple[tuple[tuple[str, ...], ...], ...] | None = column(
        "list of lists of ids", "the passages that each executed search returned", nested
    )
    passages: tuple[tuple[tuple[str, ...], ...], ...] | None = column(
        "list of lists of texts", "the text of those passages", nested
    )
    tools: tuple[tuple[str, ...], ...] | None = column(
        "list of names", "the tool of each executed call, in order", lists
    )
    notes: tuple[tuple[str, ...], ...] | None = column("list of texts", "evidence notes the model wrote", lists)
    self_answers: tuple[tuple[str, ...], ...] | None = column(
        "list of texts", "what the model would answer after each executed search", lists
    )
    invalid_actions: Array | None = column("actions", "actions that were answered by a hint", numbers)
    search_enabled: Array | None = column("bool", "the rollout was allowed to search", flags)
    over_searches: Array | None = column("searches", "executed searches that were not needed", numbers)
    reasoning_steps: Array | None = column("steps", "reasoning steps without a search", numbers)
    under_searches: Array | None = column("steps", "reasoning steps that should have searched", numbers)
    entailment: Array | None = column("probability", "that the notes entail the gold answer", numbers)
    entities: tuple[tuple[str, ...], ...] | None = column("list of texts", "entities found in the answer", lists)

    # The problem.
    problem_id: str | None = field(default=None)
    task: str | None = field(default=None)
    question: str | None = column("text", "the question", lambda value: value, "problem")
    golds: tuple[str, ...] | None = column("list of texts", "every accepted answer", flat, "problem")
    gold_ids: tuple[str, ...] | None = column("list of ids", "the passages that hold the answer", flat, "problem")
    gold_passages: tuple[str, ...] | None = column("list of texts", "their texts", flat, "problem")
    gold_queries: tuple[tuple[str, ...], ...] | None = column(
        "list of lists of texts", "per sub-question the queries that fit it", flat_lists, "problem"
    )
    gold_entities: tuple[str, ...] | None = column("list of texts", "every entity asked for", flat, "problem")
    tools_offered: tuple[str, ...] | None = column("list of names", "the tools the prompt offers", flat, "problem")
    reference_accuracy: float | None = column(
        "share", "accuracy of the model before training on this problem", lambda value: float(value), "problem"
    )

    progress: Progress = field(default_factory=Progress)
    """Of the training run that the group is part of."""

    def __post_init__(self) -> None:
        size = len(self.correct)
        if self.finished is None:
            object.__setattr__(self, "finished", np.ones(size, dtype=bool))
        for name in _ROLLOUT_COLUMNS:
            value = getattr(self, name)
            if value is not None and len(value) != size:
                raise DataError(f"Group: {name} has {len(value)} entries, correct has {size}")

    @property
    def size(self) -> int:
        """G, the number of rollouts."""
        return len(self.correct)

    @classmethod
    def of(
        cls,
        correct: Sequence[bool],
        length: Sequence[float],
        finished: Sequence[bool] | None = None,
        *,
        problem_id: str | None = None,
        task: str | None = None,
        progress: Progress | None = None,
        **columns: Any,
    ) -> Group:
        """Build a group from plain values.

        Args:
            correct: Verdicts, shape (G,).
            length: Generated tokens, shape (G,).
            finished: Shape (G,); all true by default.
            problem_id: Whose memory a reward with history looks up.
            task: The problem's task, for rewards that apply to some tasks only.
            progress: Of the training run.
            **columns: Any further column by name: one entry per rollout, or the single value of a problem's column.

        Raises:
            DataError: an unknown column, a wrong number of entries, or values of the wrong kind.
        """
        given = {"correct": correct, "length": length, "finished": finished} | columns
        converted = {name: _convert(name, value) for name, value in given.items() if value is not None}
        return cls(**converted, problem_id=problem_id, task=task, progress=progress or Progress())

    @classmethod
    def from_rollouts(
        cls, rollouts: Sequence[Rollout], problem: Problem | None = None, *, progress: Progress | None = None
    ) -> Group:
        """Build a group from the rollouts of one problem.

        Columns that are not fields of `Rollout` are taken from ``rollout.meta``, those of the problem from
        ``problem.meta``, by name; a column is there if every rollout has it.

        Raises:
            DataError: the rollouts belong to several problems, or one of them has no verdict.
        """
        if len({rollout.problem_id for rollout in rollouts}) != 1:
            raise DataError("Group: rollouts of several problems (or of none)", cure="group them by problem_id first")
        if any(rollout.correct is None for rollout in rollouts):
            raise DataError(f"Group: problem {rollouts[0].problem_id!r} has rollouts without a verdict")
        extra = {
            name: [rollout.meta[name] for rollout in rollouts]
            for name in _ROLLOUT_COLUMNS
            if all(name in rollout.meta for rollout in rollouts)
        }
        if problem is not None:
            extra |= {"question": problem.prompt, "golds": [problem.answer]}
            extra |= {name: problem.meta[name] for name in _PROBLEM_COLUMNS if name in problem.meta}
        own = {
            "finished": [rollout.finished for rollout in rollouts],
            "think_length": [rollout.think_tokens for rollout in rollouts],
            "text": [rollout.text for rollout in rollouts],
            "answer": [rollout.answer for rollout in rollouts],
        }
        return cls.of(
            correct=[bool(rollout.correct) for rollout in rollouts],
            length=[rollout.tokens for rollout in rollouts],
            problem_id=rollouts[0].problem_id,
            task=rollouts[0].task,
            progress=progress,
            **(own | extra),
        )


COLUMNS = columns_of(Group)
"""Every column by name: what it means, whose it is, how it is read."""
READ_FROM_COMPLETIONS = frozenset(
    ("correct", "length", "finished", "think_length", "text", "ids", "answer", "well_formed", "mode", "label")
)
"""The columns that training fills for any completion; the others need a rollout function, a judge or the data set."""
READ_FROM_EPISODES = READ_FROM_COMPLETIONS | frozenset(
    (
        *("searches", "queries", "retrieved", "passages", "tools", "self_answers", "invalid_actions"),
        *("search_enabled", "entities"),
    )
)
"""The columns that training fills for search episodes."""
READ_FROM_WORLDS = READ_FROM_EPISODES | {"over_searches", "under_searches", "reasoning_steps"}
"""Those that it fills for search episodes about a world."""
_ROLLOUT_COLUMNS = tuple(name for name, item in COLUMNS.items() if item.owner == "rollout")
_PROBLEM_COLUMNS = tuple(name for name, item in COLUMNS.items() if item.owner == "problem")


def _convert(name: str, value: Any) -> Any:
    if name not in COLUMNS:
        raise DataError(f"Group: unknown column {name!r}", cure=f"the columns are {', '.join(COLUMNS)}")
    try:
        return COLUMNS[name].convert(value)
    except (TypeError, ValueError) as error:
        raise DataError(f"Group: column {name!r}: {error}", cure=f"a value is {COLUMNS[name].unit}") from None


@dataclass(frozen=True)
class Batch:
    """The groups that are scored together: in training, one generation batch over all processes.

    Arrays over a batch have shape (N,): the rollouts of the first group, then those of the second, ...
    """

    groups: tuple[Group, ...]

    @classmethod
    def of(cls, *groups: Group) -> Batch:
        """A batch of these groups."""
        return cls(tuple(groups))

    def __iter__(self) -> Iterator[Group]:
        return iter(self.groups)

    @property
    def size(self) -> int:
        """N, the number of rollouts."""
        return int(self._ends[-1]) if self.groups else 0

    @property
    def progress(self) -> Progress:
        """Of the training run."""
        return self.groups[0].progress if self.groups else Progress()

    @cached_property
    def correct(self) -> Array:
        """Verdicts of all rollouts, shape (N,)."""
        return self.gather(lambda group: group.correct).astype(bool)

    @cached_property
    def length(self) -> Array:
        """Generated tokens of all rollouts, shape (N,)."""
        return self.gather(lambda group: group.length)

    @cached_property
    def finished(self) -> Array:
        """Whether each rollout ended by itself, shape (N,)."""
        return self.gather(lambda group: group.finished).astype(bool)

    @cached_property
    def _ends(self) -> Array:
        return np.cumsum([group.size for group in self.groups])

    def gather(self, values: Callable[[Group], Array]) -> Array:
        """One value per rollout of each group, put together: shape (N,)."""
        return np.concatenate([values(group) for group in self.groups]) if self.groups else np.zeros(0)

    def split(self, values: Array) -> list[Array]:
        """Shape (N,) cut back into one array of shape (G,) per group."""
        return np.split(values, self._ends[:-1]) if self.groups else []


def as_batch(given: Group | Batch) -> Batch:
    """A batch as it is; a group as a batch of one."""
    return given if isinstance(given, Batch) else Batch((given,))
