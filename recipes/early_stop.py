"""`stop_early` of a grpo stage: where its rollouts may stop."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic_core import InitErrorDetails

from laconic.recipes.grpo_advantages import AdvantagesSpec, Dler
from laconic.recipes.strict import mistake
from laconic.rewards.errors import RecipeError

if TYPE_CHECKING:
    from laconic.recipes.grpo_sampling import DynamicSampling
    from laconic.recipes.stage_parts import Reward


def stop_length(rewards: Sequence[Reward]) -> int:
    """The tokens at which a rollout stops: one more than the largest of the rewards' limits.

    Raises:
        RecipeError: a reward has none.
    """
    from laconic.rewards.caps import length_cap

    return math.floor(max(length_cap(reward.entry) for reward in rewards)) + 1


def early_stop_mistakes(
    rewards: Sequence[Reward],
    trainer: Mapping[str, Any],
    *,
    own_rollouts: bool,
    advantages: AdvantagesSpec | None = None,
    sampling: DynamicSampling | None = None,
) -> list[InitErrorDetails]:
    """Why the rollouts of a stage may not stop early, each with its place in the stage.

    Args:
        rewards: Of the stage.
        trainer: Of the stage.
        own_rollouts: It has `rollouts:`.
        advantages: Of the stage.
        sampling: Its `dynamic_sampling:`.
    """
    from laconic.rewards.caps import length_cap

    wrong = []
    for at, reward in enumerate(rewards):
        try:
            length_cap(reward.entry)
        except RecipeError as error:
            place = ("rewards", at)
            wrong.append(InitErrorDetails(type="value_error", loc=place, input=reward.name, ctx={"error": error}))
    if trainer.get("mask_truncated_completions"):
        message = "leaves out what stop_early stops, so that no rollout is ever told that it is too long; use one alone"
        wrong.append(mistake(("trainer", "mask_truncated_completions"), message, True))
    if own_rollouts:
        wrong.append(mistake(("stop_early",), "with rollouts: they end where that says; leave one of them out"))
    if isinstance(advantages, Dler):
        message = "dler counts a rollout as often as it has tokens, and stop_early leaves fewer; leave one of them out"
        wrong.append(mistake(("advantages",), message))
    if sampling is not None and sampling.by == "correct":
        why = "a rollout that stop_early stops may have another verdict than it would have had"
        message = f"found 'correct', and {why}; set by: reward, or leave stop_early out"
        wrong.append(mistake(("dynamic_sampling", "by"), message, sampling.by))
    return wrong
