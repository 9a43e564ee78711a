"""The part of vLLM's API that the engine over it uses, decoding with any function from token ids to logits.

Mirrors vLLM 0.33.0 (the files are those of its wheel; 0.32.0 has the same in all of them):

- `SamplingParams`, `RequestOutputKind`: vllm/sampling_params.py. Fields with vLLM's names and defaults, those checks of
  `_verify_args` and `verify` that concern them, greedy below temperature 1e-5.
- `CompletionOutput`, `RequestOutput.add`: vllm/outputs.py. `Logprob`: vllm/logprobs.py; the sampled token comes first,
  then the most likely ones: up to one entry more than was asked for.
- `tokens_input`: vllm/inputs/engine.py. `LoRARequest`: vllm/lora/request.py. `ReasoningConfig`:
  vllm/config/reasoning.py.
- `RequestOutputCollector`: vllm/v1/engine/output_processor.py. Deltas that nobody has read yet are merged into one.
- `AsyncLLM.generate`, `abort`: vllm/v1/engine/async_llm.py with `OutputProcessor.abort_requests`. Abort goes by the
  caller's request id, says nothing of an unknown one, and delivers a last, empty delta with finish reason "abort"; what
  the engine has under way for an aborted request is dropped (`lost`).
- Decoding: vllm/v1/core/sched/utils.py `check_stop` (end-of-sequence and stop ids are delivered, then length),
  vllm/v1/sample/thinking_budget_state.py (the end ids are forced once the budget is used up; thinking in the prompt
  counts), prefix cache in whole blocks, never all of a prompt.

The engine core is another process in vLLM; here it is a task of the same loop, and its outputs take a turn to arrive.
"""

from __future__ import annotations

import asyncio
import enum
import importlib.machinery
import itertools
import math
import sys
import types
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np


class VLLMError(Exception):
    pass


class VLLMClientError(VLLMError):
    pass


class VLLMValidationError(VLLMClientError):
    pass


class EngineDeadError(VLLMError):
    pass


class RequestOutputKind(enum.Enum):
    CUMULATIVE = 0
    DELTA = 1
    FINAL_ONLY = 2


def refuse(wrong, message):
    if wrong:
        raise VLLMValidationError(message)


@dataclass(kw_only=True)
class SamplingParams:
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop: list | None = None
    stop_token_ids: list | None = None
    max_tokens: int | None = 16
    min_tokens: int = 0
    logprobs: int | None = None
    detokenize: bool = True
    output_kind: RequestOutputKind = RequestOutputKind.CUMULATIVE
    logit_bias: dict | None = None
    thinking_token_budget: int | None = None

    def __post_init__(self):
        refuse(not math.isfinite(self.temperature), f"temperature must be a finite number, got {self.temperature}.")
        refuse(not 0 <= self.temperature <= 2, f"temperature must be in [0, 2], got {self.temperature}.")
        refuse(not 0 < self.top_p <= 1, f"top_p must be in (0, 1], got {self.top_p}.")
        refuse(self.top_k < -1, f"top_k must be 0 (disable), or at least 1, got {self.top_k}.")
        refuse(
            self.max_tokens is not None and self.max_tokens < 1,
            f"max_tokens must be at least 1, got {self.max_tokens}.",
        )
        refuse(
            not 0 <= self.min_tokens <= self.max_tokens,
            f"min_tokens must be at most max_tokens, got {self.min_tokens}.",
        )
        refuse(self.logprobs is not None and self.logprobs < -1, f"logprobs must be non-negative, got {self.logprobs}.")
        budget = self.thinking_token_budget
        refuse(budget is not None and budget < -1, "`thinking_token_budget` must be a non-negative integer or -1.")
        refuse(self.seed is not None and not -(2**63) <= self.seed < 2**63, "seed is no signed 64-bit integer")
        refuse(self.stop and not self.detokenize, "stop strings are only supported when detokenize is True.")
        self.stop_token_ids = list(self.stop_token_ids or [])

    def verify(self, config):
        refuse(0 <= config.max_logprobs < (self.logprobs or 0), f"Requested sample logprobs of {self.logprobs}")
        foreign = [token for token in self.logit_bias or () if not 0 <= token < config.get_vocab_size()]
        refuse(foreign, f"token_id(s) {foreign} in logit_bias contain out-of-vocab token ids.")


