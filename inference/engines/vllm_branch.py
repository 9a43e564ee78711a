"""A branch over vLLM: every generation is a request that goes on with the token ids so far."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Self

from laconic.inference.engine import Chunk, Hook, Reason, Sampling, Token
from laconic.inference.engines.last import LastGeneration, refuse_back_while_generating
from laconic.inference.engines.vllm_budget import check_budget
from laconic.inference.engines.vllm_call import Call, Drawn
from laconic.inference.engines.vllm_said import Said
from laconic.inference.engines.without import WithoutInternals
from laconic.inference.generation import Generation
from laconic.inference.ledger import Account, Fate, Role
from laconic.rewards.errors import LaunchError

if TYPE_CHECKING:
    from laconic.inference.engines.vllm import VllmEngine

_REASONS: dict[str | None, Reason] = {"stop": "eos", "length": "length"}


class VllmBranch(WithoutInternals):
    """Implements `laconic.inference.engine.Branch`.

    Args:
        engine: Its engine.
        prompt: Token ids of the prompt.
        said: What follows it.
        account: Its account.
        sampling: How its tokens are drawn.
        way: Its seed, and which fork of which fork it is.
        opens: The prompt ends with the tag that opens thinking.
        last: Its last generation, for a fork.
    """

    def __init__(
        self,
        engine: VllmEngine,
        prompt: Sequence[int],
        said: Said,
        account: Account,
        *,
        sampling: Sampling,
        way: tuple[int, ...],
        opens: bool,
        last: LastGeneration | None = None,
    ) -> None:
        self.engine, self.prompt, self.account, self.sampling = engine, prompt, account, sampling
        self._said, self._before = said, said
        self._way, self._opens = way, opens
        self._last, self._last_count = last or LastGeneration(), 0
        self._shared = len(prompt) + len(said.ids)
        self._forks = self._calls = 0
        self._call: Call | None = None

    @property
    def text(self) -> str:
        """What follows the prompt."""
        return self._said.text

    @property
    def ids(self) -> tuple[int, ...]:
        """Its token ids."""
        return tuple(self._said.ids)

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
        """Generate; a hook is called as tokens arrive, so vLLM may be some tokens ahead, which are counted.

        Log-probabilities are the model's own: before a bias, and before end-of-sequence is ruled out.

        Raises:
            DataError: prompt, text and `max_tokens` exceed the length that vLLM was started with.
            RecipeError: a parameter is out of range.
            LaunchError: the branch is closed or generates already, vLLM failed, or it did not keep to the engine's
                `thinking_token_budget`.
        """
        given = {"max_tokens": max_tokens, "min_tokens": min_tokens, "stop": stop, "keep_stop": keep_stop, "hook": hook}
        chunk = None
        async for piece in self._stream(Generation(**given), role, sampling, top_logprobs, bias, whole=True):
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
        pieces = self._stream(Generation(**given), role, sampling, top_logprobs, bias)
        try:
            async for piece in pieces:
                yield piece
        finally:
            await pieces.aclose()

    async def extend(self, text: str) -> None:
        """Append forced text: encoded once, by itself."""
        self._check_idle()
        if text:
            self.account.force(self._said.forced(text))
            self._last = replace(self._last, followed=True)

    def relabel(self, role: Role) -> None:
        """The last generation was for something else."""
        self.account.relabel(role)

    async def fork(self, *, back: int = 0) -> VllmBranch:
        """A branch with the same token ids, which vLLM finds in its prefix cache; what it found is counted then.

        Of a branch that generates, as it was before.

        Raises:
            RecipeError: `back` is more than the last generation has.
            LaunchError: the branch is closed; or, with `back`, it generates, or forced text followed.
        """
        self._check_open()
        said, last, left_out = self._said, self._last, 0
        if self._call is not None:
            refuse_back_while_generating(back)
            said, last = self._before, LastGeneration(self._before.text)
        elif back:
            last = self._last.without(back)
            said = self._before.copy()
            said.again(last.tokens)
            # What came and was not looked at is left out with the newest tokens.
            left_out = self._last_count - len(last.tokens)
        self._forks += 1
        fork = VllmBranch(
            self.engine,
            self.prompt,
            said.copy(),
            self.account.fork(back=left_out),
            sampling=self.sampling,
            way=(*self._way, self._forks),
            opens=self._opens,
            last=last,
        )
        fork._before, fork._last_count = self._before, self._last_count - left_out
        return fork

    async def close(self, fate: Fate) -> None:
        """Free it; a generation that goes on is ended."""
        if self._call is not None:
            await self._call.abort()
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
        role: Role,
        sampling: Sampling | None,
        top: int,
        bias: Mapping[int, float] | None,
        *,
        whole: bool = False,
    ) -> AsyncIterator[Chunk]:
        call = self._begin(generation, sampling or self.sampling, top, bias)
        try:
            while not generation.done:
                drawn = await call.next()
                if drawn is None:
                    generation.reason = _REASONS[call.finish]
                    break
                generation.push(self._token(drawn, top), eos=drawn.id in self.engine.eos_ids)
                if not (whole or generation.done or call.pending):
                    yield Chunk(generation.streamable(), tuple(generation.tokens), "length")
        finally:
            # Also when this task was cancelled: vLLM is told to stop, and what came is counted.
            try:
                await call.abort()
            finally:
                self._settle(call, generation, role)
        self._check_thinking(generation)
        yield generation.chunk()

    def _begin(self, generation: Generation, sampling: Sampling, top: int, bias: Mapping[int, float] | None) -> Call:
        self._check_idle()
        ids = [*self.prompt, *self._said.ids]
        way = (*self._way, -1, self._calls)
        params = self.engine.params(
            length=len(ids), generation=generation, sampling=sampling, way=way, top=top, bias=bias or {}
        )
        self._calls += 1
        self._before = self._said.copy()
        self._call = self.engine.call(ids, params)
        return self._call

    def _token(self, drawn: Drawn, top: int) -> Token:
        """Where the drawn token is not among the k most likely, vLLM gives k + 1 entries: the last is left out."""
        best = drawn.top[:top] if top else None
        return Token(self._said.so_far.add(drawn.id), drawn.id, drawn.logprob, best)

    def _settle(self, call: Call, generation: Generation, role: Role) -> None:
        self._call = None
        self._last, self._last_count = LastGeneration(self.text, tuple(generation.tokens)), call.count
        self.account.generate(role, call.count)
        if self._calls == 1:
            self.account.ledger.cached += min(call.cached, self._shared)
        self._said.generated(generation.tokens, generation.text, cut=generation.reason == "stop")

    def _check_thinking(self, generation: Generation) -> None:
        if self.engine.thinking_token_budget is not None:
            check_budget(
                self.engine.thinking_token_budget,
                [*self._before.pieces, *(token.text for token in generation.tokens)],
                self.engine.think_tags,
                opens=self._opens,
                new_from=len(self._before.pieces),
            )

    def _check_idle(self) -> None:
        self._check_open()
        if self._call is not None:
            raise LaunchError("this branch is generating", cure="wait until it is done, or fork it")

    def _check_open(self) -> None:
        if self.account.closed:
            raise LaunchError("this branch is closed", cure="generate before closing it")
