"""Weights & Biases, when it is wanted: offline without a key, its files inside the stage folder, never in the way."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path


def trackers(work: Path) -> list[str]:
    """What the trainer reports to; `metrics.jsonl` is written whatever this says.

    ``LACONIC_TRACKER=none`` turns wandb off. Without ``WANDB_API_KEY`` it writes offline files that `wandb sync` can
    send later.

    Args:
        work: The stage's work folder.
    """
    if os.environ.get("LACONIC_TRACKER") == "none" or importlib.util.find_spec("wandb") is None:
        return []
    if "WANDB_API_KEY" not in os.environ:
        # wandb's other name for offline; transformers prints a line when it reads that one.
        os.environ.setdefault("WANDB_MODE", "dryrun")
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_DIR", str(work))
    os.environ.setdefault("WANDB_PROJECT", "laconic")
    return ["wandb"]


def finish() -> None:
    """Close the tracker's files, so that the stage folder can be renamed."""
    if importlib.util.find_spec("wandb") is None:
        return
    import wandb

    if wandb.run is not None:
        wandb.finish()
