"""GRPO with TRL's gradients and less work: the optimisation phase of `trl.GRPOTrainer`, rearranged.

    from laconic.training.trainer import LaconicGRPOTrainer

    trainer = LaconicGRPOTrainer(model=..., reward_funcs=..., args=GRPOConfig(...), train_dataset=...)

TRL (1.16) pads a generation's rollouts to the longest of them, cuts them unsorted into micro-batches and trains those
with an advantage of zero too. Here the micro-batches of an optimiser step are put off until its last one and made anew:
without rollouts that cannot change the gradient, sorted by length, under a token budget, without common padding, the
same number on every process, each with about as much work. Loss, clipping, denominators and the number of optimiser
steps are TRL's own; `laconic.training.loss_shares` says how parts add up.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from itertools import groupby
from typing import Any

import torch
from accelerate.logging import get_logger
from accelerate.utils import DistributedType, gather_object
from trl import GRPOTrainer

from laconic.training.dynamic_sampling import DynamicSampling
from laconic.training.forwards import Found, by_length
from laconic.training.lean_forward import can_share, make_lean, minds_padding
from laconic.training.loss_shares import LOSSES, OWN_TOKENS
from laconic.training.micro_batches import Batch, default_budget
from laconic.training.scored import AfterScoring, Scored, loss_mask, note_advantages
from laconic.training.segments import Layout, MicroBatch, Segment, merged
from laconic.training.step_metrics import Alone, Metrics, of_step
from laconic.training.step_seconds import OptimiserSeconds, seconds

logger = get_logger(__name__)


class LaconicGRPOTrainer(GRPOTrainer):
    """`trl.GRPOTrainer` that trains no padding and no rollout without signal.

    Takes what TRL's trainer takes. Configurations whose loss cannot be put together from other micro-batches than
    TRL's are trained in TRL's own way, which is said once (`reason_for_trl`).

    Args:
        *arguments: Of `trl.GRPOTrainer`.
        tokens_per_micro_batch: Tokens of one forward and backward pass on one process, padding included; a longer
            rollout has one to itself. None takes half of what TRL's micro-batch would have if all its
            `per_device_train_batch_size` rollouts were the longest, between 2048 and 8192 (on CPU 2048).
        skip_without_signal: Leave rollouts out whose advantage is exactly zero, where no divergence or entropy term
            has a gradient of its own. Those without a token in the loss are always left out.
        balance: Processes exchange rollouts so that each has about as much work.
        share_prompts: Read a prompt once for all rollouts of a forward pass that have it.
        dynamic_sampling: Draws groups without signal again, from other problems.
        after_scoring: Methods with advantages or old log-probabilities of their own, one after the other.
        before_generation: Called with the trainer and the rows that rollouts are made of; returns the rows to take.
        **given: Of `trl.GRPOTrainer`.
    """

    def __init__(
        self,
        *arguments: Any,
        tokens_per_micro_batch: int | None = None,
        skip_without_signal: bool = True,
        balance: bool = True,
        share_prompts: bool = True,
        dynamic_sampling: DynamicSampling | None = None,
        after_scoring: Sequence[AfterScoring] = (),
        before_generation: Callable[[Any, list[dict[str, Any]]], list[dict[str, Any]]] | None = None,
        **given: Any,
    ) -> None:
        super().__init__(*arguments, **given)
        if dynamic_sampling is not None:
            dynamic_sampling.check(self)
        self.dynamic_sampling, self.after_scoring = dynamic_sampling, tuple(after_scoring)
        self.before_generation = before_generation
        self._rewards_per_func: torch.Tensor | None = None
        self._minds_padding = minds_padding(self.model.config.get_text_config())
        self.tokens_per_micro_batch = tokens_per_micro_batch
        self.skip_without_signal, self.balance = skip_without_signal, balance
        self._step_batches: list[tuple[int, Batch]] = []
        self._entropies: torch.Tensor | None = None
        self.reason_for_trl = _reason_for_trl(self)
        if self.reason_for_trl is not None:
            logger.warning(f"trained in TRL's own way, with padding and without leaving out: {self.reason_for_trl}")
        self.share_prompts = share_prompts
        self._lean_model = None if self.reason_for_trl is not None else make_lean(self, share_prompts=share_prompts)
        self.add_callback(OptimiserSeconds(self))

    def train(self, *arguments: Any, **given: Any) -> Any:
        """Train; what an earlier, broken off training has put aside is forgotten, as its gradients are."""
        self._step_batches.clear()
        return super().train(*arguments, **given)

    def training_step(self, model: torch.nn.Module, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Put TRL's micro-batch off, or with the last one of an optimiser step train them all; returns their loss."""
        if self.reason_for_trl is not None:
            return super().training_step(model, inputs, num_items_in_batch)
        started = time.perf_counter()
        model.train()  # `_prepare_inputs` looks whether this is training
        if callable(getattr(self.optimizer, "train", None)):
            self.optimizer.train()  # one without a schedule samples from other weights after an evaluation
        generation, last = self._step // self.args.steps_per_generation, self.accelerator.sync_gradients
        with self._without_reports():
            self._step_batches.append((generation, self._prepare_inputs(inputs)))
            loss = self._train_step(model, num_items_in_batch) if last else torch.zeros((), device=self.args.device)
        self._step += 1
        self._current_train_step_time += time.perf_counter() - started
        if last:
            self._metrics["train"]["step_time"].append(self._current_train_step_time)
            self._current_train_step_time = 0.0
        return loss

    def _train_step(self, model: torch.nn.Module, num_items_in_batch: Any) -> torch.Tensor:
        with seconds(self, "wait"):
            segments = self._segments()
        self._step_batches.clear()
        with seconds(self, "train"):
            return self._train_segments(model, segments, num_items_in_batch)

    def _train_segments(self, model: torch.nn.Module, segments: list[Segment], num_items_in_batch: Any) -> torch.Tensor:
        if not any(map(len, segments)):
            segments[0].add_empty_round()
        places = [(segment, at) for segment in segments for at in range(len(segment))]
        losses, parts = [], []
        for number, (segment, at) in enumerate(places, start=1):
            micro_batch = segment.micro_batch(at)
            with self._gradients_wait(model, last=number == len(places)), self._metrics_apart() as noted:
                # Not TRL's own training_step, which counts.
                losses.append(super(GRPOTrainer, self).training_step(model, micro_batch, num_items_in_batch))
            parts.append((micro_batch, noted))
        sequence_level = self.importance_sampling_level == "sequence"
        for name, values in of_step(parts, segments, self.accelerator, sequence_level=sequence_level).items():
            self._metrics["train"][name] += values
        return torch.stack(losses).sum()

    def _segments(self) -> list[Segment]:
        """The step's rollouts, in parts that share a denominator."""
        layout = Layout(
            loss_type=self.loss_type,
            # TRL's mean is over the rows it has, which `split_batches` makes fewer.
            batch_rows=len(self._step_batches[0][1]["prompt_ids"]),
            budget=self.tokens_per_micro_batch,
            keep_all=not self.skip_without_signal or self.beta != 0.0 or self._entropy_bonus_enabled,
            balanced=self.balance and not self._own_denominators,
            multiple=self.pad_to_multiple_of,
            shared=self.share_prompts and self._lean_model is not None and can_share(self._lean_model),
        )
        if self._own_denominators:
            return [Segment(batch, layout, self.accelerator) for _, batch in self._step_batches]
        together = groupby(self._step_batches, key=lambda one: one[0])
        return [Segment(merged([batch for _, batch in part]), layout, self.accelerator) for _, part in together]

    @property
    def _own_denominators(self) -> bool:
        """Whether every one of TRL's micro-batches has its own."""
        return self.loss_type in OWN_TOKENS or self._entropy_bonus_enabled

    @contextmanager
    def _without_reports(self) -> Iterator[None]:
        """TRL sends a message to trackers after each of its timed functions; here they hear of a whole step."""
        trackers, self.args.report_to = self.args.report_to, []
        try:
            yield
        finally:
            self.args.report_to = trackers

    @contextmanager
    def _metrics_apart(self) -> Iterator[Metrics]:
        """What TRL notes in here is not yet the step's."""
        before, self._metrics["train"] = self._metrics["train"], defaultdict(list)
        try:
            yield self._metrics["train"]
        finally:
            self._metrics["train"] = before

    @contextmanager
    def _gradients_wait(self, model: torch.nn.Module, *, last: bool) -> Iterator[None]:
        """Processes add up their gradients in the last micro-batch; DeepSpeed is told which one that is."""
        self.accelerator.gradient_state._set_sync_gradients(last)
        with nullcontext() if last else self._no_sync(model):
            yield

    def _no_sync(self, model: torch.nn.Module) -> AbstractContextManager[None]:
        plugin = self.accelerator.gradient_state.plugin_kwargs
        deepspeed = self.accelerator.distributed_type == DistributedType.DEEPSPEED
        if deepspeed or plugin.get("sync_each_batch", False):
            return nullcontext()
        return self.accelerator.no_sync(model)

    def _generate(self, prompts: list[Any]) -> Any:
        with seconds(self, "decode"):
            return super()._generate(prompts)

    def _calculate_rewards(self, *arguments: Any) -> torch.Tensor:
        with seconds(self, "reward"):
            self._rewards_per_func = super()._calculate_rewards(*arguments)
            self._share_logged()
        return self._rewards_per_func

    def _share_logged(self) -> None:
        """Means over processes of what rewards have logged, in one message; TRL would send one for each metric."""
        # They may have logged tensors, on the device of their process.
        logged = {name: (float(sum(values)), len(values)) for name, values in self._pending_metrics.items()}
        self._pending_metrics.clear()
        of_processes = gather_object([logged])
        mode = "train" if self.model.training else "eval"
        for name in sorted({name for logged in of_processes for name in logged}):
            total, count = map(sum, zip(*(logged[name] for logged in of_processes if name in logged), strict=True))
            self._metrics[mode][name].append(total / count)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Batch:
        scored = self._score(inputs)
        if self.dynamic_sampling is not None and self.model.training:
            scored = self.dynamic_sampling(self, scored)
        for method in self.after_scoring:
            scored = replace(scored, batch=scored.batch | method(self, scored))
        if self.after_scoring:
            note_advantages(self, scored.batch)
        return scored.batch

    def _score(self, inputs: list[dict[str, Any]]) -> Scored:
        """Rollouts of these rows, with their rewards and TRL's advantages."""
        inputs = inputs if self.before_generation is None else self.before_generation(self, inputs)
        batch = super()._generate_and_score_completions(inputs)
        per_function, self._rewards_per_func = self._rewards_per_func, None
        assert per_function is not None
        rewards = (per_function * self.reward_weights.to(per_function.device)).nansum(dim=1)
        rewards[torch.isnan(per_function).all(dim=1)] = torch.nan
        first = self.accelerator.process_index * len(inputs)
        return Scored(
            batch=batch,
            rewards=rewards,
            tokens=self.accelerator.gather(loss_mask(batch).sum(1)),
            mine=slice(first, first + len(inputs)),
            rows=inputs,
            num_generations=self.num_generations if self.model.training else self.num_generations_eval,
        )

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        # Trainer.training_step asks for every micro-batch; ours come prepared.
        return (
            generation_batch if isinstance(generation_batch, MicroBatch) else super()._prepare_inputs(generation_batch)
        )

    def _compute_loss(self, model: torch.nn.Module, inputs: Any) -> torch.Tensor:
        if not isinstance(inputs, MicroBatch):
            return super()._compute_loss(model, inputs)
        coefficient = self._bonus_coefficient()
        accelerator, self.accelerator = self.accelerator, Alone(self)
        try:
            loss = super()._compute_loss(model, inputs) * inputs.weight
        finally:
            self.accelerator = accelerator
        entropies, self._entropies = self._entropies, None
        if coefficient == 0.0:
            return loss
        # TRL has taken the bonus from the loss, and its share may be another.
        mask = inputs["completion_mask"] * inputs.get("tool_mask", 1)
        bonus = (entropies * mask).sum() / mask.sum().clamp(min=1) / self.current_gradient_accumulation_steps
        return loss + (inputs.weight - inputs.bonus_weight) * coefficient * bonus

    def _bonus_coefficient(self) -> float:
        """Of the entropy bonus in this step, as TRL decides."""
        off = self.use_adaptive_entropy and self._last_world_entropy > self.args.entropy_target
        return 0.0 if off or not self._entropy_bonus_enabled else self.entropy_coef

    def _get_per_token_logps_and_entropies(
        self,
        model: torch.nn.Module,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        **images: Any,
    ) -> Found:
        forward = super()._get_per_token_logps_and_entropies
        given = {"compute_entropy": compute_entropy, "compute_aux_loss": compute_aux_loss}
        special = compute_aux_loss or any(value is not None for value in images.values()) or _cuts_sequences(self)
        special = special or self._minds_padding
        if torch.is_grad_enabled() or special:
            found = forward(model, input_ids, attention_mask, logits_to_keep, batch_size, **given, **images)
            self._entropies = found[1] if self._entropy_bonus_enabled and self.reason_for_trl is None else None
            return found
        own = (batch_size or len(input_ids)) * input_ids.size(1)
        with seconds(self, "logprobs"):
            return by_length(
                lambda ids, mask, columns: forward(model, ids, mask, columns, **given),
                input_ids,
                attention_mask,
                logits_to_keep,
                budget=self.tokens_per_micro_batch or default_budget(own, self.accelerator.device),
                accelerator=self.accelerator,
            )


