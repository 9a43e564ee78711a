"""FSDP2 on two ranks: a rank dies, the stage resumes, the result is the one-process result."""

import json

import pytest
import torch

ON_CPU = {"FSDP_ON_CPU": "1", "ACCELERATE_USE_CPU": "true"}
pytestmark = pytest.mark.distributed


def launch(run, stage, **environ):
    return run.accelerate("fsdp2", stage, stage, "--num_processes", "2", "--mixed_precision", "no", **ON_CPU, **environ)


def test_resumes_and_equals_one_process(inputs, same):
    run = inputs("sft")
    killed = launch(run, "sft", DIE_AT="on_step_end:5")
    assert killed.returncode != 0
    checkpoint = run.folder("sft", ".partial") / "checkpoints" / "checkpoint-3"
    assert list(checkpoint.glob("optimizer*")), "the optimiser was not kept"
    resumed = launch(run, "sft")
    assert resumed.returncode == 0, resumed.stderr[-6000:]
    assert "resuming from checkpoint-3" in resumed.stdout
    same(run, "sft")


def test_grpo_with_trls_generation(inputs):
    """Laconic's own engine needs whole weights."""
    run = inputs("grpo")
    done = launch(run, "grpo")
    assert done.returncode == 0, done.stderr[-6000:]
    manifest = json.loads((run.folder("grpo") / "manifest.json").read_text())
    assert (manifest["world_size"], manifest["steps"]) == (2, 7)
    before, after = run.weights("sft"), run.weights("grpo")
    assert all(torch.isfinite(weight).all() for weight in after.values())
    assert any(not torch.equal(after[name], before[name]) for name in before)
