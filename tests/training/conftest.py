"""A small recipe whose stages are started as a user would start them, and one-process runs to compare with."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from laconic.data_gen import stage as generate
from laconic.recipes.entry import run_stage
from laconic.rewards.jsonl import read_jsonl
from laconic.training import init

ROOT = Path(__file__).parents[2]
CHILD = Path(__file__).parent / "child"
RECIPE = """
name: small
problems:
  {source: reasoning_gym, families: [chain_sum], options: {chain_sum: {min_terms: 2, max_terms: 3}}, train: 64, test: 8}
model: {scratch: {hidden_size: 32, layers: 2, heads: 2, max_length: 96}}
defaults: {trainer: {logging_steps: 1, save_steps: 3, max_steps: 7}}
stages:
  - {kind: generate, name: teach, teacher: {styles: {short: 0.5, direct: 0.5}}}
  - {kind: generate, name: pairs, teacher: {styles: {long: 0.5, direct: 0.5}}, samples: 3, keep: shortest_vs_longest}
  - kind: sft
    data: teach
    batch_size: 32
    trainer: {learning_rate: 1.0e-2, per_device_train_batch_size: 8}
  - kind: sft
    name: lora
    model: base
    data: teach
    batch_size: 32
    lora: {r: 4, alpha: 8}
    trainer: {learning_rate: 1.0e-2, per_device_train_batch_size: 8}
  - {kind: dpo, model: sft, data: pairs, batch_size: 16, trainer: {learning_rate: 1.0e-3}}
  - kind: grpo
    model: sft
    # Two ranks hold 10 rollouts each, so a group of 4 lies on both.
    batch_size: 20
    rewards: [{name: shorter_better, length_weight: 0.1}, {name: accuracy, weight: 0.5}]
    trainer: {learning_rate: 1.0e-3, num_generations: 4, max_completion_length: 16, per_device_train_batch_size: 5}
  # Knows its ten problems by heart, so that there are right answers to remember.
  - kind: sft
    name: school
    model: base
    data: teach
    batch_size: 32
    trainer: {learning_rate: 1.0e-2, per_device_train_batch_size: 32, max_steps: 50}
  - kind: grpo
    name: memory
    model: school
    # Two generations per epoch, each for two optimiser steps: a save at step 3 falls inside one.
    limit: 10
    batch_size: 20
    rewards:
      - {name: hapo}
      - {name: short_rl, length_tolerance: 1}
      - {name: a_dlp, initial_lambda: 0.1, learning_rate: 0.1}
      - {name: shorter_better, length_weight: 0.1, gate: {kind: adaptive, start: 0.5, rate: 0.5, target: 0.2}}
    trainer:
      learning_rate: 1.0e-3
      num_generations: 4
      num_iterations: 2
      max_completion_length: 16
      per_device_train_batch_size: 5
      max_steps: 8
      save_total_limit: 3
"""


@dataclass(frozen=True)
class Run:
    """A recipe and the folder of its run."""

    recipe: Path
    runs: Path

    def python(self, module, stage, **environ):
        """Run a stage in one process."""
        return self._start([sys.executable, "-m", module, str(self.recipe), "--stage", stage], environ)

    def accelerate(self, profile, kind, stage, *options, **environ):
        """Run a training stage with `accelerate launch` and a shipped profile."""
        launcher = [sys.executable, "-m", "accelerate.commands.launch"]
        launcher += ["--config_file", str(ROOT / "launch" / "profiles" / f"{profile}.yaml"), *options]
        module = f"laconic.training.{kind}"
        return self._start([*launcher, "-m", module, str(self.recipe), "--stage", stage], environ)

    def _start(self, command, environ):
        quiet = {"OMP_NUM_THREADS": "1", "LACONIC_TRACKER": "none", "TOKENIZERS_PARALLELISM": "false"}
        env = os.environ | quiet | {"PYTHONPATH": str(CHILD)} | environ
        command = [*command, "--runs", str(self.runs)]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)

    def folder(self, stage, suffix=""):
        """A stage's folder: the complete one, or with the suffix .partial the one at work."""
        (found,) = (self.runs / "small").glob(f"[0-9]*-{stage}-????????{suffix}")
        return found

    def curve(self, stage, *names):
        """Logged values by step, shape (steps, names); fails if a step stands twice or is missing."""
        rows = [row for row in read_jsonl(self.folder(stage) / "metrics.jsonl") if "train_runtime" not in row]
        assert [row["step"] for row in rows] == list(range(1, 8))
        return torch.tensor([[row[name] for name in names] for row in rows])

    def weights(self, stage):
        """A stage's model, loaded as anyone would."""
        return AutoModelForCausalLM.from_pretrained(self.folder(stage) / "model").state_dict()

    def copy(self, folder, without=()):
        """The same run elsewhere, less some of its stages."""
        ignored = shutil.ignore_patterns(*(f"*-{stage}-*" for stage in without))
        shutil.copytree(self.runs, folder / "runs", ignore=ignored)
        return Run(self.recipe, folder / "runs")


@pytest.fixture(scope="session")
def reference(tmp_path_factory):
    """The recipe run through in one process: sft and grpo, not dpo and lora."""
    folder = tmp_path_factory.mktemp("reference")
    (folder / "small.yaml").write_text(RECIPE)
    run = Run(folder / "small.yaml", folder / "runs")
    for kind, stage, main in (
        ("init", "init", init.main),
        ("generate", "teach", generate.main),
        ("generate", "pairs", generate.main),
    ):
        run_stage(kind, main, [str(run.recipe), "--stage", stage, "--runs", str(run.runs)])
    for kind in ("sft", "grpo"):
        process = run.python(f"laconic.training.{kind}", kind)
        assert process.returncode == 0, process.stderr[-6000:]
    return run


@pytest.fixture(scope="session")
def fixed():
    """The module with the rollouts that do not depend on the model."""
    sys.path.insert(0, str(CHILD))
    import fixed_rollouts

    return fixed_rollouts


@pytest.fixture(scope="session")
def fixed_model(fixed, tmp_path_factory):
    """A small random model for them."""
    return fixed.make_model(tmp_path_factory.mktemp("fixed_model"))


@pytest.fixture(scope="session")
def searching():
    """The module with the small world in which models search."""
    sys.path.insert(0, str(CHILD))
    import searching

    return searching


@pytest.fixture(scope="session")
def searcher(searching, tmp_path_factory):
    """A model that has learned to search there."""
    folder = tmp_path_factory.mktemp("searcher")
    assert searching.school(folder) < 0.5
    return folder


@pytest.fixture
def inputs(reference, tmp_path):
    """The run with the inputs of a training stage complete, and nothing that depends on it."""

    def make(stage):
        return reference.copy(tmp_path, without={"sft": ["sft", "grpo"]}.get(stage, ["grpo"]))

    return make


@pytest.fixture
def same(reference):
    """Check that a run trained a stage as the one-process run did: the curves and the weights."""

    def check(run, stage):
        names = ["loss", "grad_norm", "learning_rate"] + (["reward", "raw/tokens"] if stage == "grpo" else [])
        torch.testing.assert_close(run.curve(stage, *names), reference.curve(stage, *names), rtol=1e-4, atol=1e-5)
        expected = reference.weights(stage)
        torch.testing.assert_close(run.weights(stage), expected, rtol=0, atol=2e-5)

    return check
