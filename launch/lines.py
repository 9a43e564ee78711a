"""The command that runs a stage, as arguments for this machine and as a line a person can type."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from laconic.launch.profiles import Profile

PLAIN = {"init": "laconic.training.init", "generate": "laconic.data_gen.stage", "eval": "laconic.eval.stage"}
"""Stages that run as one ordinary process, and their modules."""

TRAINING = {"sft": "laconic.training.sft", "dpo": "laconic.training.dpo", "grpo": "laconic.training.grpo"}
"""Stages that accelerate launches, on as many ranks as the profile says."""


def stage_argv(kind: str, stage_yaml: Path, profile: Profile) -> list[str]:
    """The command as the operating system gets it, with this Python."""
    if kind in PLAIN:
        return [sys.executable, "-m", PLAIN[kind], str(stage_yaml)]
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--quiet"]
    return [*launcher, *launch_options(profile), "-m", TRAINING[kind], str(stage_yaml)]


def stage_line(kind: str, stage_yaml: Path, profile: Profile) -> str:
    """The same command as it is typed in a shell where Laconic is installed."""
    if kind in PLAIN:
        return shlex.join(["python", "-m", PLAIN[kind], short(stage_yaml)])
    line = ["accelerate", "launch", *launch_options(profile), "-m", TRAINING[kind], short(stage_yaml)]
    # accelerate sets this variable for one CPU process only; ranks that torchrun starts need it said.
    prefix = "ACCELERATE_USE_CPU=true " if profile.on_cpu and profile.processes > 1 else ""
    return prefix + shlex.join(line)


def launch_options(profile: Profile) -> Sequence[str]:
    """Options of `accelerate launch`: the profile's file, and the number of ranks where the file leaves it open."""
    options = ["--config_file", short(profile.path)]
    if profile.processes and profile.processes != profile.settings.get("num_processes", 1):
        options += ["--num_processes", str(profile.processes)]
    return options


def short(path: Path) -> str:
    """A path relative to the current folder where it lies inside it, else absolute."""
    path = Path(os.path.abspath(path))
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
