"""The pictures of searching: accuracy against searches, and searches against what a model knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from laconic.eval.theme import MARKERS, Theme, figure, legend, png


def accuracy_against_searches(rows: Sequence[Mapping[str, Any]], theme: Theme) -> bytes:
    """Every model as a point with 95 % intervals, and a line through what it does when it is held to few searches.

    Args:
        rows: Of one task, in `results["search"]["rows"]`.
        theme: Colours.
    """
    drawn, (axis,) = figure(theme, 4.1)
    for place, row in enumerate(rows):
        color, marker = theme.color(place), MARKERS[place % len(MARKERS)]
        held = sorted((one["searches"], 100 * one["accuracy"]) for one in row["held_to"].values())
        axis.plot(*zip(*held, strict=True), color=color, linewidth=1.4, alpha=0.6, zorder=2) if held else None
        axis.scatter(*zip(*held, strict=True), color=color, s=16, alpha=0.6, zorder=2) if held else None
        axis.errorbar(
            row["searches"],
            100 * row["accuracy"],
            xerr=_bars(row, "searches", 1),
            yerr=_bars(row, "accuracy", 100),
            fmt=marker,
            color=color,
            markersize=9,
            elinewidth=1.6,
            capsize=3,
            zorder=3,
            label=row["model"],
        )
    axis.margins(x=0.1, y=0.16)
    axis.set_xlim(left=min(-0.05, axis.get_xlim()[0]))
    axis.set_xlabel("mean searches per question")
    axis.set_ylabel("accuracy, %")
    legend(axis, theme, loc="best")
    return png(drawn)


def searches_against_knowledge(rows: Sequence[Mapping[str, Any]], theme: Theme) -> bytes:
    """How often a model searches, by how often it is right with the book closed; a good one falls from 100 to 0.

    Args:
        rows: As above; those without closed-book samples are left out.
        theme: Colours.
    """
    drawn, (axis,) = figure(theme, 4.1)
    for place, row in enumerate(rows):
        points = [] if row["closed_book"] is None else row["closed_book"]["curve"]
        points = [point for point in points if point["searched"] is not None]
        color, marker = theme.color(place), MARKERS[place % len(MARKERS)]
        # Beside each other, so that intervals do not lie on each other.
        shift = (place - (len(rows) - 1) / 2) * 0.8
        for point in points:
            axis.errorbar(
                100 * point["closed_book"] + shift,
                100 * point["searched"],
                yerr=_bars(point, "searched", 100),
                fmt=marker,
                color=color,
                markersize=7,
                elinewidth=1.3,
                capsize=2,
                zorder=3,
            )
        across = [100 * point["closed_book"] + shift for point in points]
        axis.plot(across, [100 * point["searched"] for point in points], color=color, linewidth=1.8, label=row["model"])
    axis.set_ylim(-4, 104)
    axis.set_xlim(-6, 106)
    axis.set_xlabel("right with the book closed, % of samples")
    axis.set_ylabel("episodes that search, %")
    legend(axis, theme, loc="best")
    return png(drawn)


def _bars(row: Mapping[str, Any], name: str, scale: float) -> list[list[float]] | None:
    interval = row[f"{name}_ci"]
    if interval is None:
        return None
    value = row[name]
    return [[scale * max(0.0, value - interval[0])], [scale * max(0.0, interval[1] - value)]]
