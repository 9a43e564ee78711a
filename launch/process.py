"""Starts a stage's process, waits for it, and says why it failed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from laconic.launch import guard
from laconic.launch.lines import short

LOG = "log.txt"
ERROR = "error.json"
_TAIL_LINES = 15


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a stage did not end well."""

    message: str
    exit_code: int
    """2 when the user can mend it (the stage said how), else 1."""


def run_process(
    argv: Sequence[str], *, log: Path, env: Mapping[str, str], stdout: int | None = None, lock: int | None = None
) -> int:
    """Run a command under the guard until it ends; returns its exit status.

    However this process ends, everything the command started ends with it.

    Args:
        argv: The command.
        log: File for standard error; created if missing.
        env: The whole environment.
        stdout: As `subprocess` takes it; by default inherited, so that progress shows as it happens.
        lock: A descriptor that stays open, in the guard, until the command has ended.
    """
    sys.stdout.flush()
    with log.open("ab") as stderr:
        process = subprocess.Popen(
            # Isolated and without site-packages: the guard needs the standard library only.
            [sys.executable, "-I", "-S", guard.__file__, *argv],
            stdin=subprocess.PIPE,
            stdout=stdout,
            stderr=stderr,
            env=dict(env),
            start_new_session=True,
            pass_fds=() if lock is None else (lock,),
        )
    assert process.stdin is not None
    try:
        return process.wait()
    finally:
        process.stdin.close()
        process.wait()


def start_log(work: Path, line: str) -> int:
    """Append a heading for this attempt to the stage's log and forget an earlier attempt's error.

    Returns:
        Size of the log, in bytes: what this attempt writes starts there.
    """
    (work / ERROR).unlink(missing_ok=True)
    with (work / LOG).open("a", encoding="utf-8") as log:
        log.write(f"--- {datetime.now().astimezone().isoformat(timespec='seconds')} {line}\n")
        log.flush()
        return log.tell()


def explain(work: Path, status: int, log_start: int) -> Failure:
    """What to tell the user about a stage that ended with `status` and did not complete.

    The stage's own `error.json` if it wrote one, else what it printed as an error, else the end of its log.
    """
    if (work / ERROR).is_file():
        error = json.loads((work / ERROR).read_text(encoding="utf-8"))
        return Failure(f"error: {error['message']}", int(error["exit_code"]))
    lines = _log_lines(work / LOG, log_start)
    if said := _stated_error(lines):
        return Failure(said, 2)
    ending = f"was ended by signal {status - 128}" if status > 128 else f"ended with exit code {status}"
    tail = "\n".join(f"  | {line}" for line in lines[-_TAIL_LINES:]) or "  | (it wrote nothing)"
    return Failure(f"error: the stage {ending}; the last lines of {short(work / LOG)}:\n{tail}", 1)


def _log_lines(log: Path, start: int) -> list[str]:
    with log.open("rb") as file:
        file.seek(start)
        return file.read().decode(errors="replace").splitlines()


def _stated_error(lines: list[str]) -> str | None:
    """An error that the stage met before it had a folder to note it in; None if it crashed instead."""
    at = next((number for number, line in enumerate(lines) if line.startswith("error: ")), None)
    if at is None or any(line.startswith("Traceback ") for line in lines[:at]):
        return None
    cure = [line for line in lines[at + 1 : at + 2] if line.startswith("  -> ")]
    return "\n".join([lines[at], *cure])
