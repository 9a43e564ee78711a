"""Rewards that need a judge: an injected function, async or not, whose verdicts become a column of the group.

The reward stays a pure function of that column. A verdict that cannot be read is None, never a number, and the reward
abstains from that rollout.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import math
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from laconic.rewards.errors import LaunchError, RecipeError

Row: TypeAlias = Mapping[str, Any]
"""One rollout as the judge sees it: its columns and its problem's by name (`question`, `text`, `golds`, ...)."""
Judge: TypeAlias = Callable[[Row], Awaitable[Any] | Any]
"""Asked once per rollout, async or not; answers with a number, a text to be parsed, or None."""


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
    """Ask the judge about every row, at most `concurrency` at once; an unreadable verdict is None.

    Raises:
        LaunchError: the judge raised.
    """
    return list(map(judged.parse, await answers(judge, rows, concurrency=concurrency)))


async def answers(
    judge: Judge, rows: Sequence[Row], *, names: Sequence[str] | None = None, concurrency: int = 64
) -> list[Any]:
    """What the judge says about every row, not parsed yet.

    Args:
        judge: Asked once per row; one that is not async answers one row after the other.
        rows: What it is shown.
        names: What messages call the rows; by default their place in `rows`.
        concurrency: Rows that are asked about at once.

    Raises:
        LaunchError: the judge raised; its name, the row and the line of code are named.
    """
    slots = asyncio.Semaphore(concurrency)

    async def ask(at: int, row: Row) -> Any:
        async with slots:
            try:
                return await ask_one(judge, row)
            except Exception as error:
                raise failure(judge, names[at] if names else f"rollout {at + 1} of {len(rows)}", error) from error

    return list(await asyncio.gather(*(ask(at, row) for at, row in enumerate(rows))))


async def ask_one(judge: Judge, row: Row) -> Any:
    """What a judge, async or not, says about a row, not parsed yet; whatever it raises is raised."""
    answer = judge(row)
    return await answer if inspect.isawaitable(answer) else answer


def failure(judge: Judge, row: str, error: BaseException) -> LaunchError:
    """What is raised where a judge raised.

    Args:
        judge: Which one.
        row: What messages call the row it was asked about.
        error: What it raised.
    """
    last = traceback.extract_tb(error.__traceback__)[-1]
    return LaunchError(
        f"judge {name_of(judge)} failed on {row}: {type(error).__name__}: {error} ({last.filename}:{last.lineno})",
        cure="mend the judge; for a verdict that it cannot give it returns None",
    )


def name_of(judge: Judge) -> str:
    """The judge as ``module:function``."""
    return f"{judge.__module__}:{getattr(judge, '__qualname__', type(judge).__qualname__)}"


def load_judge(place: str) -> Judge:
    """The judge that ``module:function`` names.

    Raises:
        RecipeError: the module cannot be imported, has no such name, or the name cannot be called.
    """
    module, _, name = place.partition(":")
    cure = "name a function as package.module:function; the module's folder must be on PYTHONPATH"
    try:
        judge = getattr(importlib.import_module(module), name)
    except Exception as error:  # A module can fail in any way while it is imported.
        raise RecipeError(f"judge {place!r}: {type(error).__name__}: {error}", cure=cure) from None
    if not callable(judge):
        raise RecipeError(f"judge {place!r}: {name} cannot be called", cure=cure)
    return judge


def number(answer: Any, low: float = -math.inf, high: float = math.inf) -> float | None:
    """The answer as one finite number between `low` and `high`, both included; None if it is not one."""
    if isinstance(answer, bool) or answer is None:
        return None
    try:
        value = float(answer)
    except (TypeError, ValueError, OverflowError):
        return None
    return value if math.isfinite(value) and low <= value <= high else None
