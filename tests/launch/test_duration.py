"""Seconds of a training stage, against arithmetic by hand."""

from __future__ import annotations

import pytest

from laconic.launch.counts import Count, Training
from laconic.launch.duration import Device, device, forward_operations, passes, training_seconds
from laconic.launch.profiles import load_profile
from laconic.launch.shapes import KNOWN
from laconic.recipes.arithmetic import BatchPlan
from laconic.recipes.model_spec import ModelSpec
from laconic.recipes.stages import DpoStage, GrpoStage, SftStage

SHAPE = KNOWN["qwen/qwen2.5-0.5b"]
MODEL = ModelSpec(path="Qwen/Qwen2.5-0.5B")
FAST = Device("test", 1e12, None)
KINDS = {"sft": SftStage, "dpo": DpoStage, "grpo": GrpoStage}


def view(kind, *, steps=100, batch=None, lora=None, **trainer):
    rewards = {"rewards": [{"name": "accuracy"}]} if kind == "grpo" else {}
    stage = KINDS[kind].model_validate(
        {"kind": kind, "trainer": trainer, **rewards, **({"lora": lora} if lora else {})}
    )
    return Training(stage, Count(1000), batch or BatchPlan(1, 4, 8, 8, 8), Count(steps))


def took(one, profile="cpu", on=FAST):
    return training_seconds(one, MODEL, SHAPE, load_profile(profile, processes=1), on)


def test_a_token_costs_two_operations_per_weight_and_what_it_looks_back_at():
    # Tied: the embedding is also the output matrix. 24 layers, 14 heads of 64.
    assert forward_operations(SHAPE, 100) == 2 * SHAPE.parameters + 2 * 24 * 14 * 64 * 100
    untied = KNOWN["qwen/qwen2.5-7b"]
    assert forward_operations(untied, 0) == 2 * (untied.parameters - untied.vocab * untied.hidden)


@pytest.mark.parametrize(
    ("one", "count"),
    [
        (view("sft"), 3),
        (view("sft", gradient_checkpointing=True), 4),
        (view("sft", lora={"r": 8}), 2),
        (view("dpo"), 4),
        (view("dpo", precompute_ref_log_probs=True), 3),
        (view("grpo"), 3),
        (view("grpo", beta=0.1), 4),
        (view("grpo", beta=0.1, num_iterations=2), 3 + 2 / 2),
        (view("grpo", batch=BatchPlan(1, 4, 8, 16, 8)), 4),
    ],
)
def test_passes(one, count):
    assert passes(one) == count


def test_steps_rows_and_sides_add_up():
    sft = took(view("sft", max_length=100))
    start = 2 * took(view("sft", max_length=100, steps=50)) - sft
    assert sft - start == pytest.approx(100 * 32 * 100 * 3 * forward_operations(SHAPE, 100) / 1e12)
    dpo = took(view("dpo", max_length=100))
    assert (dpo - start) / (sft - start) == pytest.approx(2 * 4 / 3)
    assert took(view("sft", steps=None)) is None


def test_decoding_takes_longer_than_learning_on_a_cpu_and_waits_for_memory_on_a_gpu():
    alone = took(view("grpo", max_completion_length=100)) - took(view("sft", max_length=100))
    assert alone > 0
    slow, quick = (Device("test", 1e15, bandwidth) for bandwidth in (1e12, 2e12))
    one = view("grpo", max_completion_length=100)
    saved = took(one, "gpu", slow) - took(one, "gpu", quick)
    # 100 steps of 100 tokens, each of which reads all 32-bit weights once.
    assert saved == pytest.approx(100 * 100 * 4 * SHAPE.parameters * (1 / 1e12 - 1 / 2e12))


def test_a_cpu_profile_shares_the_cores():
    one, two = (device(load_profile("cpu2", processes=count)) for count in (1, 2))
    assert one.operations >= two.operations
    assert one.bandwidth is two.bandwidth is None
