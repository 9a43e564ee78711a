"""Numbers and tables as a person reads them, with and without colour."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text


def size(count: float) -> str:
    """Bytes: ``1.2 GB`` (powers of ten)."""
    return f"{_scaled(count)}B"


def number(count: float) -> str:
    """A large count: ``1.5 M``; up to 9999 it is written out."""
    return f"{count:,.0f}" if count < 10_000 else _scaled(count).rstrip()


def _scaled(count: float) -> str:
    for factor, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count:.0f} "


def share(part: int, whole: int) -> str:
    """A percentage that says 0 and 100 only where it is exactly that; ``-`` of nothing."""
    if not whole:
        return "-"
    percent = round(100 * part / whole)
    if part and not percent:
        return "<1 %"
    return ">99 %" if part < whole and percent == 100 else f"{percent} %"


def seconds(duration: float) -> str:
    """``8.2 s``, ``3 min 07 s`` or ``2 h 05 min``."""
    if round(duration, 1) < 60:
        return f"{duration:.1f} s"
    minutes, rest = divmod(round(duration), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def console() -> Console:
    """Where commands write: standard output; as wide as its lines need when that is not a terminal."""
    out = Console(highlight=False, soft_wrap=True)
    return out if out.is_terminal else Console(highlight=False, soft_wrap=True, width=400)


def error_console() -> Console:
    """Standard error, where what is said about the output does not mix with it."""
    return Console(highlight=False, soft_wrap=True, stderr=True)


def table(
    header: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[int] = (), whole: Sequence[int] = ()
) -> Table:
    """A table without borders, so that it pastes well.

    Args:
        header: Column titles.
        rows: Cells; never read as markup.
        right: Columns that hold numbers and are aligned right.
        whole: Columns whose cells are copied, and so never broken.
    """
    made = Table(box=None, pad_edge=False, header_style="bold")
    for at, title in enumerate(header):
        made.add_column(title, justify="right" if at in right else "left", overflow="fold", no_wrap=at in whole)
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    return made
