"""Which problems a report shows in full, and which of their rollouts: chosen by rule, not by taste."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from laconic.eval.episode_parts import Part, is_episode, parts
from laconic.eval.samples import Array, collect, scorable
from laconic.inference.trace import THINK_CLOSE, THINK_OPEN
from laconic.rewards.records import Problem, Rollout

SHOWN = 6_000
"""Characters of thinking that a page shows; the middle of longer thinking is left out."""

Rollouts = Mapping[str, Sequence[Rollout]]


@dataclass(frozen=True, slots=True)
class Shot:
    """One rollout, cut into what a reader wants to tell apart."""

    rollout: Rollout
    thinking: str
    answer: str
    omitted: int
    """Characters of thinking left out."""
    parts: tuple[Part, ...] = ()
    """Of a search episode, instead of its thinking."""


@dataclass(frozen=True, slots=True)
class Line:
    """One kind of rollout (say, the shortest right one) by every model; None where a model has none."""

    label: str
    shots: tuple[Shot | None, ...]


@dataclass(frozen=True, slots=True)
class Summary:
    """One model on one problem."""

    model: str
    right: int
    samples: int
    tokens: float


@dataclass(frozen=True, slots=True)
class Example:
    """One problem, answered by every model."""

    title: str
    problem: Problem
    summaries: tuple[Summary, ...]
    lines: tuple[Line, ...]


def choose(
    problems: Sequence[Problem], rollouts: Rollouts, *, baseline: str, model: str, samples: int
) -> list[Example]:
    """Pick the problems on which the model differs most from the baseline, and one that is hard for both.

    Args:
        problems: All problems of the evaluation.
        rollouts: By model; the order is the order of the columns.
        baseline: The model to compare with.
        model: The model that the report is about.
        samples: Rollouts per problem.

    Returns:
        Up to five examples, each with another problem.
    """
    kept = scorable(problems, rollouts)
    base, new = (collect(rollouts[name], kept, samples=samples, source=name) for name in (baseline, model))
    base_right, new_right = base.correct.mean(axis=1), new.correct.mean(axis=1)
    base_tokens, new_tokens = base.tokens.mean(axis=1), new.tokens.mean(axis=1)
    always = (base_right == 1) & (new_right == 1)
    rules: list[tuple[str, Array, Array]] = [
        (f"Most tokens saved by {model}, both always right", base_tokens - new_tokens, always),
        (f"Largest gain of accuracy by {model}", new_right - base_right, new_right > base_right),
        (f"Largest loss of accuracy by {model}", base_right - new_right, new_right < base_right),
        (f"Longest answers of {model}", new_tokens, np.ones(len(kept), dtype=bool)),
        ("Never answered right by either", base_tokens, (base_right == 0) & (new_right == 0)),
    ]
    if baseline == model:
        rules = [(f"Longest answers of {model}", new_tokens, new_right > 0), rules[-1]]
    return [_example(title, kept[place], rollouts) for title, place in _places(rules)]


def _places(rules: Sequence[tuple[str, Array, Array]]) -> Iterator[tuple[str, int]]:
    """The best problem by each rule that no earlier rule took."""
    taken: set[int] = set()
    for title, score, allowed in rules:
        ranked = [place for place in np.argsort(-score, kind="stable").tolist() if allowed[place]]
        for place in [place for place in ranked if place not in taken][:1]:
            taken.add(place)
            yield title, place


def _example(title: str, problem: Problem, rollouts: Rollouts) -> Example:
    of_problem = {
        name: sorted((row for row in rows if row.problem_id == problem.id), key=lambda row: (row.tokens, row.sample))
        for name, rows in rollouts.items()
    }
    summaries = tuple(
        Summary(name, sum(bool(row.correct) for row in rows), len(rows), float(np.mean([row.tokens for row in rows])))
        for name, rows in of_problem.items()
    )
    return Example(title, problem, summaries, tuple(_lines(of_problem)))


def _lines(of_problem: Mapping[str, Sequence[Rollout]]) -> Iterator[Line]:
    """Shortest and longest, right and wrong; kinds that no model has are left out, as are repeats of the shortest."""
    kinds: list[tuple[str, bool, Callable[[Sequence[Rollout]], Sequence[Rollout]]]] = [
        ("Shortest right", True, lambda rows: rows[:1]),
        ("Longest right", True, lambda rows: rows[1:][-1:]),
        ("Shortest wrong", False, lambda rows: rows[:1]),
        ("Longest wrong", False, lambda rows: rows[1:][-1:]),
    ]
    for label, verdict, pick in kinds:
        picked = [pick([row for row in rows if row.correct is verdict]) for rows in of_problem.values()]
        if any(picked):
            yield Line(label, tuple(shot(rows[0]) if rows else None for rows in picked))


def shot(rollout: Rollout) -> Shot:
    """Tell thinking from answer by the tags in the text; without a closing tag, opened thinking is all there is."""
    if is_episode(rollout):
        return Shot(rollout, "", rollout.answer or "", 0, tuple(parts(rollout)))
    before, closed, after = rollout.text.partition(THINK_CLOSE)
    opened = before.lstrip().startswith(THINK_OPEN)
    if not closed and not opened:
        return Shot(rollout, "", before.strip(), 0)
    thinking = before.strip().removeprefix(THINK_OPEN).strip()
    omitted = max(0, len(thinking) - SHOWN)
    if omitted:
        half = SHOWN // 2
        thinking = f"{thinking[:half]}\n[…]\n{thinking[-half:]}"
    return Shot(rollout, thinking, after.strip(), omitted)
