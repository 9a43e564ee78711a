"""The picture of `laconic score --compare`: reward against length, one panel per reward."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from laconic.launch.text import share
from laconic.rewards.errors import LaunchError
from laconic.rewards.group import Array
from laconic.rewards.score import Score, Table
from laconic.rewards.score_report import Properties

LONG_TAIL = 8.0
"""Lengths whose longest is this many times their median are drawn on a logarithmic axis."""
_RIGHT, _WRONG = "#1f6feb", "#d9730d"
_INK, _SOFT, _LINE, _PAPER = "#1c2330", "#667085", "#e4e7ec", "#ffffff"
_MOST_ACROSS = 3
_PANEL = (3.7, 2.9)
"""Inches of one panel, across and down."""


def draw(table: Table, scores: Sequence[Score], found: Sequence[Properties]) -> bytes:
    """The picture as PNG bytes; no date inside, so equal pictures are equal files.

    Args:
        table: The rollouts.
        scores: What each reward said.
        found: The properties of each, in the same order.

    Raises:
        LaunchError: matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise LaunchError("the picture needs matplotlib", cure="pip install matplotlib") from None

    across = min(len(scores), 2 if len(scores) in (2, 4) else _MOST_ACROSS)
    down = math.ceil(len(scores) / across)
    with rc_context({"font.size": 10, "font.family": "DejaVu Sans"}):
        size = (max(_PANEL[0] * across, 5.0), _PANEL[1] * down + 0.55)
        drawn = Figure(figsize=size, dpi=160, facecolor=_PAPER, layout="constrained")
        FigureCanvasAgg(drawn)
        axes = drawn.subplots(down, across, squeeze=False, sharex=True).ravel()
        for axis, score, properties in zip(axes[: len(scores)], scores, found, strict=True):
            _panel(axis, score, properties)
        _finish(drawn, axes, len(scores), across, table)
        buffer = io.BytesIO()
        drawn.savefig(buffer, format="png", facecolor=_PAPER, metadata={"Software": None})
    return buffer.getvalue()


def _panel(axis: Any, score: Score, properties: Properties) -> None:
    count = properties.rollouts
    lengths = np.concatenate([batch.length for batch in score.batches])
    correct = np.concatenate([batch.correct for batch in score.batches])
    rewards = np.concatenate(score.rewards)
    opaque = float(np.clip(30 / math.sqrt(count), 0.15, 0.85))
    area = float(np.clip(2600 / count, 8, 34))
    axis.axhline(0, color=_SOFT, linewidth=0.9, zorder=1)
    wrong = {"marker": "x", "color": _WRONG, "linewidths": 1.4, "s": area, "label": "wrong"}
    axis.scatter(lengths[~correct], rewards[~correct], alpha=opaque, zorder=3, **wrong)
    right = {"marker": "o", "color": _RIGHT, "linewidths": 0, "s": area, "label": "right"}
    axis.scatter(lengths[correct], rewards[correct], alpha=opaque, zorder=2, **right)
    axis.set_title(score.chosen.name, loc="left", color=_INK, fontweight="bold", fontsize=11)
    axis.set_title(_remark(properties), loc="right", color=_SOFT, fontsize=9)
    _dress(axis, lengths, rewards)


def _remark(properties: Properties) -> str:
    above, pairs = properties.wrong_above_right, properties.pairs
    beaten = f"wrong > right: {share(above, pairs)}" if pairs else ""
    return f"{beaten}\nabstains: {properties.abstained}" if properties.abstained else beaten


def _dress(axis: Any, lengths: Array, rewards: Array) -> None:
    from matplotlib.ticker import MaxNLocator

    if lengths.max() > LONG_TAIL * np.median(lengths) and lengths.min() > 0:
        axis.set_xscale("log")
    else:
        axis.set_xlim(left=0)
        axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axis.xaxis.set_major_formatter("{x:,.0f}")
    if np.nanmax(rewards, initial=0.0) - np.nanmin(rewards, initial=0.0) == 0:
        axis.set_ylim(-1, 1)
    axis.margins(y=0.12)
    axis.grid(True, color=_LINE, linewidth=0.8)
    axis.set_axisbelow(True)
    axis.tick_params(which="both", colors=_SOFT, labelcolor=_SOFT, labelsize=9, length=0)
    for side, spine in axis.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(_LINE)


def _finish(drawn: Any, axes: Array, used: int, across: int, table: Table) -> None:
    """Labels on the outer edges, one legend, and empty places left white."""
    for axis in axes[used:]:
        axis.set_visible(False)
    for at, axis in enumerate(axes[:used]):
        if at % across == 0:
            axis.set_ylabel("reward", color=_INK)
        if at + across >= used:
            axis.set_xlabel("length, tokens", color=_INK)
            axis.tick_params(labelbottom=True)
    handles, labels = axes[0].get_legend_handles_labels()
    legend = drawn.legend(handles[::-1], labels[::-1], loc="outside upper right", ncols=2, frameon=False)
    for handle, text in zip(legend.legend_handles, legend.get_texts(), strict=True):
        handle.set_alpha(1.0)
        handle.set_sizes([34])
        text.set_color(_INK)
    drawn.suptitle(table.file.path.name, x=0.01, ha="left", color=_SOFT, fontsize=10)
