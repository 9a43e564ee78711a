"""One request to vLLM: its tokens as they come, and an end as soon as nobody wants more of them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from laconic.rewards.errors import LaconicError, LaunchError, RecipeError

_AGAIN = 0.1
"""Seconds after which an abort is said again: vLLM hears none for a request that it is only about to take in, and that
may wait in its queue then."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """A token, as vLLM reports it."""

    id: int
    logprob: float | None = None
    top: tuple[float, ...] = ()
    """Log-probabilities of the most likely tokens, best first."""


class Call:
    """Reads the outputs of one request as they come, whether or not somebody waits for them.

    Args:
        llm: vLLM's `AsyncLLM`.
        ids: What is gone on with: prompt and text.
        params: vLLM's `SamplingParams`; outputs must be deltas.
        name: The request's id.
        lora: vLLM's `LoRARequest`.
    """

    def __init__(self, llm: Any, ids: Sequence[int], params: Any, *, name: str, lora: Any = None) -> None:
        self.llm, self.name = llm, name
        self.pending: deque[Drawn] = deque()
        self.count = 0
        """Tokens that came, those included that nobody looked at."""
        self.cached = 0
        """Of `ids`: those that vLLM found in its prefix cache."""
        self.finish: str | None = None
        """Why vLLM ended it."""
        self._over = self._unwanted = False
        self._error: Exception | None = None
        self._changed = asyncio.Event()
        self._task = asyncio.create_task(self._run(list(ids), params, lora))

    async def next(self) -> Drawn | None:
        """The next token; None once vLLM ended.

        Raises:
            RecipeError: vLLM refused the request.
            LaunchError: it failed, or somebody else aborted it.
        """
        while not self.pending:
            if self._over:
                if self._error is not None:
                    raise self._error
                return None
            self._changed.clear()
            await self._changed.wait()
        return self.pending.popleft()

    async def abort(self) -> None:
        """End it, and take in what vLLM had delivered by then; without effect once it is over."""
        self._end(LaunchError("the branch was closed while it generated", cure="close it after generate returned"))
        self._unwanted = True
        while not self._task.done():
            await self.llm.abort(self.name)
            await asyncio.wait([self._task], timeout=_AGAIN)

    def when_done(self, tell: Callable[[Call], None]) -> None:
        """`tell` is called once nothing of it goes on any more."""
        self._task.add_done_callback(lambda task: tell(self))

    async def _run(self, ids: list[int], params: Any, lora: Any) -> None:
        from vllm.inputs import tokens_input

        try:
            async for output in self.llm.generate(tokens_input(ids), params, self.name, lora_request=lora):
                self._take(output)
                if self._unwanted:
                    # It was taken in after the abort had been said.
                    await self.llm.abort(self.name)
        except Exception as error:
            # Whatever it was (the engine died, say), it is raised where the tokens are wanted.
            self._end(_told(error))
        else:
            aborted = self.finish not in ("stop", "length")
            self._end(LaunchError(f"vLLM ended a request: {self.finish}", cure="see vLLM's log") if aborted else None)

    def _take(self, output: Any) -> None:
        (said,) = output.outputs
        # A delta holds several tokens where vLLM was ahead of its reader, or decodes speculatively.
        entries = said.logprobs or [None] * len(said.token_ids)
        self.pending += [_drawn(number, entry) for number, entry in zip(said.token_ids, entries, strict=True)]
        self.count += len(said.token_ids)
        self.cached = max(self.cached, output.num_cached_tokens or 0)
        self.finish = said.finish_reason
        self._changed.set()

    def _end(self, error: Exception | None) -> None:
        if not self._over:
            self._over, self._error = True, error
            self._changed.set()


def _drawn(number: int, entry: Any) -> Drawn:
    """VLLM's entry of one place holds the sampled token, and the most likely ones in no order to rely on."""
    if entry is None:
        return Drawn(number)
    best = sorted((item.logprob for item in entry.values()), reverse=True)
    return Drawn(number, entry[number].logprob, tuple(best))


def _told(error: Exception) -> LaconicError:
    from vllm.exceptions import VLLMClientError

    reason = (str(error) or repr(error)).strip().splitlines()[0]
    if isinstance(error, VLLMClientError):
        told: LaconicError = RecipeError(f"vLLM refused a request: {reason}", cure="change what it names")
    else:
        told = LaunchError(f"vLLM failed: {reason}", cure="see vLLM's log; once its engine is dead, load it again")
    told.__cause__ = error
    return told
