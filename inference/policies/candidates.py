"""What policies with several completions share: drawing them together, ending those that lost, counting votes, closing
each with its fate.
"""

from __future__ import annotations

import asyncio
import math
import operator
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from laconic.inference.engine import Branch
from laconic.inference.policies.base import Answer, Ask
from laconic.inference.policies.plain import answer_of, finish
from laconic.rewards.errors import LaunchError

T = TypeVar("T")
Same: TypeAlias = Callable[[Any, Any], bool]
Losers: TypeAlias = Callable[[Sequence[int], Collection[int]], Collection[int]]
"""Asked whenever some finish: those that finished, in their order, and those that go on; returns which of these end."""


@dataclass(eq=False)
class Candidate:
    """A completion among several."""

    branch: Branch
    finished: bool = False
    """The model ended it by itself."""
    answer: str | None = None

    @property
    def votes(self) -> bool:
        """Whether it takes part in decisions: what a token limit cut does not, for half an answer is none."""
        return self.finished and self.answer is not None

    @property
    def vote(self) -> str | None:
        """Its answer if it votes."""
        return self.answer if self.votes else None

    def end(self, ask: Ask, *, finished: bool) -> None:
        """It goes on no more: read its answer."""
        self.finished, self.answer = finished, answer_of(ask, self.branch.text)


@dataclass(frozen=True)
class Group:
    """Equal answers, by their places, and the sum of their weights."""

    members: tuple[int, ...]
    weight: float


async def together(jobs: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run them at once; when one fails or this task is cancelled, the others are cancelled and waited for.

    Unlike a task group, it raises the error itself and not a group of one. So it does where `jobs` fails while it makes
    them: a branch that cannot be opened ends those that were.
    """
    tasks: list[asyncio.Future[T]] = []
    try:
        for job in jobs:
            tasks.append(asyncio.ensure_future(job))
        return await asyncio.gather(*tasks)
    finally:
        await _cancel(tasks)


async def race(runs: Iterable[Coroutine[Any, Any, None]], *, losers: Losers | None = None) -> list[int]:
    """Run all at once until each has finished or lost; the first error ends them all and is raised as it is.

    Returns:
        Places of those that finished, in their order; at the same moment, the lower place first.
    """
    tasks: dict[asyncio.Future[None], int] = {}
    running, finished = set(), []
    try:
        for place, run in enumerate(runs):
            task = asyncio.ensure_future(run)
            tasks[task] = place
            running.add(task)
        while running:
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            finished += sorted(tasks[task] for task in done)
            for task in done:
                task.result()
            lost = losers(finished, {tasks[task] for task in running}) if losers else ()
            running -= await _cancel({task for task in running if tasks[task] in lost})
    finally:
        await _cancel(running)
    return finished


async def _cancel(tasks: Collection[asyncio.Future[Any]]) -> Collection[asyncio.Future[Any]]:
    for task in tasks:
        task.cancel()
    # Only once a task is gone does the ledger hold what it generated.
    await asyncio.gather(*tasks, return_exceptions=True)
    return tasks


async def complete(ask: Ask, branch: Branch, *, budget: int | None = None) -> Candidate:
    """Let a branch go on to its end and read its answer.

    Args:
        ask: The question.
        branch: Where it goes on.
        budget: Generated tokens at most; None: those of a whole completion.
    """
    candidate = Candidate(branch)
    limit = ask.sampling.max_tokens if budget is None else budget
    candidate.end(ask, finished=await finish(ask, branch, budget=limit))
    return candidate


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


def agreeing(answers: Sequence[T | None], *, equal: Same = operator.eq) -> list[list[int]]:
    """Places of the same answers together, in the order in which the answers were first seen; None belongs nowhere.

    >>> agreeing(["7", None, "8", "7"])
    [[0, 3], [2]]
    """
    groups: list[list[int]] = []
    for place, answer in enumerate(answers):
        if answer is None:
            continue
        group = next((group for group in groups if equal(answer, answers[group[0]])), None)
        groups.append([place]) if group is None else group.append(place)
    return groups


def tally(answers: Sequence[T | None], weights: Sequence[float], *, equal: Same = operator.eq) -> list[Group]:
    """Groups of equal answers, the heaviest first; of equally heavy ones, the one seen first."""
    found = agreeing(answers, equal=equal)
    groups = [Group(tuple(group), sum(weights[place] for place in group)) for group in found]
    return sorted(groups, key=lambda group: -group.weight)


async def decide(
    ask: Ask,
    candidates: Sequence[Candidate],
    winner: Candidate | None,
    *,
    voters: Collection[Candidate] | None = None,
    confidence: float | None = None,
    notes: Mapping[str, Any] | None = None,
) -> Answer:
    """Close every candidate with its fate and return one completion.

    Args:
        ask: The question.
        candidates: All of them.
        winner: The one to return. None if none could win: then the first that finished, or else the first.
        voters: Those that took part in the decision; None: all that vote.
        confidence: From 0 to 1.
        notes: What was looked at.
    """
    chosen = winner or next((each for each in candidates if each.finished), candidates[0])
    for each in candidates:
        took_part = each.votes if voters is None else each in voters
        await each.branch.close("kept" if each is chosen else "voted" if took_part else "discarded")
    text = chosen.branch.text
    end = "stop" if chosen.finished else "length"
    return Answer(text, answer_of(ask, text), end, ask.ledger, confidence, dict(notes or {}))


async def majority(ask: Ask, candidates: Sequence[Candidate], *, notes: Mapping[str, Any] | None = None) -> Answer:
    """The most frequent answer, the first seen of equally frequent ones; confidence is its share of the votes."""
    voters = [candidate for candidate in candidates if candidate.votes]
    if not voters:
        return await decide(ask, candidates, None, notes=notes)
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
