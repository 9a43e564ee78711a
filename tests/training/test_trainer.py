"""LaconicGRPOTrainer trains with TRL's gradients, whatever it leaves out."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, TrainerCallback
from trl import GRPOTrainer
from trl.extras.profiling import ProfilingContext

from laconic.recipes.stages import GrpoStage
from laconic.training import grpo, lean_forward
from laconic.training.dynamic_sampling import DynamicSampling
from laconic.training.trainer import LaconicGRPOTrainer, _steps_within_backward
from laconic.training.trl_trainer import TimedGRPOTrainer

ROOT = Path(__file__).parents[2]
CHILD = Path(__file__).parent / "child"
SMALL = {"tokens_per_micro_batch": 96}
LONG = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 8, "long_factor": [4.0] * 8} | {
    "original_max_position_embeddings": 16
}
LOSSES = ("grpo", "bnpo", "dr_grpo", "dapo", "luspo", "cispo", "sapo", "vespo")


@pytest.fixture
def both(fixed, fixed_model, tmp_path):
    """Train with both trainers; returns ours, TRL's, and how far the gradients are apart."""

    def train(given=SMALL, theirs_given=None, **case):
        torch.manual_seed(0)  # an adapter begins with random numbers
        ours, gradients = fixed.trained(LaconicGRPOTrainer, fixed_model, tmp_path, given=given, **case)
        torch.manual_seed(0)
        theirs, expected = fixed.trained(GRPOTrainer, fixed_model, tmp_path, given=theirs_given, **case)
        assert all(gradient.norm() > 0.01 for gradient in expected)
        return ours, theirs, fixed.difference(gradients, expected)

    return train


def test_every_loss_of_trl_is_known(fixed):
    from trl import GRPOConfig

    said = GRPOConfig.__dataclass_fields__["loss_type"].metadata["help"]
    assert all(f"'{loss}'" in said for loss in LOSSES)
    from laconic.training import loss_shares

    assert set(LOSSES) == loss_shares.LOSSES


@pytest.mark.parametrize("masked", [True, False], ids=["masked, twice", "KL, once"])
@pytest.mark.parametrize("loss", LOSSES)
def test_gradient(both, loss, masked):
    case = {"env_mask": True, "num_iterations": 2} if masked else {"beta": 0.1}
    ours, theirs, apart = both(loss_type=loss, **case)
    assert apart < 1e-5
    mine, reference = (trainer.state.log_history[1] for trainer in (ours, theirs))
    silent = sum(advantage == 0 for advantage in theirs._logs["advantages"])
    assert silent >= 4
    # With a divergence every rollout counts.
    assert mine["rollouts/skipped"] == (silent if masked else 0)
    assert mine["micro_batches/count"] > 2
    assert mine["loss"] == pytest.approx(reference["loss"], rel=1e-4, abs=1e-6)
    assert mine.get("num_tokens") == reference.get("num_tokens")
    if not masked:
        assert mine["kl"] == pytest.approx(reference["kl"], rel=0.1)


@pytest.mark.parametrize("loss", LOSSES)
def test_gradient_with_long_prompts(both, loss, monkeypatch):
    """Rollouts of a group share the reading of their prompt."""
    passes, reading = [], lean_forward._with_shared
    monkeypatch.setattr(lean_forward, "_with_shared", lambda *given: (passes.append(len(given[1])), reading(*given))[1])
    case = {"loss_type": loss, "words": (12, 24), "num_iterations": 2, "learning_rate": 0.1}
    _, _, apart = both({"tokens_per_micro_batch": 256}, **case)
    assert apart < 1e-5
    assert len(passes) >= 4


@pytest.mark.parametrize(
    "case",
    [
        {"loss_type": "dapo"},
        {"loss_type": "dapo", "env_mask": True, "num_iterations": 2, "beta": 0.1},
        {"loss_type": "luspo", "importance_sampling_level": "sequence", "num_iterations": 2, "epsilon": 1.0},
        {"loss_type": "grpo", "delta": 1.5, "num_iterations": 2, "use_bias_correction_kl": True, "beta": 0.1},
        {"loss_type": "dapo", "entropy_coef": 0.05, "env_mask": True},
        # The reference follows after the first step.
        {"loss_type": "dapo", "entropy_coef": 0.05, "beta": 0.1, "sync_ref_model": True, "ref_model_sync_steps": 1},
        {"loss_type": "grpo", "use_adaptive_entropy": True, "entropy_coef": 0.01, "entropy_target": 5.0},
        # Three generations within one optimiser step, and one generation for two.
        {"loss_type": "dapo", "steps_per_generation": 1, "num_iterations": 2, "gradient_accumulation_steps": 3},
        {"loss_type": "dapo", "steps_per_generation": 4},
        {"loss_type": "dapo", "mask_truncated_completions": True, "env_mask": True},
        {"loss_type": "dapo", "off_policy_mask_threshold": 1e-4, "num_iterations": 2},
        {"loss_type": "dr_grpo", "scale_rewards": "none", "pad_to_multiple_of": 8},
        {"loss_type": "dr_grpo", "scale_rewards": "batch", "gradient_checkpointing": True},
    ],
    ids=lambda case: "-".join(map(str, case)),
)
def test_gradient_with(both, case):
    ours, _, apart = both(**case)
    assert ours.reason_for_trl is None
    assert apart < 1e-5


