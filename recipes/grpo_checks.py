"""What the methods of a grpo stage do not go with: each other, its rewards, its trainer's settings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pydantic_core import InitErrorDetails

from laconic.recipes.early_stop import early_stop_mistakes
from laconic.recipes.grpo_advantages import Estimated, advantages_mistakes
from laconic.recipes.grpo_budgets import budgets_mistakes
from laconic.recipes.grpo_rollouts import Budgets, EarlyExits, rollouts_clashes, rollouts_mistakes
from laconic.recipes.strict import mistake

if TYPE_CHECKING:
    from laconic.recipes.stage_parts import Reward
    from laconic.recipes.stages import GrpoStage


def method_mistakes(stage: GrpoStage) -> list[InitErrorDetails]:
    """What is wrong, each with its place in the stage."""
    wrong = [
        mistake((key,), "TRL's own trainer has no such thing; leave it out or set fast: true")
        for key in ("advantages", "rollouts", "dynamic_sampling")
        if not stage.fast and getattr(stage, key) is not None
    ]
    wrong += advantages_mistakes(stage.advantages, stage.trainer)
    wrong += rollouts_mistakes(stage.rollouts, stage.trainer)
    wrong += rollouts_clashes(
        stage.rollouts, advantages=stage.advantages is not None, prompt_budgets=stage.budgets is not None
    )
    wrong += budgets_mistakes(stage.budgets, stage.rewards, stage.trainer)
    wrong += [*_answer_probability(stage), *_reference(stage)]
    if stage.stop_early:
        wrong += early_stop_mistakes(
            stage.rewards,
            stage.trainer,
            own_rollouts=stage.rollouts is not None,
            advantages=stage.advantages,
            sampling=stage.dynamic_sampling,
        )
    if stage.dynamic_sampling is not None:
        wrong += stage.dynamic_sampling.clashes(
            stage.trainer, stage.rewards, advantages=stage.advantages, rollouts=stage.rollouts
        )
    return wrong


def _answer_probability(stage: GrpoStage) -> Iterator[InitErrorDetails]:
    """Rewards that read a probability which is not measured, or not after what was asked."""
    reasons = []
    if stage.budgets is not None:
        reasons.append(
            "the probabilities that it reads are measured after the prompt without its budget; leave budgets out"
        )
    if isinstance(stage.rollouts, EarlyExits | Budgets):
        why = f"of rollouts: {{name: {stage.rollouts.name}}} no probabilities are measured, which it reads"
        reasons.append(f"{why}; leave rollouts out, or take another reward")
    for at, reward in _readers(stage.rewards, "answer_prob"):
        yield from (mistake(("rewards", at), why, reward.name) for why in reasons)


def _reference(stage: GrpoStage) -> Iterator[InitErrorDetails]:
    """A reference accuracy that a reward lacks, or that no reward reads; no source of problems brings one."""
    from laconic.rewards.registry import find

    readers = list(_readers(stage.rewards, "reference_accuracy"))
    if stage.reference is not None and not readers:
        message = f"found {stage.reference!r}, and no reward of this stage reads reference accuracies; leave it out"
        yield mistake(("reference",), message, stage.reference)
    if stage.reference is not None:
        return
    cure = "name a generate stage in which the model answers these problems with reference:"
    # Elsewhere it cancels: one number per problem, of which the group's mean is taken away.
    uncentred = isinstance(stage.advantages, Estimated) and stage.advantages.name == "rewards"
    for at, reward in readers:
        if "reference_accuracy" in find(reward.name).needs:
            yield mistake(("rewards", at), f"needs reference accuracies; {cure}", reward.name)
        elif uncentred:
            why = "without reference accuracies no wrong rollout is pushed down by advantages: {name: rewards}"
            yield mistake(("rewards", at), f"{why}; {cure}", reward.name)


def _readers(rewards: Sequence[Reward], column: str) -> Iterator[tuple[int, Reward]]:
    """The rewards that look at a column, with their places."""
    from laconic.rewards.registry import find

    for at, reward in enumerate(rewards):
        registered = find(reward.name)
        if column in (*registered.needs, *registered.uses):
            yield at, reward
