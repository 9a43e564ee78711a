"""The columns a group can carry: what each one means, and how plain JSON values become arrays.

`Group` has one field per column. A column belongs to the rollout (one entry each, shape (G,)) or to the problem (one
entry for the whole group); this file holds what the two kinds have in common.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
Owner: TypeAlias = Literal["rollout", "problem"]

# What other programs call the same thing in their files.
ALIASES: Mapping[str, tuple[str, ...]] = {
    "prompt_id": ("problem_id",),
    "length": ("tokens", "completion_tokens"),
    "think_length": ("think_tokens",),
    "text": ("completion", "response"),
    "answer": ("prediction",),
    "ids": ("completion_ids",),
    "well_formed": ("format_ok",),
    "budget": ("num_tokens",),
    "searches": ("num_searches", "query_num", "search_count"),
    "golds": ("golden_answers", "target"),
    "gold_ids": ("gold_source_urls", "gold_urls"),
    "reference_accuracy": ("ref_mean_acc_thinking", "ref_acc"),
}

# What they say in other words: per column the keys that hold it too, and what each of their values means. Any other
# value says nothing about the column.
READINGS: Mapping[str, Mapping[str, Mapping[str | bool, str | bool]]] = {
    "correct": {"label": {"correct": True, "wrong": False, "format_error": False}},
    "well_formed": {"label": {"correct": True, "wrong": True, "format_error": False}},
    "finished": {"finish_reason": {"stop": True, "length": False}, "truncated": {True: False, False: True}},
    "mode": {"think": {True: "think", False: "no_think"}, "no_thinking": {True: "no_think", False: "think"}},
}


@dataclass(frozen=True)
class Column:
    """One column of `Group`."""

    name: str
    owner: Owner
    unit: str
    """What a value is: ``tokens``, ``bool``, ``text``, ``list of texts`` ..."""
    about: str
    convert: Callable[[Any], Any]
    """Plain values in, the group's form out: one value per rollout, or the problem's single value."""

    @property
    def keys(self) -> tuple[str, ...]:
        """The names it may have in a file, ours first."""
        return (self.name, *ALIASES.get(self.name, ()))


def column(unit: str, about: str, convert: Callable[[Any], Any], owner: Owner = "rollout", **given: Any) -> Any:
    """A dataclass field for an optional column; None where the rollouts do not carry it."""
    metadata = {"unit": unit, "about": about, "convert": convert, "owner": owner}
    return dataclasses.field(**({"default": None} | given), metadata=metadata)


def columns_of(group_class: type) -> dict[str, Column]:
    """The columns of `Group`, by name."""
    marked = [item for item in dataclasses.fields(group_class) if "unit" in item.metadata]
    return {item.name: Column(name=item.name, **item.metadata) for item in marked}


def flags(values: Sequence[Any]) -> Array:
    """Bool array, shape (G,)."""
    return np.asarray(values, dtype=bool)


def numbers(values: Sequence[Any]) -> Array:
    """Float array, shape (G,); a missing value is NaN."""
    return np.asarray([np.nan if value is None else value for value in values], dtype=float)


def words(values: Sequence[Any]) -> tuple[Any, ...]:
    """One text or None per rollout."""
    for value in values:
        if value is not None and not isinstance(value, str):
            raise TypeError(f"{value!r} is not a text")
    return tuple(values)


def lists(values: Sequence[Any]) -> tuple[tuple[Any, ...], ...]:
    """One flat list per rollout; a missing one is empty."""
    return tuple(flat(value) for value in values)


def nested(values: Sequence[Any]) -> tuple[tuple[tuple[Any, ...], ...], ...]:
    """One list of lists per rollout; a missing one is empty."""
    return tuple(lists(_not_text(value or ())) for value in values)


def flat(value: Any) -> tuple[Any, ...]:
    """One flat list; None is the empty one."""
    return tuple(_not_text(() if value is None else value))


def flat_lists(value: Any) -> tuple[tuple[Any, ...], ...]:
    """One list of lists."""
    return lists(_not_text(() if value is None else value))


def _not_text(value: Any) -> Any:
    # A text is a sequence too, of characters, which is never what was meant.
    if isinstance(value, str):
        raise TypeError(f"{value!r} is a text; a list is expected")
    return value
