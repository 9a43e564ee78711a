"""From rollouts to SFT rows: which completions to learn from. One pure function per method.

A selector sees all rollouts of a stage and gives rows ``{"problem_id", "prompt", "completion"}``, in the order of the
problems. None depends on the order of the rollouts, none takes a truncated completion or a teacher's guess, and
selecting again from what was selected changes nothing. Rows of search episodes have `pieces` besides: texts and their
kinds, which put together are the completion.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import Any

from laconic.rewards.records import Problem, Rollout

Row = dict[str, Any]
Selector = Callable[[Sequence[Rollout], dict[str, Problem]], list[Row]]

SELECTORS: dict[str, Selector] = {}
"""By the name that a recipe's `keep:` uses."""

NEEDS: dict[str, str] = {}
"""By the same name: what a problem must have to yield a row, for the message when none does."""


_A_CORRECT_ONE = "a correct sample that was not cut by the token limit"


def by_problem(rollouts: Iterable[Rollout], problems: dict[str, Problem]) -> list[tuple[Problem, list[Rollout]]]:
    """Each problem's rollouts, by sample; in the order of the problems, those without a rollout left out."""
    groups: dict[str, list[Rollout]] = defaultdict(list)
    for rollout in rollouts:
        groups[rollout.problem_id].append(rollout)
    return [
        (problem, sorted(groups[problem.id], key=lambda r: r.sample))
        for problem in problems.values()
        if problem.id in groups
    ]


def correct_ones(group: Iterable[Rollout]) -> list[Rollout]:
    """The rollouts that may be learnt from: verified, not guessed, not cut by the token limit; each text once."""
    return _each_text_once(r for r in group if r.correct and r.finished and not guessed(r))


def guessed(rollout: Rollout) -> bool:
    """Whether a teacher answered before it knew; that is there to be rejected, even where it came out right."""
    return bool(rollout.meta.get("guessed"))


def pieces_of(rollout: Rollout) -> list[dict[str, str]] | None:
    """Kind and text of each part of a search episode, in order; None for any other rollout."""
    pieces = rollout.meta.get("search", {}).get("pieces")
    return None if pieces is None else [{"kind": piece["kind"], "text": piece["text"]} for piece in pieces]


def shortest_first(group: Iterable[Rollout]) -> list[Rollout]:
    """By generated tokens; among equals the earlier sample is first."""
    return sorted(group, key=lambda r: (r.tokens, r.sample))


def _each_text_once(group: Iterable[Rollout]) -> list[Rollout]:
    first: dict[str, Rollout] = {}
    for rollout in group:
        first.setdefault(rollout.text, rollout)
    return list(first.values())


def _row(problem: Problem, rollout: Rollout) -> Row:
    row = {"problem_id": problem.id, "prompt": problem.prompt, "completion": rollout.text}
    pieces = pieces_of(rollout)
    return row if pieces is None else row | {"pieces": pieces}


def _selector(name: str, *, needs: str) -> Callable[[Callable[[list[Rollout]], list[Rollout]]], Selector]:
    """Register a rule that chooses among one problem's rollouts."""

    def register(choose: Callable[[list[Rollout]], list[Rollout]]) -> Selector:
        def select(rollouts: Sequence[Rollout], problems: dict[str, Problem]) -> list[Row]:
            return [
                _row(problem, rollout) for problem, group in by_problem(rollouts, problems) for rollout in choose(group)
            ]

        SELECTORS[name], NEEDS[name] = wraps(choose)(select), needs
        return SELECTORS[name]

    return register


@_selector("all", needs="a sample that was not cut by the token limit")
def every_finished(group: list[Rollout]) -> list[Rollout]:
    """Everything that was finished, right or wrong; for teachers, whose traces are verified when written.

    What a teacher guessed is left out.
    """
    return [rollout for rollout in group if rollout.finished and not guessed(rollout)]


@_selector("correct", needs=_A_CORRECT_ONE)
def every_correct(group: list[Rollout]) -> list[Rollout]:
    """Every correct completion, each text once: rejection sampling (RFT, arXiv:2308.01825)."""
    return correct_ones(group)


@_selector("shortest", needs=_A_CORRECT_ONE)
def shortest_correct(group: list[Rollout]) -> list[Rollout]:
    """The shortest correct completion: concise self-training (arXiv:2502.20122), Kimi k1.5 (arXiv:2501.12599).

    Unsolved problems vanish, so the rows drift to easy problems; summary.json has the coverage. The authors of the
    first paper cut a row budget to the problems with the shortest winners, which is a second drift: not done here.
    """
    return shortest_first(correct_ones(group))[:1]


@_selector("first_correct", needs=_A_CORRECT_ONE)
def first_correct(group: list[Rollout]) -> list[Rollout]:
    """The first correct sample: one row per solved problem, with no preference for length (STaR, arXiv:2203.14465)."""
    return correct_ones(group)[:1]