@dataclass
class Logprob:
    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass
class CompletionOutput:
    index: int
    text: str
    token_ids: list
    cumulative_logprob: float | None
    logprobs: list | None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


@dataclass
class RequestOutput:
    request_id: str
    prompt_token_ids: list
    outputs: list
    finished: bool
    num_cached_tokens: int | None = None
    prompt_logprobs: list | None = None

    def add(self, other):
        self.finished |= other.finished
        (mine,), (theirs,) = self.outputs, other.outputs
        mine.token_ids = [*mine.token_ids, *theirs.token_ids]
        if theirs.logprobs:
            assert mine.logprobs is not None
            mine.logprobs.extend(theirs.logprobs)
        mine.finish_reason, mine.stop_reason = theirs.finish_reason, theirs.stop_reason


class RequestOutputCollector:
    def __init__(self):
        self.output, self.ready = None, asyncio.Event()

    def put(self, output):
        if self.output is None or isinstance(output, Exception):
            self.output = output
            self.ready.set()
        else:
            self.output.add(output)

    async def get(self):
        while (output := self.output) is None:
            await self.ready.wait()
        self.output = None
        self.ready.clear()
        if isinstance(output, Exception):
            raise output
        return output


def tokens_input(prompt_token_ids, *, prompt=None, cache_salt=None):
    return {"type": "token", "prompt_token_ids": prompt_token_ids}


@dataclass
class LoRARequest:
    lora_name: str
    lora_int_id: int
    lora_path: str = ""


@dataclass
class ReasoningConfig:
    reasoning_parser: str = ""
    reasoning_start_str: str = ""
    reasoning_end_str: str = ""
    enabled: bool = field(default=False, init=False)

    def initialize_token_ids(self, tokenizer):
        self.start_ids = tokenizer.encode(self.reasoning_start_str, add_special_tokens=False)
        self.end_ids = tokenizer.encode(self.reasoning_end_str, add_special_tokens=False)
        self.enabled = True


@dataclass(kw_only=True)
class AsyncEngineArgs:
    model: str
    revision: str | None = None
    dtype: str = "auto"
    max_model_len: int | None = None
    gpu_memory_utilization: float = 0.92
    tensor_parallel_size: int = 1
    enable_prefix_caching: bool | None = None
    max_num_seqs: int | None = None
    max_logprobs: int = 20
    disable_log_stats: bool = False
    enable_lora: bool = False
    max_lora_rank: int = 16
    reasoning_config: ReasoningConfig | None = None


@dataclass(eq=False)
class Running:
    """A request in the engine core."""

    name: str
    internal: str
    prompt: list
    params: SamplingParams
    queue: RequestOutputCollector
    lora: LoRARequest | None
    cached: int = 0
    said: list = field(default_factory=list)
    forced: list = field(default_factory=list)
    thought: int | None = None
    """Tokens of the thinking that it is in."""

    def __post_init__(self):
        seed = self.params.seed
        self.numbers = np.random.default_rng(None if seed is None else seed % 2**64)


