"""GRPO rollouts by Laconic's own engine instead of `model.generate`.

Finished rollouts leave the batch at once, and every rollout draws its own random numbers from (seed, step, place in
the global batch). So the rollouts of a step are the same on one process and on several, and the same again after a
resume. The engine lives for one generation: what it keeps of prompts and sequences belongs to the weights of now, and
its memory to the training step that comes next.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from accelerate.utils import parse_flag_from_env
from trl import GRPOConfig
from trl.models import unwrap_model_for_generation

from laconic.inference.engine import Sampling
from laconic.inference.engines.loading import encode_prompt
from laconic.inference.engines.transformers import TICKS_IN_A_ROW, TransformersEngine
from laconic.inference.sampling import Completion, EngineSampler, Request
from laconic.recipes.grpo_rollouts import ONLY_TRL
from laconic.rewards.errors import LaunchError


def applicable(arguments: GRPOConfig) -> bool:
    """Whether `SampledRollouts` can do what the configuration asks for; otherwise TRL's generation is left in place.

    vLLM keeps TRL's path, and so do FSDP (its parameters stay sharded outside a forward of the wrapped module) and
    the sampling settings that only TRL has.
    """
    sharded = bool(arguments.fsdp) or _fsdp_launched()
    special = any(getattr(arguments, name) != neutral for name, neutral in ONLY_TRL.items())
    return not (arguments.use_vllm or sharded or special)


def check_applicable(arguments: GRPOConfig, what: str) -> None:
    """Refuse a configuration under which our engine does not draw the rollouts.

    Args:
        arguments: Of the trainer.
        what: Needs the engine; in the plural.

    Raises:
        LaunchError: it does not.
    """
    if not applicable(arguments):
        raise LaunchError(
            f"{what} are drawn by Laconic's own engine, which this stage's trainer or launch leaves out",
            cure="leave out vLLM, FSDP and the sampling settings that only TRL's generation has: "
            + ", ".join(ONLY_TRL),
        )


class SampledRollouts:
    """A TRL `rollout_func`: prompts of this process in, token ids out.

    Args:
        seed: Seeds every rollout together with the step and its place in the global batch.
        batch_size: Rollouts decoded at once; None fits it to the device.
        max_tokens: Where rollouts stop; None takes the configuration's `max_completion_length`.
        on_finished: Called with this process's row, the token ids and the further columns of each rollout as soon as it
            is there, while others are still being decoded.
    """

    def __init__(
        self,
        *,
        seed: int,
        batch_size: int | None = None,
        max_tokens: int | None = None,
        on_finished: Callable[[int, list[int], dict[str, Any]], None] | None = None,
    ) -> None:
        self.seed, self.on_finished = seed, on_finished
        self.batch_size = batch_size
        self.max_tokens = max_tokens

    def __call__(self, prompts: list[list[dict[str, str]]], trainer: Any) -> dict[str, Any]:
        """Sample one completion per prompt row."""
        accelerator, tokenizer = trainer.accelerator, trainer.processing_class
        texts, first = [messages[-1]["content"] for messages in prompts], accelerator.process_index * len(prompts)
        requests, columns = self.requests(texts, trainer, first=first), self.columns(len(texts), trainer, first=first)
        training = trainer.model.training
        with unwrap_model_for_generation(trainer.model_wrapped, accelerator) as model:
            engine = TransformersEngine(
                model, tokenizer, batch_size=self.batch_size, signals=False, ticks_in_a_row=TICKS_IN_A_ROW
            )
            with EngineSampler(engine) as sampler:
                drawn = sampler.sample(requests, sampling_of(trainer.args, max_tokens=self.max_tokens))
                ids = {completion.key[0]: self._taken(completion, columns) for completion in drawn}
            del engine, sampler, drawn  # with the keys and values
        trainer.model.train(training)
        read = {text: encode_prompt(tokenizer, text) for text in dict.fromkeys(texts)}
        return {
            "prompt_ids": [read[text] for text in texts],
            "completion_ids": [ids[request.key[0]] for request in requests],
            "logprobs": None,
            **columns,
        }

    def _taken(self, completion: Completion, columns: Mapping[str, Sequence[Any]]) -> list[int]:
        ids, row = list(completion.ids), int(completion.key[0])
        if self.on_finished is not None:
            self.on_finished(row, ids, {name: values[row] for name, values in columns.items()})
        return ids

    def columns(self, count: int, trainer: Any, *, first: int) -> dict[str, list[Any]]:
        """What else the batch is to know of this process's rows.

        Args:
            count: Of them.
            trainer: Whose they are.
            first: Place of the first of them in the global batch.
        """
        return {}

    def requests(self, texts: Sequence[str], trainer: Any, *, first: int) -> list[Request]:
        """What to draw for this process's rows.

        Args:
            texts: Their prompts.
            trainer: Knows the step.
            first: Place of the first of them in the global batch.
        """
        step = trainer.state.global_step
        return [
            Request((str(row), 0), text, rollout_seed(self.seed, step, first + row, text))
            for row, text in enumerate(texts)
        ]


def rollout_seed(seed: int, step: int, row: int, prompt: str) -> int:
    """The seed of one rollout.

    Args:
        seed: Of the stage.
        step: Optimiser steps done.
        row: Place in the global batch.
        prompt: As the data set has it; one optimiser step may need several generations.
    """
    digest = hashlib.sha256(f"{seed}/{step}/{row}/{prompt}".encode()).digest()
    return int.from_bytes(digest[:8], "big")


def sampling_of(arguments: GRPOConfig, *, max_tokens: int | None = None) -> Sampling:
    """How a configuration has rollouts drawn.

    Args:
        arguments: The configuration.
        max_tokens: Instead of its `max_completion_length`.
    """
    return Sampling(
        temperature=arguments.temperature,
        top_p=arguments.top_p,
        top_k=arguments.top_k or None,
        max_tokens=max_tokens or arguments.max_completion_length,
    )


def _fsdp_launched() -> bool:
    # The launcher's word: accelerate's own state says so only once the trainer has been built.
    return parse_flag_from_env("ACCELERATE_USE_FSDP")
