"""Rewards that look at what the rollouts of their stage do not have."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from pydantic_core import InitErrorDetails

from laconic.recipes.knowledge_problems import WorldProblems
from laconic.recipes.problems_model import Problems
from laconic.recipes.search_model import SearchSpec
from laconic.recipes.stage_parts import Reward
from laconic.recipes.stages import BaseStage, GrpoStage
from laconic.rewards.errors import RecipeError


def reward_mistakes(
    stages: Sequence[BaseStage], search: SearchSpec | None, problems: Problems
) -> list[InitErrorDetails]:
    """What is wrong, each with its place in the recipe.

    Args:
        stages: Of the recipe.
        search: How its models search; None if they do not.
        problems: What they are asked.
    """
    from laconic.rewards.group import READ_FROM_COMPLETIONS, READ_FROM_EPISODES, READ_FROM_WORLDS

    told = READ_FROM_WORLDS if isinstance(problems, WorldProblems) else READ_FROM_EPISODES
    there = READ_FROM_COMPLETIONS if search is None else told
    return [
        InitErrorDetails(
            type="value_error", loc=("stages", at, "rewards", place), input=reward.name, ctx={"error": why}
        )
        for at, stage in enumerate(stages)
        if isinstance(stage, GrpoStage)
        for place, reward in enumerate(stage.rewards)
        for why in _unmet(reward, there, searching=search is not None)
    ]


def _unmet(reward: Reward, there: Collection[str], *, searching: bool) -> Iterable[RecipeError]:
    from laconic.rewards.group import COLUMNS, READ_FROM_WORLDS
    from laconic.rewards.registry import find

    registered = find(reward.name)
    judged = [registered.judged.column] if registered.judged else []
    cure = "score rollouts that have it with `laconic score`, or train with `trl_reward` and a rollout function for it"
    for name in registered.needs:
        if COLUMNS[name].owner == "rollout" and name not in (*there, *judged):
            where = "search episodes" if searching else "the rollouts of a grpo stage"
            mend = f"let models search (`search:`), or {cure}" if name in READ_FROM_WORLDS and not searching else cure
            message = f"reward {reward.name} needs {name!r} ({COLUMNS[name].about}), which {where} do not have"
            yield RecipeError(message, cure=mend)
            return
