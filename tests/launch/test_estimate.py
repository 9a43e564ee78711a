"""Memory, disk, steps and tokens, against closed forms."""

from __future__ import annotations

import pytest

from laconic.launch.counts import Count, Training, rows, sampled_tokens, steps, trained_tokens, training
from laconic.launch.estimate import checkpoint_bytes, model_shape, precision, row_tokens, training_memory
from laconic.launch.profiles import load_profile
from laconic.launch.shapes import KNOWN
from laconic.recipes.arithmetic import BatchPlan
from laconic.recipes.model_spec import ModelSpec, ScratchModel
from laconic.recipes.resolve import resolve
from laconic.recipes.source import load_recipe
from laconic.recipes.stages import DpoStage, GrpoStage, SftStage

SHAPE = KNOWN["qwen/qwen2.5-0.5b"]
N = SHAPE.parameters
HUB = ModelSpec(path="Qwen/Qwen2.5-0.5B")
SCRATCH = ModelSpec(scratch=ScratchModel(max_length=128))
REWARDS = [{"name": "efficient_reasoning", "alpha": 0.2}]


def sft(**keys) -> SftStage:
    return SftStage.model_validate({"kind": "sft", **keys})


def grpo(**trainer) -> GrpoStage:
    return GrpoStage.model_validate({"kind": "grpo", "rewards": REWARDS, "trainer": trainer})


def memory(stage, model=HUB, profile="cpu", processes=None, per_device=1):
    batch = BatchPlan(processes or 1, per_device, 1, steps_per_generation=4, num_generations=8)
    return training_memory(stage, model, SHAPE, load_profile(profile, processes=processes), batch=batch)


def test_full_precision_adam_is_sixteen_bytes_per_parameter():
    need = memory(sft(), model=ModelSpec(path="Qwen/Qwen2.5-0.5B", dtype="float32"))
    assert need.weights + need.gradients + need.optimiser == 16 * N


@pytest.mark.parametrize(
    ("profile", "weights", "gradients", "optimiser", "host"),
    [
        ("zero2", 2, 2 / 8, 12 / 8, 0),
        ("zero3", 2 / 8, 2 / 8, 12 / 8, 0),
        ("zero3_offload", 2 / 8, 2 / 8, 0, 12 / 8),
        # Weights as TRL loads them, in 32 bits; gradients lie in the buckets they are sent from, too.
        ("ddp", 4, 2 * 4, 8, 0),
        ("fsdp2", 4 / 8, 4 / 8, 8 / 8, 0),
    ],
)
def test_zero_shards_what_its_paper_says(profile, weights, gradients, optimiser, host):
    need = memory(sft(), profile=profile, processes=8)
    found = (need.weights, need.gradients, need.optimiser, need.host_optimiser)
    assert found == pytest.approx(tuple(bytes_ * N for bytes_ in (weights, gradients, optimiser, host)))


def test_reference_models():
    dpo = DpoStage.model_validate({"kind": "dpo"})
    ahead = DpoStage.model_validate({"kind": "dpo", "trainer": {"precompute_ref_log_probs": True}})
    assert memory(dpo).reference == 4 * N
    assert memory(ahead).reference == 0
    assert memory(grpo()).reference == 0
    assert memory(grpo(beta=0.04)).reference == 4 * N
    assert memory(grpo(beta=0.04), profile="zero3", processes=8).reference == 2 * N / 8


def test_lora_trains_its_adapters_only():
    need = memory(sft(lora={"r": 16}))
    adapters = SHAPE.lora_parameters(16)
    assert (need.weights, need.gradients, need.optimiser) == (4 * N, 4 * adapters, 8 * adapters)


def test_precision_is_the_machines_unless_the_recipe_says_otherwise():
    half = ModelSpec(path="Qwen/Qwen2.5-0.5B", dtype="bfloat16")
    cpu, ddp, zero = (load_profile(name, processes=1) for name in ("cpu", "ddp", "zero2"))
    assert [precision(sft(), HUB, profile) for profile in (cpu, ddp, zero)] == ["float32", "mixed", "half"]
    assert [precision(sft(), half, profile) for profile in (cpu, ddp, zero)] == ["half", "half", "half"]
    plain = sft(trainer={"bf16": False})
    assert [precision(plain, HUB, profile) for profile in (cpu, ddp, zero)] == ["float32", "float32", "float32"]


