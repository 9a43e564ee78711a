"""An engine in this process over vLLM's `AsyncLLM`: continuous batching, paged and shared keys and values.

    engine = VllmEngine.load("Qwen/Qwen3-8B", max_model_len=16_384)
    async with engine.open("How many primes are below 30?", ledger=ledger) as branch: ...
    await engine.aclose()

Prompts go as token ids and generated ids come back, so a prefix is never encoded in another way than it was generated,
and every token that vLLM delivered is counted, those included that came after a stop string, a hook or a cancellation
had ended the generation. (Steps that vLLM had under way when the abort reached it are delivered to nobody.) Stop
strings are looked for here, by the rules of the other engines. A fork is a request with the same token ids: what it
shares is found in vLLM's prefix cache, in whole blocks.

A generation is one request with a seed of its own, a function of the branch's seed, its forks and its generations. So
equal calls give equal tokens up to rounding, which differs between batches unless ``VLLM_BATCH_INVARIANT=1``; and one
generation that is cut in two draws other numbers than in one piece.

Run with tiny models on vLLM 0.32.0 built for CPUs (`tests/inference/test_vllm_real.py`); not yet on a GPU. Tests
without vLLM run against a fake of the API of 0.33.0.

What vLLM forces when `thinking_token_budget` is used up are tokens that it decoded like any other: they are counted as
generated.
"""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import os
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

from laconic.inference.engine import Capability, Prompt, Sampling
from laconic.inference.engines.encoded import Encoded, Encoding
from laconic.inference.engines.pieces import Pieces, TextSoFar
from laconic.inference.engines.vllm_branch import VllmBranch
from laconic.inference.engines.vllm_call import Call
from laconic.inference.engines.vllm_said import Said
from laconic.inference.generation import Generation
from laconic.inference.ledger import Account, Ledger
from laconic.inference.trace import THINK_CLOSE, THINK_OPEN, prompt_text
from laconic.rewards.errors import DataError, LaunchError, RecipeError

ABILITIES = frozenset(
    {
        Capability.PREFIX,
        Capability.STOP,
        Capability.FORK,
        Capability.TOKEN_IDS,
        Capability.SEED,
        Capability.ABORT,
        Capability.LOGIT_BIAS,
    }
)
SIGNALS = frozenset({Capability.LOGPROBS, Capability.TOP_LOGPROBS})


