"""A branch of the in-process engine, and a generation of it that is going on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np
import torch

from laconic.inference.engine import Capability, Chunk, Hook, Sampling, Token
from laconic.inference.engines.decode_loop import Job, Step
from laconic.inference.engines.draw import check_sampling, random_numbers
from laconic.inference.engines.pieces import TextSoFar
from laconic.inference.engines.strands import Strand
from laconic.inference.generation import Generation
from laconic.inference.ledger import Account, Fate, Role
from laconic.rewards.errors import LaunchError, RecipeError

if TYPE_CHECKING:
    from laconic.inference.engines.transformers import TransformersEngine


class Live:
    """One generation that is going on."""

    def __init__(
        self,
        branch: TransformersBranch,
        generation: Generation,
        sampling: Sampling,
        top: int,
        bias: Mapping[int, float],
    ) -> None:
        self.branch, self.generation, self.sampling, self.top, self.bias = branch, generation, sampling, top, bias
        self.start = len(branch.strand.ids)
        self.needs = self.start + generation.max_tokens
        self.over = False
        self.error: Exception | None = None
        self.changed, self.ended = asyncio.Event(), asyncio.Event()

    def job(self) -> Job:
        """What is wanted of the next tick."""
        branch = self.branch
        if branch.number is None:
            branch.number = branch.numbers.random()
        may_end = len(self.generation.tokens) >= self.generation.min_tokens
        return Job(branch.strand, self.sampling, branch.number, self.top, self.bias, may_end)

    def take(self, step: Step) -> None:
        """Take what the tick gave; too late for a generation that was cancelled meanwhile."""
        self.branch.account_for(step.shared)
        if self.over:
            return
        if step.error is not None:
            self.end(step.error)
            return
        self.branch.number = None
        self.branch.strand.ids.append(step.token)
        token = Token(self.branch.so_far.add(step.token), step.token, step.logprob, step.top, step.entropy)
        try:
            done = self.generation.push(token, eos=step.token in self.branch.engine.eos_ids)
        except Exception as error:  # the hook's: it belongs to the caller of this generation alone
            self.end(error)
            return
        self.changed.set()
        if done:
            self.end()

    def end(self, error: Exception | None = None) -> None:
        """It goes on no more."""
        if not self.over:
            self.over, self.error = True, error
            self.changed.set()
            self.ended.set()


class TransformersBranch:
    """Implements `laconic.inference.engine.Branch`."""

    def __init__(
        self,
        engine: TransformersEngine,
        strand: Strand,
        sampling: Sampling,
        account: Account,
        so_far: TextSoFar,
        path: tuple[int, ...],
        text: str = "",
    ) -> None:
        self.engine, self.strand, self.sampling, self.account = engine, strand, sampling, account
        self.so_far = so_far
        self.numbers: np.random.Generator = random_numbers(path[0], path[1:])
        self.number: float | None = None
        """The random number of the next token, once it was asked for."""
        self._path, self._text, self._forks = path, text, 0
        self._live: Live | None = None
        self._accounted, self._inherited = False, 0
        self._sure = len(strand.ids)
        """Tokens that no later one has replaced since they were read."""

    @property
    def text(self) -> str:
        """What follows the prompt."""
        return self._text

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
        """Generate until end-of-sequence, a stop string, the hook or `max_tokens`.

        Afterwards the branch's tokens are those of its text: end-of-sequence and a stop string that was cut are taken
        out. Where a stop string begins or ends within a token, what is left of that token is encoded anew.

        Raises:
            DataError: the model has not enough positions.
            ModelError: its logits are not finite.
            RecipeError: a parameter is out of range.
            LaunchError: the branch is closed, or generates already.
        """
        generation = Generation(max_tokens=max_tokens, min_tokens=min_tokens, stop=stop, keep_stop=keep_stop, hook=hook)
        live = self._begin(generation, sampling, top_logprobs, bias)
        try:
            await live.ended.wait()
        finally:
            self._settle(live, role)
        return generation.chunk()

    async def stream(
        self,
        *,
        max_tokens: int,
        min_tokens: int = 0,
        stop: Sequence[str] = (),
        keep_stop: bool = False,
        role: Role = "think",
        sampling: Sampling | None = None,
        hook: Hook | None = None,
    ) -> AsyncIterator[Chunk]:
        """As `generate`; every piece holds all the text so far that is safe to show."""
        generation = Generation(max_tokens=max_tokens, min_tokens=min_tokens, stop=stop, keep_stop=keep_stop, hook=hook)
        live = self._begin(generation, sampling, 0, None)
        try:
            while not live.over:
                await live.changed.wait()
                live.changed.clear()
                if not live.over:
                    yield Chunk(generation.streamable(), tuple(generation.tokens), "length")
        finally:
            self._settle(live, role)
        yield generation.chunk()

    async def extend(self, text: str) -> None:
        """Append forced text: encoded once, by itself."""
        self._check_idle()
        if not text:
            return
        ids = self._encode(text)
        self._text += self.so_far.interrupt() + text
        self.strand.ids += ids
        self.account.force(len(ids))

    def relabel(self, role: Role) -> None:
        """The last generation was for something else."""
        self.account.relabel(role)

    async def fork(self) -> TransformersBranch:
        """A branch with the same tokens and random numbers of its own; of a branch that generates, as it was before."""
        self._check_open()
        self._forks += 1
        length = len(self.strand.ids) if self._live is None else self._live.start
        shared = self._shared(length)
        strand = Strand(self.strand.ids[:length], self.strand.prompt)
        self.engine.between_ticks(self.engine.decoder.seats.attach, strand, self.strand, length)
        so_far = self.so_far.copy() if self._live is None else TextSoFar(self.engine.pieces, begun=bool(self._text))
        path, account = (*self._path, self._forks), self.account.fork(cached=shared)
        child = TransformersBranch(self.engine, strand, self.sampling, account, so_far, path, self._text)
        child._accounted, child._inherited = shared > 0, shared
        return child

    async def hidden(self, layer: int = -1) -> torch.Tensor:
        """The state of a layer at the newest token, shape (hidden,); 0 is the embedding, -1 the last layer."""
        self._check_idle()
        self.engine.check_length(len(self.strand.ids), 0)
        return await self.engine.call(self.engine.decoder.hidden, self.strand, layer)

    async def close(self, fate: Fate) -> None:
        """Free it; a generation that goes on is ended."""
        if self._live is not None:
            self._live.end(LaunchError("the branch was closed while it generated", cure="cancel the generation first"))
        if not self.account.closed:
            self.engine.between_ticks(self.engine.decoder.seats.release, self.strand)
        self.account.close(fate)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close("discarded")

    def account_for(self, shared: int) -> None:
        """The first tick was done: enter what did not have to be read."""
        if not self._accounted:
            self._accounted = True
            self.account.ledger.cached += shared

    def _begin(
        self, generation: Generation, sampling: Sampling | None, top: int, bias: Mapping[int, float] | None
    ) -> Live:
        self._check_idle()
        sampling = sampling or self.sampling
        check_sampling(sampling)
        self.engine.check_length(len(self.strand.ids), generation.max_tokens)
        self._check_wishes(top, bias or {})
        self._sure = len(self.strand.ids) + generation.max_tokens
        self._live = Live(self, generation, sampling, top, bias or {})
        self.engine.start(self._live)
        return self._live

    def _check_wishes(self, top: int, bias: Mapping[int, float]) -> None:
        if top and Capability.TOP_LOGPROBS not in self.engine.capabilities:
            raise LaunchError("this engine reports no log-probabilities", cure="open it with signals=True")
        size = self.engine.decoder.passes.config.vocab_size
        if foreign := [token for token in bias if not 0 <= token < size]:
            raise RecipeError(f"generate: bias on token {foreign[0]}", cure=f"token ids go from 0 to {size - 1}")

    def _settle(self, live: Live, role: Role) -> None:
        """Count and keep what was generated, also when the generation failed or was cancelled."""
        live.end()
        self._live = None
        generation = live.generation
        self.account.generate(role, len(generation.tokens))
        self._text += generation.text
        if generation.reason in ("eos", "stop"):
            self._cut(live)
        if live.error is not None:
            raise live.error

    def _cut(self, live: Live) -> None:
        """Take out the tokens whose text is not in the branch's text."""
        generation, end, whole = live.generation, live.start, 0
        for at, token in enumerate(generation.tokens[: -1 if generation.reason == "eos" else None]):
            if whole + len(token.text) > len(generation.text):
                break
            if token.text or generation.reason == "eos":  # a token without text is part of the next one's character
                whole, end = whole + len(token.text), live.start + at + 1
        rest = generation.text[whole:]
        self.strand.ids[end:] = self._encode(rest) if rest else []
        if generation.reason == "stop":
            self.so_far = TextSoFar(self.engine.pieces, begun=bool(self._text))
        self._sure = end
        self.engine.between_ticks(self.engine.decoder.seats.forget, self.strand, end)

    def _encode(self, text: str) -> list[int]:
        return self.engine.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _shared(self, length: int) -> int:
        """Of the first tokens: those that a fork does not have to read."""
        if self._live is not None and self._live.generation.tokens:
            return length  # they were read before the first new one was drawn
        return min(max(self.strand.cached, self._inherited), self._sure, length)

    def _check_idle(self) -> None:
        self._check_open()
        if self._live is not None:
            raise LaunchError("this branch is generating", cure="wait until it is done, or fork it")

    def _check_open(self) -> None:
        if self.account.closed:
            raise LaunchError("this branch is closed", cure="generate before closing it")
