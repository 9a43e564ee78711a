"""Processes, really started and really killed: nothing a stage starts outlives the command, and one run at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from laconic.launch.lock import holder, run_lock
from laconic.launch.process import explain, run_process, start_log
from laconic.rewards.errors import LaunchError

FAMILY = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open(sys.argv[1] + ".new", "w").write(f"{os.getpid()} {child.pid}")
os.rename(sys.argv[1] + ".new", sys.argv[1])
time.sleep(600)
"""

HOLDER = f"""
import os, sys
from pathlib import Path
from laconic.launch.lock import run_lock
from laconic.launch.process import run_process
with run_lock(Path(sys.argv[1])) as lock:
    pids = sys.argv[1] + "/pids"
    run_process([sys.executable, "-c", {FAMILY!r}, pids], log=Path(sys.argv[1]) / "log", env=os.environ, lock=lock)
"""


def wait_for(condition, seconds: float = 30.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    # A killed process that nobody has waited for yet is dead.
    return status.is_file() and status.read_text().rsplit(")", 1)[1].split()[0] != "Z"


@pytest.fixture
def held(tmp_path):
    """A process that holds the lock of `tmp_path` and runs a command with a child under the guard."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)])
    wait_for((tmp_path / "pids").is_file)
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    yield process, pids
    process.kill()
    process.wait()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_children_end_with_the_command_however_it_ends(held, how):
    process, pids = held
    assert all(map(alive, pids))
    process.send_signal(how)
    wait_for(lambda: not any(map(alive, pids)))


def test_a_second_run_is_refused_with_the_process_that_runs(held, tmp_path):
    process, _ = held
    assert holder(tmp_path) == process.pid
    with pytest.raises(LaunchError, match=f"in use by process {process.pid}") as error, run_lock(tmp_path):
        pass
    assert f"kill {process.pid}" in error.value.cure


def test_the_lock_of_a_killed_run_is_free_once_its_stage_has_ended(held, tmp_path):
    process, pids = held
    process.kill()
    process.wait()
    with run_lock(tmp_path):
        assert not any(map(alive, pids))
        assert (tmp_path / ".lock").read_text() == str(os.getpid())
    assert holder(tmp_path) is None


def in_log(tmp_path, code: str) -> tuple[int, int]:
    start = start_log(tmp_path, "python -m stage")
    return run_process([sys.executable, "-c", code], log=tmp_path / "log.txt", env=os.environ), start


def test_exit_codes_pass_and_signals_are_numbered_as_a_shell_does(tmp_path):
    assert in_log(tmp_path, "raise SystemExit(7)")[0] == 7
    assert in_log(tmp_path, "import os; os.kill(os.getpid(), 9)")[0] == 128 + 9
    assert in_log(tmp_path, "pass")[0] == 0


def test_stdout_is_live_and_stderr_is_kept(tmp_path, capfd):
    in_log(tmp_path, "import sys; print('step 1/2'); print('a warning', file=sys.stderr)")
    out, err = capfd.readouterr()
    assert (out, err) == ("step 1/2\n", "")
    assert (tmp_path / "log.txt").read_text().endswith("python -m stage\na warning\n")


def test_a_crash_shows_the_end_of_this_attempts_log_only(tmp_path):
    in_log(tmp_path, "raise KeyError('first attempt')")
    status, start = in_log(tmp_path, "raise KeyError('second attempt')")
    failure = explain(tmp_path, status, start)
    assert failure.exit_code == 1
    assert "ended with exit code 1" in failure.message
    assert "second attempt" in failure.message
    assert "first attempt" not in failure.message
    assert str(tmp_path / "log.txt") in failure.message


def test_a_killed_stage_is_called_so(tmp_path):
    status, start = in_log(tmp_path, "import os; os.kill(os.getpid(), 9)")
    assert "was ended by signal 9" in explain(tmp_path, status, start).message


def test_an_error_the_stage_explained_is_the_users_to_mend(tmp_path):
    note = "import json; json.dump({'message': 'no rows\\n  -> add some', 'exit_code': 2}, open('error.json', 'w'))"
    code = f"import os; os.chdir({str(tmp_path)!r}); {note}; raise SystemExit(1)"
    status, start = in_log(tmp_path, code)
    failure = explain(tmp_path, status, start)
    assert (failure.message, failure.exit_code) == ("error: no rows\n  -> add some", 2)
    start_log(tmp_path, "again")
    assert not (tmp_path / "error.json").exists()


def test_an_error_said_before_the_stage_had_a_folder_counts_too(tmp_path):
    said = "import sys; print('error: wrong version\\n  -> run it again\\nmore', file=sys.stderr); raise SystemExit(2)"
    status, start = in_log(tmp_path, said)
    failure = explain(tmp_path, status, start)
    assert (failure.message, failure.exit_code) == ("error: wrong version\n  -> run it again", 2)
