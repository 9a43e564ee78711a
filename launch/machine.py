"""What this machine has, found without importing torch."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path


def visible_gpus(environ: Mapping[str, str] = os.environ) -> int:
    """How many NVIDIA GPUs a process started from here would see.

    Counts the device files, or asks ``nvidia-smi`` where there are none (as under WSL), and honours
    ``CUDA_VISIBLE_DEVICES``.
    """
    present = len(list(Path("/dev").glob("nvidia[0-9]*"))) or _listed_by_nvidia_smi()
    return chosen_gpus(present, environ.get("CUDA_VISIBLE_DEVICES"))


def chosen_gpus(present: int, visible: str | None) -> int:
    """How many of the GPUs that are present CUDA_VISIBLE_DEVICES leaves visible; None means it is not set."""
    if visible is None:
        return present
    ids = [part.strip() for part in visible.split(",")]
    # CUDA stops reading the list at the first id that does not exist; -1 is the usual way to say "none".
    known = next((n for n, part in enumerate(ids) if part in ("", "-1")), len(ids))
    return min(known, present)


@cache
def gpu_name() -> str:
    """What the driver calls the first GPU; empty where there is none or nothing says."""
    if not visible_gpus() or shutil.which("nvidia-smi") is None:
        return ""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    listing = subprocess.run(command, capture_output=True, text=True, check=False)
    return listing.stdout.partition("\n")[0].strip() if listing.returncode == 0 else ""


def _listed_by_nvidia_smi() -> int:
    if shutil.which("nvidia-smi") is None:
        return 0
    listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return sum(line.startswith("GPU ") for line in listing.stdout.splitlines())


def usable_cores() -> int:
    """Cores this process may use: its affinity mask, cut down to the container's CPU quota, at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, _cgroup_quota(Path("/sys/fs/cgroup/cpu.max")) or cores))


def _cgroup_quota(path: Path) -> int | None:
    """Whole cores that cgroup v2 grants ("200000 100000" is 2), None when it sets no limit."""
    if not path.is_file():
        return None
    quota, period = path.read_text().split()[:2]
    return None if quota == "max" else max(1, int(quota) // int(period))


def memory_bytes() -> int | None:
    """Physical memory of this machine, None where the system does not say."""
    if "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def free_bytes(path: Path) -> int:
    """Bytes a user may still write on the disk that holds `path`, or its nearest folder that exists."""
    existing = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
    return shutil.disk_usage(existing).free
