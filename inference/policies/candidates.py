"""What policies with several completions share: drawing them together, counting votes, closing each with its fate."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from laconic.inference.engine import Branch
from laconic.inference.policies.base import Answer, Ask, Equal
from laconic.inference.policies.plain import answer_of, finish
from laconic.rewards.errors import LaunchError

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Candidate:
    """A completion among several."""

    branch: Branch
    finished: bool
    """The model ended it by itself."""
    answer: str | None

    @property
    def votes(self) -> bool:
        """Whether it takes part in decisions: what a token limit cut does not."""
        return self.finished and self.answer is not None


@dataclass(frozen=True)
class Group:
    """Equal answers, by their places, and the sum of their weights."""

    members: tuple[int, ...]
    weight: float


async def together(jobs: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run them at once; when one fails or this task is cancelled, the others are cancelled and waited for.

    Unlike a task group, it raises the error itself and not a group of one.
    """
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def complete(ask: Ask, branch: Branch, *, budget: int | None = None) -> Candidate:
    """Let a branch go on to its end and read its answer.

    Args:
        ask: The question.
        branch: Where it goes on.
        budget: Generated tokens at most; None: those of a whole completion.
    """
    finished = await finish(ask, branch, budget=ask.sampling.max_tokens if budget is None else budget)
    return Candidate(branch, finished, answer_of(ask, branch.text))


async def draw(ask: Ask, samples: Iterable[int]) -> list[Candidate]:
    """Completions of these sample numbers, decoded at once, in this order."""
    return await together(complete(ask, ask.open(sample=sample)) for sample in samples)


async def score(ask: Ask, candidates: Sequence[Candidate]) -> list[float]:
    """The scorer's number for each completion.

    Raises:
        LaunchError: the scorer gave too few or too many, or something that is not a number.
    """
    texts = [candidate.branch.text for candidate in candidates]
    scores = [float(value) for value in await ask.score(texts)]
    if len(scores) != len(texts) or any(map(math.isnan, scores)):
        raise LaunchError(
            f"the scorer gave {scores} for {len(texts)} completions", cure="return one number for each text, in order"
        )
    return scores


def tally(
    answers: Sequence[str], weights: Sequence[float], *, equal: Equal = lambda one, other: one == other
) -> list[Group]:
    """Groups of equal answers, the heaviest first; of equally heavy ones, the one seen first."""
    found: list[list[int]] = []
    for place, answer in enumerate(answers):
        group = next((group for group in found if equal(answer, answers[group[0]])), None)
        found.append([place]) if group is None else group.append(place)
    groups = [Group(tuple(group), sum(weights[place] for place in group)) for group in found]
    return sorted(groups, key=lambda group: -group.weight)


async def decide(
    ask: Ask,
    candidates: Sequence[Candidate],
    winner: Candidate,
    *,
    confidence: float | None = None,
    notes: Mapping[str, Any] | None = None,
) -> Answer:
    """Close every candidate with its fate and return the winner's completion."""
    for candidate in candidates:
        await candidate.branch.close("kept" if candidate is winner else "voted" if candidate.votes else "discarded")
    end = "stop" if winner.finished else "length"
    return Answer(winner.branch.text, winner.answer, end, ask.ledger, confidence, notes or {})


async def majority(ask: Ask, candidates: Sequence[Candidate], *, notes: Mapping[str, Any] | None = None) -> Answer:
    """The most frequent answer, the first seen of equally frequent ones; confidence is its share of the votes.

    Where nothing can vote, the first completion is returned as it is.
    """
    voters = [candidate for candidate in candidates if candidate.votes]
    if not voters:
        return await decide(ask, candidates, candidates[0], notes=notes)
    best = tally(answers_of(voters), [1.0] * len(voters), equal=ask.equal)[0]
    share = best.weight / len(voters)
    return await decide(ask, candidates, voters[best.members[0]], confidence=share, notes=notes)


def best_of(scores: Sequence[float]) -> int:
    """The place of the highest score; of equal ones, the first.

    >>> best_of([0.2, 0.9, 0.9])
    1
    """
    return max(range(len(scores)), key=lambda place: scores[place])


def answers_of(candidates: Sequence[Candidate]) -> list[str]:
    """The answers of candidates that vote."""
    return [candidate.answer for candidate in candidates if candidate.answer is not None]


def thinks(ask: Ask, text: str) -> bool:
    """Whether a completion that begins like this thinks, or may turn out to."""
    begun = text.strip()
    return ask.opens_thinking or ask.think_open in text or ask.think_open.startswith(begun)
