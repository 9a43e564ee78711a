"""An engine over the vLLM that TRL trains with: all generations that are wanted at the same time make one round.

Its branches are those of `laconic.inference.engines.vllm`: prompts go as token ids and ids come back, stop strings are
looked for here as well, by the rules of the other engines. Only the requests differ: TRL's vLLM answers whole batches
and not one by one.

Decoding was run on vLLM 0.32.0 built for CPUs, colocated and on a server through TRL's own client: its episodes are
those of our own engine. Tests run against a double of TRL's calls. Sending weights takes a GPU and was not run.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from laconic.inference.engine import Capability, Prompt, Sampling
from laconic.inference.engines.draw import check_sampling
from laconic.inference.engines.encoded import Encoded, Encoding
from laconic.inference.engines.pieces import Pieces, TextSoFar
from laconic.inference.engines.vllm_branch import VllmBranch
from laconic.inference.engines.vllm_call import Drawn
from laconic.inference.engines.vllm_said import Said
from laconic.inference.generation import Generation
from laconic.inference.ledger import Account, Ledger
from laconic.inference.trace import THINK_CLOSE, THINK_OPEN, prompt_text
from laconic.rewards.errors import DataError, LaunchError
from laconic.training.vllm_rounds import Reply, Request, Rounds, Settings

ABILITIES = frozenset(
    {
        Capability.PREFIX,
        Capability.STOP,
        Capability.FORK,
        Capability.LOGPROBS,
        Capability.TOKEN_IDS,
        Capability.LOGIT_BIAS,
    }
)
_TURNS = 8
"""Of the event loop before a round: whoever goes on at once is in it."""


class RoundsEngine:
    """Implements `laconic.inference.engine.Engine` for one generation of rollouts.

    A round begins once every task has come to its next generation, or to something it waits for; whoever is inside
    `waited_for` is waited for. The event loop stands still while vLLM decodes.

    Args:
        rounds: Where they go.
        tokenizer: The model's, with a chat template.
        eos_ids: What ends a sequence.
    """

    capabilities = ABILITIES
    slots: int | None = None
    thinking_token_budget: int | None = None
    think_tags = (THINK_OPEN, THINK_CLOSE)

    def __init__(self, rounds: Rounds, tokenizer: Any, *, eos_ids: frozenset[int]) -> None:
        self.rounds, self.tokenizer, self.eos_ids = rounds, tokenizer, eos_ids
        self.pieces = Pieces(tokenizer, eos_ids | {tokenizer.pad_token_id})
        self.sent = 0
        """Rounds in which this process asked for something."""
        self._encoded = Encoded(self._encode)
        self._waiting: list[RoundCall] = []
        self._away, self._over = 0, False
        self._changed = asyncio.Event()
        self._clock: asyncio.Task[None] | None = None

    def open(self, prompt: Prompt, *, ledger: Ledger, sampling: Sampling | None = None, seed: int = 0) -> VllmBranch:
        """A branch at the end of a prompt.

        Raises:
            RecipeError: a sampling parameter is out of range.
        """
        sampling = sampling or Sampling()
        check_sampling(sampling)
        text, ids = self._encoded.of(prompt)
        said, account = Said(TextSoFar(self.pieces), self.encode), Account(ledger, prompt=len(ids))
        opens = text.rstrip().endswith(THINK_OPEN)
        return VllmBranch(self, list(ids), said, account, sampling=sampling, way=(seed,), opens=opens)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, as it is."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    @contextmanager
    def waited_for(self) -> Iterator[None]:
        """Whoever is in here, searching say, goes on with a generation: no round begins before."""
        self._away += 1
        try:
            yield
        finally:
            self._away -= 1
            self._changed.set()

    async def wait_for_others(self) -> None:
        """Take part in the rounds of other processes, until all are done.

        Raises:
            LaunchError: vLLM failed.
        """
        self._over = True
        await self._ticking()

    async def aclose(self) -> None:
        """No more rounds."""
        if self._clock is not None and not self._clock.cancel() and not self._clock.cancelled():
            self._clock.exception()  # whoever waited for a reply has raised it

    def params(
        self,
        *,
        length: int,
        generation: Generation,
        sampling: Sampling,
        way: tuple[int, ...],
        top: int,
        bias: Mapping[int, float],
    ) -> tuple[Settings, int]:
        """How one generation is drawn, and its seed; see `VllmEngine.params`.

        Raises:
            DataError: it may become too long.
            LaunchError: more is to be reported than TRL asks for.
            RecipeError: a sampling parameter is out of range.
        """
        check_sampling(sampling)
        if top:
            raise LaunchError("this engine reports drawn tokens only", cure="ask for no top_logprobs")
        if length + generation.max_tokens > self.rounds.longest:
            raise DataError(
                f"{length} tokens and max_tokens {generation.max_tokens} exceed the {self.rounds.longest} that vLLM "
                "was started with",
                cure="lower search.context_tokens, or start it with a larger max_model_len (vllm_max_model_length)",
            )
        settings = Settings(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k or 0,
            max_tokens=generation.max_tokens,
            min_tokens=generation.min_tokens,
            stop=generation.stop,
            eos_ids=tuple(sorted(self.eos_ids)),
            bias=tuple(sorted(bias.items())),
        )
        # 63 bits: vLLM's own generator takes signed 64.
        return settings, int.from_bytes(hashlib.blake2b(repr(way).encode(), digest_size=8).digest()) >> 1

    def call(self, ids: Sequence[int], params: tuple[Settings, int]) -> RoundCall:
        """A row of the next round."""
        call = RoundCall(Request(tuple(ids), *params), self._withdraw)
        self._waiting.append(call)
        self._ticking()
        return call

    def _ticking(self) -> asyncio.Task[None]:
        if self._clock is None:
            self._clock = asyncio.get_running_loop().create_task(self._run())
        elif self._clock.done():
            self._clock.result()  # raises what ended it
        self._changed.set()
        return self._clock

    async def _run(self) -> None:
        try:
            while not await self._round():
                pass
        except LaunchError as error:
            for call in self._waiting:
                call.fail(error)
            raise

    async def _round(self) -> bool:
        """One round; whether it was the last of all processes."""
        await self._all_there()
        calls = tuple(self._waiting)
        replies, over = self.rounds.send([call.request for call in calls], over=self._over)
        self.sent += bool(calls)
        self._waiting.clear()
        for call, reply in zip(calls, replies, strict=True):
            call.take(reply)
        return over

    async def _all_there(self) -> None:
        while True:
            for _ in range(_TURNS):
                await asyncio.sleep(0)
            if not self._away and (self._waiting or self._over):
                return
            self._changed.clear()
            await self._changed.wait()

    def _withdraw(self, call: RoundCall) -> None:
        if call in self._waiting:
            self._waiting.remove(call)

    def _encode(self, prompt: Prompt) -> Encoding:
        text = prompt_text(self.tokenizer, prompt)
        return text, tuple(self.encode(text))


class RoundCall:
    """One generation, as `VllmBranch` reads it.

    Args:
        request: What is wanted.
        withdraw: Takes it out of the next round.
    """

    cached = 0
    finish = "length"
    """Why it ended where no end-of-sequence and no stop string is found here."""

    def __init__(self, request: Request, withdraw: Any) -> None:
        self.request, self._withdraw = request, withdraw
        self.pending: deque[Drawn] = deque()
        self.count = 0
        """Tokens that came, those included that nobody looked at."""
        self._answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def next(self) -> Drawn | None:
        """The next token; None after the last.

        Raises:
            LaunchError: vLLM failed.
        """
        await asyncio.shield(self._answered)
        return self.pending.popleft() if self.pending else None

    async def abort(self) -> None:
        """Want it no more; without effect once it was answered."""
        self._withdraw(self)

    def take(self, reply: Reply) -> None:
        """What vLLM said."""
        self.pending += map(Drawn, reply.ids, reply.logprobs)
        self.count = len(reply.ids)
        self._answered.set_result(None)

    def fail(self, error: LaunchError) -> None:
        """VLLM failed."""
        self._answered.set_exception(error)
