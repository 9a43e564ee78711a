"""An engine that says what a script tells it, in virtual time: the test bed of policies.

Every live generation gets one token per tick. A tick comes when all tasks are waiting, so runs are reproducible however
busy the machine is; `now` is the tick that was done last.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Self, TypeAlias

from laconic.inference.engine import Capability, Chunk, Hook, Prompt, Sampling, Token
from laconic.inference.engines.last import LastGeneration, refuse_back_while_generating
from laconic.inference.engines.without import INTERNALS, WithoutInternals
from laconic.inference.generation import Generation
from laconic.inference.ledger import Account, Fate, Ledger, Role
from laconic.rewards.errors import LaunchError

EOS = Token("")
"""What a script gives for end-of-sequence; a script that runs out ends the sequence too."""


@dataclass(frozen=True)
class Context:
    """What a script is asked to go on from."""

    prompt: Prompt
    text: str
    """What follows the prompt so far, generated and forced."""
    seed: int
    branch: int
    """The number of the branch, in the order of opening and forking."""
    generated: Mapping[Role, int] = field(default_factory=dict)
    """Tokens generated in this branch so far, those before its fork included, by role."""
    role: Role = "think"


Script: TypeAlias = Callable[[Context], Iterable[Token | str | Exception]]
"""Tokens to say from a context on; a text is a token without a log-probability, an exception is raised there."""


class ScriptedEngine:
    """Implements `laconic.inference.engine.Engine`.

    Args:
        script: What is said.
        capabilities: By default everything but a look inside the model, which a script has not.
        slots: Generations that go on at once; others wait in the order of their calls. None: all.
        latency: Ticks before the first token of every generation.
        ticks_per_token: Of a branch, by its number; 1 by default.
    """

    def __init__(
        self,
        script: Script,
        *,
        capabilities: Iterable[Capability] = frozenset(Capability) - INTERNALS,
        slots: int | None = None,
        latency: int = 0,
        ticks_per_token: Callable[[int], int] = lambda branch: 1,
    ) -> None:
        self.script = script
        self.capabilities = frozenset(capabilities)
        self.slots, self.latency, self.ticks_per_token = slots, latency, ticks_per_token
        self.now = 0
        self.emitted = 0
        """Tokens given out so far, over all branches."""
        self.open_branches: set[int] = set()
        self._numbers = 0
        self._live: list[_Live] = []
        self._clock: asyncio.Task[None] | None = None

    def open(
        self, prompt: Prompt, *, ledger: Ledger, sampling: Sampling | None = None, seed: int = 0
    ) -> ScriptedBranch:
        """A branch at the end of a prompt; a prompt counts one token per word."""
        account = Account(ledger, prompt=len(str(prompt).split()))
        return ScriptedBranch(self, prompt, seed, account)

    async def aclose(self) -> None:
        """Stop the clock."""
        if self._clock is not None:
            self._clock.cancel()

    def _number(self) -> int:
        self._numbers += 1
        return self._numbers - 1

    def _start(self, live: _Live) -> None:
        self._live.append(live)
        if self._clock is None or self._clock.done():
            self._clock = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        while self._live:
            # As many turns of the event loop as nested task groups and gathers need to hand results on.
            for _ in range(32):
                await asyncio.sleep(0)
            self.now += 1
            for live in self._live[: self.slots]:
                live.tick()
            self._live = [live for live in self._live if not live.over]


class _Live:
    """One generation that is going on."""

    def __init__(self, engine: ScriptedEngine, branch: int, tokens: Iterator[Any], generation: Generation) -> None:
        self.engine, self.tokens, self.generation = engine, tokens, generation
        self.pace = engine.ticks_per_token(branch)
        self.wait = engine.latency + self.pace
        self.over = False
        self.changed = asyncio.Event()
        self.error: Exception | None = None

    def tick(self) -> None:
        """One step of virtual time."""
        self.wait -= 1
        if self.over or self.wait > 0:
            return
        self.wait = self.pace
        said = next(self.tokens, EOS)
        if said is EOS and len(self.generation.tokens) < self.generation.min_tokens:
            said = next(self.tokens, ".")  # a model that may not end yet says something else
        if isinstance(said, Exception):
            self.error, self.over = said, True
        else:
            token = Token(said) if isinstance(said, str) else said
            self.engine.emitted += 1
            self.over = self.generation.push(token, eos=token is EOS)
        self.changed.set()


class ScriptedBranch(WithoutInternals):
    """Implements `laconic.inference.engine.Branch`."""

    def __init__(
        self,
        engine: ScriptedEngine,
        prompt: Prompt,
        seed: int,
        account: Account,
        text: str = "",
        generated: Mapping[Role, int] | None = None,
        last: tuple[LastGeneration, Role] = (LastGeneration(), "think"),
    ) -> None:
        self.engine, self.prompt, self.seed, self.account, self._text = engine, prompt, seed, account, text
        self.number = engine._number()
        self._last, self._last_role = last
        self._generating = False
        self._generated: Counter[Role] = Counter(generated or {})
        engine.open_branches.add(self.number)

    @property
    def text(self) -> str:
        """What follows the prompt."""
        return self._text

    @property
    def ids(self) -> None:
        """A script has no token ids."""
        return None

    async def generate(
        self,
        *,
        max_tokens: int,
        min_tokens: int = 0,
        stop: Sequence[str] = (),
        keep_stop: bool = False,
        role: Role = "think",
        sampling: Sampling | None = None,
        top_logprobs: int = 0,
        hook: Hook | None = None,
        bias: Mapping[int, float] | None = None,
    ) -> Chunk:
        """Say what the script says; `sampling` and `bias` do not move it."""
        given = {"max_tokens": max_tokens, "min_tokens": min_tokens, "stop": stop, "keep_stop": keep_stop}
        pieces = [piece async for piece in self.stream(**given, role=role, sampling=sampling, hook=hook, bias=bias)]
        return pieces[-1]

    async def stream(
        self,
        *,
        max_tokens: int,
        min_tokens: int = 0,
        stop: Sequence[str] = (),
        keep_stop: bool = False,
        role: Role = "think",
        sampling: Sampling | None = None,
        top_logprobs: int = 0,
        hook: Hook | None = None,
        bias: Mapping[int, float] | None = None,
    ) -> AsyncIterator[Chunk]:
        """As `generate`; every piece holds all the text so far that is safe to show."""
        self._check_open()
        context = Context(self.prompt, self._text, self.seed, self.number, dict(self._generated), role)
        generation = Generation(max_tokens=max_tokens, min_tokens=min_tokens, stop=stop, keep_stop=keep_stop, hook=hook)
        live = _Live(self.engine, self.number, iter(self.engine.script(context)), generation)
        self.engine._start(live)
        self._generating = True
        try:
            while not live.over:
                live.changed.clear()
                await live.changed.wait()
                if not live.over:
                    yield Chunk(generation.streamable(), tuple(generation.tokens), "length")
        finally:
            # Also when this task was cancelled: what was said is counted, and the slot is free.
            live.over, self._generating = True, False
            self._last, self._last_role = LastGeneration(self._text, tuple(generation.tokens)), role
            self._generated[role] += len(generation.tokens)
            self.account.generate(role, len(generation.tokens))
            self._text += generation.text
        if live.error is not None:
            raise live.error
        yield generation.chunk()

    async def extend(self, text: str) -> None:
        """Append forced text, one token per word."""
        self._check_open()
        self.account.force(len(text.split()))
        self._text += text
        self._last = replace(self._last, followed=True)

    def relabel(self, role: Role) -> None:
        """The last generation was for something else."""
        self.account.relabel(role)

    async def fork(self, *, back: int = 0) -> ScriptedBranch:
        """A branch with the same text; scripts see its own number.

        Raises:
            RecipeError: `back` is more than the last generation has.
            LaunchError: with `back`, the branch generates, or forced text followed its last generation.
        """
        self._check_open()
        text, last, generated = self._text, self._last, Counter(self._generated)
        if self._generating:
            refuse_back_while_generating(back)
        elif back:
            last = self._last.without(back)
            text = last.text
            generated[self._last_role] -= back
        account = self.account.fork(cached=len(text.split()), back=back)
        return ScriptedBranch(self.engine, self.prompt, self.seed, account, text, generated, (last, self._last_role))

    async def close(self, fate: Fate) -> None:
        """Free it."""
        self.engine.open_branches.discard(self.number)
        self.account.close(fate)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close("discarded")

    def _check_open(self) -> None:
        if self.account.closed:
            raise LaunchError(f"branch {self.number} is closed", cure="generate before closing it")
