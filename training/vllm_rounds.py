"""Rounds of generations over TRL's own vLLM: what all rollouts want next goes there at once.

In server mode TRL speaks to the server on the main process alone: a round gathers what every process wants, and hands
the answers back. Colocated, every process has a vLLM of its own; those that share one by tensor parallelism have to ask
it the same. So a process takes part in every round until the last one has nothing more to ask.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from accelerate.utils import broadcast_object_list, gather_object

from laconic.rewards.errors import LaunchError

_AT_ONCE = 64
"""Requests on their way to the server: as many connections as TRL's client keeps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How tokens are drawn. Rows of equal settings make one request."""

    temperature: float
    top_p: float
    top_k: int
    """0: all."""
    max_tokens: int
    min_tokens: int
    stop: tuple[str, ...]
    """Strings that end it; their tokens are delivered."""
    eos_ids: tuple[int, ...]
    bias: tuple[tuple[int, float], ...] = ()

    def further(self) -> dict[str, Any]:
        """The fields that TRL's client passes on as they are."""
        fields = {"stop": list(self.stop), "stop_token_ids": list(self.eos_ids), "min_tokens": self.min_tokens}
        # As an object of JSON, whose keys are texts.
        return fields | ({"logit_bias": {str(token): value for token, value in self.bias}} if self.bias else {})


@dataclass(frozen=True, slots=True)
class Request:
    """One row of a round."""

    ids: tuple[int, ...]
    """What is gone on with: prompt and text."""
    settings: Settings
    seed: int
    """Looked at where vLLM takes one for each row: colocated."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of a row: every token, those that ended it included."""

    ids: list[int]
    logprobs: list[float | None]
    """Of the drawn tokens; None where vLLM has none."""


class Rounds(Protocol):
    """Where rounds go."""

    longest: int
    """Tokens of prompt and text that vLLM was started for."""

    def send(self, requests: Sequence[Request], *, over: bool) -> tuple[list[Reply], bool]:
        """One round.

        Args:
            requests: What this process wants.
            over: It will want no more.

        Returns:
            The replies, and whether it is over for all.

        Raises:
            LaunchError: vLLM failed.
        """
        ...

    def awake(self) -> AbstractContextManager[None]:
        """Hold vLLM ready, with the weights of now, for all rounds of one generation."""
        ...


def rounds_of(trainer: Any) -> Rounds:
    """Those of a GRPO trainer with `use_vllm`."""
    vllm = trainer.vllm_generation
    return ServerRounds(vllm, trainer.accelerator) if vllm.mode == "server" else ColocatedRounds(vllm)


class ServerRounds:
    """Over TRL's `VLLMClient`: rows of equal settings in one request, all requests of a round at the same time.

    A request of several rows has no seed of its own, as TRL's own have none: draws are the server's.

    Args:
        vllm: TRL's `VLLMGeneration`.
        accelerator: Of the trainer.
    """

    def __init__(self, vllm: Any, accelerator: Any) -> None:
        self.vllm, self.accelerator = vllm, accelerator
        main = accelerator.is_main_process
        self.longest: int = self._shared(
            lambda: vllm.vllm_client.get_server_info()["model_config"]["max_model_len"] if main else None
        )

    def send(self, requests: Sequence[Request], *, over: bool) -> tuple[list[Reply], bool]:
        """See `Rounds`."""
        told = gather_object([(list(requests), over)])
        wanted = [request for rows, _ in told for request in rows]
        if not wanted:
            return [], all(done for _, done in told)
        replies = self._shared(lambda: self._asked(wanted))
        rank = self.accelerator.process_index
        first = sum(len(rows) for rows, _ in told[:rank])
        return replies[first : first + len(requests)], False

    def awake(self) -> AbstractContextManager[None]:
        """The trainer has sent the weights."""
        return nullcontext()

    def _shared(self, work: Any) -> Any:
        """What the main process comes to, on every process; so is its failure."""
        found: list[Any] = [None]
        if self.accelerator.is_main_process:
            try:
                found = [(work(), None)]
            except Exception as error:  # TRL's client raises whatever it meets, plain exceptions among them
                found = [(None, f"{type(error).__name__}: {error}".strip())]
        broadcast_object_list(found, from_process=0)
        value, failure = found[0]
        if failure is not None:
            raise LaunchError(f"vLLM's server failed: {failure[:500]}", cure="see its log, and start it again")
        return value

    def _asked(self, requests: Sequence[Request]) -> list[Reply]:
        alike: dict[Settings, list[int]] = {}
        for place, request in enumerate(requests):
            alike.setdefault(request.settings, []).append(place)
        replies: dict[int, Reply] = {}
        with ThreadPoolExecutor(min(_AT_ONCE, len(alike))) as pool:
            answers = pool.map(lambda places: self._one([requests[place] for place in places]), alike.values())
            for places, found in zip(alike.values(), answers, strict=True):
                replies |= zip(places, found, strict=True)
        return [replies[place] for place in range(len(requests))]

    def _one(self, requests: Sequence[Request]) -> list[Reply]:
        settings = requests[0].settings
        answer = self.vllm.vllm_client.generate(
            prompts=[list(request.ids) for request in requests],
            n=1,
            repetition_penalty=self.vllm.repetition_penalty,
            temperature=settings.temperature,
            top_p=settings.top_p,
            top_k=settings.top_k,
            min_p=self.vllm.min_p or 0.0,
            max_tokens=settings.max_tokens,
            logprobs=0,
            generation_kwargs={**(self.vllm.generation_kwargs or {}), **settings.further()},
        )
        drawn = [[entry[0] for entry in row] for row in answer["logprobs"]]
        return [Reply(list(ids), values) for ids, values in zip(answer["completion_ids"], drawn, strict=True)]


