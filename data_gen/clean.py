"""What must not be in training data: test problems, repeats, and problems that teach nothing.

Every function returns what it kept and why it dropped the rest (`Cleaned`); the counts go to a stage's summary.json.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from laconic.rewards.records import Problem, Rollout

T = TypeVar("T")

NGRAM = 8


@dataclass(frozen=True, slots=True)
class Cleaned(Generic[T]):
    """The outcome of one cleaning step."""

    kept: list[T]
    dropped: list[tuple[T, str]]
    """What was dropped, each with its reason."""

    @property
    def counts(self) -> dict[str, int]:
        """How many were dropped, by reason."""
        return dict(Counter(reason for _, reason in self.dropped))


def decontaminate(train: Sequence[Problem], test: Iterable[Problem], *, n: int = NGRAM) -> Cleaned[Problem]:
    """Drop training problems whose prompt shares `n` consecutive words with a test prompt.

    Words are lower-cased and split on whitespace, as in open-r1's `scripts/decontaminate.py`. open-r1 never drops a
    prompt of fewer than `n` words; here such a prompt is compared whole.

    Where a prompt template was filled in, the bare question is compared: all prompts share the template's words.
    Procedural problems come from templates too, which share their words by construction: they are split by canonical
    input instead (`laconic.data_gen.split`).
    """
    seen = {gram for problem in test for gram in _grams(_question(problem), n)}
    reason = f"shares {n} consecutive words with a test prompt"
    return _divided(train, lambda problem: None if seen.isdisjoint(_grams(_question(problem), n)) else reason)


def _question(problem: Problem) -> str:
    # Without the recipe's template, whose words stand in every prompt.
    return problem.meta.get("question", problem.prompt)


def _grams(text: str, n: int) -> set[tuple[str, ...]]:
    words = text.lower().split()
    return {tuple(words[i : i + n]) for i in range(max(1, len(words) - n + 1))}


def unique_problems(problems: Sequence[Problem]) -> Cleaned[Problem]:
    """Drop problems whose prompt was there before (compared with whitespace normalised); the first one stays."""
    return _without_repeats(problems, lambda problem: " ".join(problem.prompt.split()), "repeats a prompt")


def deduplicate(rows: Sequence[dict[str, Any]]) -> Cleaned[dict[str, Any]]:
    """Drop rows that equal an earlier one in everything but the problem's id."""
    return _without_repeats(
        rows,
        lambda row: json.dumps({k: v for k, v in row.items() if k != "problem_id"}, sort_keys=True),
        "repeats a row",
    )


def pass_rate_filter(
    problems: Sequence[Problem], rollouts: Iterable[Rollout], *, low: float, high: float
) -> Cleaned[Problem]:
    """Keep the problems that are answered right at a rate in [low, high], both ends included.

    Problems without a rollout that could be verified are dropped: their rate is unknown.
    """
    verdicts: dict[str, list[bool]] = defaultdict(list)
    for rollout in rollouts:
        if rollout.correct is not None:
            verdicts[rollout.problem_id].append(rollout.correct)

    def reason(problem: Problem) -> str | None:
        if not (seen := verdicts[problem.id]):
            return "pass rate unknown"
        rate = sum(seen) / len(seen)
        if low <= rate <= high:
            return None
        return f"pass rate below {low}" if rate < low else f"pass rate above {high}"

    return _divided(problems, reason)


def _without_repeats(items: Sequence[T], key: Callable[[T], Hashable], reason: str) -> Cleaned[T]:
    seen: set[Hashable] = set()

    def repeated(item: T) -> str | None:
        if (value := key(item)) in seen:
            return reason
        seen.add(value)
        return None

    return _divided(items, repeated)


def _divided(items: Iterable[T], reason: Callable[[T], str | None]) -> Cleaned[T]:
    kept: list[T] = []
    dropped: list[tuple[T, str]] = []
    for item in items:
        why = reason(item)
        if why is None:
            kept.append(item)
        else:
            dropped.append((item, why))
    return Cleaned(kept, dropped)
