"""An engine in this process: a Hugging Face causal language model and an own batched decode loop.

All branches that generate get one token per tick, whatever their lengths and settings. A prompt is read once however
many branches begin with it, a fork reads nothing again, a finished or cancelled branch is out of the batch at the next
tick. Every branch draws its own random numbers: it says the same whatever it is batched with, up to rounding.

The model runs in a thread of its own, so that the event loop stays free for streams and servers.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import Any

import torch

from laconic.inference.engine import Capability, Prompt, Sampling
from laconic.inference.engines.branch import Live, TransformersBranch
from laconic.inference.engines.decode_loop import Decoder
from laconic.inference.engines.draw import check_sampling
from laconic.inference.engines.encoded import Encoded, Encoding
from laconic.inference.engines.insights import Insights
from laconic.inference.engines.loading import encode_prompt, eos_ids, fitting_batch_size, positions
from laconic.inference.engines.pieces import Pieces, TextSoFar
from laconic.inference.engines.strands import Strand
from laconic.inference.ledger import Account, Ledger
from laconic.rewards.errors import DataError, LaunchError, RecipeError

log = logging.getLogger(__name__)

SIGNALS = frozenset({Capability.LOGPROBS, Capability.TOP_LOGPROBS, Capability.ENTROPY})
ABILITIES = frozenset(
    {
        Capability.PREFIX,
        Capability.STOP,
        Capability.FORK,
        Capability.TOKEN_IDS,
        Capability.SEED,
        Capability.ABORT,
        Capability.TOKEN_HOOK,
        Capability.LOGIT_BIAS,
        Capability.HIDDEN_STATES,
        Capability.SCORE,
    }
)
TICKS_IN_A_ROW = 8
"""For rollouts, which nobody looks at before their end."""
_TURNS = 8
"""Of the event loop before a tick, where a generation ended or the first began: whoever goes on at once is in it."""


class TransformersEngine:
    """Implements `laconic.inference.engine.Engine`.

    Args:
        model: A causal language model; it is put in evaluation mode. `load_model` loads one, LoRA folders included.
        tokenizer: Its tokenizer, with a chat template.
        batch_size: Branches that decode at once, and whose keys and values are kept; more wait in the order of their
            calls, those that have begun before new ones. None fits it to the device's free memory.
        signals: Report log-probabilities and entropies with every token, at the price of two more passes over the
            logits. Without it the engine does not have these capabilities.
        prompt_cache: Tokens of prompts whose keys and values are kept after their branches.
        ticks_in_a_row: As many ticks are made without asking anybody while nothing waits for room and no token has to
            be looked at (streams, hooks, signals, biases). Cheaper where ticks are short; who has ended stays, and
            what is cancelled leaves, that much longer.
        device: Where the model is; None asks the model.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        batch_size: int | None = None,
        signals: bool = True,
        prompt_cache: int = 16_384,
        ticks_in_a_row: int = 1,
        device: str | torch.device | None = None,
    ) -> None:
        self.model, self.tokenizer, self.batch_size = model.eval(), tokenizer, batch_size
        self.slots = batch_size
        self.eos_ids = eos_ids(model.generation_config, tokenizer)
        self.pieces = Pieces(tokenizer, self.eos_ids | {tokenizer.pad_token_id})
        self.decoder = Decoder(
            self.model,
            torch.device(device or model.device),
            self.eos_ids,
            prompt_tokens=prompt_cache,
            signals=signals,
        )
        self.insights = Insights(self.decoder)
        self.capabilities = ABILITIES | (SIGNALS if signals else frozenset()) | self.decoder.passes.abilities
        self.ticks_in_a_row = ticks_in_a_row
        self.ticks = 0
        """Ticks so far."""
        self._positions = positions(model)
        self._longest, self._closed = 0, False
        self._encoded = Encoded(self._encode)
        self._live: list[Live] = []
        self._begun: deque[Live] = deque()
        self._waiting: deque[Live] = deque()
        self._between: list[Callable[[], None]] = []
        self._clock: asyncio.Task[None] | None = None
        # One thread, always the same: ticks come one after the other, and OpenMP keeps one pool of workers.
        self._thread = ThreadPoolExecutor(1, "decode", _on_device, (self.decoder.device,))

    def open(
        self, prompt: Prompt, *, ledger: Ledger, sampling: Sampling | None = None, seed: int = 0
    ) -> TransformersBranch:
        """A branch at the end of a prompt.

        Raises:
            RecipeError: a sampling parameter or the seed is out of range.
        """
        sampling = sampling or Sampling()
        check_sampling(sampling)
        if seed < 0:
            raise RecipeError(f"seed {seed}", cure="give a number from 0 on")
        _, ids = self._encoded.of(prompt)
        account = Account(ledger, prompt=len(ids))
        return TransformersBranch(self, Strand(list(ids), ids), sampling, account, TextSoFar(self.pieces), (seed,))

    async def encode_ahead(self, prompt: Prompt) -> int:
        """Encode a prompt in a thread, so that `open` finds it; returns its tokens."""
        return len((await self._encoded.ahead(prompt))[1])

    async def aclose(self) -> None:
        """Stop decoding and free the cache."""
        if self._clock is not None:
            self._clock.cancel()
        closed = LaunchError("the engine was closed", cure="close it after its last generation")
        self._fail([*self._live, *self._begun, *self._waiting], closed)
        self._closed = True
        self._thread.shutdown()
        # The engine refers to itself and may wait long for the garbage collector; its largest part does not.
        self.decoder.kv.layers.clear()

    def start(self, live: Live) -> None:
        """Take a generation into the batch."""
        # What has begun goes on before anything new begins: its keys and values are there, and a trace that had to
        # wait for its answer would finish in another order than it decoded.
        (self._begun if live.branch.begun else self._waiting).append(live)
        if live.needs > self._longest:
            self._longest = live.needs
            self.decoder.seats.limit = self.batch_size or fitting_batch_size(
                self.model, self._longest, held=self.decoder.kv.nbytes
            )
            self.slots = self.decoder.seats.limit
        if self._clock is None or self._clock.done():
            self._clock = asyncio.get_running_loop().create_task(self._run())

    def check_length(self, tokens: int, more: int) -> None:
        """Refuse what the model has no positions for.

        Raises:
            DataError: there are too few.
        """
        if self._positions is not None and tokens + more > self._positions:
            raise DataError(
                f"a prompt of {tokens} tokens and max_tokens {more} exceed the model's {self._positions} positions",
                cure="lower max_tokens, leave the longest problems out, or take a model with more positions",
            )

    def between_ticks(self, work: Callable[..., None], *arguments: Any) -> None:
        """Do something in the thread of the model, after the tick under way and before the next.

        To be called in the thread of the event loop. A closed engine does nothing any more.
        """
        if self._closed:
            return
        self._between.append(partial(work, *arguments))
        if len(self._between) > 1:
            return
        # Many branches end at once: one message to the other thread is enough for all of them. Where no loop runs, it
        # goes with the next call.
        with suppress(RuntimeError):
            asyncio.get_running_loop().call_soon(self._hand_over)

    def _hand_over(self) -> None:
        if self._between and not self._closed:
            self._thread.submit(_each, self._between)
        self._between = []

    async def call(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """The same, for what comes of it.

        Raises:
            LaunchError: the engine was closed.
        """
        if self._closed:
            raise LaunchError("the engine was closed", cure="close it after its last use")
        self._hand_over()
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)

    async def _run(self) -> None:
        try:
            await self._tick_on()
        except BaseException as error:
            # Nobody may wait for tokens that do not come any more.
            self._fail([*self._live, *self._begun, *self._waiting], error)
            raise

    async def _tick_on(self) -> None:
        changed = True
        while self._live or self._begun or self._waiting:
            for _ in range(_TURNS if changed else 1):
                await asyncio.sleep(0)
            batch = self._batch()
            if not batch:
                return
            try:
                await self._advance(batch)
            except Exception as error:
                # Whatever it was (out of memory, say), it is raised where the tokens were wanted.
                self._fail(batch, error)
            changed = any(live.over for live in batch)

    async def _advance(self, batch: Sequence[Live]) -> None:
        """A token for each, or several where that asks nobody."""
        if (ticks := self._in_a_row(batch)) > 1:
            numbers = [live.branch.numbers.ahead(ticks) for live in batch]
            found = await self.call(self.decoder.several, [live.job for live in batch], numbers)
            self.ticks += len(found[0])
            for live, tokens in zip(batch, found, strict=True):
                live.take_all(tokens)
            if found[0]:
                return
        coming = [live.branch.strand.prompt for live in islice(self._waiting, len(batch) // 2)]
        await self.call(self.decoder.step, [live.ready() for live in batch], coming)
        for live in batch:
            live.take()
        self.ticks += 1

    def _in_a_row(self, batch: Sequence[Live]) -> int:
        first = batch[0].job.sampling
        waited_for = self._begun or self._waiting or self.decoder.signals
        if self.ticks_in_a_row == 1 or waited_for or any(live.job.sampling != first for live in batch):
            return 1
        return min(self.ticks_in_a_row, *(live.at_once() for live in batch))

    def _batch(self) -> list[Live]:
        """Those that decode now; as many as there is room for, in the order of their calls, new ones last."""
        self._live = [live for live in self._live if not live.over]
        limit = self.decoder.seats.limit
        while len(self._live) > limit:
            self._begun.appendleft(self._live.pop())
        while len(self._live) < limit and (self._begun or self._waiting):
            live = (self._begun or self._waiting).popleft()
            if not live.over:
                self._live.append(live)
        return self._live

    def _encode(self, prompt: Prompt) -> Encoding:
        return "", tuple(encode_prompt(self.tokenizer, prompt))

    def _fail(self, batch: Sequence[Live], error: BaseException) -> None:
        for live in batch:
            live.end(error)


def _each(work: Sequence[Callable[[], None]]) -> None:
    for one in work:
        try:
            one()
        except Exception:
            # What is done for one branch must not be missing for another.
            log.exception("the engine failed to note what became of a branch")


def _on_device(device: torch.device) -> None:
    # Which GPU is the current one is known to each thread apart.
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
