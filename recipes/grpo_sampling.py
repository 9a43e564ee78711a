"""Which groups a grpo stage trains on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic_core import InitErrorDetails

from laconic.recipes.grpo_advantages import AdvantagesSpec, Estimated
from laconic.recipes.grpo_rollouts import Budgets, RolloutsSpec
from laconic.recipes.strict import Count, StrictModel, mistake, shown
from laconic.recipes.trainer_fields import default

if TYPE_CHECKING:
    from laconic.recipes.stage_parts import Reward

_ONLY_THEN: Mapping[str, tuple[str, Any]] = {
    "auto_think": ("stage", 1),
    "jet": ("as_released", True),
    "o1_pruner": ("standardise", True),
}
"""Rewards of scope `batch` that look at no other group unless a parameter has this value."""


class DynamicSampling(StrictModel):
    """Groups whose rollouts are all alike teach nothing; they are drawn again from other problems (DAPO)."""

    rounds: Count = 1
    """At most so many times per generation."""
    by: Literal["reward", "correct"] = "reward"
    """What rollouts have to differ in: their rewards, or whether they are correct, whatever rewards make of it."""

    def clashes(
        self,
        trainer: Mapping[str, Any],
        rewards: Sequence[Reward],
        *,
        advantages: AdvantagesSpec | None = None,
        rollouts: RolloutsSpec | None = None,
    ) -> Iterator[InitErrorDetails]:
        """What of a stage does not go with it, each with its place there.

        Args:
            trainer: What the stage hands on to TRL.
            rewards: Of the stage.
            advantages: Of the stage.
            rollouts: Of the stage.
        """
        if trainer.get("multi_objective_aggregation") == "normalize_then_sum":
            message = "advantages of normalize_then_sum are those of the whole batch; leave one of the two out"
            yield mistake(("dynamic_sampling",), message)
        if isinstance(advantages, Estimated) and advantages.name == "rewards":
            message = "with advantages: {name: rewards} equal rewards teach something too; leave one of the two out"
            yield mistake(("dynamic_sampling",), message)
        size = trainer.get("num_generations") or default("grpo", "num_generations")
        if isinstance(rollouts, Budgets) and rollouts.rows == size:
            why = f"num_generations {size} is one chain of thought of rollouts: {{name: budgets}}"
            message = f"{why}, which equal rewards teach something too; set it to {2 * size} or leave this out"
            yield mistake(("dynamic_sampling",), message)
        for at, reward in enumerate(rewards):
            yield from _of_the_batch(at, reward)


def _of_the_batch(at: int, reward: Reward) -> Iterator[InitErrorDetails]:
    """Why a reward may not be asked about refills, which it would take for a batch of their own."""
    from laconic.rewards.registry import find

    registered, entry = find(reward.name), reward.entry
    refills = "dynamic_sampling: a refill is scored as a batch of its own"
    cure = "leave one of the two out"
    if "gate" in entry:
        why = f"the gate of reward {reward.name} goes by the accuracy of whole batches"
        yield mistake(("rewards", at, "gate"), f"{refills}, and {why}; {cure}", entry["gate"]["kind"])
    if registered.scope != "batch":
        return
    key, value = _ONLY_THEN.get(reward.name, (None, None))
    if key is None:
        why = f"reward {reward.name} compares the groups of a batch or goes by its accuracy"
        yield mistake(("rewards", at), f"{refills}, and {why}; {cure}", reward.name)
    elif entry.get(key, registered.parameters[key].default) == value:
        why = f"with {key} {shown(value)} reward {reward.name} goes by the rollouts of a whole batch"
        yield mistake(("rewards", at), f"{refills}, and {why}; change that, or leave dynamic_sampling out", reward.name)
