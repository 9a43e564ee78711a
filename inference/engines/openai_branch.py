"""A branch over a server: requests from a growing prefix, or one request whose stream several generations share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from laconic.inference.engine import Capability, Chunk, Hook, Message, Reason, Sampling, Token
from laconic.inference.engines.last import LastGeneration, refuse_back_while_generating
from laconic.inference.engines.without import WithoutInternals
from laconic.inference.generation import Generation
from laconic.inference.ledger import Account, Fate, Role, Segment
from laconic.rewards.errors import LaunchError

if TYPE_CHECKING:
    from laconic.inference.engines.openai import OpenAIEngine
    from laconic.inference.engines.openai_call import Call

_REASONS: dict[str | None, Reason] = {"stop": "eos", "length": "length"}


class OpenAIBranch(WithoutInternals):
    """Implements `laconic.inference.engine.Branch`.

    Where the server cannot go on with a prefix, a branch makes one request. A generation that ended by a stop string
    that was kept leaves its stream open, and the next one goes on with it, within the first one's `max_tokens`.
    """

    def __init__(
        self,
        engine: OpenAIEngine,
        prompt: tuple[Sequence[Message], str, Sequence[int]],
        account: Account,
        *,
        sampling: Sampling,
        seed: int,
        counted: bool,
        way: tuple[int, ...] = (),
        text: str = "",
        ids: Sequence[int] = (),
        last: LastGeneration | None = None,
    ) -> None:
        self.engine, self.prompt, self.account, self.sampling, self.seed = engine, prompt, account, sampling, seed
        self._way, self._text, self._ids = way, text, list(ids)
        self._counted = counted
        self._forks = self._calls = self._billed = 0
        self._call: Call | None = None
        self._fields: dict[str, Any] = {}
        self._role: Role = "think"
        self._carry = ""
        self._segments: list[Segment] = []
        self._relabels = False
        self._last = last or LastGeneration()
        self._last_billed, self._last_ids = 0, len(ids)
        """What the last generation came to, tokens included that were not looked at, and where its ids begin."""

    @property
    def text(self) -> str:
        """What follows the prompt."""
        return self._text

    @property
    def ids(self) -> tuple[int, ...] | None:
        """Its token ids."""
        return tuple(self._ids) if self.engine.token_ids else None

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
        """Generate; a hook is called as tokens arrive, so the server may be some tokens ahead, which are counted."""
        given = {"max_tokens": max_tokens, "min_tokens": min_tokens, "stop": stop, "keep_stop": keep_stop, "hook": hook}
        pieces = self._stream(
            Generation(**given), role=role, sampling=sampling, min_tokens=min_tokens, top=top_logprobs, bias=bias
        )
        chunk = None
        async for piece in pieces:
            chunk = piece
        assert chunk is not None
        return chunk

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
        given = {"max_tokens": max_tokens, "min_tokens": min_tokens, "stop": stop, "keep_stop": keep_stop, "hook": hook}
        pieces = self._stream(
            Generation(**given), role=role, sampling=sampling, min_tokens=min_tokens, top=top_logprobs, bias=bias
        )
        try:
            async for piece in pieces:
                yield piece
        finally:
            await pieces.aclose()

    async def extend(self, text: str) -> None:
        """Append forced text. Without a tokenizer its words are counted, which the ledger marks as inexact."""
        self._check_open()
        self._need(Capability.PREFIX, "forced text")
        known = self.engine.tokenizer is not None
        ids = self.engine.encode(text) if known else []
        self.account.force(len(ids) if known else len(text.split()))
        self.account.ledger.prompt_exact &= known
        self._ids += ids
        self._text += text
        self._last = replace(self._last, followed=True)

    def relabel(self, role: Role) -> None:
        """The last generation was for something else."""
        if self._relabels:
            self.account.relabel(role)

    async def fork(self, *, back: int = 0) -> OpenAIBranch:
        """A branch with the same text; what the server finds in its cache is counted once it says so.

        Raises:
            RecipeError: `back` is more than the last generation has.
            LaunchError: the server cannot; or, with `back`, the branch generates, forced text followed its last
                generation, or tokens that come together are not told apart.
        """
        self._check_open()
        self._need(Capability.FORK, "a fork")
        if self._call is not None:
            refuse_back_while_generating(back)
        last = self._last_without(back) if back else self._last
        # What came and was not looked at is left out with the newest tokens.
        left_out = max(0, self._last_billed - len(last.tokens)) if back else 0
        self._forks += 1
        fork = OpenAIBranch(
            self.engine,
            self.prompt,
            self.account.fork(back=left_out),
            sampling=self.sampling,
            seed=self.seed,
            counted=True,
            way=(*self._way, self._forks),
            text=last.text if back else self._text,
            ids=self._ids_of(last) if back and self.engine.token_ids else self._ids,
            last=last,
        )
        fork._last_billed, fork._last_ids = self._last_billed - left_out, self._last_ids
        return fork

    def _last_without(self, back: int) -> LastGeneration:
        if not (self.engine.has(Capability.LOGPROBS) or self.engine.token_ids):
            raise LaunchError(
                "fork: over this server tokens that come together are not told apart, so none can be left out",
                cure="use a server that reports log-probabilities (server=)",
            )
        return self._last.without(back)

    def _ids_of(self, last: LastGeneration) -> list[int]:
        said = last.text[len(last.before) :]
        return self._ids[: self._last_ids] + kept_ids(last.tokens, said, self.engine.encode, self._special)

    async def close(self, fate: Fate) -> None:
        """Close its stream if there is one, and settle the account."""
        if self._call is not None:
            await self._end(self._call)
        self.account.close(fate)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close("discarded")

    async def _stream(
        self,
        generation: Generation,
        *,
        role: Role,
        sampling: Sampling | None,
        min_tokens: int,
        top: int,
        bias: Mapping[int, float] | None,
    ) -> AsyncIterator[Chunk]:
        self._check_open()
        way = (self.seed, self._way, self._calls)
        fields = self.engine.settings(
            sampling=sampling or self.sampling, seed=way, min_tokens=min_tokens, top=top, bias=bias
        )
        call = self._begin(fields | {"top": top}, generation)
        self._role = role
        generation.text, self._carry = self._carry, ""
        before = generation.text
        try:
            while not generation.done:
                token = await call.next()
                if token is None:
                    generation.reason = _REASONS[call.reader.finish]
                    break
                generation.push(token)
                if not generation.done and not call.pending:
                    yield Chunk(generation.streamable(), tuple(generation.tokens), "length")
            await self._read_on(call, generation)
        finally:
            # Also when this task was cancelled: the stream is closed, and what came is counted.
            await self._settle(call, generation, before)
        yield generation.chunk()

    def _begin(self, fields: dict[str, Any], generation: Generation) -> Call:
        """The stream to read from: a new one, or the one that was left open."""
        if self._call is not None:
            if _drawn(fields) != _drawn(self._fields) or fields["top"] > self._fields["top"]:
                raise LaunchError(
                    "this server cannot change how tokens are drawn inside a completion",
                    cure="use a server that goes on with a raw prefix (route='completions')",
                )
            return self._call
        if self._calls and not self.engine.has(Capability.PREFIX):
            self._need(Capability.PREFIX, "a second generation")
        self._calls += 1
        self._fields, self._billed, self._segments = fields, 0, []
        self._call = self.engine.call(self.prompt, self._text, self._ids, fields, generation)
        return self._call

    async def _read_on(self, call: Call, generation: Generation) -> None:
        """Hear the server out where it ends by itself: what it says last is the usage, and why it ended."""
        by_server = generation.reason == "stop" and self.engine.stops_there
        if generation.reason == "length" or by_server:
            further = await call.next()
            if further is not None:
                call.pending.appendleft(further)  # it does not keep to what was asked; the stream is closed
            elif not by_server:
                generation.reason = _REASONS[call.reader.finish]

    async def _settle(self, call: Call, generation: Generation, before: str) -> None:
        kept = generation.reason == "stop" and generation.keep_stop
        self._last = LastGeneration(self._text, tuple(generation.tokens))
        self._text += generation.text
        if kept and not self.engine.has(Capability.PREFIX):
            said = before + "".join(token.text for token in generation.tokens)
            self._carry = said[len(generation.text) :]
            self._bill(call, len(generation.tokens), over=False)
            return
        await self._end(call)
        self._last_billed, self._last_ids = self._billed, len(self._ids)
        if self.engine.token_ids:
            self._ids += kept_ids(generation.tokens, generation.text, self.engine.encode, self._special)

    async def _end(self, call: Call) -> None:
        if self._call is call:
            self._call = None
        try:
            await call.abort()
        finally:
            self._bill(call, call.count - self._billed, over=True)

    def _bill(self, call: Call, tokens: int, *, over: bool) -> None:
        """Enter tokens; what an open stream's tokens came to is settled when it is over."""
        tokens = max(0, tokens)
        hidden = min(tokens, call.reader.hidden) if over and self.engine.think_tags[0] not in self._text else 0
        entries = [
            self.account.generate("think", hidden, exact=over and call.exact),
            self.account.generate(self._role, tokens - hidden, exact=over and call.exact),
        ]
        self._billed += tokens
        self._segments += entries
        self._relabels = tokens > hidden
        if over:
            for segment in self._segments:
                segment.report(exact=call.exact)
            self._note_prompt(call)

    def _note_prompt(self, call: Call) -> None:
        ledger = self.account.ledger
        if not self._counted and (call.reader.prompt is not None or call.count):
            ledger.prompt += call.reader.prompt or 0
            ledger.prompt_exact &= call.reader.prompt is not None
            self._counted = True
        if self._calls == 1:
            ledger.cached += call.reader.cached

    @property
    def _special(self) -> frozenset[int]:
        return frozenset(self.engine.tokenizer.all_special_ids)

    def _need(self, capability: Capability, what: str) -> None:
        if not self.engine.has(capability):
            raise LaunchError(
                f"{what} needs a server that can {capability}; over this one a branch generates once",
                cure="pass the model's tokenizer= to use raw completions, or choose a policy that needs no prefix",
            )

    def _check_open(self) -> None:
        if self.account.closed:
            raise LaunchError("the branch is closed", cure="generate before closing it")


def _drawn(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What may not change while one stream goes on: not how much is reported, and a seed is drawn for the whole."""
    return {key: value for key, value in fields.items() if key not in ("seed", "top", "logprobs", "top_logprobs")}


def kept_ids(
    tokens: Sequence[Token], text: str, encode: Callable[[str], list[int]], special: frozenset[int]
) -> list[int]:
    """Token ids of what a generation left of its text: the ids as they came, and only what remains of a token that the
    cut went through is encoded again.

    Args:
        tokens: All that was generated.
        text: What was kept of it, a beginning.
        encode: Token ids of a text.
        special: Ids that end a text and are no part of it.
    """
    ids: list[int] = []
    waiting: list[int] = []
    at = 0
    for token in tokens:
        if at + len(token.text) > len(text):
            return ids + (encode(text[at:]) if at < len(text) else [])
        assert token.id is not None
        # Tokens without text are the beginning of a character, which the next token completes.
        waiting.append(token.id)
        at += len(token.text)
        if token.text:
            ids, waiting = ids + waiting, []
    return ids + [number for number in waiting if number not in special]
