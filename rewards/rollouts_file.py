"""A file of rollouts as anyone may have written it: one JSON object each, read column by column and checked.

A row has ``prompt_id``, ``correct``, ``length``, any column of `laconic.rewards.group.COLUMNS` under its name or an
alias, and optionally ``step`` and ``task``; some columns are also read from what other programs say in other words
(`laconic.rewards.columns.READINGS`). The ``rollouts.jsonl`` of Laconic's own stages is such a file too; there
the further columns stand in ``meta``.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from reprlib import repr as shortened
from typing import Any

from laconic.rewards.columns import ALIASES, READINGS, Column
from laconic.rewards.errors import DataError
from laconic.rewards.group import COLUMNS
from laconic.rewards.jsonl import named, numbered_rows

PROMPT_KEYS = ("prompt_id", *ALIASES["prompt_id"])
COUNTED_AS_SEARCHES = ("queries", "retrieved")
"""Columns with one entry per executed search, from which searches are counted where nobody counted them."""
_COUNTED = ("tokens", "searches", "steps", "actions")
_TOO_LARGE = 1e300
_LAST_STEP = 2**53
_SHARES = ("probability", "share")
# L1's data mark one kind of prompt by a negative budget.
_SIGNED = ("budget",)
# How alike a key and a name are where one may be meant by the other; an abbreviation has the beginning in common.
_ALIKE, _ALIKE_FROM_THE_START = 0.75, 0.6
_START = 3
# Keys that mean something without being a column, so that none is taken for a misspelt one.
_OTHER_KEYS = {"step", "task", "meta", "sample", "source", "seed", "answer_tokens", *PROMPT_KEYS}
_KNOWN_KEYS = _OTHER_KEYS.union(*(column.keys for column in COLUMNS.values()), *READINGS.values())


@dataclass(frozen=True)
class Row:
    """One line of the file."""

    path: Path
    line: int
    values: Mapping[str, Any]

    @property
    def where(self) -> str:
        """``file:line``, as messages name it."""
        return f"{self.path}:{self.line}"

    def find(self, keys: Sequence[str]) -> tuple[str, Any] | None:
        """The first of these keys that the row or its ``meta`` has, with the value."""
        for key in keys:
            for values in (self.values, self._meta):
                if key in values:
                    return key, values[key]
        return None

    def has(self, column: Column) -> bool:
        """Whether the row has the column, under any of its names."""
        return self.source(column) is not None

    def source(self, column: Column) -> str | None:
        """The key that the column's value is read from; None where the row does not have it."""
        found = self.find(column.keys) or self._derived(column)
        return None if found is None else found[0]

    def is_null(self, name: str) -> bool:
        """Whether the column of that name is there and null."""
        found = self.find(COLUMNS[name].keys)
        return found is not None and found[1] is None

    def value(self, column: Column) -> Any:
        """The column's value, checked.

        Raises:
            DataError: a value of the wrong kind, a number that is not finite or out of range; file, line and key named.
        """
        found = self.find(column.keys)
        if found is None:
            derived = self._derived(column)
            return None if derived is None else derived[1]
        if not _fits(column, found[1]):
            raise self.error(found[0], found[1], f"{_legal(column)}: {column.about}")
        return found[1]

    def error(self, key: str, value: Any, legal: str) -> DataError:
        """The message for a value that cannot be."""
        return DataError(f"{self.where}: {key} is {shortened(value)}", cure=f"make it {legal}")

    def near(self, names: Iterable[str]) -> str | None:
        """A key of the row that nobody knows and that looks like one of these names."""
        unknown = [key for key in (*self.values, *self._meta) if key not in _KNOWN_KEYS]
        alike = [(_likeness(key, name), key) for name in names for key in unknown]
        best, key = max(alike, default=(0.0, ""))
        return key if best else None

    @property
    def _meta(self) -> Mapping[str, Any]:
        meta = self.values.get("meta")
        return meta if isinstance(meta, dict) else {}

    def _derived(self, column: Column) -> tuple[str, Any] | None:
        """A key that says the column in other words, with the column's value; None if there is none."""
        for key, meanings in READINGS.get(column.name, {}).items():
            found = self.find((key,))
            if found is not None and isinstance(found[1], str | int) and found[1] in meanings:
                return key, meanings[found[1]]
        if column.name == "searches":
            for name in COUNTED_AS_SEARCHES:
                if self.find(COLUMNS[name].keys) is not None:
                    return name, len(self.value(COLUMNS[name]) or ())
        return None


