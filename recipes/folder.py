"""A stage's folder: `<name>.partial` while the stage works, renamed when it is complete.

Complete means that the final folder exists and holds `manifest.json`. A complete folder is never written to again,
and a folder that stands in the way is never overwritten.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import shlex
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from laconic.recipes.resolve import StageFile
from laconic.rewards.errors import LaunchError
from laconic.rewards.jsonl import write_atomic

MANIFEST = "manifest.json"
STAGE_FILE = "stage.yaml"
PARTIAL = ".partial"
_RECORDED = ("laconic", "torch", "transformers", "trl", "accelerate", "deepspeed", "peft", "datasets", "numpy")
_LOCK_SECONDS = 20.0


class StageFolder:
    """Where one stage of a run works and leaves its results."""

    def __init__(self, run_dir: Path, stage: StageFile) -> None:
        self.run_dir = Path(run_dir)
        self.stage = stage
        self.path = self.run_dir / stage.folder
        """The folder once it is complete."""
        self.work = self.path.with_name(self.path.name + PARTIAL)
        """The folder while the stage works."""
        self._lock: int | None = None

    @property
    def complete(self) -> bool:
        """Whether the stage is done and can be used."""
        return is_complete(self.path)

    def prepare(self) -> None:
        """Make the work folder with its `stage.yaml`; what an earlier, killed process left there stays.

        Raises:
            LaunchError: something that no stage made stands in the way.
        """
        assert not self.complete, f"{self.path} is complete"
        if self.path.exists():
            cure = "move it away or use another --runs; nothing is overwritten"
            raise LaunchError(f"{self.path} exists, but has no {MANIFEST}", cure=cure)
        self.work.mkdir(parents=True, exist_ok=True)
        text, file = self.stage.to_yaml(), self.work / STAGE_FILE
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            write_atomic(file, text)

    def lock(self, *, wait: float = _LOCK_SECONDS) -> None:
        """Keep other processes out of the stage until this one ends, however it ends.

        Args:
            wait: Seconds to wait for a process that holds it; one that was killed a moment ago may still be dying.

        Raises:
            LaunchError: another process (named by id) still works on the stage.
        """
        self.run_dir.mkdir(parents=True, exist_ok=True)
        file = self.run_dir / f".{self.path.name}.lock"
        self._lock = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        # A worker that outlives a killed process must not keep its lock.
        os.register_at_fork(after_in_child=self._forget_lock)
        deadline = time.monotonic() + wait
        while not _try_lock(self._lock):
            if time.monotonic() > deadline:
                owner = file.read_text().strip() or "unknown"
                cure = "wait for it or end it, then run this again"
                raise LaunchError(f"{self.work}: process {owner} is working on this stage", cure=cure)
            time.sleep(0.1)
        os.ftruncate(self._lock, 0)
        os.write(self._lock, str(os.getpid()).encode())

    def _forget_lock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def commit(self, seconds: float, **facts: Any) -> None:
        """Write the manifest and give the folder its final name, in this order, so that no folder lies.

        Args:
            seconds: How long the stage took, this process only.
            facts: What else the manifest should say, such as counts of tokens.
        """
        manifest = {
            "stage": self.stage.name,
            "kind": self.stage.kind,
            "hash": self.stage.hash,
            "seed": self.stage.seed,
            "inputs": self.stage.inputs,
            "command": shlex.join(sys.orig_argv),
            "versions": versions(),
            "seconds": round(seconds, 3),
        }
        assert not manifest.keys() & facts.keys(), f"a manifest has its own {sorted(manifest.keys() & facts.keys())}"
        write_atomic(self.work / MANIFEST, json.dumps(manifest | facts, indent=2) + "\n")
        self.work.rename(self.path)
        _sync(self.run_dir)

    def manifest(self) -> dict[str, Any]:
        """What a complete stage's manifest says."""
        return json.loads((self.path / MANIFEST).read_text(encoding="utf-8"))


def is_complete(path: Path) -> bool:
    """Whether a stage folder's final name exists and holds a manifest."""
    return (path / MANIFEST).is_file()


def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that results depend on; none is imported."""
    found = {"python": platform.python_version()}
    for package in _RECORDED:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sync(folder: Path) -> None:
    """Make a rename survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