class VllmEngine:
    """Implements `laconic.inference.engine.Engine`. Belongs to the event loop in which it was used first.

    Args:
        llm: An `AsyncLLM` that runs in this process, beside a trainer say; `load` starts one.
        tokenizer: The model's Hugging Face tokenizer, with a chat template; None asks `llm`.
        signals: Report log-probabilities with every token. Without it the engine does not have this capability.
        thinking_token_budget: vLLM's own cap on the tokens of thinking, in every branch; `llm` needs a
            `ReasoningConfig` for it. A generation that was longer all the same raises.
        think_tags: What opens and closes thinking.
        lora: vLLM's `LoRARequest` to decode with.
        owned: `aclose` shuts `llm` down.

    Raises:
        LaunchError: vLLM is not installed, or `llm` was not started for thinking budgets.
        RecipeError: the budget is negative.
    """

    def __init__(
        self,
        llm: Any,
        *,
        tokenizer: Any = None,
        signals: bool = True,
        thinking_token_budget: int | None = None,
        think_tags: tuple[str, str] = (THINK_OPEN, THINK_CLOSE),
        lora: Any = None,
        owned: bool = False,
    ) -> None:
        check_installed()
        from laconic.inference.engines.loading import eos_ids

        self.llm, self.lora, self.owned = llm, lora, owned
        self.tokenizer = llm.get_tokenizer() if tokenizer is None else tokenizer
        self.signals, self.capabilities = signals, ABILITIES | SIGNALS if signals else ABILITIES
        self.slots: int | None = llm.vllm_config.scheduler_config.max_num_seqs
        self.thinking_token_budget, self.think_tags = thinking_token_budget, think_tags
        self._check_budget()
        configured = SimpleNamespace(eos_token_id=llm.model_config.try_get_generation_config().get("eos_token_id"))
        self.eos_ids = eos_ids(configured, self.tokenizer)
        self.pieces = Pieces(self.tokenizer, self.eos_ids | {self.tokenizer.pad_token_id})
        self._names = (f"laconic-{uuid4().hex}-{number}" for number in itertools.count())
        self._encoded = Encoded(self._encode)
        self._calls: set[Call] = set()

    @classmethod
    def load(
        cls,
        model: str | os.PathLike[str],
        *,
        dtype: str = "auto",
        revision: str | None = None,
        max_model_len: int | None = None,
        gpu_memory_utilization: float | None = None,
        tensor_parallel_size: int = 1,
        signals: bool = True,
        thinking_token_budget: int | None = None,
        think_tags: tuple[str, str] = (THINK_OPEN, THINK_CLOSE),
        **further: Any,
    ) -> VllmEngine:
        """Start vLLM with a model.

        Args:
            model: A Hugging Face model folder, or the id of a model on the hub. A folder with a LoRA adapter starts its
                base model and decodes with the adapter.
            dtype: ``float32``, ``bfloat16``, ``float16``, or ``auto``: vLLM's choice.
            revision: Branch, tag or commit on the hub.
            max_model_len: Tokens of prompt and text at most; None: as many as the model has positions.
            gpu_memory_utilization: The share of the device's memory that vLLM may take; None: vLLM's default.
            tensor_parallel_size: Devices that share the model.
            signals: As for the class.
            thinking_token_budget: As for the class.
            think_tags: As for the class.
            further: Other fields of vLLM's `AsyncEngineArgs`.

        Raises:
            LaunchError: vLLM is not installed.
            ModelError: no such folder, a part of it is missing, or vLLM cannot load it.
        """
        check_installed()
        from laconic.inference.engines.vllm_loading import start

        fields = {"dtype": dtype, "tensor_parallel_size": tensor_parallel_size} | further
        wished = {"max_model_len": max_model_len, "gpu_memory_utilization": gpu_memory_utilization}
        fields |= {key: value for key, value in wished.items() if value is not None}
        tags = None if thinking_token_budget is None else think_tags
        llm, tokenizer, lora = start(os.fspath(model), revision=revision, think_tags=tags, fields=fields)
        return cls(
            llm,
            tokenizer=tokenizer,
            signals=signals,
            thinking_token_budget=thinking_token_budget,
            think_tags=think_tags,
            lora=lora,
            owned=True,
        )

    def open(self, prompt: Prompt, *, ledger: Ledger, sampling: Sampling | None = None, seed: int = 0) -> VllmBranch:
        """A branch at the end of a prompt.

        Raises:
            RecipeError: a sampling parameter is out of range.
        """
        from laconic.inference.engines.draw import check_sampling

        sampling = sampling or Sampling()
        check_sampling(sampling)
        text, ids = self._encoded.of(prompt)
        said = Said(TextSoFar(self.pieces), self.encode)
        opens = text.rstrip().endswith(self.think_tags[0])
        return VllmBranch(
            self, list(ids), said, Account(ledger, prompt=len(ids)), sampling=sampling, way=(seed,), opens=opens
        )

    async def encode_ahead(self, prompt: Prompt) -> int:
        """Encode a prompt in a thread, so that `open` finds it; returns its tokens."""
        return len((await self._encoded.ahead(prompt))[1])

    async def aclose(self) -> None:
        """End every generation; shut vLLM down if it was started here."""
        for call in tuple(self._calls):
            await call.abort()
        if self.owned:
            self.llm.shutdown()

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, as it is."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _encode(self, prompt: Prompt) -> Encoding:
        text = prompt_text(self.tokenizer, prompt)
        return text, tuple(self.encode(text))

    def call(self, ids: Sequence[int], params: Any) -> Call:
        """Begin a request."""
        call = Call(self.llm, ids, params, name=next(self._names), lora=self.lora)
        self._calls.add(call)
        call.when_done(self._calls.discard)
        return call

    def params(
        self,
        *,
        length: int,
        generation: Generation,
        sampling: Sampling,
        way: tuple[int, ...],
        top: int,
        bias: Mapping[int, float],
    ) -> Any:
        """The `SamplingParams` of one generation.

        Args:
            length: Tokens that it goes on from.
            generation: Its limits; its stop strings are looked for here.
            sampling: Its `max_tokens` is not looked at.
            way: What its seed is made of.
            top: How many of the most likely tokens to report.
            bias: Added to the logits of these token ids.

        Raises:
            DataError: it may become too long.
            LaunchError: the engine reports no log-probabilities, or not as many.
            RecipeError: a parameter is out of range.
        """
        from vllm import SamplingParams
        from vllm.exceptions import VLLMValidationError
        from vllm.sampling_params import RequestOutputKind

        self._check_length(length, generation.max_tokens)
        self._check_wishes(top, bias)
        try:
            return SamplingParams(
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                top_k=sampling.top_k or 0,
                seed=_seed(way),
                max_tokens=generation.max_tokens,
                min_tokens=generation.min_tokens,
                stop_token_ids=sorted(self.eos_ids | self._stop_ids(generation)),
                logprobs=top if self.signals else None,
                logit_bias=dict(bias) or None,
                thinking_token_budget=self.thinking_token_budget,
                detokenize=False,
                output_kind=RequestOutputKind.DELTA,
            )
        except VLLMValidationError as error:
            raise RecipeError(f"vLLM: {error}", cure="change what it names") from error

    def _stop_ids(self, generation: Generation) -> set[int]:
        """Stop strings that are one token: vLLM ends there itself, and decodes none in vain while it is told to."""
        if generation.min_tokens:
            return set()  # until then vLLM would not let them be drawn
        spelled = [(stop, self.encode(stop)) for stop in generation.stop]
        return {ids[0] for stop, ids in spelled if len(ids) == 1 and stop in self.pieces.later(ids)}

    def _check_length(self, tokens: int, more: int) -> None:
        most = self.llm.model_config.max_model_len
        if tokens + more > most:
            raise DataError(
                f"{tokens} tokens and max_tokens {more} exceed the {most} that vLLM was started with",
                cure="lower max_tokens, leave the longest problems out, or load it with a larger max_model_len",
            )

    def _check_wishes(self, top: int, bias: Mapping[int, float]) -> None:
        if top and not self.signals:
            raise LaunchError("this engine reports no log-probabilities", cure="open it with signals=True")
        most = self.llm.model_config.max_logprobs
        if most >= 0 and top > most:
            raise LaunchError(f"vLLM reports {most} of the most likely tokens", cure=f"load it with max_logprobs={top}")
        size = self.llm.model_config.get_vocab_size()
        if foreign := [token for token in bias if not 0 <= token < size]:
            raise RecipeError(f"generate: bias on token {foreign[0]}", cure=f"token ids go from 0 to {size - 1}")

    def _check_budget(self) -> None:
        if self.thinking_token_budget is None:
            return
        if self.thinking_token_budget < 0:
            raise RecipeError(
                f"thinking_token_budget: {self.thinking_token_budget}", cure="give 0 or more, or None for no budget"
            )
        config = self.llm.vllm_config.reasoning_config
        if config is None or not config.enabled:
            raise LaunchError(
                "thinking_token_budget: this vLLM was started without the tags of thinking",
                cure="start it with reasoning_config=ReasoningConfig(reasoning_start_str=..., reasoning_end_str=...)",
            )


def check_installed() -> None:
    """Say how to get vLLM.

    Raises:
        LaunchError: it is not there.
    """
    if importlib.util.find_spec("vllm") is None:
        raise LaunchError("vLLM is not installed", cure="pip install 'laconic[vllm]'")


def _seed(way: tuple[int, ...]) -> int:
    """63 bits: vLLM's own generator takes signed 64."""
    return int.from_bytes(hashlib.blake2b(repr(way).encode(), digest_size=8).digest()) >> 1
