"""How pictures look: one light and one dark set of colours, sized to be read in a 360 pixel column."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.figure import Figure

matplotlib.use("Agg")

WIDTH = 6.2
"""Inches of a picture that fills half the page; a third of it takes `NARROW`."""
NARROW = 4.6
DPI = 180
MARKERS = "osD^vPX*"


@dataclass(frozen=True, slots=True)
class Theme:
    """Colours of a picture. `paper` is the colour of the card that the page puts it on."""

    name: str
    paper: str
    ink: str
    soft: str
    line: str
    cycle: tuple[str, ...]
    """One colour per model; told apart with the common colour blindnesses."""

    def color(self, place: int) -> str:
        """The colour of the model at this place of the recipe's list."""
        return self.cycle[place % len(self.cycle)]


LIGHT = Theme(
    "light",
    "#ffffff",
    "#1c2330",
    "#667085",
    "#e4e7ec",
    ("#7a8699", "#d9730d", "#1f6feb", "#128a6b", "#a144c2", "#b8324f"),
)
DARK = Theme(
    "dark",
    "#161b22",
    "#e6eaf0",
    "#97a3b4",
    "#2b333e",
    ("#9aa7b8", "#f0954a", "#6ea8ff", "#45c4a0", "#cf8ae8", "#f27a93"),
)


def figure(
    theme: Theme, height: float, *, rows: int = 1, width: float = WIDTH, fitted: bool = True, **options: Any
) -> tuple[Figure, Sequence[Any]]:
    """An empty picture with `rows` panels.

    Args:
        theme: Its colours.
        height: Inches.
        rows: Panels, one below the other.
        width: Inches.
        fitted: The panels fill the picture; else the caller places them.
        **options: For `Figure.subplots`.

    Returns:
        The figure and its axes, shape (rows,).
    """
    with matplotlib.rc_context({"font.size": 11, "font.family": "DejaVu Sans"}):
        layout = "constrained" if fitted else "none"
        drawn = Figure(figsize=(width, height), dpi=DPI, facecolor=theme.paper, layout=layout)
        axes = drawn.subplots(rows, 1, squeeze=False, **options)[:, 0]
    for axis in axes:
        _dress(axis, theme)
    return drawn, axes


def _dress(axis: Any, theme: Theme) -> None:
    axis.set_facecolor(theme.paper)
    axis.grid(True, color=theme.line, linewidth=0.8)
    axis.set_axisbelow(True)
    axis.tick_params(colors=theme.soft, labelcolor=theme.soft, labelsize=10, length=0)
    for label in (axis.xaxis.label, axis.yaxis.label, axis.title):
        label.set_color(theme.ink)
        label.set_fontsize(11)
    for side, spine in axis.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(theme.line)


def legend(axis: Any, theme: Theme, **options: Any) -> None:
    """A legend without a frame, in the theme's ink."""
    axis.legend(frameon=False, labelcolor=theme.ink, fontsize=10, **options)


def png(drawn: Figure) -> bytes:
    """The picture as PNG bytes; no software name or date inside, so equal pictures are equal files."""
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="png", facecolor=drawn.get_facecolor(), metadata={"Software": None})
    return buffer.getvalue()
