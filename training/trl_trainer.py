"""TRL's own trainer, with the seconds of its steps and the padding of its micro-batches among its metrics."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from trl import GRPOTrainer

from laconic.training.step_seconds import PREFIX, OptimiserSeconds, seconds


class TimedGRPOTrainer(GRPOTrainer):
    """`trl.GRPOTrainer`, unchanged in what it computes; it logs what `LaconicGRPOTrainer` logs about its steps.

    Args:
        *arguments: Of `trl.GRPOTrainer`.
        before_generation: Called with the trainer and the rows that rollouts are made of; returns the rows to take.
        **given: Of `trl.GRPOTrainer`.
    """

    def __init__(
        self,
        *arguments: Any,
        before_generation: Callable[[Any, list[dict[str, Any]]], list[dict[str, Any]]] | None = None,
        **given: Any,
    ) -> None:
        super().__init__(*arguments, **given)
        self.before_generation = before_generation
        self._prepared = 0.0
        self.add_callback(OptimiserSeconds(self))

    def training_step(self, model: torch.nn.Module, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """TRL's, timed from when its micro-batch is there."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._metrics["train"][f"{PREFIX}train"].append(time.perf_counter() - self._prepared)
        return loss

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        batch = super()._prepare_inputs(generation_batch)
        if self.model.training:
            metrics = self._metrics["train"]
            masks = batch["prompt_mask"], batch["completion_mask"]
            held, places = sum(int(mask.sum()) for mask in masks), sum(mask.numel() for mask in masks)
            # A mean over its micro-batches is what is logged of a step.
            metrics["rollouts/skipped"].append(0.0)
            metrics["micro_batches/count"].append(float(self.current_gradient_accumulation_steps))
            metrics["micro_batches/padding"].append(1 - held / places)
        self._prepared = time.perf_counter()
        return batch

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        return super()._generate_and_score_completions(
            inputs if self.before_generation is None else self.before_generation(self, inputs)
        )

    def _generate(self, prompts: list[Any]) -> Any:
        with seconds(self, "decode"):
            return super()._generate(prompts)

    def _calculate_rewards(self, *arguments: Any) -> torch.Tensor:
        with seconds(self, "reward"):
            return super()._calculate_rewards(*arguments)

    def _get_per_token_logps_and_entropies(self, *arguments: Any, **given: Any) -> Any:
        forward = super()._get_per_token_logps_and_entropies
        if torch.is_grad_enabled():
            return forward(*arguments, **given)
        with seconds(self, "logprobs"):
            return forward(*arguments, **given)
