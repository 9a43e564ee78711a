"""`dynamic_sampling:` of a grpo stage: refused beside rewards that take a refill for a batch of its own."""

import pytest
from pydantic import ValidationError

from laconic.recipes.stages import GrpoStage


def stage(*rewards, **given):
    return GrpoStage.model_validate({"kind": "grpo", "rewards": rewards, **given})


@pytest.mark.parametrize(
    ("reward", "words"),
    [
        ({"name": "short_rl"}, r"rewards\.1\n.*reward short_rl compares the groups of a batch or goes by its accuracy"),
        ({"name": "a_dlp"}, r"rewards\.1\n.*a refill is scored as a batch of its own"),
        ({"name": "grpo_lambda"}, r"rewards\.1\n.*leave one of the two out"),
        ({"name": "auto_think"}, r"rewards\.1\n.*with stage 1 reward auto_think goes by the rollouts of a whole batch"),
        ({"name": "jet", "as_released": True}, r"rewards\.1\n.*with as_released true reward jet"),
        ({"name": "o1_pruner", "standardise": True}, r"rewards\.1\n.*change that, or leave dynamic_sampling out"),
        ({"name": "hapo", "gate": {"kind": "running_best"}}, r"rewards\.1\.gate\n.*the gate of reward hapo"),
        ({"name": "dler", "gate": {"kind": "adaptive"}}, r"rewards\.1\.gate\n.*the accuracy of whole batches"),
        ({"name": "accuracy", "gate": {"kind": "top_share"}}, r"rewards\.1\.gate\n"),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else "",
)
def test_rewards_of_whole_batches_are_refused(reward, words):
    assert stage({"name": "accuracy"}, reward)
    with pytest.raises(ValidationError, match=words):
        stage({"name": "accuracy"}, reward, dynamic_sampling={})


@pytest.mark.parametrize(
    "reward",
    [
        {"name": "hapo"},
        {"name": "dler"},
        {"name": "jet"},
        {"name": "auto_think", "stage": 3},
        {"name": "o1_pruner"},
        {"name": "kimi_length", "warmup": {"steps": 2}, "times_correct": True},
    ],
    ids=lambda reward: reward["name"],
)
def test_rewards_of_groups_and_problems_are_let_through(reward):
    assert stage(reward, dynamic_sampling={"rounds": 2, "by": "correct"})