def _cuts_sequences(trainer: GRPOTrainer) -> bool:
    """Whether processes share the tokens of one rollout."""
    parallel = getattr(trainer.accelerator, "parallelism_config", None)
    return parallel is not None and (parallel.cp_enabled or parallel.sp_enabled)


def _steps_within_backward(trainer: GRPOTrainer) -> bool:
    name = str(getattr(trainer.args.optim, "value", trainer.args.optim))
    return name.endswith(("layerwise", "lomo"))


def _reason_for_trl(trainer: GRPOTrainer) -> str | None:
    """Why a configuration is trained in TRL's own way; None where it is not."""
    reasons = {
        f"loss_type {trainer.loss_type} is not known here": trainer.loss_type not in LOSSES,
        "top_entropy_quantile below 1 sets a threshold over all tokens of TRL's micro-batch": (
            trainer.top_entropy_quantile < 1.0
        ),
        "a mixture of experts is balanced over the tokens of TRL's micro-batch": trainer.aux_loss_enabled,
        "a model with images": trainer._is_vlm,
        "a model to which padding is not nothing (learned positions, rotations by length)": trainer._minds_padding,
        "an optimiser that steps within the backward pass": _steps_within_backward(trainer),
        "context or sequence parallelism": _cuts_sequences(trainer),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)
