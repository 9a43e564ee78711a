"""The whole chain as a user runs it: killed in each of its five kinds of stages, run again, complete, nothing twice."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from laconic.rewards.jsonl import read_jsonl
from laconic.rewards.records import read_rollouts

RECIPE = """
name: chain
seed: 3
problems: {source: reasoning_gym, families: [chain_sum], options: {chain_sum: {max_terms: 3}}, train: 96, test: 24}
model: {scratch: {hidden_size: 32, layers: 2, heads: 2, max_length: 192}}
defaults:
  sampling: {max_tokens: 96}
  trainer: {per_device_train_batch_size: 16, save_steps: 2, logging_steps: 1, learning_rate: 1.0e-3}
stages:
  - {kind: generate, name: teach, teacher: {styles: {overthink: 0.7, direct: 0.3}}, samples: 2}
  - {kind: sft, data: teach, batch_size: 16, trainer: {max_steps: 40}}
  - {kind: generate, name: sampled, model: sft, samples: 40, keep: all}
  - {kind: generate, name: pairs, teacher: {styles: {overthink: 0.5, direct: 0.5}}, samples: 4,
     keep: shortest_vs_longest}
  - {kind: dpo, model: sft, data: pairs, batch_size: 16, trainer: {max_steps: 40}}
  - {kind: grpo, model: dpo, batch_size: 16, rewards: [{name: accuracy}, {name: kimi_length, weight: 0.1}],
     trainer: {num_generations: 4, max_completion_length: 96, max_steps: 20}}
  - {kind: eval, models: [sft, dpo, grpo], samples: 60}
"""
STEPS = {"sft": 40, "dpo": 40, "grpo": 20}


def start(folder: Path) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "LACONIC_TRACKER": "none"}
    return subprocess.Popen(
        [sys.executable, "-m", "laconic.launch.cli", "run", "chain.yaml", "--profile", "cpu"],
        cwd=folder,
        env=environment,
        stdout=(folder / "out.txt").open("w"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def begun(run: Path, stage: str) -> bool:
    """The stage is in the middle of its work: something is on disk that a resume can use."""
    if stage in STEPS:
        return any(run.glob(f"*-{stage}-*.partial/checkpoints/checkpoint-*/laconic.json"))
    return any(path.stat().st_size for path in run.glob(f"*-{stage}-*.partial/**/*rollouts*/*.jsonl")) or any(
        path.stat().st_size for path in run.glob(f"*-{stage}-*.partial/rollouts.jsonl")
    )


def kill_inside(folder: Path, stage: str) -> None:
    process, run = start(folder), folder / "runs" / "chain"
    deadline = time.monotonic() + 240
    while not begun(run, stage):
        assert process.poll() is None, f"ended before {stage}: {(folder / 'out.txt').read_text()}"
        assert time.monotonic() < deadline, f"{stage} never began: {(folder / 'out.txt').read_text()}"
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    # A stage's processes have a group of their own; they end with the launcher all the same.
    assert any(run.glob(f"*-{stage}-*.partial")), f"{stage} ended before it could be killed"


def manifests(run: Path) -> dict[str, str]:
    return {path.parent.name: path.read_text() for path in run.glob("*/manifest.json")}


@pytest.mark.distributed
def test_killed_in_every_stage_and_run_again(tmp_path):
    (tmp_path / "chain.yaml").write_text(RECIPE)
    run = tmp_path / "runs" / "chain"
    finished = {}
    for stage in ("sft", "sampled", "dpo", "grpo", "eval"):
        kill_inside(tmp_path, stage)
        assert finished.items() <= manifests(run).items(), "finished work was done again"
        finished = manifests(run)
    process = start(tmp_path)
    assert process.wait(timeout=300) == 0, (tmp_path / "out.txt").read_text()
    assert finished.items() <= manifests(run).items(), "finished work was done again"
    assert not list(run.glob("*.partial"))
    assert len(manifests(run)) == 8

    for stage, steps in STEPS.items():
        folder = next(run.glob(f"[0-9]*-{stage}-*"))
        logged = [row["step"] for row in read_jsonl(folder / "metrics.jsonl") if "loss" in row]
        assert logged == list(range(1, steps + 1))
        assert json.loads((folder / "manifest.json").read_text())["resumed"]
    for path in [*run.glob("*/rollouts.jsonl"), *run.glob("*/rollouts/*.jsonl")]:
        keys = [(rollout.problem_id, rollout.sample) for rollout in read_rollouts(path)]
        assert len(keys) == len(set(keys))
        assert "sampled" not in str(path) or len(keys) == 96 * 40
        assert path.parent.name != "rollouts" or len(keys) == 24 * 60
    results = json.loads((run / "report" / "results.json").read_text())
    assert [row["model"] for row in results["rows"]] == ["sft", "dpo", "grpo"]

    before = manifests(run)
    process = start(tmp_path)
    assert process.wait(timeout=120) == 0
    assert manifests(run) == before
    assert (tmp_path / "out.txt").read_text().count("reused") >= 8
