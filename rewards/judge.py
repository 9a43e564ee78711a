"""Rewards that need a judge: an injected async callable whose verdicts become a column of the group.

The reward stays a pure function of that column. A verdict that cannot be read is None, never a number, and the reward
abstains from that rollout.
"""

from __future__ import annotations

import asyncio
import importlib
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from laconic.rewards.errors import RecipeError

Row: TypeAlias = Mapping[str, Any]
"""One rollout as the judge sees it: its columns and its problem's by name (`question`, `text`, `golds`, ...)."""
Judge: TypeAlias = Callable[[Row], Awaitable[Any]]
"""Asked once per rollout; answers with a number, a text to be parsed, or None."""


@dataclass(frozen=True)
class Judged:
    """What a reward asks of its judge."""

    column: str
    """The column that the verdicts fill."""
    asks: str
    """The question, in words."""
    parse: Callable[[Any], float | None]
    """The judge's answer as a number; None if it cannot be read."""


async def verdicts(judge: Judge, judged: Judged, rows: Sequence[Row], *, concurrency: int = 64) -> list[float | None]:
    """Ask the judge about every row, at most `concurrency` at once; an unreadable verdict is None."""
    slots = asyncio.Semaphore(concurrency)

    async def ask(row: Row) -> float | None:
        async with slots:
            return judged.parse(await judge(row))

    return list(await asyncio.gather(*map(ask, rows)))


def load_judge(place: str) -> Judge:
    """The judge that ``module:function`` names.

    Raises:
        RecipeError: the module cannot be imported, has no such name, or the name cannot be called.
    """
    module, _, name = place.partition(":")
    cure = "name an async function as package.module:function"
    try:
        judge = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise RecipeError(f"judge {place!r}: {error}", cure=cure) from None
    if not callable(judge):
        raise RecipeError(f"judge {place!r}: {name} cannot be called", cure=cure)
    return judge


def number(answer: Any, low: float = -math.inf, high: float = math.inf) -> float | None:
    """The answer as one finite number between `low` and `high`, both included; None if it is not one."""
    if isinstance(answer, bool) or answer is None:
        return None
    try:
        value = float(answer)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) and low <= value <= high else None
