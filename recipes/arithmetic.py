"""Batch arithmetic: how many rows, rollouts and prompts one step takes on a given number of processes.

The rules are TRL's (`GRPOConfig.__post_init__` and the trainer's `RepeatSampler`, TRL 1.16): one generation makes
``per_device x steps_per_generation x processes`` rollouts, which must be whole groups of `num_generations`. A group
may straddle processes and micro-batches: rewards and advantages are computed on gathered rollouts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from laconic.recipes.problems_model import Problems, most_training_problems
from laconic.recipes.stages import GrpoStage, TrainingStage
from laconic.recipes.trainer_fields import default
from laconic.rewards.errors import RecipeError

Kind: TypeAlias = Literal["sft", "dpo", "grpo"]

BUSY_TOKENS = 2048
"""Of a micro-batch, that keep any device busy."""

MOST_LOGITS = 2**24
"""Logits of one forward pass of sft or grpo that are kept on a CPU; with more of them TRL's tiles are taken."""


def micro_batch_tokens(own: int, *, on_cpu: bool) -> int:
    """Tokens of a micro-batch of grpo where nothing is said: half of TRL's, within what keeps a device busy.

    Args:
        own: Tokens of TRL's micro-batch if all its rollouts were the longest.
        on_cpu: A small micro-batch is the fastest there, as its activations stay in the caches.
    """
    most = BUSY_TOKENS if on_cpu else 4 * BUSY_TOKENS
    return min(own, max(BUSY_TOKENS, min(most, own // 2)))


@dataclass(frozen=True)
class BatchPlan:
    """One training stage's batches on `world_size` processes. For sft and dpo, a prompt is a row."""

    world_size: int
    per_device: int
    """Rows of one micro-batch on one process."""
    accumulation: int
    """Micro-batches per optimiser step."""
    steps_per_generation: int = 1
    """Micro-batches that one generation feeds (grpo)."""
    num_generations: int = 1
    """Rollouts of one prompt (grpo)."""

    @property
    def rows_per_step(self) -> int:
        """Rows (grpo: rollouts) per optimiser step, over all processes."""
        return self.per_device * self.accumulation * self.world_size

    @property
    def rows_per_process(self) -> int:
        """Rows (grpo: rollouts) per optimiser step on one process."""
        return self.per_device * self.accumulation

    @property
    def prompts_per_step(self) -> float:
        """Prompts per optimiser step; not whole where one generation feeds several steps."""
        return self.rows_per_step / self.num_generations

    @property
    def rollouts_per_generation(self) -> int:
        """Rollouts made at once, over all processes (grpo)."""
        return self.per_device * self.steps_per_generation * self.world_size

    @property
    def prompts_per_generation(self) -> int:
        """Prompts of one generation, over all processes (grpo)."""
        return self.rollouts_per_generation // self.num_generations

    def arguments(self, kind: Kind, trainer: dict[str, Any]) -> dict[str, Any]:
        """The stage's trainer settings with the batch keys as this plan has them, for TRL's config."""
        batch = {"per_device_train_batch_size": self.per_device, "gradient_accumulation_steps": self.accumulation}
        if kind == "grpo":
            batch["steps_per_generation"] = self.steps_per_generation
        return {key: value for key, value in trainer.items() if key != "generation_batch_size"} | batch


def batch_plan(
    kind: Kind, batch_size: int | None, trainer: dict[str, Any], world_size: int, *, prompts: int | None = None
) -> BatchPlan:
    """Work out one training stage's batches.

    Args:
        kind: The stage's kind.
        batch_size: Rows (grpo: rollouts) per optimiser step over all processes; None takes what `trainer` says.
        trainer: The stage's trainer settings. With a batch size, `per_device_train_batch_size` is the largest
            micro-batch, and the largest one that fits is taken.
        world_size: Number of processes.
        prompts: How many training prompts there are, where that is known.

    Raises:
        RecipeError: it cannot work; the message has the numbers, the cure the nearest legal values.
    """
    largest = trainer.get("per_device_train_batch_size", default(kind, "per_device_train_batch_size"))
    if batch_size is None:
        accumulation = trainer.get("gradient_accumulation_steps", default(kind, "gradient_accumulation_steps"))
        options = [(largest, accumulation)]
    else:
        options = _micro_batches(kind, batch_size, trainer, world_size, largest)
    if kind != "grpo":
        return BatchPlan(world_size, *options[0])
    plan = _first_whole(trainer, world_size, options)
    if prompts is not None and prompts < plan.prompts_per_generation:
        # TRL's sampler drops an incomplete generation batch, so there would be no step at all.
        raise RecipeError(
            f"grpo: one generation takes {plan.prompts_per_generation} prompts ({plan.rollouts_per_generation} "
            f"rollouts / num_generations {plan.num_generations}), but there are {prompts}",
            cure=f"use at least {plan.prompts_per_generation} training problems, or at most "
            f"{prompts * plan.num_generations} rollouts per generation",
        )
    return plan


def stage_batch_plan(stage: TrainingStage, problems: Problems, world_size: int) -> BatchPlan:
    """The batches of a recipe's training stage, its number of prompts included where that is known.

    Raises:
        RecipeError: see `batch_plan`.
    """
    limits = (stage.limit, most_training_problems(problems)) if isinstance(stage, GrpoStage) else ()
    known = [limit for limit in limits if limit is not None]
    kind = stage.kind  # type: ignore[attr-defined]
    return batch_plan(kind, stage.batch_size, stage.trainer, world_size, prompts=min(known, default=None))  # type: ignore[attr-defined]


def _micro_batches(
    kind: Kind, batch_size: int, trainer: dict[str, Any], world_size: int, largest: int
) -> list[tuple[int, int]]:
    """Every (micro-batch, accumulation) that makes up the batch size, the largest micro-batch first."""
    unit = world_size
    if kind == "grpo" and not {"generation_batch_size", "steps_per_generation"} & set(trainer):
        unit = math.lcm(world_size, _group(trainer))
    if batch_size % unit:
        numbers = f"batch_size {batch_size}, {world_size} process{'es' if world_size > 1 else ''}"
        if unit != world_size:
            why = (
                f"{numbers}, num_generations {_group(trainer)}: not whole groups of rollouts, the same on each process"
            )
        else:
            why = f"{numbers}: not the same number of rows on each process"
        raise RecipeError(f"{kind}: {why}", cure=f"nearest legal batch_size: {_multiples(batch_size, unit)}")
    share = batch_size // world_size
    return [(size, share // size) for size in range(min(largest, share), 0, -1) if share % size == 0]


def _first_whole(trainer: dict[str, Any], world_size: int, options: list[tuple[int, int]]) -> BatchPlan:
    """The first option in which a generation is whole groups."""
    group = _group(trainer)
    for size, accumulation in options:
        steps = _steps_per_generation(trainer, size * world_size, accumulation)
        if steps and size * steps * world_size % group == 0:
            return BatchPlan(world_size, size, accumulation, steps, group)
    raise _not_whole(trainer, world_size, *options[0])


def _group(trainer: dict[str, Any]) -> int:
    return trainer.get("num_generations", default("grpo", "num_generations"))


def _steps_per_generation(trainer: dict[str, Any], global_batch: int, accumulation: int) -> int:
    """Micro-batches per generation; 0 if the generation batch is not a whole number of them."""
    total = trainer.get("generation_batch_size")
    if total is None:
        return trainer.get("steps_per_generation") or accumulation
    return 0 if total % global_batch else total // global_batch


def _not_whole(trainer: dict[str, Any], world_size: int, size: int, accumulation: int) -> RecipeError:
    group, total = _group(trainer), trainer.get("generation_batch_size")
    processes = f"{world_size} process{'es' if world_size > 1 else ''}"
    if total is not None:
        unit = math.lcm(size * world_size, group)
        return RecipeError(
            f"grpo: generation_batch_size {total}, micro-batches of {size} on {processes}, num_generations {group}: "
            "not whole groups in whole micro-batches",
            cure=f"nearest legal generation_batch_size: {_multiples(total, unit)}",
        )
    steps = trainer.get("steps_per_generation") or accumulation
    rollouts = size * steps * world_size
    sizes = _multiples(size, group // math.gcd(group, steps * world_size))
    groups = _nearest((n for n in range(2, rollouts + 1) if rollouts % n == 0), group)
    return RecipeError(
        f"grpo: {rollouts} rollouts per generation (per_device_train_batch_size {size} x {steps} steps x {processes}) "
        f"are not whole groups of num_generations {group}",
        cure=f"nearest legal per_device_train_batch_size: {sizes}; nearest legal num_generations: {groups or 'none'}",
    )


def _multiples(value: int, unit: int) -> str:
    lower = value // unit * unit
    return f"{lower} or {lower + unit}" if lower else str(unit)


def _nearest(legal: Iterable[int], value: int) -> str:
    """Up to two legal values next to `value`, in words."""
    values = list(legal)
    below, above = [n for n in values if n < value][-1:], [n for n in values if n > value][:1]
    return " or ".join(map(str, below + above))
