"""Sampling search episodes into a JSON Lines file that a killed run leaves usable.

As `laconic.data_gen.rollouts` does for plain completions: keyed by (problem id, sample), each with a seed of its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laconic.data_gen.progress import Progress
from laconic.data_gen.rollouts import FLUSH_SECONDS, Key, request_seed, write_ordered
from laconic.inference.engine import Sampling
from laconic.inference.episode import Episode, run_episode
from laconic.inference.opening import Opened
from laconic.inference.policies.base import Ask
from laconic.inference.retrieval.batching import BatchingRetriever
from laconic.inference.retrieval.protocol import Retriever
from laconic.rewards.answers import judge
from laconic.rewards.errors import LaconicError
from laconic.rewards.jsonl import JsonlAppender
from laconic.rewards.records import Problem, Rollout, read_rollouts

if TYPE_CHECKING:
    from laconic.recipes.model_spec import ModelSpec
    from laconic.recipes.search_model import SearchSpec

IN_FLIGHT = 128
"""Episodes at once on an engine that names no number of slots."""


def sample_episodes(
    opened: Opened,
    retriever: Retriever | None,
    problems: Sequence[Problem],
    *,
    search: SearchSpec,
    samples: int,
    sampling: Sampling,
    seed: int,
    path: Path,
    source: str,
    keys: Sequence[Key] | None = None,
    model: ModelSpec | None = None,
    max_searches: int | None = None,
    searches_enabled: bool = True,
    clocked: bool = False,
    runner: asyncio.Runner | None = None,
) -> list[Rollout]:
    """Run `samples` episodes about every problem, verify their answers, and keep them in `path`.

    What `path` already holds is kept and not drawn again. Must run in the main thread: math-verify uses signals.
    Concurrent searches become one batch.

    Args:
        opened: The engine.
        retriever: Where it is searched; not closed. None where nothing may be searched.
        problems: With distinct ids.
        search: The protocol and the limits of an episode.
        samples: Episodes per problem.
        sampling: How they are drawn; `max_tokens` limits what is generated in a whole episode.
        seed: Of the stage; see `laconic.data_gen.rollouts.request_seed`.
        path: A JSON Lines file, new or from a killed run of the same stage.
        source: Noted in each rollout: who answered.
        keys: Which of the (problem id, sample) are wanted; None: all.
        model: Of the recipe: its `max_length` limits the context where `search` sets no limit.
        max_searches: Instead of that of `search`, with the prompt left as it is: a search after them is answered by the
            protocol's notice.
        searches_enabled: False asks with the closed-book prompt, and answers searches by an empty observation.
        clocked: Note the seconds of each episode, others that went on at the same time included. A file with seconds
            is never made twice the same.
        runner: Holds the event loop to which the engine's and the retriever's connections belong; the caller closes
            both. None takes a loop of its own and closes the engine with it.

    Returns:
        All rollouts, ordered by problem and sample (or as `keys`), as they now stand in the file. Their tokens are
        those that were generated; `text` is the whole episode, observations included; ``meta["search"]`` is what
        `search_meta` says.

    Raises:
        LaconicError: the engine or the retriever failed for good; the episodes that came to their end are in the file.
    """
    wanted = [(problem.id, sample) for problem in problems for sample in range(samples)] if keys is None else keys
    by_id = {problem.id: problem for problem in problems}
    with JsonlAppender(path) as out:
        there = {(rollout.problem_id, rollout.sample): rollout for rollout in read_rollouts(path)}
        missing = [key for key in wanted if key not in there]
        if missing:
            limits = search.settings(model) | {"searches_enabled": searches_enabled}
            if max_searches is not None:
                limits["max_searches"] = max_searches
            asking = _Asking(opened, _batching(retriever), search, sampling, limits)
            progress = Progress(source, done=len(wanted) - len(missing), total=len(wanted))
            work = _Work(asking, by_id, out, progress, there, seed=seed, source=source, clocked=clocked)
            _run(runner, opened, work, missing)
    return write_ordered(path, (there[key] for key in wanted))


def search_meta(episode: Episode) -> dict[str, Any]:
    """What a rollout's ``meta["search"]`` holds.

    Returns:
        ``searches``: the executed ones, each with `query`, `ids`, `turn`, `scores` and `shown`;
        ``invalid``, ``refused``, ``turns``, ``finish``: as the `Episode` has them;
        ``retrieved_tokens``, ``forced_tokens``: of observations, and of all else that was put in;
        ``answer``: what stood between the answer tags;
        ``pieces``: `kind`, `text` and `tokens` of each part of the text, in order.
    """
    told = episode.to_json()
    del told["text"]
    return told | {"retrieved_tokens": episode.retrieved_tokens, "forced_tokens": episode.forced_tokens}


def episode_rollout(
    episode: Episode, problem: Problem, *, sample: int, seed: int, source: str, **notes: Any
) -> Rollout:
    """An episode as a rollout, its answer judged by the problem's verifier.

    Args:
        episode: From a question with a ledger of its own.
        problem: What was asked.
        sample: Which of the problem's samples it is.
        seed: It was drawn with.
        source: Who answered.
        notes: Further entries of ``meta["search"]``.
    """
    verdict = judge(episode.answer, problem)
    answered = episode.ledger.tokens("answer")
    return Rollout(
        problem_id=problem.id,
        sample=sample,
        task=problem.task,
        text=episode.text,
        answer=verdict.answer,
        correct=verdict.correct,
        finished=episode.finish != "length",
        tokens=episode.generated_tokens,
        think_tokens=episode.generated_tokens - answered,
        answer_tokens=answered,
        source=source,
        seed=seed,
        meta={"search": search_meta(episode) | notes},
    )


def _batching(retriever: Retriever | None) -> Retriever | None:
    alone = retriever is None or isinstance(retriever, BatchingRetriever)
    return retriever if alone else BatchingRetriever(retriever)


def _run(runner: asyncio.Runner | None, opened: Opened, work: _Work, missing: Sequence[Key]) -> None:
    at_once = opened.engine.slots or IN_FLIGHT
    if runner is not None:
        return runner.run(work.all(missing, at_once))
    with asyncio.Runner() as own:
        try:
            own.run(work.all(missing, at_once))
        finally:
            own.run(opened.engine.aclose())
    return None


@dataclass(frozen=True)
class _Asking:
    """How a question becomes an episode."""

    opened: Opened
    retriever: Retriever | None
    search: SearchSpec
    sampling: Sampling
    limits: dict[str, Any]
    """Keyword arguments of `run_episode`."""

    def ask(self, problem: Problem, seed: int) -> Ask:
        enabled = self.limits["searches_enabled"] and self.search.max_searches > 0
        prompt = self.search.prompt(problem.prompt, searches_enabled=enabled)
        return self.opened.ask(prompt, sampling=self.sampling, seed=seed)

    async def episode(self, ask: Ask) -> Episode:
        async with ask.stack:
            return await run_episode(ask, self.retriever, **self.limits)


@dataclass(eq=False)
class _Work:
    """Many episodes at once, each written down at its end."""

    asking: _Asking
    problems: dict[str, Problem]
    out: JsonlAppender
    progress: Progress
    there: dict[Key, Rollout]
    seed: int
    source: str
    clocked: bool
    failure: Exception | None = None
    flushed: float = field(default_factory=time.monotonic)

    async def all(self, missing: Sequence[Key], at_once: int) -> None:
        """Raises what the first failing episode raised, after those under way have come to their end."""
        pile = iter(missing)
        await asyncio.gather(*(self._clerk(pile) for _ in range(min(at_once, len(missing)))))
        if self.failure is not None:
            raise self.failure

    async def _clerk(self, pile: Iterator[Key]) -> None:
        for key in pile:
            if self.failure is not None:
                return
            try:
                await self._one(key)
            except LaconicError as error:
                self.failure = type(error)(f"problem {key[0]}: {error.message}", cure=error.cure)
            except Exception as error:
                # Whatever it was, the episodes of the others are wanted, and it is raised after them.
                self.failure = error

    async def _one(self, key: Key) -> None:
        started, seed = time.monotonic(), request_seed(self.seed, *key)
        problem = self.problems[key[0]]
        episode = await self.asking.episode(self.asking.ask(problem, seed))
        notes = {"prompt_tokens": episode.ledger.prompt}
        if self.clocked:
            notes["seconds"] = round(time.monotonic() - started, 4)
        rollout = episode_rollout(episode, problem, sample=key[1], seed=seed, source=self.source, **notes)
        self.there[key] = rollout
        self.out.append(rollout.to_json())
        self.progress.add(rollout.tokens)
        if time.monotonic() - self.flushed >= FLUSH_SECONDS:
            self.out.flush()
            self.flushed = time.monotonic()
