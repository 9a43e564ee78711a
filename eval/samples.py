"""Rollouts of one model as arrays of shape (n problems, K samples): what every metric is computed from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from laconic.rewards.errors import DataError
from laconic.rewards.records import Problem, Rollout

Array = NDArray[np.generic]

INVALID = -1
"""The vote of a rollout without a readable answer."""
RIGHT = 0
"""The vote of every correct rollout, however its answer is written."""


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """K samples of each of n problems by one model, in the order of the problems.

    All models of one evaluation hold the same problems in the same order, so that they can be paired.
    """

    problem_ids: tuple[str, ...]
    tasks: tuple[str, ...]
    clusters: Array
    """(n,) int: problems that are not independent (one template, one passage) share a number."""
    correct: Array
    """(n, K) bool."""
    finished: Array
    """(n, K) bool: ended by itself, before the token limit."""
    parsed: Array
    """(n, K) bool: an answer could be read."""
    tokens: Array
    """(n, K) generated tokens; the next two sum to it."""
    think_tokens: Array
    answer_tokens: Array
    votes: Array
    """(n, K) int: `RIGHT`, `INVALID`, or one positive number per distinct wrong answer of the problem."""

    @property
    def shape(self) -> tuple[int, int]:
        """(n problems, K samples)."""
        return self.correct.shape

    def of_task(self, task: str) -> Samples:
        """The problems of one task; all of them for ``"all"``."""
        if task == "all":
            return self
        keep = np.array([name == task for name in self.tasks])
        columns = ("clusters", "correct", "finished", "parsed", "tokens", "think_tokens", "answer_tokens", "votes")
        return replace(
            self,
            problem_ids=tuple(np.array(self.problem_ids)[keep].tolist()),
            tasks=(task,) * int(keep.sum()),
            **{name: getattr(self, name)[keep] for name in columns},
        )


def scorable(problems: Sequence[Problem], rollouts: Mapping[str, Iterable[Rollout]]) -> list[Problem]:
    """The problems whose verdict exists for every rollout of every model.

    A problem whose gold answer cannot be checked has `correct` None. It is left out for all models alike: the
    comparison stays paired, and no model is paid or charged for a defect of the data.
    """
    without = {row.problem_id for rows in rollouts.values() for row in rows if row.correct is None}
    return [problem for problem in problems if problem.id not in without]


def collect(rollouts: Iterable[Rollout], problems: Sequence[Problem], *, samples: int, source: str) -> Samples:
    """Arrange the rollouts of one model; those of problems that are not listed are ignored.

    Args:
        rollouts: In any order.
        problems: Their order is the order of the arrays.
        samples: K, how many rollouts each problem must have.
        source: The model or file, for messages.

    Raises:
        DataError: a problem has a missing or a doubled sample, or there is no problem at all.
    """
    if not problems:
        raise DataError(f"{source}: no problem that can be scored", cure="check the gold answers of the test problems")
    grid = _grid(rollouts, problems, samples, source)
    numbers = {name: number for number, name in enumerate(dict.fromkeys(map(_cluster, problems)))}
    return Samples(
        problem_ids=tuple(problem.id for problem in problems),
        tasks=tuple(problem.task for problem in problems),
        clusters=np.array([numbers[_cluster(problem)] for problem in problems]),
        correct=np.array([[bool(row.correct) for row in rows] for rows in grid]),
        finished=np.array([[row.finished for row in rows] for rows in grid]),
        parsed=np.array([[row.answer is not None for row in rows] for rows in grid]),
        tokens=np.array([[row.tokens for row in rows] for rows in grid]),
        think_tokens=np.array([[row.think_tokens for row in rows] for rows in grid]),
        answer_tokens=np.array([[row.answer_tokens for row in rows] for rows in grid]),
        votes=np.array([_votes(rows) for rows in grid]),
    )


def _cluster(problem: Problem) -> str:
    return str(problem.meta.get("cluster", problem.id))


def _grid(rollouts: Iterable[Rollout], problems: Sequence[Problem], samples: int, source: str) -> list[list[Rollout]]:
    found: dict[tuple[str, int], Rollout] = {}
    for row in rollouts:
        key = (row.problem_id, row.sample)
        if key in found:
            raise DataError(
                f"{source}: problem {row.problem_id!r} has sample {row.sample} twice",
                cure="delete the rollouts file and sample again",
            )
        found[key] = row
    wanted = [[(problem.id, sample) for sample in range(samples)] for problem in problems]
    for problem_id, sample in (key for row in wanted for key in row if key not in found):
        raise DataError(
            f"{source}: problem {problem_id!r} has no sample {sample}; {samples} per problem are needed",
            cure="run the eval stage again; it samples what is missing",
        )
    return [[found[key] for key in row] for row in wanted]


def _votes(rows: Sequence[Rollout]) -> list[int]:
    """One class per distinct answer up to white space and case; the verifier makes the right ones one class."""
    wrong: dict[str, int] = {}
    votes = []
    for row in rows:
        if row.answer is None:
            votes.append(INVALID)
        elif row.correct:
            votes.append(RIGHT)
        else:
            text = " ".join(row.answer.split()).casefold()
            votes.append(wrong.setdefault(text, len(wrong) + 1))
    return votes
