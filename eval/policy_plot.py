"""The picture of policies: accuracy against tokens, numbered points beside a key, so that twenty can be told apart."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from math import cos, pi, sin
from typing import Any

import numpy as np

from laconic.eval.policy_results import NONE
from laconic.eval.policy_table import label_of
from laconic.eval.theme import Theme, figure, png

WIDTH = 9.6
TALLEST = 6.2
"""Inches from the top to the axis of tokens."""
LINE = 0.215
"""Inches of a line of the key."""
LETTER = 0.08
"""Inches of a bold letter of it, or a little less."""
WRAP = 40
"""Characters of a line of the key."""
SPREAD = 4.0
"""Costs that differ by more than this factor are drawn on a logarithmic axis."""
BADGE = 17.0
"""Points between the middles of two numbers, at least."""

Place = tuple[float, float]


def policies(rows: Sequence[Mapping[str, Any]], theme: Theme) -> bytes:
    """Every policy of one model as a numbered point with 95 % intervals, and the line that none other beats.

    Args:
        rows: Of one model and task in `results.json`, in the order of the key; one of them has no policy.
        theme: Colours.
    """
    key = [textwrap.wrap(label_of(row), WRAP, break_on_hyphens=False) or ["-"] for row in rows]
    height = max(4.4, 0.5 + LINE * sum(map(len, key)) + 0.06 * len(key))
    drawn, (axis,) = figure(theme, height, width=WIDTH, fitted=False)
    longest = max(len(line) for lines in key for line in lines)
    right = min(0.72, 0.91 - max(12, longest) * LETTER / WIDTH)
    drawn.subplots_adjust(left=0.075, right=right, top=1 - 0.15 / height, bottom=max(0.6, height - TALLEST) / height)
    for row in rows:
        _point(axis, row, _color(row, theme))
    _frame(axis, rows)
    _line(axis, [row for row in rows if row["pareto"]], theme)
    _badges(axis, rows, theme)
    _key(drawn, rows, key, right + 0.042, theme)
    return png(drawn)


def _color(row: Mapping[str, Any], theme: Theme) -> str:
    return theme.cycle[1] if row["policy"] == NONE else theme.cycle[2] if row["pareto"] else theme.cycle[0]


def _point(axis: Any, row: Mapping[str, Any], color: str) -> None:
    axis.errorbar(
        row["tokens"],
        100 * row["accuracy"],
        xerr=1.96 * (row["tokens_se"] or 0.0),  # None: not known
        yerr=196 * (row["accuracy_se"] or 0.0),
        fmt="o",
        color=color,
        markersize=4,
        elinewidth=0.8,
        alpha=0.55,
        zorder=2,
    )


def _frame(axis: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    """Room around the points; round numbers on a logarithmic axis of tokens."""
    tokens = [row["tokens"] for row in rows]
    if max(tokens) > SPREAD * min(tokens):
        axis.set_xscale("log")
        low, high = min(tokens) / 1.25, max(tokens) * 1.25
        axis.set_xlim(low, high)
        ticks = [step * 10**power for power in range(-1, 7) for step in (1, 2, 5) if low < step * 10**power < high]
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.set_xticks([], minor=True)
    else:
        axis.margins(x=0.12)
    axis.margins(y=0.12)
    axis.set_ylim(top=min(axis.get_ylim()[1], 104))
    axis.set_yticks([tick for tick in axis.get_yticks() if axis.get_ylim()[0] <= tick <= 100])
    axis.set_xlabel("mean tokens per question, everything generated")
    axis.set_ylabel("accuracy, %")


def _line(axis: Any, front: Sequence[Mapping[str, Any]], theme: Theme) -> None:
    (left, right), (bottom, top) = axis.get_xlim(), axis.get_ylim()
    ranked = sorted(front, key=lambda row: row["tokens"])
    tokens = [row["tokens"] for row in ranked] + [right]
    best = [100 * row["accuracy"] for row in ranked]
    style = {"color": theme.soft, "linewidth": 1.2, "linestyle": (0, (4, 3)), "zorder": 1}
    axis.plot([tokens[0], *tokens], [bottom, *best, best[-1]], drawstyle="steps-post", **style)
    axis.set_xlim(left, right)
    axis.set_ylim(bottom, top)


def _badges(axis: Any, rows: Sequence[Mapping[str, Any]], theme: Theme) -> None:
    """A number beside each point, tied to it by a line; none lies on another number or point."""
    scale = 72 / axis.figure.dpi
    pixels = axis.transData.transform([(row["tokens"], 100 * row["accuracy"]) for row in rows]) * scale
    window = axis.get_window_extent()
    inside = (window.x0 * scale + 8, window.x1 * scale - 8, window.y0 * scale + 8, window.y1 * scale - 8)
    places = spread_out(pixels.tolist(), inside)
    for number, (row, point, place) in enumerate(zip(rows, pixels.tolist(), places, strict=True), start=1):
        color, where = _color(row, theme), (row["tokens"], 100 * row["accuracy"])
        shift = {"xytext": (place[0] - point[0], place[1] - point[1]), "textcoords": "offset points"}
        line = {"arrowstyle": "-", "color": color, "linewidth": 0.8, "shrinkA": 0, "shrinkB": 0}
        # The line is a text of its own, so that no line lies on a number.
        axis.annotate("", where, arrowprops=line, zorder=3, **shift)
        disc = {"boxstyle": "circle,pad=0.22", "facecolor": color, "edgecolor": "none"}
        middle = {"ha": "center", "va": "center"}
        bold = {"fontsize": 8.5, "fontweight": "bold", "color": theme.paper}
        axis.annotate(str(number), where, bbox=disc, zorder=4, **middle, **bold, **shift)


def spread_out(points: Sequence[Place], inside: tuple[float, float, float, float]) -> list[Place]:
    """A place for the number of each point, in the same unit: near it, inside, and away from all points and numbers.

    Args:
        points: (x, y).
        inside: Left, right, bottom, top.

    Returns:
        One place per point. Where there is no room at all, the roomiest of those that were tried.
    """
    taken: list[Place] = []
    for point in points:
        tried = list(_around(point, inside))
        free = (place for place in tried if _room(place, points, taken) >= 0)
        taken.append(next(free, max(tried, key=lambda place: _room(place, points, taken))))
    return taken


def _around(point: Place, inside: tuple[float, float, float, float]) -> Iterator[Place]:
    left, right, bottom, top = inside
    for ring in range(1, 14):
        for turn in range(16):
            angle = pi / 4 + turn * pi / 8
            x, y = point[0] + (5 + 9 * ring) * cos(angle), point[1] + (5 + 9 * ring) * sin(angle)
            if left <= x <= right and bottom <= y <= top:
                yield x, y


def _room(place: Place, points: Sequence[Place], taken: Sequence[Place]) -> float:
    """How much farther than needed the nearest number and point are."""
    numbers = min((np.hypot(place[0] - x, place[1] - y) for x, y in taken), default=np.inf)
    nearest = min(np.hypot(place[0] - x, place[1] - y) for x, y in points)
    return float(min(numbers - BADGE, nearest - 0.65 * BADGE))


def _key(
    drawn: Any, rows: Sequence[Mapping[str, Any]], key: Sequence[Sequence[str]], left: float, theme: Theme
) -> None:
    """What the numbers mean; policies on the line are bold."""
    height = drawn.get_figheight()
    at = height - 0.25
    for number, (row, lines) in enumerate(zip(rows, key, strict=True), start=1):
        color = _color(row, theme)
        drawn.text(left, at / height, str(number), color=color, fontsize=9.5, fontweight="bold", ha="right", va="top")
        weight = "bold" if row["pareto"] else "normal"
        for line in lines:
            drawn.text(left + 0.01, at / height, line, color=theme.ink, fontsize=9.5, fontweight=weight, va="top")
            at -= LINE
        at -= 0.06
