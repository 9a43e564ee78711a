"""Stage processes as they are really started: `python -m <module> <arguments>`."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from laconic.recipes.folder import StageFolder
from laconic.recipes.resolve import resolve
from laconic.recipes.source import load_recipe

PROGRAM = """\
import os, sys
from laconic.recipes.entry import run_stage
from laconic.rewards.errors import DataError

def main(opened):
    doing = os.environ.get("DOING", "work")
    if doing == "complain":
        raise DataError("rows.jsonl is bad", cure="mend it")
    if doing == "crash":
        raise RuntimeError("a bug")
    if doing == "fill":
        with open("/dev/full", "w") as out:
            out.write("x" * 100)
    if doing == "fill in Rust":
        raise RuntimeError("SafetensorError: I/O error: No space left on device (os error 28)")
    (opened.work / "seen.txt").write_text(repr({role: opened.input(role).name for role in opened.stage.inputs}))
    if opened.stage.kind == "sft":
        (opened.work / "model.txt").write_text(opened.model_dir())
    return {"rows": 3}

run_stage(sys.argv.pop(1), main)
"""


@pytest.fixture
def start(tmp_path, chain):
    """Starts a stage process in the folder of the recipe."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)

    def run(kind, *arguments, **environment):
        return subprocess.run(
            [sys.executable, str(program), kind, *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.fixture
def folders(tmp_path, chain):
    """The stage folders of the recipe by name."""
    plan = resolve(load_recipe(chain), tmp_path / "runs")
    return {stage.name: StageFolder(plan.run_dir, stage) for stage in plan.stages}


def test_a_recipe_names_its_stage_and_success_commits(start, folders):
    done = start("init", "chain.yaml")
    assert (done.returncode, done.stderr) == (0, "")
    assert folders["init"].complete
    manifest = folders["init"].manifest()
    assert manifest["rows"] == 3
    assert manifest["command"].endswith("program.py init chain.yaml")
    assert (folders["init"].path / "stage.yaml").is_file()


def test_a_complete_stage_is_not_done_again(start, folders):
    start("init", "chain.yaml")
    stamp = (folders["init"].path / "manifest.json").stat().st_mtime_ns
    again = start("init", "chain.yaml", DOING="crash")
    assert again.returncode == 0
    assert "already complete" in again.stdout
    assert (folders["init"].path / "manifest.json").stat().st_mtime_ns == stamp


def test_inputs_must_be_complete_and_nothing_is_written_before(start, folders, tmp_path):
    start("init", "chain.yaml")
    refused = start("sft", "chain.yaml")
    assert refused.returncode == 2
    assert f"stage 'sft' needs what is not complete yet: runs/chain/{folders['teach'].path.name}" in refused.stderr
    assert "run first: teach" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not folders["sft"].work.exists()


def test_the_chain_runs_and_finds_its_inputs(start, folders):
    assert start("init", "chain.yaml").returncode == 0
    assert start("generate", "chain.yaml", "--stage", "teach").returncode == 0
    assert start("sft", "chain.yaml").returncode == 0
    sft = folders["sft"].path
    assert (sft / "seen.txt").read_text() == repr(
        {role: folders[n].path.name for role, n in (("model", "init"), ("data", "teach"))}
    )
    assert (sft / "model.txt").read_text() == f"runs/chain/{folders['init'].path.name}/model"


@pytest.mark.parametrize("suffix", ["", ".partial"])
def test_a_stage_file_is_found_while_its_folder_is_partial(start, folders, suffix):
    folders["teach"].prepare()
    done = start("generate", f"{folders['teach'].path}{suffix}/stage.yaml")
    assert (done.returncode, done.stderr) == (0, "")
    assert folders["teach"].complete
    again = start("generate", f"{folders['teach'].path}{suffix}/stage.yaml")
    assert "already complete" in again.stdout


def test_a_mistake_of_the_user_is_one_message_and_code_2(start, folders):
    failed = start("init", "chain.yaml", DOING="complain")
    assert failed.returncode == 2
    assert failed.stderr == "error: rows.jsonl is bad\n  -> mend it\n"
    note = json.loads((folders["init"].work / "error.json").read_text())
    assert note == {"message": "rows.jsonl is bad\n  -> mend it", "exit_code": 2}
    assert not folders["init"].complete
    assert start("init", "chain.yaml").returncode == 0
    assert not (folders["init"].path / "error.json").exists()


@pytest.mark.parametrize("doing", ["fill", "fill in Rust"])
def test_a_full_disk_is_named(start, folders, doing):
    failed = start("init", "chain.yaml", DOING=doing)
    assert failed.returncode == 2
    assert f"no space left on the disk of runs/chain/{folders['init'].work.name}" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert not folders["init"].complete


def test_a_bug_keeps_its_traceback(start, folders):
    failed = start("init", "chain.yaml", DOING="crash")
    assert failed.returncode == 1
    assert "RuntimeError: a bug" in failed.stderr
    assert folders["init"].work.is_dir()
    assert not folders["init"].complete


def test_only_rank_0_prepares_and_commits(start, folders):
    folders["init"].prepare()
    assert start("init", "chain.yaml", RANK="1").returncode == 0
    assert not folders["init"].complete
    assert start("init", "chain.yaml", RANK="0").returncode == 0
    assert folders["init"].complete


def test_another_rank_is_named_in_its_error(start, folders):
    folders["init"].prepare()
    failed = start("init", "chain.yaml", RANK="1", DOING="complain")
    assert failed.returncode == 2
    assert failed.stderr.startswith("[rank 1] error: rows.jsonl is bad")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "chain.yaml"], "has 2 generate stages\n  -> choose with --stage teach or --stage pairs"),
        (
            ["sft", "chain.yaml", "--stage", "dpo"],
            "stage 'dpo' is of kind dpo, not sft\n  -> run it with laconic.training.dpo",
        ),
        (["sft", "chain.yaml", "--stage", "teach"], "-> run it with laconic.data_gen.stage"),
        (["sft", "chain.yaml", "--stage", "stf"], "chain has no stage named 'stf'; did you mean sft?"),
        (["sft", "chain.yaml", "--set", "sft.batch_sise=1"], "unknown key; did you mean batch_size?"),
        (["sft", "none.yaml"], "none.yaml: no such recipe"),
        (["sft", "runs/chain/02-sft-00000000/stage.yaml"], "stage.yaml: no such file\n  -> name the recipe instead"),
        (["sft", "x/stage.yaml", "--set", "a=1"], "takes no --stage, --set or --overlay"),
    ],
)
def test_wrong_command_lines(start, tmp_path, arguments, message):
    refused = start(*arguments)
    assert refused.returncode == 2
    assert message in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (tmp_path / "runs").exists()


def test_overrides_overlays_and_runs_choose_the_folder(start, tmp_path, chain):
    options = ["--set", "model.scratch.layers=2", "--overlay", "tiny", "--runs", "elsewhere"]
    assert start("init", "chain.yaml", *options).returncode == 0
    recipe = load_recipe(chain, overrides=["model.scratch.layers=2"], overlays=["tiny"])
    plan = resolve(recipe, tmp_path / "elsewhere")
    assert StageFolder(plan.run_dir, plan.stage("init")).complete
    assert plan.run_dir.name == "chain-tiny"