def test_all_that_lies_on_a_device_is_added_up():
    need = memory(sft(trainer={"max_length": 100}))
    parts = (need.weights, need.gradients, need.optimiser, need.activations, need.runtime)
    assert need.device == sum(parts)
    assert all(parts)
    assert memory(sft(), profile="ddp", processes=8).runtime == 0


def test_gradient_checkpointing_keeps_less():
    def activations(profile, *, checkpointing):
        stage = sft(trainer={"max_length": 100, "gradient_checkpointing": checkpointing})
        return memory(stage, profile=profile, processes=1, per_device=64).activations

    assert activations("ddp", checkpointing=True) < activations("ddp", checkpointing=False) / 3
    # Here the heap takes a larger share of what is left.
    assert activations("cpu", checkpointing=True) < activations("cpu", checkpointing=False) / 2


def test_adapters_leave_more_holes_in_the_heap():
    usual, adapters = memory(sft(trainer={"max_length": 100})), memory(sft(lora={"r": 16}, trainer={"max_length": 100}))
    # Without the gradient of the output matrix.
    assert adapters.activations / 1.8 == pytest.approx(usual.activations / 1.4 - 4 * SHAPE.hidden * SHAPE.vocab)


def test_rollouts_and_the_backward_pass_take_turns():
    few = memory(grpo(max_completion_length=100), per_device=1)
    assert 0 < few.rollouts < few.activations
    assert few.device == few.weights + few.gradients + few.optimiser + few.runtime + few.activations
    # 32 rollouts with 1.5 x 1.25 the room that keys and values of 2 x 24 layers x 2 heads x 64 need.
    many = memory(grpo(max_completion_length=4096, gradient_checkpointing=True), per_device=8)
    assert many.rollouts == pytest.approx(32 * 4096 * 2 * 24 * 2 * 64 * 4 * 1.5 * 1.25 * 1.8)
    assert memory(grpo(use_vllm=True)).rollouts == 0


def fast(budget=None, profile="cpu", per_device=16, **trainer):
    given = {"tokens_per_micro_batch": budget} if budget else {}
    keys = {"kind": "grpo", "rewards": REWARDS, "trainer": {"max_completion_length": 1000} | trainer}
    stage = GrpoStage.model_validate(keys | given)
    slow = GrpoStage.model_validate(keys | {"fast": False})
    return memory(stage, profile=profile, per_device=per_device), lambda rows: memory(
        slow, profile=profile, per_device=rows
    )


def test_activations_of_fast_grpo_are_those_of_its_budget():
    # Whole rows that fill the budget are as much as TRL's trainer needs for so many.
    need, of_rows = fast(budget=3000, per_device=4, gradient_accumulation_steps=4)
    assert need.activations == of_rows(3).activations < of_rows(4).activations
    # A budget below one row holds one row; one above all rollouts of the step, here 4 of each process, holds them all.
    assert fast(budget=10, per_device=4)[0].activations == of_rows(1).activations
    assert fast(budget=10**6, per_device=4)[0].activations == of_rows(4).activations
    # By default 2,048 tokens on a CPU and 8,000 of 16,000 on a GPU: parts of rows count by their share.
    need, of_rows = fast()
    assert of_rows(2).activations < need.activations < 1.04 * of_rows(2).activations
    need, of_rows = fast(profile="ddp")
    assert need.activations == of_rows(8).activations
    # What TRL's own step trains has TRL's micro-batches.
    need, of_rows = fast(top_entropy_quantile=0.5)
    assert need.activations == of_rows(16).activations
    assert need.rollouts == of_rows(16).rollouts


def test_rows_are_cut_at_the_models_own_limit():
    assert row_tokens(sft(trainer={"max_length": 300}), HUB) == 300
    assert row_tokens(sft(trainer={"max_length": 300}), SCRATCH) == 128
    assert row_tokens(grpo(max_completion_length=96), SCRATCH) == 96


def test_disk_holds_one_checkpoint_more_than_is_kept():
    profile = load_profile("cpu")
    # float32: weights and two moments are 12 bytes per parameter, the finished model 4.
    assert checkpoint_bytes(sft(), SCRATCH, SHAPE, profile) == (3 * 12 + 4) * N
    assert checkpoint_bytes(sft(trainer={"save_total_limit": 1}), SCRATCH, SHAPE, profile) == (2 * 12 + 4) * N
    # bf16 under DeepSpeed: 2 bytes of weights, 12 of master weights and moments.
    assert checkpoint_bytes(sft(), HUB, SHAPE, load_profile("zero3", processes=8)) == (3 * 14 + 2) * N


