"""An accelerator for processes that hold different numbers of rollouts."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator


class UnevenGather:
    """An accelerator whose `gather` takes vectors of different lengths; missing values arrive as NaN.

    TRL (1.16) gathers one value per rollout for its metrics and ignores NaN in them.

    Args:
        accelerator: Does everything else.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator

    def __getattr__(self, name: str) -> Any:
        return getattr(self._accelerator, name)

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        """All processes' values, one process after the other."""
        if values.ndim:
            values = self._accelerator.pad_across_processes(values, pad_index=float("nan"))
        return self._accelerator.gather(values)
