"""Whole completions from any engine that says its token ids, for code that is not asynchronous.

    with EngineSampler(engine) as sampler:
        for completion in sampler.sample(requests, Sampling(max_tokens=512)):
            ...

Requests with the longest prompts come first, so that what does not fit shows at once. Only so many branches are open
at a time that the engine always has others at hand: a hundred thousand requests cost no more than a few hundred.
Between two completions the event loop stands still, so the caller may use signals and its own time as it likes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from laconic.inference.engine import Branch, Capability, Engine, Sampling, check_capabilities
from laconic.inference.ledger import Ledger
from laconic.rewards.errors import LaconicError, RecipeError

AT_ONCE = 1024
"""Open branches, where the engine does not say how many generations it takes."""
SPARE = 2
"""Open branches, as a multiple of the generations that an engine takes."""


@dataclass(frozen=True, slots=True)
class Request:
    """One completion to draw. Equal requests give equal completions, whatever they are batched with."""

    key: tuple[str, int]
    """(problem id, sample number)."""
    prompt: str
    """The user message; the engine applies the model's chat template."""
    seed: int
    begin: str = ""
    """Text that the completion begins with; the model goes on from there."""
    max_tokens: int | None = None
    """Of the completion, `begin` included, where it has a limit of its own."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What came back for a request."""

    key: tuple[str, int]
    ids: tuple[int, ...]
    """Token ids: those that its request began it with, then the generated ones, the end-of-sequence token included when
    there was one."""
    finished: bool
    """False when the token limit cut it."""


class Sampler(Protocol):
    """Draws completions, in whatever order they finish."""

    def sample(self, requests: Iterable[Request], sampling: Sampling) -> Iterator[Completion]:
        """Yield one completion per request as soon as it is done."""
        ...


class EngineSampler:
    """Implements `Sampler` over an engine, and closes the engine at its end. A context manager.

    Args:
        engine: One that gives token ids.
        at_once: Branches open at a time; None takes `SPARE` times the engine's slots, or `AT_ONCE` where it names none.

    Raises:
        LaunchError: the engine gives no token ids.
    """

    def __init__(self, engine: Engine, *, at_once: int | None = None) -> None:
        check_capabilities(engine, [Capability.TOKEN_IDS], who="sampling")
        self.engine = engine
        self.at_once = at_once or (AT_ONCE if engine.slots is None else SPARE * engine.slots)
        # A loop of its own: the caller's idea of the current one stays as it is.
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._workers: list[asyncio.Task[None]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._runner:
            self._runner.run(self._stop())
            self._runner.run(self.engine.aclose())

    def sample(self, requests: Iterable[Request], sampling: Sampling) -> Iterator[Completion]:
        """Yield one completion per request as soon as it is done. One call at a time.

        Raises:
            LaconicError: what the engine raised, with the problem named: a `DataError` where a prompt and `max_tokens`
                exceed the model's positions, a `ModelError` where its logits are not finite. A `RecipeError` where
                nothing can follow what a completion begins with.
        """
        requests = list(requests)
        lengths = self._runner.run(self._lengths(dict.fromkeys(request.prompt for request in requests), sampling))
        waiting = iter(sorted(requests, key=lambda request: -lengths[request.prompt]))
        done: asyncio.Queue[Completion | Exception] = asyncio.Queue()
        try:
            self._runner.run(self._start(min(self.at_once, len(requests)), waiting, sampling, done))
            for _ in requests:
                found = self._runner.run(done.get()) if done.empty() else done.get_nowait()
                if isinstance(found, Exception):
                    raise found
                yield found
        finally:
            # Not after the end of the context, which has done it.
            if self._workers:
                self._runner.run(self._stop())

    async def _lengths(self, prompts: Iterable[str], sampling: Sampling) -> dict[str, int]:
        """The tokens of every prompt, as far as the engine knows them before it begins."""
        found = {}
        for prompt in prompts:
            ledger = Ledger()
            async with self.engine.open(prompt, ledger=ledger, sampling=sampling):
                found[prompt] = ledger.prompt
            await asyncio.sleep(0)  # Ctrl-C arrives where a task waits
        return found

    async def _start(
        self, workers: int, waiting: Iterator[Request], sampling: Sampling, done: asyncio.Queue[Completion | Exception]
    ) -> None:
        self._workers = [asyncio.create_task(self._work(waiting, sampling, done)) for _ in range(workers)]

    async def _work(
        self, waiting: Iterator[Request], sampling: Sampling, done: asyncio.Queue[Completion | Exception]
    ) -> None:
        """One request after the other, until there are no more or one fails."""
        for request in waiting:
            try:
                done.put_nowait(await self._complete(request, sampling))
            except LaconicError as error:
                named = type(error)(f"problem {request.key[0]}: {error.message}", cure=error.cure)
                return done.put_nowait(named)
            except Exception as error:
                # Whatever it was (out of memory, say), it is raised where the completion is wanted.
                return done.put_nowait(error)

    async def _complete(self, request: Request, sampling: Sampling) -> Completion:
        limit = request.max_tokens or sampling.max_tokens
        async with self.engine.open(request.prompt, ledger=Ledger(), sampling=sampling, seed=request.seed) as branch:
            begun = await _begin(branch, request.begin, limit) if request.begin else ()
            chunk = await branch.generate(max_tokens=limit - len(begun))
            await branch.close("kept")
        return Completion(request.key, (*begun, *(token.id for token in chunk.tokens)), chunk.ended)

    async def _stop(self) -> None:
        """End what is still being drawn."""
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)
        self._workers = []


async def _begin(branch: Branch, text: str, limit: int) -> tuple[int, ...]:
    """Let a completion begin with a text; returns its token ids."""
    await branch.extend(text)
    begun = branch.ids
    assert begun is not None
    if len(begun) >= limit:
        message = f"a limit of {limit} tokens, of which {text!r}, what the completion begins with, takes {len(begun)}"
        raise RecipeError(message, cure="raise max_tokens, or begin with less")
    return begun