@pytest.mark.parametrize(
    ("trainer", "data", "batch", "expected"),
    [
        # 100 rows in batches of 2 x 4 are 13 micro-batches, 7 steps of 2; 3 epochs by default.
        ({}, Count(100, exact=True), BatchPlan(4, 2, 2), Count(21, exact=True)),
        ({"num_train_epochs": 1}, Count(100), BatchPlan(1, 10, 1), Count(10)),
        ({"max_steps": 5}, Count(None), BatchPlan(1, 10, 1), Count(5, exact=True)),
        ({"num_train_epochs": 2}, Count(None), BatchPlan(1, 10, 1), Count(None)),
    ],
)
def test_steps_of_sft(trainer, data, batch, expected):
    assert steps(sft(trainer=trainer), data, batch) == expected


def test_steps_of_grpo_leave_an_incomplete_generation_out():
    batch = BatchPlan(2, 4, 4, steps_per_generation=4, num_generations=8)  # 32 rollouts, 4 prompts per generation
    assert steps(grpo(num_train_epochs=1), Count(43, exact=True), batch).value == 10
    assert steps(grpo(num_train_epochs=1, num_iterations=2), Count(43, exact=True), batch).value == 20


def test_tokens_are_upper_bounds_and_say_so():
    batch = BatchPlan(1, 8, 4, steps_per_generation=4, num_generations=8)
    view = Training(grpo(max_completion_length=50), Count(400, exact=True), batch, Count(10, exact=True))
    assert trained_tokens(view, SCRATCH) == "at most 16 k sampled: 320 rollouts x max_completion_length 50"
    dpo = DpoStage.model_validate({"kind": "dpo", "trainer": {"max_length": 64}})
    view = Training(dpo, Count(100), BatchPlan(1, 8, 2), Count(7))
    assert trained_tokens(view, SCRATCH) == "at most 14.3 k trained on: at most 112 rows x 2 sides x max_length 64"


RECIPE = """
name: counted
problems: {source: reasoning_gym, families: [countdown], train: 400, test: 100}
model: {scratch: {hidden_size: 32, layers: 2, heads: 2, max_length: 128}}
stages:
  - {kind: generate, name: teach, teacher: {styles: {short: 1.0}}, samples: 2}
  - {kind: sft, batch_size: 40, trainer: {num_train_epochs: 1}}
  - {kind: generate, name: pairs, limit: 50, samples: 4, keep: shortest_vs_longest, sampling: {max_tokens: 64}}
  - kind: grpo
    rewards: [{name: accuracy}]
    batch_size: 32
    trainer: {num_generations: 8, max_completion_length: 64}
  - {kind: eval, limit: 20, samples: 3, sampling: {max_tokens: 10}}
"""


@pytest.fixture
def plan(tmp_path):
    path = tmp_path / "counted.yaml"
    path.write_text(RECIPE)
    return resolve(load_recipe(path), tmp_path / "runs")


def test_counts_of_a_plan(plan):
    assert rows(plan, plan.stage("teach")) == Count(800)
    assert rows(plan, plan.stage("pairs")) == Count(200)
    view = training(plan, plan.stage("sft"), 2)
    assert (view.data, view.batch.rows_per_step, view.steps) == (Count(800), 40, Count(20))
    assert training(plan, plan.stage("grpo"), 1).data == Count(400, exact=True)
    assert sampled_tokens(plan.stage("teach")).startswith("none sampled")
    assert sampled_tokens(plan.stage("pairs")) == "at most 12.8 k sampled: 200 rollouts x max_tokens 64"
    assert sampled_tokens(plan.stage("eval")) == "at most 1,200 sampled: 120 rollouts x max_tokens 10 (2 models)"


def test_rows_of_a_complete_stage_are_counted(plan):
    folder = plan.run_dir / plan.stage("teach").folder
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    (folder / "rows.jsonl").write_text("{}\n{}\n{}\n")
    assert rows(plan, plan.stage("teach")) == Count(3, exact=True)


def test_the_shape_of_a_scratch_model_is_that_of_the_model_built(plan, tmp_path):
    pytest.importorskip("torch")
    from laconic.data_gen.sources import vocabulary
    from laconic.training.scratch import build, symbolic_tokenizer

    shape = model_shape(plan.recipe.model, plan.recipe.problems)
    tokenizer = symbolic_tokenizer(vocabulary(plan.recipe.problems))
    assert shape.vocab == len(tokenizer)
    built = build(plan.recipe.model.scratch, tokenizer, seed=0, folder=tmp_path / "model")
    assert shape.parameters == built
