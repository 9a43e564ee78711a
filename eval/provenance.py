"""Where numbers come from: code, machine, versions, settings."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PACKAGES = ("laconic", "torch", "transformers", "trl", "accelerate", "deepspeed", "numpy")


def provenance(**facts: Any) -> dict[str, Any]:
    """Everything about this process and machine that a reader needs to judge a number, plus the given facts."""
    return {
        "command": command(),
        "commit": commit(Path(__file__)),
        "hardware": hardware(),
        "versions": versions(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        **facts,
    }


def command() -> str:
    """The line that started this process, paths relative to the current folder where they lie in it."""
    here = f"{Path.cwd()}{os.sep}"
    return shlex.join(["python", *(argument.removeprefix(here) for argument in sys.orig_argv[1:])])


def commit(file: Path) -> dict[str, Any] | None:
    """The git commit a source file was loaded from; None outside a repository, before its first commit, or installed.

    Returns:
        ``{"hash": full hash, "dirty": whether tracked files differ from it}``, but for what measurements write.
    """
    folder = file.resolve().parent
    # A package installed into an environment inside some other repository is not that repository's code.
    if _git(folder, "ls-files", "--error-unmatch", file.name) is None:
        return None
    head = _git(folder, "rev-parse", "--verify", "HEAD")
    # A bench that keeps its figures does not change what the next one measures.
    written = (f":(top,exclude){place}" for place in ("bench/results", "docs", "README.md"))
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no", "--", ":/", *written)
    return None if head is None else {"hash": head, "dirty": bool(changed)}


def _git(folder: Path, *arguments: str) -> str | None:
    git = shutil.which("git")
    if git is None:
        return None
    done = subprocess.run([git, "-C", str(folder), *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def hardware() -> dict[str, Any]:
    """CPU model, cores this process may use, and the names of accelerators that torch sees, where it is installed."""
    return {"cpu": _cpu_model(), "cores": _cores(), "gpus": _gpus() if find_spec("torch") else []}


def _gpus() -> list[str]:
    import torch

    return [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_model() -> str:
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text(encoding="utf-8").splitlines() if listing.is_file() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Python and the packages that numbers depend on, as far as they are installed."""
    installed = {dist.name: dist.version for dist in map(_distribution, PACKAGES) if dist is not None}
    return {"python": platform.python_version(), **installed}


def _distribution(name: str) -> metadata.Distribution | None:
    return next(iter(metadata.distributions(name=name)), None)