class AsyncLLM:
    """What tests may set: `per_step`, `ignores_budget`, `dies_after`. What they may look at: `running`, `sampled`,
    `delivered`, `lost`, `requests`, `steps`, `is_shut`.

    Args:
        logits: A function from token ids to the logits of the next token, float64.
        tokenizer: A Hugging Face tokenizer.
        per_step: Tokens of a request that come at once.
        loads: For `from_engine_args`: from its arguments to `logits` and `tokenizer`; set by tests.
    """

    loads = None

    def __init__(self, logits, tokenizer, args=None, *, per_step=1, generation_config=None, block=4):
        args = args or AsyncEngineArgs(model="given")
        self.args, self.logits, self.tokenizer, self.per_step, self.block = args, logits, tokenizer, per_step, block
        self.ignores_budget, self.dies_after = False, None
        self.model_config = SimpleNamespace(
            max_model_len=args.max_model_len or 256,
            max_logprobs=args.max_logprobs,
            get_vocab_size=lambda: len(tokenizer),
            try_get_generation_config=lambda: dict(generation_config or {"eos_token_id": tokenizer.eos_token_id}),
        )
        if args.reasoning_config is not None:
            args.reasoning_config.initialize_token_ids(tokenizer)
        self.vllm_config = SimpleNamespace(
            scheduler_config=SimpleNamespace(max_num_seqs=args.max_num_seqs or 256),
            reasoning_config=args.reasoning_config,
        )
        self.running, self.requests, self.blocks = {}, [], set()
        self.sampled = self.delivered = self.lost = self.steps = 0
        self.is_shut = False
        self._clock, self._numbers, self._under_way = None, itertools.count(), []

    @classmethod
    def from_engine_args(cls, engine_args):
        return cls(*cls.loads(engine_args), engine_args)

    def get_tokenizer(self):
        return self.tokenizer

    def shutdown(self, timeout=None):
        self.is_shut = True
        if self._clock is not None:
            self._clock.cancel()

    async def abort(self, request_id, internal=False):
        for key, request in list(self.running.items()):
            if request_id == (request.internal if internal else request.name):
                del self.running[key]
                request.queue.put(self._output(request, [], [], "abort"))
        await asyncio.sleep(0)

    async def generate(self, prompt, sampling_params, request_id, *, lora_request=None):
        queue = None
        try:
            queue, internal = await self._add(prompt, sampling_params, request_id, lora_request)
            finished = False
            while not finished:
                output = await queue.get()
                finished = output.finished
                yield output
        except (asyncio.CancelledError, GeneratorExit):
            if queue is not None:
                await self.abort(internal, internal=True)
            raise

    async def _add(self, prompt, params, name, lora):
        assert prompt["type"] == "token"
        if self.is_shut:
            raise EngineDeadError
        await asyncio.sleep(0)  # the input processor's turn: until then nobody knows the request
        ids = prompt["prompt_token_ids"]
        params.verify(self.model_config)
        config = self.vllm_config.reasoning_config
        refuse(
            params.thinking_token_budget is not None and (config is None or not config.enabled),
            "thinking_token_budget is set but reasoning_config is not configured.",
        )
        refuse(len(ids) + 1 > self.model_config.max_model_len, f"The decoder prompt (length {len(ids)}) is longer")
        internal = f"{name}-{next(self._numbers)}"
        queue = RequestOutputCollector()
        self.running[internal] = request = Running(name, internal, list(ids), params, queue, lora)
        self.requests.append(request)
        self._look_up(request)
        if self._clock is None or self._clock.done():
            self._clock = asyncio.create_task(self._run())
        return queue, internal

    def _look_up(self, request):
        for end in range(self.block, len(request.prompt), self.block):
            if tuple(request.prompt[:end]) not in self.blocks:
                break
            request.cached = end

    async def _run(self):
        try:
            while self.running or self._under_way:
                await asyncio.sleep(0)
                arrived, self._under_way = self._under_way, []
                for step in arrived:
                    self._deliver(*step)
                self.steps += 1
                if self.dies_after is not None and self.steps > self.dies_after:
                    raise EngineDeadError("EngineCore encountered an issue.")
                for request in list(self.running.values())[: self.vllm_config.scheduler_config.max_num_seqs]:
                    self._step(request)
        except EngineDeadError as error:
            for request in self.running.values():
                request.queue.put(error)
            self.running.clear()

    def _step(self, request):
        said, entries, reason = [], [], None
        while reason is None and len(said) < self.per_step and not self._over(request):
            token, entry = self._next(request)
            request.said.append(token)
            said.append(token)
            entries.append(entry)
            reason = self._check_stop(request)
        self.sampled += len(said)
        ids = request.prompt + request.said
        if self.args.enable_prefix_caching is not False:
            self.blocks |= {tuple(ids[:end]) for end in range(self.block, len(ids) + 1, self.block)}
        if said:
            self._under_way.append((request, said, entries, reason))

    def _over(self, request):
        return bool(request.said) and self._check_stop(request) is not None

    def _check_stop(self, request):
        if request.said[-1] in (self.tokenizer.eos_token_id, *request.params.stop_token_ids):
            return "stop"
        full = len(request.prompt) + len(request.said) >= self.model_config.max_model_len
        return "length" if full or len(request.said) >= request.params.max_tokens else None

    def _deliver(self, request, said, entries, reason):
        if request.internal not in self.running:
            self.lost += len(said)
            return
        self.delivered += len(said)
        if reason is not None:
            del self.running[request.internal]
        request.queue.put(self._output(request, said, entries, reason))

    def _output(self, request, said, entries, reason):
        wanted = request.params.logprobs is not None
        assert request.params.output_kind is RequestOutputKind.DELTA
        assert not request.params.detokenize
        stopped = said[-1] if reason == "stop" and said[-1] != self.tokenizer.eos_token_id else None
        output = CompletionOutput(0, "", said, 0.0, list(entries) if wanted else None, reason, stopped)
        return RequestOutput(request.name, request.prompt, [output], reason is not None, request.cached)

    def _next(self, request):
        params = request.params
        raw = np.array(self.logits(request.prompt + request.said), dtype=np.float64)
        logprobs = _log_softmax(raw)
        logits = raw.copy()
        for token, value in (params.logit_bias or {}).items():
            logits[token] += value
        if len(request.said) < params.min_tokens:
            logits[[self.tokenizer.eos_token_id, *params.stop_token_ids]] = -np.inf
        if (forced := self._forced(request)) is not None:
            logits[forced] = 1e9
        token = int(logits.argmax()) if params.temperature < 1e-5 else _draw(logits, params, request.numbers)
        return token, self._entry(token, logprobs, params.logprobs)

    @staticmethod
    def _entry(token, logprobs, wanted):
        if wanted is None:
            return None
        rank = int((logprobs > logprobs[token]).sum()) + 1
        best = np.argsort(-logprobs, kind="stable")[:wanted]
        return {token: Logprob(float(logprobs[token]), rank)} | {
            int(other): Logprob(float(logprobs[other]), place + 1) for place, other in enumerate(best)
        }

    def _forced(self, request):
        budget, config = request.params.thinking_token_budget, self.vllm_config.reasoning_config
        if budget is None or budget == -1 or self.ignores_budget:
            return None
        self._note_thought(request, config)
        if not request.forced and request.thought is not None and request.thought >= budget:
            request.forced = list(config.end_ids)
        return request.forced.pop(0) if request.forced else None

    def _note_thought(self, request, config):
        prompt, said = request.prompt, request.said
        if not said:
            opened = _last(prompt, config.start_ids)
            if opened > _last(prompt, config.end_ids):
                request.thought = len(prompt) - opened - len(config.start_ids)
        elif request.thought is None:
            request.thought = 0 if said[-len(config.start_ids) :] == config.start_ids else None
        else:
            ended = said[-len(config.end_ids) :] == config.end_ids
            request.thought = None if ended else request.thought + 1


