"""TRL's metrics of micro-batches as those of the whole optimiser step."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import TypeAlias

from laconic.training.segments import MicroBatch, Segment

Metrics: TypeAlias = dict[str, list[float]]

_PER_ROW = frozenset({"vespo/phi_seq_mean"})
_NO_MEANS = frozenset({"policy_loss", "entropy_coef"})


def of_step(
    parts: Sequence[tuple[MicroBatch, Metrics]], segments: Sequence[Segment], *, sequence_level: bool
) -> Metrics:
    """One value per metric.

    Means are weighted by tokens, where TRL's are means of its micro-batches' means. Shares of clipped tokens count the
    rollouts that were left out, of which nothing is clipped; entropy and divergence are those of the trained ones.

    Args:
        parts: Of each micro-batch: itself and what TRL noted.
        segments: Of the step.
        sequence_level: Whether ratios are per rollout, and with them what is clipped.
    """
    found: dict[str, list[tuple[MicroBatch, float]]] = defaultdict(list)
    for batch, metrics in parts:
        for name, values in metrics.items():
            # A round of stand-ins says nothing about the policy; of what is clipped there is none in it.
            says = batch.tokens > 0 or "clip" in name or name in _NO_MEANS
            found[name] += [(batch, value) for value in values if says and not math.isnan(value)]
    every = [row for segment in segments for row in segment.table]
    skipped = sum(segment.skipped for segment in segments)
    totals = {"rows": len(every), "tokens": sum(row.tokens for row in every)}
    combined: Metrics = {
        name: [_combined(name, values, totals, skipped, sequence_level)] for name, values in found.items() if values
    }
    if segments[0].processes > 1:
        # TRL's is a mean over processes already, whose parts have weights of their own and cannot be told apart again.
        combined.pop("policy_loss", None)
    elif "policy_loss" in found:
        # Not a mean: parts of a loss add up, as their gradients do.
        combined["policy_loss"] = [sum(batch.weight * value for batch, value in found["policy_loss"]) / len(segments)]
    places = sum(batch["prompt_ids"].numel() + batch["completion_ids"].numel() for batch, _ in parts)
    held = sum(batch.held for batch, _ in parts)
    return combined | {
        "rollouts/skipped": [float(skipped)],
        "micro_batches/count": [float(len(parts))],
        "micro_batches/padding": [1 - held / max(places, 1)],
    }


def _combined(
    name: str, values: list[tuple[MicroBatch, float]], totals: dict[str, int], skipped: int, sequence_level: bool
) -> float:
    if name == "entropy_coef":
        return values[-1][1]
    if name.startswith("clip_ratio/low_min"):
        return min([value for _, value in values] + [0.0] * (skipped > 0))
    if name.startswith("clip_ratio/high_max"):
        return max(value for _, value in values)
    unit = "rows" if name in _PER_ROW or (sequence_level and "clip" in name) else "tokens"
    weights = [getattr(batch, unit) for batch, _ in values]
    clipped = "clip" in name
    total = totals[unit] if clipped else sum(weights)
    return sum(weight * value for weight, (_, value) in zip(weights, values, strict=True)) / max(total, 1)
