"""`laconic doctor`: what this installation and this machine can do. For the eyes of a user, and for bug reports."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from laconic.launch.environment import wandb_mode
from laconic.launch.machine import free_bytes, memory_bytes, usable_cores, visible_gpus
from laconic.launch.text import size
from laconic.launch.threads import choose_threads

_REQUIREMENT = re.compile(r"^([A-Za-z0-9_.-]+)\s*(?:\[[^\]]*\])?\s*([^;]*)")
_EXTRA = re.compile(r"^([A-Za-z0-9_.-]+).*extra == [\"'](\w+)")
_LEAST_FREE = 5 * 10**9


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    subject: str
    state: Literal["ok", "note", "problem"]
    text: str


def examine(*, online: bool = False) -> list[Finding]:
    """Look at everything; nothing is changed and, unless `online`, no network is used."""
    return [_python(), *packages(), *_machine(), _deepspeed(), _wandb(), _hub(online)]


def packages() -> list[Finding]:
    """Installed versions beside the ranges that were tested (those that Laconic's own metadata declares)."""
    declared = metadata.requires("laconic") or []
    tested = dict(match.groups() for line in declared if (match := _REQUIREMENT.match(line)))
    # The first extra that names it: what is for users stands before what is for developers.
    extras = {match[1]: match[2] for line in reversed(declared) if (match := _EXTRA.match(line))}
    return [_package(name, span.strip(), extras.get(name, "train")) for name, span in tested.items()]


def _package(name: str, tested: str, extra: str) -> Finding:
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Finding(name, "note", f"not installed (tested: {tested}); pip install 'laconic[{extra}]' brings it")
    if in_range(version, tested):
        return Finding(name, "ok", f"{version} (tested: {tested})")
    return Finding(name, "problem", f"{version} is outside the tested range {tested}")


def in_range(version: str, tested: str) -> bool:
    """Whether a version lies in a range like ``>=1.16,<1.17``."""
    found = _numbers(version)
    return all(
        found >= _numbers(bound) if sign == ">=" else found < _numbers(bound)
        for sign, bound in re.findall(r"(>=|<)\s*([0-9.]+)", tested)
    )


def _numbers(version: str) -> tuple[int, ...]:
    numbers = [int(part) for part in re.findall(r"\d+", version.split("+")[0])]
    return tuple([*numbers, 0, 0, 0][:3])


def _python() -> Finding:
    text = f"{platform.python_version()} at {sys.executable}; laconic {metadata.version('laconic')}"
    return Finding("python", "ok" if sys.version_info >= (3, 11) else "problem", text)


def _machine() -> list[Finding]:
    threads = choose_threads(1)
    load = f"; load average {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    gpus = visible_gpus()
    memory = memory_bytes()
    found = [
        Finding("cpu", "ok", f"{usable_cores()} usable cores{load}"),
        Finding("threads", "ok", f"a stage would get {threads.count} now ({threads.reason})"),
        Finding("memory", "ok", size(memory)) if memory else Finding("memory", "note", "unknown"),
        Finding("gpu", "ok" if gpus else "note", f"{gpus} visible" if gpus else "none visible; profile auto is cpu"),
    ]
    return [*found, _disk("disk", Path.cwd()), _disk("temporary files", Path(tempfile.gettempdir()))]


def _disk(subject: str, folder: Path) -> Finding:
    free = free_bytes(folder)
    return Finding(subject, "ok" if free >= _LEAST_FREE else "problem", f"{size(free)} free at {folder}")


def _deepspeed() -> Finding:
    subject = "deepspeed import"
    if importlib.util.find_spec("deepspeed") is None:
        return Finding(subject, "note", "not installed; profiles zero2, zero3 and zero3_offload need it")
    # A process of its own: importing it takes seconds, loads torch, and may fail in many ways.
    done = subprocess.run([sys.executable, "-c", "import deepspeed"], capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return Finding(subject, "problem", f"fails: {last}")
    return Finding(subject, "ok", "works")


def _wandb() -> Finding:
    mode = wandb_mode()
    note = "no key is set; metrics.jsonl is written in any case" if mode == "offline" else "as the environment asks"
    return Finding("wandb mode", "ok", f"{mode} ({note})")


def _hub(online: bool) -> Finding:
    subject = "hub"
    if not online:
        return Finding(subject, "note", "not tried; --online tries it")
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        with urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=10) as answer:
            return Finding(subject, "ok", f"{endpoint} answers ({answer.status})")
    except (urllib.error.URLError, TimeoutError) as error:
        return Finding(subject, "note", f"{endpoint} cannot be reached: {error}; local folders and caches still work")
