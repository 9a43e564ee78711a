"""`laconic run`, as a process, on recipes that need no training."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from laconic.rewards.jsonl import read_jsonl, write_jsonl

RECIPE = """
name: taught
problems: {source: reasoning_gym, families: [countdown], train: 30, test: 10}
model: {scratch: {hidden_size: 32, layers: 1, heads: 2, max_length: 128}}
stages:
  - {kind: generate, name: short, teacher: {styles: {short: 1.0}}}
  - {kind: generate, name: long, teacher: {styles: {long: 1.0}}}
  - {kind: sft, data: long, trainer: {max_steps: 1}}
"""

ONLY_DATA = """
name: data
problems: {source: reasoning_gym, families: [countdown], train: 30, test: 10}
model: {path: Qwen/Qwen2.5-0.5B}
stages:
  - {kind: generate, name: short, teacher: {styles: {short: 1.0}}}
  - {kind: generate, name: long, teacher: {styles: {long: 1.0}}, samples: SAMPLES}
"""


def start(*arguments, cwd: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "laconic.launch.cli", "run", *map(str, arguments)]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd, env=env)


def run(*arguments, cwd: Path) -> tuple[int, str, str]:
    process = start(*arguments, cwd=cwd)
    out, err = process.communicate()
    return process.returncode, out, err


@pytest.fixture
def taught(tmp_path):
    (tmp_path / "taught.yaml").write_text(RECIPE)
    return tmp_path


@pytest.fixture
def data(tmp_path):
    (tmp_path / "data.yaml").write_text(ONLY_DATA.replace("SAMPLES", "1"))
    return tmp_path


def folders(path: Path) -> list[str]:
    return sorted(folder.name.rsplit("-", 1)[0] for folder in path.glob("runs/*/[0-9]*"))


def test_every_stage_runs_once_and_is_reused_after(data):
    code, out, err = run("data.yaml", cwd=data)
    assert (code, err) == (0, "")
    assert "threads: 1 for each of 1 process(es), as OMP_NUM_THREADS" in out
    assert folders(data) == ["01-short", "02-long"]
    stages = sorted(data.glob("runs/data/[0-9]*"))
    for stage in stages:
        assert len(list(read_jsonl(stage / "rows.jsonl"))) == 30
        assert f"python -m laconic.data_gen.stage runs/data/{stage.name}/stage.yaml" in out
        assert f"laconic.data_gen.stage runs/data/{stage.name}/stage.yaml" in (stage / "log.txt").read_text()
    assert "total" in out
    written = [stage.stat().st_mtime_ns for stage in stages]
    code, out, err = run("data.yaml", cwd=data)
    assert (code, err) == (0, "")
    assert out.count("complete, reused") == 2
    assert "threads:" not in out
    assert [stage.stat().st_mtime_ns for stage in stages] == written


def test_a_changed_stage_gets_a_folder_of_its_own_and_the_rest_is_reused(data):
    assert run("data.yaml", cwd=data)[0] == 0
    code, out, _ = run("data.yaml", "--set", "long.samples=2", cwd=data)
    assert code == 0
    assert out.count("complete, reused") == 1
    assert folders(data) == ["01-short", "02-long", "02-long"]


def test_only_from_and_until_choose_stages(taught):
    assert run("taught.yaml", "--only", "long", cwd=taught)[0] == 0
    assert folders(taught) == ["02-long"]
    assert run("taught.yaml", "--from", "short", "--until", "long", cwd=taught)[0] == 0
    assert folders(taught) == ["01-short", "02-long"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "sft"], ["stage 'sft' needs 'init' and 'long'", "run first: laconic run ... --until long"]),
        (["--from", "sft"], ["stage 'sft' needs"]),
        (["--only", "stf"], ["no stage named 'stf'", "did you mean sft?"]),
        (["--from", "long", "--until", "short"], ["--from long comes after --until short"]),
        (["--only", "long", "--until", "sft"], ["--only cannot be combined"]),
        (["--profile", "zero3"], ["profile zero3 needs"]),
        (["--set", "sft.batch_size=3", "--profile", "cpu2"], ["batch_size 3, 2 processes"]),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(taught, monkeypatch, arguments, said):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    code, out, err = run("taught.yaml", *arguments, cwd=taught)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert "Traceback" not in err
    assert all(part in err for part in said), err
    assert not (taught / "runs").exists()


def test_a_stages_own_error_is_shown_with_its_exit_code(tmp_path):
    write_jsonl(tmp_path / "train.jsonl", [{"prompt": "1 + 1 =", "answer": "not a number"}])
    write_jsonl(tmp_path / "test.jsonl", [{"prompt": "1 + 2 =", "answer": "3"}])
    (tmp_path / "bad.yaml").write_text(
        "name: bad\n"
        "problems: {source: jsonl, train: train.jsonl, test: test.jsonl, task: math}\n"
        "model: {path: Qwen/Qwen2.5-0.5B}\n"
        "stages: [{kind: generate, teacher: {source: gold}}]\n"
    )
    code, _, err = run("bad.yaml", cwd=tmp_path)
    assert code == 2
    assert err.startswith("error: ")
    assert "train-0" in err
    assert "Traceback" not in err
    assert not [folder for folder in tmp_path.glob("runs/bad/[0-9]*") if folder.suffix != ".partial"]


def pids_in(run_dir: Path) -> set[int]:
    """Processes whose command line names a stage of this run folder."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            inside = (entry / "cwd").readlink() == run_dir.parents[1]
        except OSError:
            continue
        if inside and any(word.endswith(b"/stage.yaml") for word in words):
            found.add(int(entry.name))
    return found


def wait_for(condition, seconds: float = 60.0):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
    return found


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_leaves_no_process_and_is_completed_by_the_next(tmp_path, how):
    # Many samples, so that the second stage is surely at work when it is interrupted.
    (tmp_path / "data.yaml").write_text(ONLY_DATA.replace("SAMPLES", "250"))
    process = start("data.yaml", cwd=tmp_path)
    run_dir = tmp_path / "runs" / "data"
    wait_for(lambda: list(run_dir.glob("02-*.partial")) and pids_in(run_dir))
    refused, _, err = run("data.yaml", cwd=tmp_path)
    assert (refused, f"in use by process {process.pid}" in err) == (2, True)
    process.send_signal(how)
    _, err = process.communicate()
    assert process.returncode == (130 if how == signal.SIGINT else -9)
    wait_for(lambda: not pids_in(run_dir))
    code, out, err = run("data.yaml", cwd=tmp_path)
    assert (code, err) == (0, "")
    assert out.count("complete, reused") == 1
    rollouts = list(read_jsonl(next(run_dir.glob("02-*")) / "rollouts.jsonl"))
    assert len({(row["problem_id"], row["sample"]) for row in rollouts}) == len(rollouts) == 30 * 250
    manifest = json.loads((next(run_dir.glob("02-*")) / "manifest.json").read_text())
    assert manifest["stage"] == "long"
