from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import textwrap

import pytest

from laconic.recipes.folder import StageFolder
from laconic.recipes.resolve import StageFile
from laconic.rewards.errors import LaunchError


@pytest.fixture
def folder(planned):
    plan = planned()
    return StageFolder(plan.run_dir, plan.stage("teach"))


def child(code, *arguments):
    """A real process that knows the folder of the stage file it is given."""
    start = """
        import os, signal, sys, time
        from pathlib import Path
        from laconic.recipes.folder import StageFolder
        from laconic.recipes.resolve import StageFile
        file = Path(sys.argv[1])
        folder = StageFolder(file.parent.parent, StageFile.from_yaml(file))
    """
    text = textwrap.dedent(start) + textwrap.dedent(code)
    return subprocess.Popen([sys.executable, "-c", text, *map(str, arguments)], stdout=subprocess.PIPE, text=True)


def test_prepare_is_idempotent_and_keeps_what_is_there(folder):
    folder.prepare()
    (folder.work / "rollouts.jsonl").write_text("{}\n")
    stamp = (folder.work / "stage.yaml").stat().st_mtime_ns
    folder.prepare()
    assert (folder.work / "rollouts.jsonl").read_text() == "{}\n"
    assert (folder.work / "stage.yaml").stat().st_mtime_ns == stamp
    assert StageFile.from_yaml(folder.work / "stage.yaml") == folder.stage
    assert not folder.complete
    assert folder.work.name == folder.path.name + ".partial"


def test_commit_renames_and_leaves_a_manifest(folder):
    folder.prepare()
    folder.commit(1.23456, rows=7)
    assert folder.complete
    assert not folder.work.exists()
    manifest = folder.manifest()
    assert manifest["stage"] == "teach"
    assert manifest["hash"] == folder.stage.hash
    assert manifest["seconds"] == 1.235
    assert manifest["rows"] == 7
    assert manifest["versions"]["laconic"] == folder.stage.version
    assert manifest["versions"]["python"].startswith("3.")
    assert manifest["command"] == shlex.join(sys.orig_argv)


def test_a_kill_between_manifest_and_rename_leaves_partial(folder):
    folder.prepare()
    code = """
        Path.rename = lambda self, target: os.kill(os.getpid(), signal.SIGKILL)
        folder.commit(1.0)
    """
    assert child(code, folder.work / "stage.yaml").wait() == -signal.SIGKILL
    assert json.loads((folder.work / "manifest.json").read_text())["stage"] == "teach"
    assert not folder.complete
    assert not folder.path.exists()
    folder.prepare()
    folder.commit(2.0)
    assert folder.manifest()["seconds"] == 2.0


def test_a_folder_in_the_way_is_not_overwritten(folder):
    folder.path.mkdir(parents=True)
    (folder.path / "mine.txt").write_text("keep")
    with pytest.raises(LaunchError, match=r"exists, but has no manifest\.json"):
        folder.prepare()
    assert (folder.path / "mine.txt").read_text() == "keep"
    assert not folder.work.exists()


def test_two_processes_cannot_work_on_one_stage(folder):
    folder.prepare()
    # The holder has a forked worker that outlives it, as a data loader's may.
    code = """
        folder.lock()
        if os.fork() == 0:
            time.sleep(8)
            os._exit(0)
        print("locked", flush=True)
        time.sleep(60)
    """
    holder = child(code, folder.work / "stage.yaml")
    assert holder.stdout.readline() == "locked\n"
    with pytest.raises(LaunchError, match=f"process {holder.pid} is working on this stage"):
        folder.lock(wait=0.3)
    holder.kill()
    holder.wait()
    folder.lock(wait=2.0)


def test_a_lock_waits_for_a_process_that_is_just_ending(folder):
    folder.prepare()
    holder = child("folder.lock(); print('locked', flush=True); time.sleep(0.7)", folder.work / "stage.yaml")
    assert holder.stdout.readline() == "locked\n"
    folder.lock(wait=30.0)
    assert holder.wait() == 0
    assert (folder.run_dir / f".{folder.path.name}.lock").read_text() == str(os.getpid())
