"""`laconic plan`, as a process: what it shows, and what it keeps its hands off."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from laconic.recipes.folder import StageFolder
from laconic.recipes.resolve import resolve
from laconic.recipes.source import load_recipe, shipped

RECIPE = """
name: planned
problems: {source: reasoning_gym, families: [countdown], train: 400, test: 100}
model: {scratch: {hidden_size: 32, layers: 2, heads: 2, max_length: 128}}
stages:
  - {kind: generate, name: teach, teacher: {styles: {short: 1.0}}}
  - {kind: sft, batch_size: 32, trainer: {max_steps: 4}}
  - {kind: grpo, rewards: [{name: accuracy}], batch_size: 64, trainer: {num_generations: 8, max_completion_length: 64}}
  - {kind: eval, limit: 20, sampling: {max_tokens: 64}}
"""

WATCHED = """
import socket, sys
class NoNetwork:
    def __init__(self, *args, **kwargs): raise AssertionError("plan opened a socket")
socket.socket = socket.create_connection = NoNetwork
sys.argv = ["laconic", *sys.argv[1:]]
from laconic.launch.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
heavy = ("torch", "transformers", "trl", "accelerate", "deepspeed", "datasets", "peft", "sympy", "reasoning_gym")
assert not [name for name in heavy if name in sys.modules], sorted(sys.modules)
"""


def laconic(*arguments, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "laconic.launch.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "planned.yaml"
    path.write_text(RECIPE)
    return path


@pytest.mark.parametrize("path", shipped(), ids=lambda path: path.stem)
def test_a_plan_of_a_shipped_recipe_loads_nothing_heavy_and_opens_no_socket(path, tmp_path):
    # Recipes name data by paths relative to the repository.
    here = Path(__file__).parents[2]
    arguments = [sys.executable, "-c", WATCHED, "plan", str(path), "--runs", str(tmp_path)]
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=here, check=False)
    assert done.returncode == 0, done.stderr
    assert "  prompt " in done.stdout


def test_it_shows_stages_lines_batches_prompt_and_estimates(recipe, tmp_path):
    out = laconic("plan", recipe, "--profile", "cpu2", cwd=tmp_path).stdout
    sft = resolve(load_recipe(recipe), Path("runs")).stage("sft")
    assert "planned: 5 stages in runs/planned" in out
    assert "0. init (init): to do" in out
    assert '"<|user|>make 29 from 3 7 8 =<|assistant|>"' in out
    assert f"-m laconic.training.sft runs/planned/{sft.folder}/stage.yaml" in out
    assert "32 rows per step = 8 per micro-batch x 2 accumulated x 2 processes" in out
    assert "8 prompts per step x 8 rollouts each" in out
    assert "4 (at most 400 rows)" in out
    assert "(estimate: weights" in out
    assert not (tmp_path / "runs").exists()


def test_the_prompt_of_a_data_file_is_its_first_question_in_the_recipes_template(tmp_path):
    for name in ("train", "test"):
        (tmp_path / f"{name}.jsonl").write_text(f'{{"question": "How many in {name}?", "answer": "one\\n#### 1"}}\n')
    (tmp_path / "asked.yaml").write_text(
        "name: asked\n"
        "problems: {source: jsonl, layout: gsm8k, train: train.jsonl, test: test.jsonl, template: 'Q: {prompt}\\nA:'}\n"
        "model: {scratch: {tokenizer: bpe, vocab_size: 300, max_length: 256}}\n"
        "stages: [{kind: generate, teacher: {source: gold}}]\n"
    )
    done = laconic("plan", "asked.yaml", cwd=tmp_path)
    assert r'"<|user|>Q: How many in train?\\nA:<|assistant|>" (first row of train.jsonl)' in done.stdout, done.stderr
    assert "vocabulary 300" in done.stdout
    assert "rows     at most 1\n" in done.stdout


def test_it_says_what_is_reused_and_what_was_begun(recipe, tmp_path):
    plan = resolve(load_recipe(recipe), tmp_path / "runs")
    done, begun = (StageFolder(plan.run_dir, plan.stage(name)) for name in ("init", "teach"))
    done.prepare()
    done.commit(1.0)
    begun.prepare()
    (begun.work / "rollouts.jsonl").write_text("")
    out = laconic("plan", recipe, cwd=tmp_path).stdout
    assert "0. init (init): complete, reused" in out
    assert "1. teach (generate): begun, resumes" in out
    assert "2. sft (sft): to do" in out


def test_write_prepares_the_folders_that_lines_run_by_hand_need(recipe, tmp_path):
    out = laconic("plan", recipe, "--write", cwd=tmp_path).stdout
    assert "prepared 5 stage folder(s)" in out
    for stage in resolve(load_recipe(recipe), tmp_path / "runs").stages:
        written = tmp_path / "runs" / "planned" / f"{stage.folder}.partial" / "stage.yaml"
        assert written.read_text() == stage.to_yaml()
    assert laconic("plan", recipe, cwd=tmp_path).stdout.count("): to do") == 5


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--processes", "3", "--profile", "cpu2"], ["batch_size 32, 3 processes", "30 or 33"]),
        (["--set", "grpo.batch_size=60"], ["batch_size 60", "num_generations 8", "56 or 64"]),
        (["--set", "sft.trainer.learnin_rate=1"], ["learnin_rate", "did you mean learning_rate?"]),
        (["--overlay", "tiny"], ["tiny"]),
        (["--profile", "zero4"], ["--profile zero4", "did you mean zero"]),
        (["--slurm", "nodes=2,gpu=8"], ["gpu=8", "did you mean gpus?"]),
        (["--slurm", "nodes=0"], ["nodes is '0'"]),
        (["--slurm", "time=soon"], ["time is 'soon'", "12:00:00"]),
        (["--slurm", "gpus=8", "--profile", "zero3", "--processes", "4"], ["--processes"]),
        (["--slurm", "nodes=2", "--profile", "zero3"], ["zero3 needs"]),
        (["--slurm", "nodes=2", "--profile", "cpu"], ["starts one process"]),
    ],
)
def test_what_cannot_work_is_refused_in_one_message(recipe, tmp_path, arguments, said):
    done = laconic("plan", recipe, *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert all(part in done.stderr for part in said), done.stderr
    assert "Traceback" not in done.stderr
