"""The rollouts of one generation as whole groups, read and verified where they are, gathered from all processes.

TRL calls reward functions on each process with that process's rows, before it gathers, so the rollouts of one problem
may be split over processes. Here each process reads, verifies and (where a reward has a judge) asks about its own
rows, and one gather per generation makes the groups whole on every process.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress, groupby
from typing import Any

import numpy as np
from accelerate import PartialState
from accelerate.utils import gather_object
from transformers import PreTrainedTokenizerBase

from laconic.inference.trace import Trace, TraceReader
from laconic.rewards import registry
from laconic.rewards.answers import judge
from laconic.rewards.compose import judge_of
from laconic.rewards.errors import DataError
from laconic.rewards.group import COLUMNS, READ_FROM_COMPLETIONS, Array, Batch, Group, Progress
from laconic.rewards.judge import Row
from laconic.rewards.mode.reading import is_well_formed, label_of, mode_of
from laconic.rewards.records import Problem, Rollout
from laconic.training.answer_probability import AnswerProbability
from laconic.training.episode_told import Told
from laconic.training.judging import Judging
from laconic.training.search_columns import steps_of

_READ_FROM_TEXT: Mapping[str, Callable[[str], Any]] = {
    "mode": mode_of,
    "label": label_of,
    "well_formed": is_well_formed,
}
"""Columns that take a look at the text; they are filled for rewards that ask for them."""
_CARRIED = {name for name, item in COLUMNS.items() if item.owner == "rollout"} - READ_FROM_COMPLETIONS | {"mode"}
"""Columns that the maker of the rollouts knows (`searches`, `queries`, ...), some of them alone."""


@dataclass(frozen=True)
class Generation:
    """The rollouts of one generation over all processes."""

    key: Sequence[Any]
    rollouts: list[Rollout]
    batch: Batch
    """The groups whose gold answer can be checked."""
    checked: Array
    """bool, shape (N,): which rollouts those are."""
    verdicts: Array
    """What each judge said, shape (N, judges); NaN where its answer could not be read."""
    mine: slice
    """The rollouts of this process."""

    def judged(self, number: int, column: str) -> Batch:
        """The batch with the verdicts of one judge as a column."""
        parts = self.batch.split(self.verdicts[self.checked, number])
        pairs = zip(self.batch, parts, strict=True)
        return Batch(tuple(dataclasses.replace(group, **{column: part}) for group, part in pairs))


@dataclass(frozen=True, slots=True)
class _Early:
    """A rollout that was read when it was finished."""

    of: tuple[Any, ...]
    """All that it was read from."""
    rollout: Rollout


class GroupScorer:
    """Reads, verifies and gathers the rollouts of one generation batch; shared by all rewards of a trainer.

    Args:
        problems: The training problems by id; the dataset carries ``problem_id``. The columns that a problem has are
            taken from its ``meta`` by name (``golds``, ``reference_accuracy``); a ``budget`` there is that of
            rollouts that bring none.
        tokenizer: Decodes completions and finds where thinking ends.
        eos_ids: Every token that can end a completion; None takes the tokenizer's one.
        num_generations: Group size G.
    """

    def __init__(
        self,
        problems: Mapping[str, Problem],
        tokenizer: PreTrainedTokenizerBase,
        *,
        num_generations: int,
        eos_ids: Collection[int] | None = None,
    ) -> None:
        self.problems = dict(problems)
        self.reader = TraceReader(tokenizer, eos_ids=eos_ids)
        self.num_generations = num_generations
        self.answer_probability: AnswerProbability | None = None
        """Asked where a reward reads `answer_prob`; it needs the trainer, which is made after its rewards."""
        self._columns: set[str] = set()
        self._judging = Judging()
        self._expected: Sequence[Mapping[str, Any]] = ()
        self._early: dict[int, _Early] = {}
        self.rollouts: list[Rollout] = []
        """Of the last generation, on all processes together; dynamic sampling puts its refills among them."""
        self._generation: Generation | None = None

    def serve(self, entry: Mapping[str, Any]) -> int | None:
        """Gather what a reward needs from now on; returns its judge's number, None without one."""
        registered = registry.find(entry["name"])
        self._columns |= {*registered.needs, *registered.uses}
        asked = judge_of(entry)
        return None if asked is None else self._judging.add(*asked)

    def require(self, *columns: str) -> None:
        """Read these columns from now on, whether or not a reward asks for them."""
        self._columns |= set(columns)

    @property
    def columns(self) -> frozenset[str]:
        """What is read for the rewards that it serves, and what else is required."""
        return frozenset(self._columns)

    @property
    def begins_early(self) -> bool:
        """Whether a judge can be asked about a rollout while others are decoded."""
        return self._judging.begins_early

    def expect(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Note this process's rows that rollouts are about to be made of; those of before are forgotten."""
        self._judging.forget()
        self._early.clear()
        self._expected = rows

    def finished(self, row: int, ids: Sequence[int], columns: Mapping[str, Any] | None = None) -> None:
        """Read a rollout as soon as it is there, and have judges asked about it; `generation` takes it from here.

        Nothing is done where no judge can be asked yet: rows were not expected, or a judge is shown what the model
        gives to the answer, which is not known while others are decoded.

        Args:
            row: Of those expected.
            ids: Its generated token ids.
            columns: What else its batch will know of it.
        """
        if not self._awaits or self._measures_answers:
            return
        known = {**self._expected[row], **(columns or {})}
        problem = self.problems[known["problem_id"]]
        carried = {name: value for name, value in known.items() if name in _CARRIED}
        rollout = self._read(problem, self.reader.read(ids), ids, carried)
        self._begin(row, (problem.id, list(ids), carried), rollout)

    def told(self, row: int, told: Told) -> None:
        """The same of an episode, or of what was put together from parts.

        Args:
            row: Of those expected.
            told: All that rewards will see of it.
        """
        if self._awaits:
            problem = self.problems[self._expected[row]["problem_id"]]
            self._begin(row, (problem.id, told), self._read_episode(problem, told))

    @property
    def _awaits(self) -> bool:
        return bool(self._expected) and self.begins_early

    def _begin(self, row: int, of: tuple[Any, ...], rollout: Rollout) -> None:
        self._early[row] = _Early(of, rollout)
        if rollout.correct is not None:
            self._judging.begin(rollout, _row(rollout, self.problems[rollout.problem_id]))

    def generation(
        self,
        problem_id: Sequence[str],
        completion_ids: Sequence[Sequence[int]],
        progress: Progress,
        carried: Mapping[str, Any],
    ) -> Generation:
        """The whole generation batch. A collective call the first time it sees a batch, on every process alike.

        Args:
            problem_id: Of each of this process's rows.
            completion_ids: Their generated token ids; one list object per batch, by which the batch is known again.
            progress: Of the training run.
            carried: What else TRL hands on about the rows, by name; columns that a rollout function returned are kept.
                Of search episodes (``episode``) nothing else is looked at than what is told there.
        """
        if self._generation is None or self._generation.key is not completion_ids:
            local = self._read_episodes(problem_id, carried.get("episode"))
            local = local or self._read_all(problem_id, completion_ids, _columns(carried, rows=len(problem_id)))
            parts = gather_object([list(zip(local, self._ask(local), strict=True))])
            start = sum(len(part) for part in parts[: PartialState().process_index])
            rows = [row for part in parts for row in part]
            self._generation = self._assemble(completion_ids, rows, slice(start, start + len(local)), progress)
            self.rollouts = self._generation.rollouts
        return self._generation

    def correctness(self) -> list[float]:
        """Of the rollouts of the last generation: 1 or 0, NaN where the gold answer cannot be checked."""
        return [np.nan if rollout.correct is None else float(rollout.correct) for rollout in self.rollouts]

    def column(self, name: str) -> list[Any]:
        """Of the rollouts of the last generation: what was read from each; None where nothing was."""
        return [rollout.meta.get(name) for rollout in self.rollouts]

    def groups(self, rollouts: Sequence[Rollout]) -> Iterator[Sequence[Rollout]]:
        """Split a batch into its groups of G.

        Raises:
            DataError: the rollouts of a problem do not stand together in a multiple of G.
        """
        for problem_id, run in groupby(rollouts, key=lambda rollout: rollout.problem_id):
            members = list(run)
            if len(members) % self.num_generations:
                raise DataError(
                    f"problem {problem_id!r} has {len(members)} rollouts side by side in the generation batch, "
                    f"which is no multiple of num_generations={self.num_generations}",
                    cure="make the generation batch hold whole groups; `laconic plan` shows the arithmetic",
                )
            for start in range(0, len(members), self.num_generations):
                yield members[start : start + self.num_generations]

    def _assemble(
        self, key: Sequence[Any], rows: Sequence[tuple[Rollout, Sequence[float]]], mine: slice, progress: Progress
    ) -> Generation:
        rollouts = [rollout for rollout, _ in rows]
        groups = list(self.groups(rollouts))
        known = [all(rollout.correct is not None for rollout in group) for group in groups]
        return Generation(
            key=key,
            rollouts=rollouts,
            batch=Batch.of(
                *(
                    Group.from_rollouts(group, self.problems[group[0].problem_id], progress=progress)
                    for group in compress(groups, known)
                )
            ),
            checked=np.repeat(known, [len(group) for group in groups]),
            verdicts=np.array([said for _, said in rows], dtype=float),
            mine=mine,
        )

    def _read_all(
        self, problem_id: Sequence[str], ids: Sequence[Sequence[int]], carried: Sequence[Mapping[str, Any]]
    ) -> list[Rollout]:
        problems = [self.problems[name] for name in problem_id]
        if not self._measures_answers:
            rows = zip(problems, ids, carried, strict=True)
            return [
                self._read_early(at, (problem.id, list(row), columns))
                or self._read(problem, self.reader.read(row), row, columns)
                for at, (problem, row, columns) in enumerate(rows)
            ]
        traces = [self.reader.read(row) for row in ids]
        measured = self.answer_probability(problems, traces, ids)
        further = [{**columns, **known} for columns, known in zip(measured, carried, strict=True)]
        return [self._read(*row) for row in zip(problems, traces, ids, further, strict=True)]

    @property
    def _measures_answers(self) -> bool:
        return self.answer_probability is not None and "answer_prob" in self._columns

    def _read_early(self, row: int, of: tuple[Any, ...]) -> Rollout | None:
        """The rollout of a row, if it was read when it was finished, and from the same."""
        early = self._early.get(row)
        return early.rollout if early is not None and early.of == of else None

    def _read_episodes(self, problem_id: Sequence[str], told: Sequence[Told] | None) -> list[Rollout]:
        pairs = zip(problem_id, told or (), strict=told is not None)
        return [
            self._read_early(at, (name, one)) or self._read_episode(self.problems[name], one)
            for at, (name, one) in enumerate(pairs)
        ]

    def _read_episode(self, problem: Problem, told: Told) -> Rollout:
        verdict = judge(told.answer, problem)
        read = _asked(problem) | self._further_columns(told.text, told.ids)
        facts = {**steps_of(problem.meta, told.facts["searches"]), "search": told.facts} if told.facts else {}
        return Rollout(
            problem_id=problem.id,
            sample=0,
            task=problem.task,
            text=told.text,
            answer=verdict.answer,
            correct=verdict.correct,
            finished=told.finished,
            tokens=told.tokens,
            think_tokens=told.think_tokens,
            answer_tokens=told.answer_tokens,
            # What is known of an episode comes before what its text looks like.
            meta={**read, **told.columns, **facts},
        )

    def _read(self, problem: Problem, trace: Trace, ids: Sequence[int], carried: Mapping[str, Any]) -> Rollout:
        verdict = judge(trace.answer_text, problem)
        return Rollout(
            problem_id=problem.id,
            sample=0,
            task=problem.task,
            text=trace.text,
            answer=verdict.answer,
            correct=verdict.correct,
            finished=bool(ids) and ids[-1] in self.reader.eos_ids,
            tokens=trace.tokens,
            think_tokens=trace.think_tokens,
            answer_tokens=trace.answer_tokens,
            # What is known of a rollout comes before what its text looks like.
            meta={**_asked(problem), **self._further_columns(trace.text, ids), **carried},
        )

    def _further_columns(self, text: str, ids: Sequence[int]) -> dict[str, Any]:
        columns = {name: read(text) for name, read in _READ_FROM_TEXT.items() if name in self._columns}
        if "ids" in self._columns:
            columns["ids"] = list(ids)
        return columns

    def _ask(self, rollouts: Sequence[Rollout]) -> list[list[float | None]]:
        """What each judge says about this process's rollouts: one row per rollout, one entry per judge."""
        if not len(self._judging):
            return [[] for _ in rollouts]
        asked = [index for index, rollout in enumerate(rollouts) if rollout.correct is not None]
        chosen = [rollouts[index] for index in asked]
        rows = [(rollout, _row(rollout, self.problems[rollout.problem_id])) for rollout in chosen]
        said: list[list[float | None]] = [[None] * len(self._judging) for _ in rollouts]
        for index, row in zip(asked, self._judging.verdicts(rows), strict=True):
            said[index] = row
        return said

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {
            "rollouts": [],
            "_generation": None,
            "_expected": (),
            "_early": {},
            "answer_probability": None,
        }


def _asked(problem: Problem) -> dict[str, Any]:
    """The budget that the data set's own prompt names."""
    return {"budget": problem.meta["budget"]} if "budget" in problem.meta else {}


def _columns(carried: Mapping[str, Any], *, rows: int) -> list[dict[str, Any]]:
    """The columns that came along, row by row."""
    kept = {name: values for name, values in carried.items() if name in _CARRIED}
    return [{name: values[row] for name, values in kept.items()} for row in range(rows)]


def _row(rollout: Rollout, problem: Problem) -> Row:
    """A rollout as judges see it."""
    group = Group.from_rollouts([rollout], problem)
    columns = {name: getattr(group, name) for name in COLUMNS}
    return {
        name: value[0] if COLUMNS[name].owner == "rollout" else value
        for name, value in columns.items()
        if value is not None
    }
