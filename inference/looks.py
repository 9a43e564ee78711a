"""How often recordings were looked at: every calibration on them is a look, and each has a part of the level.

Looks are kept in a file beside the recordings, ``FILE.looks.jsonl``. The same look again (the same questions, target,
bound and share) gives the same result and is no further one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from laconic.inference.recording import Recording, digest
from laconic.inference.target import Target
from laconic.rewards.errors import DataError
from laconic.rewards.jsonl import numbered_rows, write_jsonl


@dataclass(frozen=True, slots=True)
class Look:
    """One calibration, whatever came of it."""

    questions: int
    """n, that were chosen on."""
    target: str
    bound: str
    held_out: str
    """The share, or where the held-out questions are from."""
    recordings: str
    """SHA-256 of what was chosen on."""


def looks_path(recordings: str | os.PathLike[str]) -> Path:
    """The file with the looks at a file of recordings."""
    path = Path(recordings)
    return path.with_name(f"{path.name.removesuffix('.jsonl')}.looks.jsonl")


def read_looks(recordings: str | os.PathLike[str]) -> list[Look]:
    """All looks at a file of recordings, in order; none if there is no file of them.

    Raises:
        DataError: the file is damaged.
    """
    path = looks_path(recordings)
    rows: Sequence[tuple[int, dict[str, Any]]] = list(numbered_rows(path)) if path.is_file() else []
    try:
        return [Look(**row) for _, row in rows]
    except TypeError as error:
        raise DataError(f"{path}: damaged ({error})", cure="record again, into another file") from None


def note_look(
    path: str | os.PathLike[str], chosen_on: Sequence[Recording], target: Target, *, bound: str, held_out: str
) -> int:
    """Write a look down before it is taken.

    Args:
        path: The recordings.
        chosen_on: Those of them that choose.
        target: What has to be kept.
        bound: The test.
        held_out: The share, or where the held-out questions are from.

    Returns:
        Which look it is, from 1 on.

    Raises:
        DataError: the file of looks is damaged.
    """
    there = read_looks(path)
    look = Look(len({item.question for item in chosen_on}), str(target), bound, held_out, digest(chosen_on))
    if look not in there:
        there.append(look)
        write_jsonl(looks_path(path), map(asdict, there))
    return there.index(look) + 1
