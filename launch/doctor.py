"""`laconic doctor`: what this installation and this machine can do. For the eyes of a user, and for bug reports."""

from __future__ import annotations

import importlib.util
import os
import platform
import subprocess
import sys
import urllib.error
import urllib.request
from importlib import metadata
from pathlib import Path

from laconic.launch.collectives import collectives
from laconic.launch.environment import wandb_mode
from laconic.launch.findings import Finding
from laconic.launch.machine_check import machine
from laconic.launch.package_check import constraints, packages


def examine(*, runs: Path = Path("runs"), online: bool = False) -> list[Finding]:
    """Look at everything; nothing is changed and, unless `online`, nothing outside this machine is asked.

    Args:
        runs: The folder of all runs.
        online: Also try to reach the hub.
    """
    return [
        _python(),
        *packages(),
        *constraints(),
        *machine(runs),
        _deepspeed(),
        *collectives(),
        _wandb(),
        _hub(online),
    ]


def _python() -> Finding:
    text = f"{platform.python_version()} at {sys.executable}; laconic {metadata.version('laconic')}"
    return Finding("python", "ok", text)


def _deepspeed() -> Finding:
    subject = "deepspeed import"
    if importlib.util.find_spec("deepspeed") is None:
        return Finding(subject, "note", "not installed; profiles zero2, zero3 and zero3_offload need it")
    # A process of its own: importing it takes seconds, loads torch, and may fail in many ways.
    done = subprocess.run([sys.executable, "-c", "import deepspeed"], capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        cure = "mend it, or use --profile ddp or fsdp2; DS_ACCELERATOR=cpu where there is no GPU"
        return Finding(subject, "problem", f"fails: {last}", cure=cure)
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
        text = f"{endpoint} cannot be reached: {error}; local folders and caches still work"
        return Finding(subject, "note", text, cure="set HTTPS_PROXY, or HF_ENDPOINT to a mirror")