class ColocatedRounds:
    """Over TRL's `LLM` in this process: one call a round, every row with settings and a seed of its own.

    In sleep mode vLLM is woken for a whole generation and not for every round, whose weights TRL would send anew.

    Args:
        vllm: TRL's `VLLMGeneration`.
    """

    def __init__(self, vllm: Any) -> None:
        self.vllm = vllm
        self.longest: int = vllm.llm.llm_engine.model_config.max_model_len

    def send(self, requests: Sequence[Request], *, over: bool) -> tuple[list[Reply], bool]:
        """See `Rounds`."""
        told, rank = self._gathered((list(requests), over))
        wanted = [request for rows, _ in told for request in rows]
        if not wanted:
            return [], all(done for _, done in told)
        try:
            outputs = self.vllm.llm.generate(
                [{"prompt_token_ids": list(request.ids)} for request in wanted],
                sampling_params=[self._params(request) for request in wanted],
                use_tqdm=False,
            )
        except (ValueError, RuntimeError) as error:
            raise LaunchError(f"vLLM failed: {error}", cure="see its log above") from error
        first = sum(len(rows) for rows, _ in told[:rank])
        return [_reply(output) for output in outputs[first : first + len(requests)]], False

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Wake it, and let it sleep again."""
        if not self.vllm.enable_sleep_mode:
            yield
            return
        if self.vllm._llm_weights_sleeping:  # TRL's own account of it; there is no other
            self.vllm.sync_weights()
        self.vllm.llm.wake_up(tags=["kv_cache"])
        try:
            yield
        finally:
            self.vllm.llm.sleep(level=2)
            self.vllm._llm_weights_sleeping = True

    def _gathered(self, mine: tuple[list[Request], bool]) -> tuple[list[tuple[list[Request], bool]], int]:
        size = self.vllm.tensor_parallel_size
        if size == 1:
            return [mine], 0
        told: list[Any] = [None] * size
        torch.distributed.all_gather_object(told, mine, group=self.vllm.tp_group)
        return told, torch.distributed.get_rank(group=self.vllm.tp_group)

    def _params(self, request: Request) -> Any:
        from vllm import SamplingParams

        settings = request.settings
        fields = {
            "repetition_penalty": self.vllm.repetition_penalty,
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "top_k": settings.top_k,
            "min_p": self.vllm.min_p or 0.0,
            "max_tokens": settings.max_tokens,
            "seed": request.seed,
            "logprobs": 0,
        }
        bias = {"logit_bias": dict(settings.bias)} if settings.bias else {}
        return SamplingParams(**{**fields, **(self.vllm.generation_kwargs or {}), **settings.further(), **bias})


def _reply(output: Any) -> Reply:
    (said,) = output.outputs
    values = [entry[number].logprob for number, entry in zip(said.token_ids, said.logprobs, strict=True)]
    return Reply(list(said.token_ids), [None if math.isnan(value) else value for value in values])