def test_prompts_that_are_not_shared_are_not_planned_so(fixed, fixed_model, tmp_path):
    case = {"loss_type": "dapo", "words": (20, 28), "given": {"tokens_per_micro_batch": 256}}

    def micro_batches(**settings):
        trainer, _ = fixed.trained(LaconicGRPOTrainer, fixed_model, tmp_path, **case | settings)
        return trainer.state.log_history[0]["micro_batches/count"]

    apart = micro_batches(given=case["given"] | {"share_prompts": False})
    assert micro_batches() < apart
    assert micro_batches(gradient_checkpointing=True) == apart


def test_gradient_of_an_adapter(both):
    """LoRA: the reference is the model with its adapter switched off."""
    given = {"peft_config": LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")}
    ours, theirs, apart = both(SMALL | given, theirs_given=given, beta=0.1)
    assert apart < 1e-5
    assert ours.ref_model is theirs.ref_model is None
    assert all("lora_" in name for name, weight in ours.model.named_parameters() if weight.requires_grad)
    # Moved away from the reference by the first step.
    assert theirs.state.log_history[1]["kl"] > 1e-3
    assert ours.state.log_history[1]["kl"] == pytest.approx(theirs.state.log_history[1]["kl"], rel=0.1)
    assert any(advantage == 0 for advantage in theirs._logs["advantages"])


def test_metrics_of_one_micro_batch_are_trls(both):
    # Nothing is cut, so the means need no other weights; `kl` keeps every rollout.
    given = {"tokens_per_micro_batch": 10**6}
    ours, theirs, _ = both(given=given, gradient_accumulation_steps=1, num_iterations=2, beta=0.1, epsilon=0.01)
    for mine, reference in zip(ours.state.log_history, theirs.state.log_history, strict=True):
        assert mine.pop("rollouts/skipped", 0) == 0
        assert mine.pop("micro_batches/count", 1) == 1
        assert 0 < mine.pop("micro_batches/padding", 0.5) < 1
        spent = {name: mine.pop(name) for name in list(mine) if name.startswith("seconds/")}
        if "step_time" in mine:
            assert {name.partition("/")[2] for name in spent} >= {"train", "wait", "optimiser"}
            assert 0 < sum(spent.values()) - spent["seconds/optimiser"] <= mine["step_time"]
        assert set(mine) == set(reference)
        for name in set(mine) - {"step_time", "train_runtime", "train_samples_per_second", "train_steps_per_second"}:
            assert mine[name] == pytest.approx(reference[name], rel=1e-4, abs=1e-6), name
    assert ours.state.log_history[1]["clip_ratio/region_mean"] > 0


def test_trackers_hear_of_a_step_once_and_not_of_its_parts(fixed, fixed_model, tmp_path, monkeypatch):
    class Tracked(TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            args.report_to = ["a tracker"]

    heard = []
    monkeypatch.setattr(ProfilingContext, "_log_metrics", lambda self, _: heard.extend(self.report_to))
    for kind, messages in ((LaconicGRPOTrainer, False), (GRPOTrainer, True)):
        heard.clear()
        trainer, _ = fixed.trained(kind, fixed_model, tmp_path, callbacks=[Tracked()])
        assert bool(heard) is messages
        assert trainer.args.report_to == ["a tracker"]


def test_trls_own_trainer_says_where_its_seconds_go(fixed, fixed_model, tmp_path):
    timed, gradients = fixed.trained(TimedGRPOTrainer, fixed_model, tmp_path, num_iterations=2, beta=0.1)
    plain, expected = fixed.trained(GRPOTrainer, fixed_model, tmp_path, num_iterations=2, beta=0.1)
    assert all(map(torch.equal, gradients, expected))
    names = ("decode", "reward", "logprobs", "train", "optimiser")
    for row, reference in zip(timed.state.log_history[:-1], plain.state.log_history[:-1], strict=True):
        spent = {name: row.pop(f"seconds/{name}") for name in names}
        assert 0 < sum(spent.values()) - spent["optimiser"] <= row["step_time"]
        assert row.pop("rollouts/skipped") == 0
        assert row.pop("micro_batches/count") == timed.args.gradient_accumulation_steps
        assert 0 < row.pop("micro_batches/padding") < 1
        assert row.keys() == reference.keys()
        assert row["loss"] == reference["loss"]


def test_a_threshold_over_all_tokens_is_left_to_trl(both):
    ours, _, apart = both(top_entropy_quantile=0.5)
    assert apart == 0
    assert "top_entropy_quantile" in ours.reason_for_trl
    assert "rollouts/skipped" not in ours.state.log_history[0]


@pytest.mark.parametrize(
    ("architecture", "special"),
    [("gpt2", {"n_embd": 32, "n_layer": 1, "n_head": 2}), ("phi3", {"rope_parameters": LONG, "pad_token_id": 0})],
)
def test_models_that_mind_padding_are_left_to_trl(fixed, tmp_path, architecture, special):
    """Their function of a rollout changes with the padding before it, or with the longest one beside it."""
    folder = fixed.make_model(tmp_path / "model")
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    sizes |= {"intermediate_size": 64, "max_position_embeddings": 128}
    given = ({} if architecture == "gpt2" else sizes) | special
    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    config = AutoConfig.for_model(architecture, vocab_size=vocabulary, bos_token_id=None, eos_token_id=1, **given)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    case = {"loss_type": "dapo", "num_iterations": 2, "learning_rate": 0.01}
    ours, gradients = fixed.trained(LaconicGRPOTrainer, folder, tmp_path, given=SMALL, **case)
    _, expected = fixed.trained(GRPOTrainer, folder, tmp_path, **case)
    assert "padding is not nothing" in ours.reason_for_trl
    assert fixed.difference(gradients, expected) == 0


def test_optimisers_that_step_within_the_backward_pass_are_left_to_trl():
    for optim, refused in (("lomo", True), ("galore_adamw_layerwise", True), ("adamw_torch", False)):
        trainer = SimpleNamespace(args=SimpleNamespace(optim=optim))
        assert _steps_within_backward(trainer) is refused


def test_a_step_without_any_signal_moves_the_optimiser(fixed, fixed_model, tmp_path, monkeypatch):
    """Adam goes on with its momentum, and weights decay."""
    monkeypatch.setattr(fixed, "reward", _signal_once())
    settings = {"optim": "adamw_torch", "weight_decay": 0.1, "learning_rate": 1e-3}
    start = load_file(fixed_model / "model.safetensors")
    ours, gradients = fixed.trained(LaconicGRPOTrainer, fixed_model, tmp_path, given=SMALL, **settings)
    monkeypatch.setattr(fixed, "reward", _signal_once())
    theirs, _ = fixed.trained(GRPOTrainer, fixed_model, tmp_path, **settings)
    assert gradients[0].norm() > 0
    assert gradients[1].norm() == 0
    assert [row["rollouts/skipped"] for row in ours.state.log_history[:2]] == [0, 16]
    # What nobody measured is not logged as zero, which would read as a policy that repeats itself.
    assert "entropy" in ours.state.log_history[0]
    assert "entropy" not in ours.state.log_history[1]
    moved = apart = 0.0
    for (name, mine), other in zip(ours.model.named_parameters(), theirs.model.parameters(), strict=True):
        moved += (other - start[name]).square().sum().item()
        apart += (other - mine).square().sum().item()
    assert apart < 1e-4 * moved


def _signal_once():
    calls = []

    def reward(completion_ids, **_):
        calls.append(1)
        return [float(at % 2) * (len(calls) == 1) for at in range(len(completion_ids))]

    return reward


def test_recipes_use_it_unless_they_say_otherwise():
    stage = {"kind": "grpo", "rewards": [{"name": "accuracy"}]}
    usual, small, off = (GrpoStage(**stage, **keys) for keys in ({}, {"tokens_per_micro_batch": 99}, {"fast": False}))
    assert grpo._trainer(usual).func is grpo._trainer(small).func is LaconicGRPOTrainer
    assert grpo._trainer(small).keywords == {"tokens_per_micro_batch": 99}
    assert grpo._trainer(off) is TimedGRPOTrainer
    # What a stage does not say is not in its hash.
    assert not {"fast", "tokens_per_micro_batch"} & set(usual.model_dump())
    assert off.model_dump()["fast"] is False
    with pytest.raises(ValidationError, match="TRL's own trainer counts rollouts"):
        GrpoStage(**stage, fast=False, tokens_per_micro_batch=99)


def launched(command, model, folder, *cases, **environ):
    quiet = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": str(CHILD)}
    script = [str(CHILD / "fixed_rollouts.py"), str(model), str(folder), *cases]
    process = subprocess.run(
        [sys.executable, "-m", *command, *script],
        env=os.environ | quiet | environ,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr[-6000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.distributed
def test_gradient_on_two_ranks(fixed, fixed_model, tmp_path):
    torchrun = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    cases = ("shared", "kl", "one", "ratio", "split", "refilled", "thinkless", "bonus", "adaptive")
    ranks = launched(torchrun, fixed_model, tmp_path, *LOSSES, *cases, ACCELERATE_USE_CPU="true")
    for found in ranks:
        assert all(case["difference"] < 1e-5 for case in found.values())
    first, second = ({name: case["logs"][0] for name, case in found.items()} for found in ranks)
    for name, mine in first.items():
        assert mine["rollouts/skipped"] == second[name]["rollouts/skipped"]
        assert mine["micro_batches/count"] == second[name]["micro_batches/count"]
    assert first["grpo"]["rollouts/skipped"] > 0
    # All the signal lies on one rank, and here ranks keep their rollouts: the other makes as many empty passes.
    assert first["one"]["rollouts/skipped"] == 12
    assert first["one"]["micro_batches/count"] >= 1
    # A refill of one group lies on both ranks, and the batch is that of one process.
    assert first["refilled"]["refill/groups_used"] == 1
    given = SMALL | {"dynamic_sampling": DynamicSampling(rounds=2)}
    alone, _ = fixed.trained(LaconicGRPOTrainer, fixed_model, tmp_path, given=given, **fixed.CASES["refilled"])
    assert [found["refilled"]["prompts"] for found in ranks] == [list(alone._logs["prompt"])] * 2
    for name in ("rounds", "groups_drawn", "groups_used", "tokens", "without_signal"):
        assert first["refilled"][f"refill/{name}"] == alone.state.log_history[0][f"refill/{name}"]
    for found in ranks:
        for mine, reference in zip(found["grpo"]["logs"][:2], found["grpo"]["theirs"][:2], strict=True):
            for name in ("numbers", "lengths of the first process"):
                assert mine[name] == pytest.approx(reference[name])
                assert type(mine[name]) is float
    for name in ("bonus", "adaptive"):
        for mine, reference in zip(ranks[0][name]["logs"][:2], ranks[0][name]["theirs"][:2], strict=True):
            assert mine["policy_loss"] == pytest.approx(reference["policy_loss"], rel=1e-4, abs=1e-6)
            assert mine["entropy_coef"] == reference["entropy_coef"]
    assert len({row["entropy_coef"] for row in ranks[0]["adaptive"]["logs"][:2]}) == 2
    mine, reference = ranks[0]["adaptive"]["world_entropy"]
    assert mine == pytest.approx(reference, rel=1e-4)
    for name in ("kl", "luspo", "vespo"):
        alone, _ = fixed.trained(LaconicGRPOTrainer, fixed_model, tmp_path, given=SMALL, **fixed.CASES[name])
        for mine, reference in zip(ranks[0][name]["logs"][:2], alone.state.log_history, strict=False):
            of_policy = {key for key in reference if key.startswith(("entropy", "kl", "clip_ratio", "vespo"))}
            assert len(of_policy) >= 2
            assert {key: mine[key] for key in of_policy} == pytest.approx(
                {key: reference[key] for key in of_policy}, rel=1e-3, abs=1e-6
            )
    assert ranks[0]["kl"]["logs"][1]["clip_ratio/region_mean"] > 0


@pytest.mark.distributed
@pytest.mark.parametrize("profile", ["zero2", "zero3", "fsdp2"])
def test_gradient_of_shards(fixed_model, tmp_path, profile):
    file = str(ROOT / "launch" / "profiles" / f"{profile}.yaml")
    command = ["accelerate.commands.launch", "--config_file", file, "--num_processes", "2", "--mixed_precision", "no"]
    on_cpu = {"FSDP_ON_CPU": "1", "ACCELERATE_USE_CPU": "true"} if profile == "fsdp2" else {"DS_ACCELERATOR": "cpu"}
    ranks = launched(command, fixed_model, tmp_path, *LOSSES, **on_cpu)
    for found in ranks:
        assert all(case["difference"] < 1e-5 for case in found.values())
