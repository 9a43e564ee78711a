"""How a row of a data set becomes a problem: one function per layout of fields."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from laconic.rewards.boxed import last_boxed
from laconic.rewards.errors import DataError
from laconic.rewards.records import Problem

Row = Mapping[str, Any]

_CALCULATOR = re.compile(r"<<[^<>]*>>")
_GOLD_MARK = "####"


def read_row(row: Row, layout: str, *, where: str, default_id: str, task: str | None = None) -> Problem:
    """Make the problem that a row describes.

    Args:
        row: Field names and values.
        layout: A key of `LAYOUTS`.
        where: Names the row in messages: file or data set, and row number.
        default_id: The problem's id where the row has none.
        task: The verifier; None takes the layout's own.

    Raises:
        DataError: a field is missing, empty or not text; the message has the fields that were found.
    """
    found = LAYOUTS[layout](row, where)
    chosen = task or found.pop("task", None) or _TASKS[layout]
    found.pop("task", None)
    return Problem(**{"id": default_id, **found, "task": chosen})


def _generic(row: Row, where: str) -> dict[str, Any]:
    """`prompt`, `answer`; optionally `id`, `task`, `difficulty`, `solution`; other fields are not read."""
    found: dict[str, Any] = {"prompt": _text(row, "prompt", where), "answer": _text(row, "answer", where)}
    found |= {key: _text(row, key, where) for key in ("id", "task") if row.get(key) is not None}
    if row.get("difficulty") is not None:
        found["difficulty"] = _number(row, "difficulty", where)
    found["meta"] = {"solution": _text(row, "solution", where)} if row.get("solution") is not None else {}
    return found


def _gsm8k(row: Row, where: str) -> dict[str, Any]:
    """`question`, `answer`; the answer is a rationale with ``<<3+4=7>>`` annotations and ends in ``#### 7``."""
    question, answer = _text(row, "question", where), _text(row, "answer", where)
    rationale, mark, gold = answer.rpartition(_GOLD_MARK)
    gold = gold.strip().replace(",", "")
    if not mark or not gold:
        raise DataError(
            f"{where}: its answer does not end in '{_GOLD_MARK} <number>'",
            cure="mend the row, or set problems.layout: generic",
        )
    # A step is what difficulty counts: GSM8K writes one per line.
    solution = _CALCULATOR.sub("", rationale).strip()
    steps = float(len(solution.splitlines()))
    return {"prompt": question, "answer": gold, "difficulty": steps, "meta": {"solution": solution}}


def _math(row: Row, where: str) -> dict[str, Any]:
    r"""`problem`, `solution`; `answer` or else the solution's last ``\boxed{}``; optionally `level`, `unique_id`."""
    found: dict[str, Any] = {"prompt": _text(row, "problem", where)}
    solution = _text(row, "solution", where) if row.get("solution") is not None else None
    boxed = None if solution is None else last_boxed(solution)
    found["answer"] = boxed if boxed is not None and row.get("answer") is None else _text(row, "answer", where)
    if row.get("unique_id") is not None:
        found["id"] = _text(row, "unique_id", where)
    if level := re.search(r"\d+", str(row.get("level", ""))):
        found["difficulty"] = float(level.group())
    found["meta"] = {} if solution is None else {"solution": solution}
    return found


LAYOUTS: dict[str, Callable[[Row, str], dict[str, Any]]] = {"generic": _generic, "gsm8k": _gsm8k, "math": _math}
"""By the name that `problems.layout` uses."""

_TASKS = {"generic": "exact", "gsm8k": "math", "math": "math"}


def _text(row: Row, key: str, where: str) -> str:
    if key not in row:
        raise DataError(
            f"{where}: no column {key!r}; it has {', '.join(map(repr, row)) or 'none'}",
            cure="set problems.layout to the layout of these columns (generic, gsm8k, math), or rename the column",
        )
    value = row[key]
    if isinstance(value, bool) or not isinstance(value, str | int | float) or not str(value).strip():
        raise DataError(f"{where}: column {key!r} holds {value!r}", cure="it must be text or a number, not empty")
    return str(value)


def _number(row: Row, key: str, where: str) -> float:
    value = row[key]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(f"{where}: column {key!r} holds {value!r}", cure="it must be a number")
    return float(value)
