"""From rollouts to SFT rows: which completions to learn from. One pure function per method.

A selector sees all rollouts of a stage and gives rows ``{"problem_id", "prompt", "completion"}``, in the order of the
problems. None depends on the order of the rollouts, none takes a truncated completion, and selecting again from what
was selected changes nothing.
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
    """The rollouts that may be learnt from: verified and not cut by the token limit; each text once."""
    return _each_text_once(r for r in group if r.correct and r.finished)


def shortest_first(group: Iterable[Rollout]) -> list[Rollout]:
    """By generated tokens; among equals the earlier sample is first."""
    return sorted(group, key=lambda r: (r.tokens, r.sample))


def _each_text_once(group: Iterable[Rollout]) -> list[Rollout]:
    first: dict[str, Rollout] = {}
    for rollout in group:
        first.setdefault(rollout.text, rollout)
    return list(first.values())


def _selector(name: str, *, needs: str) -> Callable[[Callable[[list[Rollout]], list[Rollout]]], Selector]:
    """Register a rule that chooses among one problem's rollouts."""

    def register(choose: Callable[[list[Rollout]], list[Rollout]]) -> Selector:
        def select(rollouts: Sequence[Rollout], problems: dict[str, Problem]) -> list[Row]:
            return [
                {"problem_id": problem.id, "prompt": problem.prompt, "completion": rollout.text}
                for problem, group in by_problem(rollouts, problems)
                for rollout in choose(group)
            ]

        SELECTORS[name], NEEDS[name] = wraps(choose)(select), needs
        return SELECTORS[name]

    return register


@_selector("all", needs="a sample that was not cut by the token limit")
def every_finished(group: list[Rollout]) -> list[Rollout]:
    """Everything that was finished, right or wrong; for teachers, whose traces are verified when written."""
    return [rollout for rollout in group if rollout.finished]


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
