"""TRL's metrics of micro-batches as those of a whole optimiser step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from accelerate import Accelerator
from trl import GRPOTrainer

from laconic.training.segments import MicroBatch, Segment

Metrics: TypeAlias = dict[str, list[float]]

_PER_ROW = frozenset({"vespo/phi_seq_mean"})
_LOSS, _COEFFICIENT = "policy_loss", "entropy_coef"
_LEAST, _MOST = "clip_ratio/low_min", "clip_ratio/high_max"


class Alone:
    """A trainer's accelerator that leaves the other processes out of what TRL (1.16) asks them for its metrics.

    TRL does so some nine times in every micro-batch, and each time all wait for the slowest; `of_step` does it once.

    Args:
        trainer: Whose accelerator it stands for.
    """

    def __init__(self, trainer: GRPOTrainer) -> None:
        self._trainer, self._accelerator = trainer, trainer.accelerator

    def __getattr__(self, name: str) -> Any:
        return getattr(self._accelerator, name)

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        """This process's values."""
        return values

    def reduce(self, values: torch.Tensor, reduction: str) -> torch.Tensor:
        """This process's values; but what steers the bonus for entropy is no metric."""
        if values is getattr(self._trainer, "_entropy_window_stats", None):
            return self._accelerator.reduce(values, reduction=reduction)
        return values


def of_step(
    parts: Sequence[tuple[MicroBatch, Metrics]],
    segments: Sequence[Segment],
    accelerator: Accelerator,
    *,
    sequence_level: bool,
) -> Metrics:
    """One value per metric; all processes call it together.

    What is about the policy is about all processes' rollouts. Means are weighted by tokens, or by rollouts where TRL
    has one value for each, while TRL's are means of its micro-batches' means. Shares of what is clipped count the
    rollouts that were left out, of which nothing is; entropy and divergence are those of the trained ones. What is said
    about micro-batches is about those of this process.

    Args:
        parts: Of each micro-batch: itself and what TRL noted of it, of this process alone.
        segments: Of the step.
        accelerator: Knows the other processes.
        sequence_level: Whether ratios are per rollout, and with them what is clipped.
    """
    names = sorted({name for _, metrics in parts for name in metrics})
    own = torch.tensor([_sums(name, parts, sequence_level) for name in names])
    sums = accelerator.gather(own.view(1, -1, 4).to(accelerator.device))
    every = [row for segment in segments for row in segment.table]
    totals = {"rows": len(every), "tokens": sum(row.tokens for row in every)}
    skipped = sum(segment.skipped for segment in segments)
    combined: Metrics = {}
    for name, of_processes in zip(names, sums.unbind(1), strict=True):
        (value, weight), (least, most) = of_processes[:, :2].sum(0).tolist(), _range(of_processes)
        if name == _COEFFICIENT:
            combined[name] = [parts[-1][1][name][-1]]
        elif name == _LOSS:
            # Not a mean: parts of a loss add up, as their gradients do, and processes take the mean of those.
            combined[name] = [value / len(segments) / accelerator.num_processes]
        elif name in (_LEAST, _MOST):
            if math.isfinite(least):
                combined[name] = [most if name == _MOST else min(least, 0.0) if skipped else least]
        elif "clip" in name:
            combined[name] = [value / max(totals[_unit(name, sequence_level)], 1)]
        elif weight > 0:
            combined[name] = [value / weight]
    places = sum(batch["prompt_ids"].numel() + batch["completion_ids"].numel() for batch, _ in parts)
    held = sum(batch.held for batch, _ in parts)
    return combined | {
        "rollouts/skipped": [float(skipped)],
        "micro_batches/count": [float(len(parts))],
        "micro_batches/padding": [1 - held / max(places, 1)],
    }


def _sums(name: str, parts: Sequence[tuple[MicroBatch, Metrics]], sequence_level: bool) -> list[float]:
    """Of one metric here: the weighted sum, the weights, the least value, the largest one.

    A stand-in has no tokens, and says nothing about the policy.
    """
    noted = [(batch, value) for batch, metrics in parts if batch.tokens > 0 for value in metrics.get(name, [])]
    if name == _LOSS:
        # A part that is not a number makes the loss none.
        return [sum(batch.weight * value for batch, value in noted), 0.0, 0.0, 0.0]
    known = [(getattr(batch, _unit(name, sequence_level)), value) for batch, value in noted if not math.isnan(value)]
    values = [value for _, value in known]
    total, weights = sum(weight * value for weight, value in known), sum(weight for weight, _ in known)
    return [total, weights, min(values, default=math.inf), max(values, default=-math.inf)]


def _range(of_processes: torch.Tensor) -> tuple[float, float]:
    return of_processes[:, 2].min().item(), of_processes[:, 3].max().item()


def _unit(name: str, sequence_level: bool) -> str:
    return "rows" if name in _PER_ROW or (sequence_level and "clip" in name) else "tokens"
