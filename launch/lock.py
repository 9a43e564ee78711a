"""One run at a time per run folder.

The lock is an flock on `<run folder>/.lock`. Its file descriptor is handed to the guard of the stage that is at work,
so that it is held until that stage has ended even if the command itself was killed.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from laconic.rewards.errors import LaunchError

NAME = ".lock"


@contextmanager
def run_lock(run_dir: Path, *, patience: float = 30.0) -> Iterator[int]:
    """Hold the run folder; yields the descriptor to pass on to child processes.

    Args:
        run_dir: Created if missing.
        patience: Seconds to wait for the stage of a run that was killed to end.

    Raises:
        LaunchError: another live process holds it (named by its id).
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(run_dir / NAME, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _acquire(descriptor, run_dir, patience)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)


def holder(run_dir: Path) -> int | None:
    """The id of the live process that holds the run folder, None if nobody does."""
    path = run_dir / NAME
    if not path.is_file():
        return None
    with path.open("r+") as handle:
        if _try_lock(handle.fileno()):
            return None
        return _written_pid(handle.fileno())


def _acquire(descriptor: int, run_dir: Path, patience: float) -> None:
    deadline = time.monotonic() + patience
    while not _try_lock(descriptor):
        pid = _written_pid(descriptor)
        if pid is not None and not _alive(pid) and time.monotonic() < deadline:
            time.sleep(0.1)
            continue
        raise LaunchError(
            f"{run_dir}: in use by process {pid}",
            cure=f"wait for it, end it with `kill {pid}`, or choose another folder with --runs",
        )


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _written_pid(descriptor: int) -> int | None:
    text = os.pread(descriptor, 32, 0)
    return int(text) if text else None


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
