"""Any length or mode reward runs in the quickstart's GRPO stage by changing one line of the recipe."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from laconic.data_gen import stage as generate
from laconic.recipes.entry import run_stage
from laconic.rewards import REWARDS
from laconic.rewards.jsonl import read_jsonl
from laconic.training import dpo, grpo, init, sft

ROOT = Path(__file__).parents[2]
CHILD = Path(__file__).parent / "child"
NAMES = sorted(name for name, reward in REWARDS.items() if reward.kind in ("length", "mode"))
# The tiny overlay, with problems that a model can learn by heart in a second: some rollouts are right, some are long.
SMALL = (
    "problems.train=16",
    "problems.options={chain_sum: {min_terms: 2, max_terms: 3}}",
    "teach.teacher.styles={overthink: 0.5, direct: 0.5}",
    "sft.trainer.max_steps=50",
    "sft.trainer.num_train_epochs=30",
    "defaults.trainer={logging_steps: 1, save_strategy: 'no'}",
)

# Where the default is a length that these rollouts never reach.
PARAMETERS = {"soft_overlong": ", max_length: 32, cache: 28"}


def command_line(stage, runs, *overrides):
    settings = [part for override in (*SMALL, *overrides) for part in ("--set", override)]
    recipe = str(ROOT / "recipes" / "quickstart.yaml")
    return [recipe, "--overlay", "tiny", "--stage", stage, "--runs", str(runs), *settings]


def one_line(name):
    """The line of the recipe that is changed."""
    judge = ", judge: 'judges:by_thinking'" if REWARDS[name].judged else ""
    return f"grpo.rewards=[{{name: {name}{PARAMETERS.get(name, '')}{judge}}}]"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The quickstart up to the GRPO stage."""
    folder = tmp_path_factory.mktemp("quickstart")
    chain = (("init", init), ("teach", generate), ("sft", sft), ("pairs", generate), ("dpo", dpo))
    for stage, module in chain:
        run_stage("generate" if module is generate else stage, module.main, command_line(stage, folder))
    return folder


@pytest.fixture
def logged(runs):
    """The rows of the newest GRPO stage, and what its manifest says."""

    def read():
        newest = max(runs.glob("*/[0-9]*-grpo-????????"), key=lambda path: path.stat().st_mtime)
        return list(read_jsonl(newest / "metrics.jsonl")), json.loads((newest / "manifest.json").read_text())

    return read


def check(name, rows, manifest):
    steps = [row for row in rows if "reward" in row]
    assert [row["step"] for row in steps] == [1, 2]
    assert manifest["steps"] == 2
    paid = [row[f"rewards/{name}/{part}"] for row in steps for part in ("mean", "std")]
    assert all(math.isfinite(value) for value in paid)
    assert {row["raw/accuracy"] for row in steps} - {0.0, 1.0}
    # It tells rollouts apart, and training hears of it.
    assert any(row[f"rewards/{name}/std"] > 0 and row["grad_norm"] > 0 for row in steps)


@pytest.mark.parametrize("name", NAMES)
def test_two_steps(runs, logged, monkeypatch, name):
    monkeypatch.syspath_prepend(CHILD)
    run_stage("grpo", grpo.main, command_line("grpo", runs, one_line(name)))
    check(name, *logged())


def test_two_steps_in_a_process_of_their_own(runs, logged):
    module = [sys.executable, "-m", "laconic.training.grpo"]
    arguments = command_line("grpo", runs, "grpo.seed=1", one_line("concise_rl"))
    env = os.environ | {"PYTHONPATH": str(CHILD)}
    process = subprocess.run([*module, *arguments], env=env, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr[-6000:]
    check("concise_rl", *logged())


def test_several_with_all_that_can_go_round_them(runs, logged):
    line = (
        "grpo.rewards=[{name: accuracy}, {name: kimi_length, weight: 0.5, warmup: {steps: 1}}, "
        "{name: hapo, gate: {kind: running_best}, schedule: {share: [[0, 1], [1, 0.5]]}}, "
        "{name: shorter_better, tasks: [math]}]"
    )
    run_stage("grpo", grpo.main, command_line("grpo", runs, line))
    rows, _ = logged()
    first, second = (row for row in rows if "reward" in row)
    assert first["rewards/kimi_length/mean"] == first["rewards/kimi_length/std"] == 0
    assert second["rewards/kimi_length/std"] > 0
    # None of the problems is of that task.
    assert first["rewards/shorter_better/mean"] is None
    expected = second["rewards/accuracy/mean"] + 0.5 * second["rewards/kimi_length/mean"]
    assert second["reward"] == pytest.approx(expected + second["rewards/hapo/mean"], abs=1e-6)
