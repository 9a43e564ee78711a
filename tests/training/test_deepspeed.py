"""DeepSpeed ZeRO-2 and ZeRO-3 on two ranks: a rank dies, the stage resumes, the result is the one-process result.

The shipped profiles are used; on the command line stands only what a machine without GPUs needs.
"""

import json

import pytest
import torch

pytestmark = pytest.mark.distributed
ON_CPU = ("--num_processes", "2", "--mixed_precision", "no")


def launch(run, zero, stage, **environ):
    return run.accelerate(f"zero{zero}", stage, stage, *ON_CPU, DS_ACCELERATOR="cpu", **environ)


@pytest.mark.parametrize(("zero", "stage"), [(2, "sft"), (3, "grpo")])
def test_resumes_and_equals_one_process(inputs, same, zero, stage):
    run = inputs(stage)
    killed = launch(run, zero, stage, DIE_AT="on_step_end:5")
    assert killed.returncode != 0
    shards = run.folder(stage, ".partial") / "checkpoints" / "checkpoint-3" / "global_step3"
    for rank in (0, 1):
        assert list(shards.glob(f"*zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")), "not sharded by DeepSpeed"
        # Only ZeRO-3 cuts the weights too.
        assert (shards / f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt").exists() == (zero == 3)
    resumed = launch(run, zero, stage)
    assert resumed.returncode == 0, resumed.stderr[-6000:]
    assert "resuming from checkpoint-3" in resumed.stdout
    same(run, stage)


def test_dpo(inputs):
    run = inputs("dpo")
    process = launch(run, 2, "dpo")
    assert process.returncode == 0, process.stderr[-6000:]
    manifest = json.loads((run.folder("dpo") / "manifest.json").read_text())
    assert (manifest["world_size"], manifest["steps"]) == (2, 7)
    losses = run.curve("dpo", "loss")
    assert losses[0].item() == pytest.approx(0.6931, abs=1e-3)  # ln 2: the policy is the reference
    assert losses[-1] < losses[0]
    before, after = run.weights("sft"), run.weights("dpo")
    assert all(torch.isfinite(weight).all() for weight in after.values())
    assert any(not torch.equal(after[name], before[name]) for name in before)