@dataclass(frozen=True)
class RolloutsFile:
    """The rows of a file, in its order."""

    path: Path
    rows: tuple[Row, ...]

    @property
    def with_verdict(self) -> list[int]:
        """Places of the rows with a verdict; ``"correct": null`` says that there is none."""
        keys = COLUMNS["correct"].keys
        return [at for at, row in enumerate(self.rows) if row.find(keys) != ("correct", None)]

    def prompt_id(self, at: int) -> str | int:
        """The row's prompt as the file names it."""
        found = self.rows[at].find(PROMPT_KEYS)
        if found is None:
            raise missing(self.rows[at], "prompt_id", "the problem that the rollout answers", PROMPT_KEYS)
        if isinstance(found[1], bool) or not isinstance(found[1], str | int) or not _is_printable(str(found[1])):
            raise self.rows[at].error(*found, "a text or a whole number")
        return found[1]

    @cached_property
    def steps(self) -> tuple[int, ...] | None:
        """The training step of every row; None where the file knows none.

        Raises:
            DataError: a row has a step and another has none, or it is no whole number.
        """
        given = [row.values.get("step") for row in self.rows]
        if all(value is None for value in given):
            return None
        for row, value in zip(self.rows, given, strict=True):
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _LAST_STEP:
                raise row.error("step", value, "a whole number from 0 on, in every row or in none")
        return tuple(given)

    def step(self, at: int) -> int | None:
        """The row's training step."""
        return None if self.steps is None else self.steps[at]


def read_file(path: str | os.PathLike[str]) -> RolloutsFile:
    """Read the rows of a rollouts file, a pipe, or standard input where the path is ``-``.

    Raises:
        DataError: no such file, not JSON Lines, or nothing in it.
    """
    read = numbered_rows(path)
    path = named(Path(path))
    rows = tuple(Row(path, line, values) for line, values in read)
    if not rows:
        raise DataError(f"{path}: no rollouts", cure="one JSON object per line, with prompt_id, correct, length, ...")
    return RolloutsFile(path, rows)


def lacking(column: Column, prompts: Collection[Sequence[Row]]) -> Row | None:
    """The first row without the column; a problem's column may stand in any row of its prompt."""
    if column.owner == "problem":
        without = [rows[0] for rows in prompts if not any(row.has(column) for row in rows)]
    else:
        without = [row for rows in prompts for row in rows if not row.has(column)]
    return min(without, key=lambda row: row.line, default=None)


def missing(row: Row, name: str, about: str, keys: Sequence[str], *, who: str = "") -> DataError:
    """The message for a key that is not there, with a misspelt one if the row has it."""
    near = row.near(keys)
    cure = f"did you mean this by {near!r}?" if near else f"give every row the key {' or '.join(map(repr, keys))}"
    return DataError(f"{row.where}: no {name!r} ({about}){who}", cure=cure)


def column_of(column: Column, rows: Sequence[Row]) -> Any:
    """The column of one prompt's rows: a value per row, or the one value of a problem's column.

    Raises:
        DataError: a value is wrong, or the rows of a prompt disagree on what belongs to the problem.
    """
    if column.owner == "rollout":
        return [row.value(column) for row in rows]
    having = [row for row in rows if row.has(column)]
    first = having[0].value(column)
    for row in having[1:]:
        if row.value(column) != first:
            said = f"{column.name} is {shortened(row.value(column))} here and {shortened(first)} in line"
            raise DataError(
                f"{row.where}: {said} {having[0].line}", cure="rows of one prompt agree on what belongs to the problem"
            )
    return first


def _likeness(key: str, name: str) -> float:
    """From 0 for unlike to 1."""
    ratio = difflib.SequenceMatcher(None, key.lower(), name).ratio()
    from_the_start = key.lower()[:_START] == name[:_START]
    return ratio if ratio >= (_ALIKE_FROM_THE_START if from_the_start else _ALIKE) else 0.0


def _fits(column: Column, value: Any) -> bool:
    if column.unit == "bool":
        return isinstance(value, bool) or (isinstance(value, int | float) and value in (0, 1))
    if value is None:
        return column.name != "length"
    if column.unit == "text":
        return isinstance(value, str)
    if column.unit.startswith("list of lists"):
        return isinstance(value, list) and all(_is_list(item, column.unit) for item in value)
    if column.unit.startswith("list of"):
        return _is_list(value, column.unit)
    return _is_number(value) and _in_range(column, value)


def _is_list(value: Any, unit: str) -> bool:
    kinds = {"list of token ids": int}.get(unit, str | int if unit.endswith("ids") else str)
    return isinstance(value, list) and all(isinstance(item, kinds) and not isinstance(item, bool) for item in value)


def _is_printable(text: str) -> bool:
    # JSON can hold half of a surrogate pair, which no terminal and no file takes.
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _TOO_LARGE


def _in_range(column: Column, value: float) -> bool:
    if column.unit in _SHARES:
        return 0 <= value <= 1
    return value >= 0 or column.unit not in _COUNTED or column.name in _SIGNED


def _legal(column: Column) -> str:
    if column.unit == "bool":
        return "true or false"
    if column.unit == "text" or column.unit.startswith("list"):
        return f"a {column.unit}"
    if column.unit in _SHARES:
        return f"a {column.unit} between 0 and 1"
    if column.unit not in _COUNTED:
        return "a finite number"
    return f"a number of {column.unit}{'' if column.name in _SIGNED else ', at least 0'}"
