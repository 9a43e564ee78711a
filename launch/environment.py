"""The environment variables a stage process starts with."""

from __future__ import annotations

import os
from collections.abc import Mapping

from laconic.launch.profiles import Profile

QUIET = {
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "WANDB_SILENT": "true",
    "PYTHONUNBUFFERED": "1",
}
"""What keeps a stage's output to the lines it means to print. A variable that is already set is left as it is."""


def stage_environment(profile: Profile, threads: int, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The whole environment of a stage process."""
    mode = wandb_mode(environ)
    # "dryrun" is wandb's other name for offline; transformers prints a line when it reads "offline".
    chosen = {"WANDB_MODE": "dryrun" if mode == "offline" else mode}
    if profile.on_cpu:
        # deepspeed is imported wherever it is installed, and warns when it has to find out for itself.
        chosen["DS_ACCELERATOR"] = "cpu"
    env = {**QUIET, **chosen, **environ, "OMP_NUM_THREADS": str(threads)}
    if profile.on_cpu:
        env["ACCELERATE_USE_CPU"] = "true"
    return env


def wandb_mode(environ: Mapping[str, str] = os.environ) -> str:
    """`online` if WANDB_API_KEY is set, else `offline`; WANDB_MODE wins. A login on disk alone sends nothing."""
    if mode := environ.get("WANDB_MODE"):
        return mode
    return "online" if environ.get("WANDB_API_KEY") else "offline"
