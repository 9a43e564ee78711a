"""What this machine offers: cores, memory, GPUs, disk, shared memory, a port to meet at."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from laconic.inference.sockets import bind
from laconic.launch.findings import Finding
from laconic.launch.lines import short
from laconic.launch.machine import free_bytes, memory_bytes, usable_cores, visible_gpus
from laconic.launch.text import size
from laconic.launch.threads import choose_threads
from laconic.rewards.errors import LaunchError

SHARED_MEMORY = Path("/dev/shm")
_LEAST_FREE = 5 * 10**9
_LEAST_SHARED = 10**9
"""What ranks of one machine should have to exchange data in; containers get 64 MB unless they are told otherwise."""
_PORT = 29500
"""Where torch's launchers meet if MASTER_PORT does not say otherwise."""


def machine(runs: Path) -> list[Finding]:
    """All about this machine; `runs` is the folder that runs are written to."""
    threads = choose_threads(1)
    load = f"; load average {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    gpus, memory = visible_gpus(), memory_bytes()
    return [
        Finding("cpu", "ok", f"{usable_cores()} usable cores{load}"),
        Finding("threads", "ok", f"a stage would get {threads.count} now ({threads.reason})"),
        Finding("memory", "ok", size(memory)) if memory else Finding("memory", "note", "unknown"),
        Finding("gpu", "ok" if gpus else "note", f"{gpus} visible" if gpus else "none visible; profile auto is cpu"),
        disk("disk", runs, cure="free some space, or name another folder with --runs"),
        disk("temporary files", Path(tempfile.gettempdir()), cure="free some space, or set TMPDIR"),
        shared_memory(gpus),
        port(),
    ]


def disk(subject: str, folder: Path, *, cure: str) -> Finding:
    """Free space where a folder is or will be."""
    free = free_bytes(folder)
    text = f"{size(free)} free at {short(folder)}"
    return Finding(subject, "ok", text) if free >= _LEAST_FREE else Finding(subject, "problem", text, cure=cure)


def shared_memory(gpus: int, folder: Path = SHARED_MEMORY) -> Finding:
    """Size of the shared memory, which NCCL and data loaders use; too little is a problem where ranks share a machine.

    Args:
        gpus: How many are visible.
        folder: Where it is mounted.
    """
    subject = "shared memory"
    if not folder.is_dir():
        return Finding(subject, "note", f"this system has no {folder}")
    total = shutil.disk_usage(folder).total
    text = f"{size(total)} at {folder}"
    if total >= _LEAST_SHARED:
        return Finding(subject, "ok", text)
    cure = f"mount -o remount,size=8G {folder}; in a container, start it with --shm-size=8g or --ipc=host"
    return Finding(subject, "problem" if gpus > 1 else "note", text, cure=cure)


def port() -> Finding:
    """Whether ranks could meet where torch's launchers do so by default."""
    said = os.environ.get("MASTER_PORT", "")
    number = int(said) if said.isdigit() else _PORT
    try:
        bind("0.0.0.0", number).close()
    except LaunchError as error:
        cure = "set MASTER_PORT to a free port, or end what listens there; the shipped profiles choose a free one"
        return Finding("rendezvous port", "problem" if said else "note", error.message, cure=cure)
    return Finding("rendezvous port", "ok", f"{number} is free")
