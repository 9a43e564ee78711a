"""Several traces for one question: drawing them together, ending those that lost, and closing all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from laconic.inference.engine import Branch
from laconic.inference.policies.base import Answer, Ask
from laconic.inference.policies.plain import answer_of, finish

Losers: TypeAlias = Callable[[Sequence[int], Collection[int]], Collection[int]]
"""Asked whenever some finish: those that finished, in their order, and those that go on; returns which of these end."""


@dataclass(eq=False)
class Sample:
    """One trace of several."""

    branch: Branch
    finished: bool = False
    """The model ended it by itself."""

    def vote(self, ask: Ask) -> str | None:
        """Its answer; None if there is none to read, or if a limit cut it: half an answer is none."""
        return answer_of(ask, self.branch.text) if self.finished else None


async def draw(ask: Ask, numbers: Iterable[int]) -> list[Sample]:
    """Whole completions, all at once.

    Args:
        ask: The question.
        numbers: Which samples of it.
    """
    samples = [Sample(ask.open(sample=number)) for number in numbers]
    await race([_complete(ask, sample) for sample in samples])
    return samples


async def _complete(ask: Ask, sample: Sample) -> None:
    sample.finished = await finish(ask, sample.branch, budget=ask.sampling.max_tokens)


async def race(runs: Sequence[Coroutine[Any, Any, None]], *, losers: Losers | None = None) -> list[int]:
    """Run all at once until each has finished or lost; the first error ends them all and is raised as it is.

    Returns:
        Places of those that finished, in their order; at the same moment, the lower place first.
    """
    tasks = {asyncio.ensure_future(run): place for place, run in enumerate(runs)}
    running, finished = set(tasks), []
    try:
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


async def _cancel(tasks: set[asyncio.Future[None]]) -> set[asyncio.Future[None]]:
    for task in tasks:
        task.cancel()
    # Only once a task is gone does the ledger hold what it generated.
    await asyncio.gather(*tasks, return_exceptions=True)
    return tasks


async def conclude(
    ask: Ask,
    samples: Sequence[Sample],
    *,
    kept: int | None,
    voters: Collection[int],
    confidence: float | None,
    notes: Mapping[str, Any],
) -> Answer:
    """Close every branch with its fate, and return one trace.

    Args:
        ask: The question.
        samples: All traces.
        kept: The one to return. None if none could vote: then the first that finished, or else the first, read as a
            single completion is.
        voters: Those that took part in the decision.
        confidence: From 0 to 1.
        notes: What was looked at.
    """
    if kept is None:
        kept = next((place for place, sample in enumerate(samples) if sample.finished), 0)
    for place, sample in enumerate(samples):
        await sample.branch.close("kept" if place == kept else "voted" if place in voters else "discarded")
    chosen = samples[kept]
    text = chosen.branch.text
    return Answer(
        text, answer_of(ask, text), "stop" if chosen.finished else "length", ask.ledger, confidence, dict(notes)
    )