def _last(ids, wanted):
    places = [at for at in range(len(ids) - len(wanted) + 1) if ids[at : at + len(wanted)] == wanted]
    return places[-1] if places else -1


def _log_softmax(logits):
    shifted = logits - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


def _draw(logits, params, numbers):
    shares = np.exp(_log_softmax(logits / params.temperature))
    order = np.argsort(-shares, kind="stable")[: params.top_k or None]
    before = np.cumsum(shares[order]) - shares[order]
    kept = order[before < params.top_p * shares[order].sum()]
    return int(numbers.choice(kept, p=shares[kept] / shares[kept].sum()))


def install(monkeypatch):
    """Put the fake where vLLM would be imported from."""
    here = sys.modules[__name__]
    exports = {
        "vllm": ("SamplingParams", "AsyncEngineArgs"),
        "vllm.sampling_params": ("SamplingParams", "RequestOutputKind"),
        "vllm.inputs": ("tokens_input",),
        "vllm.exceptions": ("VLLMClientError", "VLLMValidationError"),
        "vllm.config": ("ReasoningConfig",),
        "vllm.lora": (),
        "vllm.lora.request": ("LoRARequest",),
        "vllm.v1": (),
        "vllm.v1.engine": (),
        "vllm.v1.engine.async_llm": ("AsyncLLM",),
    }
    for name, things in exports.items():
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
        module.__path__ = []
        for thing in things:
            setattr(module, thing, getattr(here, thing))
        monkeypatch.setitem(sys.modules, name, module)
