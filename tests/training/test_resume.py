"""One process is killed while it trains; run again, it ends where an uninterrupted one does."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.distributed


def kill(run, kind, stage, at):
    killed = run.python(f"laconic.training.{kind}", stage, DIE_AT=at)
    assert killed.returncode == -9, killed.stderr[-6000:]
    return run.folder(stage, ".partial")


def finish(run, kind, stage):
    process = run.python(f"laconic.training.{kind}", stage)
    assert process.returncode == 0, process.stderr[-6000:]
    assert json.loads((run.folder(stage) / "manifest.json").read_text())["resumed"]
    return process.stdout


def test_an_unfinished_checkpoint_is_passed_over(inputs, same):
    run = inputs("sft")
    checkpoints = kill(run, "sft", "sft", at="on_log:7") / "checkpoints"
    (checkpoints / "checkpoint-6" / "trainer_state.json").unlink()
    # One that is further still, but was cut before all ranks had written.
    shutil.copytree(checkpoints / "checkpoint-3", checkpoints / "checkpoint-7")
    (checkpoints / "checkpoint-7" / "laconic.json").unlink()
    assert "resuming from checkpoint-3" in finish(run, "sft", "sft")
    assert not (run.folder("sft") / "checkpoints").exists()
    same(run, "sft")


def test_grpo_draws_the_same_rollouts_again(inputs, same):
    run = inputs("grpo")
    kill(run, "grpo", "grpo", at="on_step_end:5")
    assert "resuming from checkpoint-3" in finish(run, "grpo", "grpo")
    same(run, "grpo")


def test_killed_after_the_last_step(inputs, same):
    run = inputs("sft")
    kill(run, "sft", "sft", at="on_train_end:7")
    assert "resuming from checkpoint-7" in finish(run, "sft", "sft")
    same(run, "sft")


def test_lora_is_merged(inputs):
    run = inputs("lora")
    process = run.python("laconic.training.sft", "lora")
    assert process.returncode == 0, process.stderr[-6000:]
    base, merged = run.weights("init"), run.weights("lora")
    adapter = load_file(run.folder("lora") / "adapter" / "adapter_model.safetensors")
    changed = {
        name.removeprefix("base_model.model.").removesuffix(".lora_A.weight") for name in adapter if "lora_A" in name
    }
    assert len(changed) == 14  # seven linear layers in each of two blocks
    for name, weight in merged.items():
        layer = name.removesuffix(".weight")
        expected = base[name]
        if layer in changed:
            a, b = (adapter[f"base_model.model.{layer}.lora_{part}.weight"] for part in "AB")
            assert b.abs().max() > 0
            expected = expected + 8 / 4 * b @ a
        torch.testing.assert_close(weight, expected, rtol=0, atol=1e-6)
