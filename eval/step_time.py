"""Where the seconds of GRPO steps went, from the metrics of a stage's trainer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np

from laconic.eval.gather import Stage
from laconic.eval.plots import smooth
from laconic.eval.theme import NARROW, Theme, figure, legend, png
from laconic.recipes.arithmetic import batch_plan

Row: TypeAlias = Mapping[str, Any]

PHASES = {
    "decode": "sampling",
    "reward": "rewards",
    "logprobs": "log-probabilities",
    "wait": "waiting",
    "train": "training",
    "optimiser": "optimiser",
    "other": "other",
}
"""What the metrics ``seconds/...`` are called in the report."""
COLORS = {"decode": 2, "reward": 4, "logprobs": 3, "wait": 5, "train": 1, "optimiser": 0}
"""Places in the theme's cycle; `other` has the colour of lines."""
_NOTE = (
    "Means over optimiser steps, of the first process; each phase in seconds, with its share of the step. Waiting is "
    "for the slowest process, and for micro-batches to be made; training is forward and backward. Skipped are rollouts "
    "that cannot change the gradient. Padding is the share of a micro-batch's places that hold no token."
)
_REFILLS = " Groups drawn again: how many, those of them that were used, and the seconds, which are in the phases too."
_DASH = "–"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """Means over the optimiser steps of one stage."""

    stage: str
    seconds: dict[str, float]
    """By phase, those that were logged, and `other`: the rest of the step."""
    micro_batches: float
    padding: float
    """Share of places."""
    skipped: float | None
    """Share of rollouts; None where the stage does not say how many there are."""
    refills: tuple[float, float, float] | None = None
    """Per generation, with dynamic sampling: groups drawn again, those of them used, seconds."""

    @property
    def total(self) -> float:
        """Seconds of a step."""
        return sum(self.seconds.values())


def step_times(stages: Sequence[Stage]) -> list[StepTime]:
    """Of every grpo stage whose trainer told."""
    found = ((stage, _windows(stage.metrics)) for stage in stages if stage.kind == "grpo")
    return [_means(stage, *windows) for stage, windows in found if windows[0]]


def _windows(metrics: Sequence[Row]) -> tuple[list[Row], list[int]]:
    """Rows that tell, and how many steps each is a mean of."""
    steps = [0, *(row["step"] for row in metrics)]
    spans = zip(metrics, (after - before for before, after in pairwise(steps)), strict=True)
    told = [(row, span) for row, span in spans if row.get("seconds/train") is not None and span > 0]
    return [row for row, _ in told], [span for _, span in told]


def _means(stage: Stage, rows: Sequence[Row], spans: Sequence[int]) -> StepTime:
    def mean(values: Sequence[float]) -> float:
        return float(np.average(values, weights=spans))

    skipped, rollouts = mean([row["rollouts/skipped"] for row in rows]), _rollouts(stage)
    return StepTime(
        stage=stage.name,
        seconds={phase: mean(values) for phase, values in _by_phase(rows).items()},
        micro_batches=mean([row["micro_batches/count"] for row in rows]),
        padding=mean([row["micro_batches/padding"] for row in rows]),
        skipped=skipped / rollouts if rollouts else None,
        refills=_refills(rows, spans),
    )


def _refills(rows: Sequence[Row], spans: Sequence[int]) -> tuple[float, float, float] | None:
    # A step that goes on with an earlier generation says nothing.
    told = [(row, span) for row, span in zip(rows, spans, strict=True) if row.get("refill/rounds") is not None]
    if not told:
        return None
    weights = [span for _, span in told]
    drawn, used, spent = (
        float(np.average([row[f"refill/{name}"] for row, _ in told], weights=weights))
        for name in ("groups_drawn", "groups_used", "seconds")
    )
    return drawn, used, spent


