"""A branch of the in-process engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Self

from laconic.inference.engine import Capability, Chunk, Hook, Sampling
from laconic.inference.engines.draw import NumbersAhead, check_sampling, random_numbers
from laconic.inference.engines.inside import Inside
from laconic.inference.engines.last import LastGeneration, refuse_back_while_generating
from laconic.inference.engines.live import Live
from laconic.inference.engines.pieces import TextSoFar
from laconic.inference.engines.steering import cut
from laconic.inference.engines.strands import Strand
from laconic.inference.generation import Generation
from laconic.inference.ledger import Account, Fate, Role
from laconic.rewards.errors import LaunchError, RecipeError

if TYPE_CHECKING:
    from laconic.inference.engines.transformers import TransformersEngine


class TransformersBranch(Inside):
    """Implements `laconic.inference.engine.Branch` and `laconic.inference.engine.Internals`."""

    def __init__(
        self,
        engine: TransformersEngine,
        strand: Strand,
        sampling: Sampling,
        account: Account,
        so_far: TextSoFar,
        path: tuple[int, ...],
        text: str = "",
        last: LastGeneration | None = None,
    ) -> None:
        self.engine, self.strand, self.sampling, self.account = engine, strand, sampling, account
        self.so_far = so_far
        self.numbers = NumbersAhead(random_numbers(path[0], path[1:]))
        self._path, self._text, self._forks = path, text, 0
        self._live: Live | None = None
        self._last, self._last_start = last or LastGeneration(), (len(strand.ids), so_far.copy())
        self._accounted, self._inherited = False, 0
        self._sure = len(strand.ids)
        """Tokens that no later one has replaced since they were read."""

    @property
    def text(self) -> str:
        """What follows the prompt."""
        return self._text

    @property
    def ids(self) -> tuple[int, ...]:
        """Its token ids."""
        return tuple(self.strand.ids[len(self.strand.prompt) :])

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
        live = self._begin(generation, sampling, top_logprobs, bias, watched=hook is not None)
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
        top_logprobs: int = 0,
        hook: Hook | None = None,
        bias: Mapping[int, float] | None = None,
    ) -> AsyncIterator[Chunk]:
        """As `generate`; every piece holds all the text so far that is safe to show."""
        generation = Generation(max_tokens=max_tokens, min_tokens=min_tokens, stop=stop, keep_stop=keep_stop, hook=hook)
        live = self._begin(generation, sampling, top_logprobs, bias, watched=True)
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
        self._last = replace(self._last, followed=True)

    def relabel(self, role: Role) -> None:
        """The last generation was for something else."""
        self.account.relabel(role)

    async def fork(self, *, back: int = 0) -> TransformersBranch:
        """A branch with the same tokens and random numbers of its own; of a branch that generates, as it was before.

        Raises:
            RecipeError: `back` is more than the last generation has.
            LaunchError: the branch is closed; or, with `back`, it generates, forced text followed its last generation,
                or the cache was edited since.
        """
        self._check_open()
        if self._live is not None:
            refuse_back_while_generating(back)
            so_far = TextSoFar(self.engine.pieces, begun=bool(self._text))
            return self._child(self.strand.ids[: self._live.start], self._last, so_far)
        if back:
            return self._child_before(self._last.without(back), back)
        return self._child(list(self.strand.ids), self._last, self.so_far.copy())

    def _child_before(self, last: LastGeneration, back: int) -> TransformersBranch:
        start, so_far = self._last_start[0], self._last_start[1].copy()
        ids = [*self.strand.ids[:start], *(token.id for token in last.tokens)]
        for token in last.tokens:
            so_far.add(token.id)
        if any(len(ids) <= eviction.length for eviction in self.strand.evictions):
            cure = "fork before evicting, or leave fewer tokens out"
            raise LaunchError("fork: what comes before the tokens left out was evicted since", cure=cure)
        return self._child(ids, last, so_far, back=back)

    def _child(self, ids: list[int], last: LastGeneration, so_far: TextSoFar, *, back: int = 0) -> TransformersBranch:
        self._forks += 1
        mine, steered = self.strand, cut(self.strand.steered, len(ids))
        strand = Strand(ids, mine.prompt, evictions=mine.evictions, solid=mine.solid, steered=steered)
        length = len(ids) if not back else common_beginning(ids, mine.ids, self._last_start[0])
        shared = self._shared(length)
        # Where the edit of the newest token is another one, it is read again.
        known = length if steered == mine.steered else min(length, len(ids) - 1)
        self.engine.between_ticks(self.engine.decoder.seats.attach, strand, mine, known)
        path, account = (*self._path, self._forks), self.account.fork(cached=shared, back=back)
        text = last.text if back else self._text
        child = TransformersBranch(self.engine, strand, self.sampling, account, so_far, path, text, last)
        child._last_start = self._last_start
        child._accounted, child._inherited = shared > 0, shared
        return child

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

    @property
    def begun(self) -> bool:
        """Whether anything of it was read: by a tick, or by the branch that it is a fork of."""
        return self._accounted

    def account_for(self, shared: int) -> None:
        """The first tick was done: enter what did not have to be read."""
        if not self._accounted:
            self._accounted = True
            self.account.ledger.cached += shared

    def _begin(
        self,
        generation: Generation,
        sampling: Sampling | None,
        top: int,
        bias: Mapping[int, float] | None,
        *,
        watched: bool,
    ) -> Live:
        self._check_idle()
        sampling = sampling or self.sampling
        check_sampling(sampling)
        self.engine.check_length(len(self.strand.ids), generation.max_tokens)
        self._check_wishes(top, bias or {})
        self._sure = len(self.strand.ids) + generation.max_tokens
        self._live = Live(self, generation, sampling, top, bias or {}, watched=watched)
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
        cancelled = not live.over
        live.end()
        self._live = None
        generation = live.generation
        self.account.generate(role, len(generation.tokens))
        self._last = LastGeneration(self._text, tuple(generation.tokens))
        self._last_start = live.start, live.so_far
        self._text += generation.text
        if generation.reason in ("eos", "stop"):
            self._cut(live)
        if cancelled:
            self._leave()
        if live.error is not None:
            raise live.error

    def _leave(self) -> None:
        """Go on with a copy of the strand: a tick that is under way may still be reading the one that was cancelled."""
        old, seats = self.strand, self.engine.decoder.seats
        self.strand = replace(old, ids=list(old.ids), cached=0, row=None, dropped=0, applied=0)
        if not self.account.closed:
            self.engine.between_ticks(seats.attach, self.strand, old, len(old.ids))
            self.engine.between_ticks(seats.release, old)

    def _cut(self, live: Live) -> None:
        """Take out the tokens whose text is not in the branch's text."""
        generation = live.generation
        if generation.reason == "eos":
            end = live.start + len(generation.tokens) - 1
            del self.strand.ids[end:]
        else:
            end, whole = live.start, 0
            for at, token in enumerate(generation.tokens):
                if whole + len(token.text) > len(generation.text):
                    break
                if token.text:  # one without is part of the next one's character
                    whole, end = whole + len(token.text), live.start + at + 1
            rest = generation.text[whole:]
            self.strand.ids[end:] = self._encode(rest) if rest else []
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


def common_beginning(one: Sequence[int], other: Sequence[int], start: int) -> int:
    """How long two sequences are the same that are the same up to `start`.

    A stop string that was cut within a token has left another token there.

    >>> common_beginning([5, 6, 7], [5, 6, 8, 9], 1)
    2
    """
    length = min(len(one), len(other))
    return next((at for at in range(start, length) if one[at] != other[at]), length)
