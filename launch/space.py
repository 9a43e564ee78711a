"""Is there room on the disk for what a stage will write?"""

from __future__ import annotations

from pathlib import Path

from laconic.launch.estimate import checkpoint_bytes, model_shape
from laconic.launch.machine import free_bytes
from laconic.launch.profiles import Profile
from laconic.launch.text import size
from laconic.recipes.resolve import StageFile
from laconic.recipes.stages import TrainingStage
from laconic.rewards.errors import LaunchError

LEAST = 50 * 10**6
"""Bytes that any stage may need for rollouts, logs and caches."""


def needed_bytes(stage: StageFile, profile: Profile) -> int:
    """An estimate of what a stage writes at most; only `LEAST` where the model's size is not known."""
    shape = model_shape(stage.model, stage.problems)
    if not isinstance(stage.config, TrainingStage) or shape is None:
        return LEAST
    return LEAST + checkpoint_bytes(stage.config, stage.model, shape, profile)


def check_space(folder: Path, needed: int, *, stage: str) -> None:
    """Refuse to start what would fill the disk.

    Raises:
        LaunchError: with the folder, and the bytes that are free and needed.
    """
    free = free_bytes(folder)
    if free < needed:
        raise LaunchError(
            f"{folder}: {free:,} bytes ({size(free)}) are free, but stage {stage!r} needs about {needed:,} "
            f"({size(needed)}) for its checkpoints",
            cure="free some space, choose another disk with --runs, or lower trainer.save_total_limit",
        )