def _by_phase(rows: Sequence[Row]) -> dict[str, list[float]]:
    """The seconds of each row; `step_time` is TRL's and ends before the optimiser begins."""
    named = [phase for phase in COLORS if any(row.get(f"seconds/{phase}") is not None for row in rows)]
    spent = {phase: [row.get(f"seconds/{phase}") or 0.0 for row in rows] for phase in named}
    sums = [sum(values) for values in zip(*spent.values(), strict=True)]
    whole = [(row.get("step_time") or 0.0) + (row.get("seconds/optimiser") or 0.0) for row in rows]
    return spent | {"other": [max(0.0, all_ - sum_) for all_, sum_ in zip(whole, sums, strict=True)]}


def _rollouts(stage: Stage) -> int | None:
    """Of an optimiser step, over all processes."""
    config = stage.description.get("config")
    if config is None:
        return None
    processes = stage.manifest.get("world_size", 1)
    return batch_plan("grpo", config.get("batch_size"), config.get("trainer", {}), processes).rows_per_step


def table(times: Sequence[StepTime]) -> tuple[list[str], list[list[str]]]:
    """Header and cells, a line for each stage; of seconds, the share of the step stands in brackets."""
    phases = [phase for phase in PHASES if any(phase in time.seconds for time in times)]
    header = ["stage", "seconds per step", *(PHASES[phase] for phase in phases)]
    header += ["rollouts skipped, %", "padding, %", "micro-batches per step"]
    cells = [[time.stage, _seconds(time.total), *_cells(time, phases)] for time in times]
    if not any(time.refills for time in times):
        return header, cells
    again = [_refill(time) for time in times]
    return [*header, "groups drawn again per generation"], [
        [*row, cell] for row, cell in zip(cells, again, strict=True)
    ]


def _cells(time: StepTime, phases: Sequence[str]) -> Iterator[str]:
    for phase in phases:
        spent = time.seconds.get(phase)
        yield _DASH if spent is None else f"{_seconds(spent)} [{100 * spent / time.total:.0f} %]"
    yield _DASH if time.skipped is None else f"{100 * time.skipped:.1f}"
    yield f"{100 * time.padding:.1f}"
    yield f"{time.micro_batches:.1f}"


def _refill(time: StepTime) -> str:
    if time.refills is None:
        return _DASH
    drawn, used, spent = time.refills
    return f"{drawn:.1f}: {used:.1f} used, {_seconds(spent)} s"


def _seconds(value: float) -> str:
    return f"{value:.1f}" if value >= 100 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def note(times: Sequence[StepTime]) -> str:
    """What the columns mean."""
    return _NOTE + (_REFILLS if any(time.refills for time in times) else "")


def markdown(times: Sequence[StepTime]) -> str:
    """The table, with what it means."""
    header, cells = table(times)
    rule = f"| :-- |{' --: |' * (len(header) - 1)}"
    lines = [f"| {' | '.join(line)} |" for line in (header, *cells)]
    return "\n".join([lines[0], rule, *lines[1:], "", note(times)])


def step_seconds(metrics: Sequence[Row], theme: Theme) -> bytes | None:
    """The seconds of steps in the course of training, by phase on top of each other; None without two such rows.

    Args:
        metrics: Rows of a stage's `metrics.jsonl`.
        theme: Colours.
    """
    rows, _ = _windows(metrics)
    if len(rows) < 2:
        return None
    spent = {phase: smooth(values) for phase, values in _by_phase(rows).items() if any(values)}
    colors = [theme.cycle[COLORS[phase]] if phase in COLORS else theme.line for phase in spent]
    drawn, (axis,) = figure(theme, 3.6, width=NARROW)
    steps = [row["step"] for row in rows]
    axis.stackplot(steps, *spent.values(), colors=colors, labels=[PHASES[phase] for phase in spent], linewidth=0)
    axis.set_xlim(steps[0], steps[-1])
    axis.set_ylim(bottom=0)
    axis.set_title("seconds per step", loc="left", color=theme.ink, fontsize=11)
    axis.set_xlabel("optimiser step")
    legend(axis, theme, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3, columnspacing=1.2, handlelength=1.2)
    return png(drawn)
