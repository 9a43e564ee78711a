from __future__ import annotations

import itertools
import re

import pytest

from laconic.recipes.arithmetic import BatchPlan, batch_plan, stage_batch_plan
from laconic.recipes.source import load_recipe
from laconic.rewards.errors import RecipeError


@pytest.mark.parametrize(
    ("kind", "batch_size", "trainer", "world", "expected"),
    [
        ("sft", 128, {}, 1, BatchPlan(1, 8, 16)),
        ("sft", 128, {"per_device_train_batch_size": 64}, 2, BatchPlan(2, 64, 1)),
        ("sft", 96, {"per_device_train_batch_size": 64}, 1, BatchPlan(1, 48, 2)),
        ("sft", 7, {"per_device_train_batch_size": 4}, 1, BatchPlan(1, 1, 7)),
        ("dpo", None, {"gradient_accumulation_steps": 4}, 2, BatchPlan(2, 8, 4)),
        ("grpo", 256, {"per_device_train_batch_size": 64}, 2, BatchPlan(2, 64, 2, 2, 8)),
        # A group of 16 straddles four processes with micro-batches of 4.
        ("grpo", 16, {"num_generations": 16}, 4, BatchPlan(4, 4, 1, 1, 16)),
        ("grpo", None, {"gradient_accumulation_steps": 4, "num_generations": 4}, 1, BatchPlan(1, 8, 4, 4, 4)),
        # One generation of 1024 rollouts feeds eight steps of 128.
        ("grpo", 128, {"generation_batch_size": 1024}, 8, BatchPlan(8, 8, 2, 16, 8)),
        ("grpo", 12, {"steps_per_generation": 4, "num_generations": 4}, 1, BatchPlan(1, 6, 2, 4, 4)),
        # Micro-batches of 6 would not make whole groups of 8 with 2 steps; micro-batches of 4 do.
        ("grpo", 12, {"steps_per_generation": 2, "num_generations": 8}, 1, BatchPlan(1, 4, 3, 2, 8)),
    ],
)
def test_golden_plans(kind, batch_size, trainer, world, expected):
    assert batch_plan(kind, batch_size, trainer, world) == expected


def test_a_plan_counts_rows_rollouts_and_prompts():
    plan = batch_plan("grpo", 128, {"generation_batch_size": 1024}, 8)
    assert (plan.rows_per_step, plan.rows_per_process, plan.prompts_per_step) == (128, 16, 16)
    assert (plan.rollouts_per_generation, plan.prompts_per_generation) == (1024, 128)
    half_a_group = batch_plan("grpo", 4, {"generation_batch_size": 8}, 1)
    assert half_a_group.prompts_per_step == 0.5


def test_arguments_for_trl_replace_the_batch_keys():
    trainer = {"generation_batch_size": 64, "learning_rate": 1e-6}
    plan = batch_plan("grpo", 32, trainer, 2)
    assert plan.arguments("grpo", trainer) == {
        "learning_rate": 1e-6,
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 2,
        "steps_per_generation": 4,
    }
    assert "steps_per_generation" not in batch_plan("sft", 32, {}, 2).arguments("sft", {})


@pytest.mark.parametrize(
    ("kind", "batch_size", "trainer", "world", "numbers", "nearest"),
    [
        ("sft", 100, {}, 8, "batch_size 100, 8 processes", "96 or 104"),
        ("sft", 2, {}, 4, "batch_size 2, 4 processes", "4"),
        ("grpo", 100, {}, 3, "batch_size 100, 3 processes, num_generations 8", "96 or 120"),
        ("grpo", 20, {}, 1, "batch_size 20, 1 process, num_generations 8", "16 or 24"),
        (
            "grpo",
            32,
            {"generation_batch_size": 100},
            2,
            "generation_batch_size 100, micro-batches of 8 on 2 processes, num_generations 8",
            "96 or 112",
        ),
    ],
)
def test_refusals_have_the_numbers_and_the_nearest_legal_batch_sizes(
    kind, batch_size, trainer, world, numbers, nearest
):
    with pytest.raises(RecipeError) as caught:
        batch_plan(kind, batch_size, trainer, world)
    assert numbers in caught.value.message
    assert re.search(rf": {nearest}$", caught.value.cure), caught.value.cure


def test_refusal_without_batch_size_names_both_ways_out():
    with pytest.raises(RecipeError) as caught:
        batch_plan("grpo", None, {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 2}, 2)
    assert "12 rollouts per generation (per_device_train_batch_size 3 x 2 steps x 2 processes)" in caught.value.message
    assert "num_generations 8" in caught.value.message
    assert caught.value.cure == (
        "nearest legal per_device_train_batch_size: 2 or 4; nearest legal num_generations: 6 or 12"
    )


def test_the_values_that_a_refusal_names_are_legal():
    """Whatever is refused: each batch size that the cure names works, and none between it and ours does."""
    for size, world, group in itertools.product(range(1, 41), (1, 2, 3, 8), (2, 4, 6)):
        trainer = {"num_generations": group}
        try:
            plan = batch_plan("grpo", size, trainer, world)
        except RecipeError as error:
            named = [int(number) for number in re.findall(r"\d+", error.cure)]
            assert named
            for legal in named:
                assert batch_plan("grpo", legal, trainer, world).rows_per_step == legal
            below = max([legal for legal in named if legal < size], default=0)
            between = [n for n in range(below + 1, max(named)) if n % group == 0 and n % world == 0]
            assert between == []
        else:
            assert plan.rows_per_step == size
            assert plan.per_device <= 8


def test_one_process_agrees_with_trl_itself():
    """What we accept, TRL's own checks accept with the same numbers; what we refuse, they refuse."""
    from trl import GRPOConfig

    accepted = 0
    for size, accumulation, group, steps in itertools.product((1, 2, 3, 6), (1, 2, 4), (2, 4, 6), (None, 2, 3)):
        trainer = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation}
        trainer |= {"num_generations": group} | ({} if steps is None else {"steps_per_generation": steps})
        try:
            config = GRPOConfig(use_cpu=True, bf16=False, report_to=[], **trainer)
        except ValueError:
            with pytest.raises(RecipeError, match="whole groups"):
                batch_plan("grpo", None, trainer, 1)
            continue
        plan = batch_plan("grpo", None, trainer, 1)
        accepted += 1
        assert plan.rollouts_per_generation == config.generation_batch_size
        assert plan.steps_per_generation == config.steps_per_generation
    assert accepted > 20


def test_too_few_prompts_for_one_generation_are_refused(chain):
    recipe = load_recipe(chain, overrides=["grpo.limit=3"])
    with pytest.raises(RecipeError, match=r"takes 4 prompts \(16 rollouts / num_generations 4\), but there are 3"):
        stage_batch_plan(recipe.stage("grpo"), recipe.problems, 1)
    assert stage_batch_plan(load_recipe(chain).stage("grpo"), recipe.problems, 1).prompts_per_generation == 4
