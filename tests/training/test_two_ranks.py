"""Two real ranks give what one process gives, groups that lie on both included."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

CHILD = Path(__file__).parent / "child"
pytestmark = pytest.mark.distributed


def test_rewards_of_groups_split_over_ranks(tmp_path, monkeypatch):
    script = CHILD / "adapter_ranks.py"
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    subprocess.run([*torchrun, str(script), str(tmp_path)], check=True, capture_output=True, timeout=300)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    monkeypatch.syspath_prepend(CHILD)
    module = runpy.run_path(str(script))
    alone = module["rewards"](0, 1)
    assert first["memory"] == second["memory"] == alone["memory"]
    assert alone["memory"]["hapo"]["history"]
    assert alone["memory"]["shorter_better"]["weight"] != 1.0
    for name in (entry["name"] for entry in module["ENTRIES"]):
        one, two = first[name], second[name]
        assert [*one[:6], *two[:6], *one[6:], *two[6:]] == alone[name]
        assert len(set(alone[name])) > 2 or name == "accuracy"
    # 24 rollouts, of which 4 cannot be checked.
    assert first["asked"] + second["asked"] == alone["asked"] == 20
    raw = [name for name in alone if name.startswith("raw/")]
    assert {"raw/accuracy", "raw/tokens"} <= set(raw)
    for name in raw:
        assert first[name] == second[name] == alone[name]


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_training_on_two_ranks_is_training_on_one(inputs, same, stage):
    run = inputs(stage)
    process = run.accelerate("cpu2", stage, stage, ACCELERATE_USE_CPU="true")
    assert process.returncode == 0, process.stderr[-6000:]
    manifest = json.loads((run.folder(stage) / "manifest.json").read_text())
    assert (manifest["world_size"], manifest["steps"]) == (2, 7)
    same(run, stage)
