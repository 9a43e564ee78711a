"""What a file of recordings was made with: its first line, so that a run that was cut goes on with the same."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any, Self

from laconic.inference.engine import Sampling
from laconic.inference.recording import ABOUT, INTENDED, Recording
from laconic.rewards.errors import DataError
from laconic.rewards.jsonl import dumps, numbered_rows

_RECORDED = ("policy", "settings", "model", "sampling")


@dataclass(frozen=True, slots=True)
class About:
    """Everything that a recording depends on besides its question."""

    policy: str
    settings: Mapping[str, Any]
    """The policy's parameters, the threshold left out."""
    model: str
    sampling: Mapping[str, Any]
    seed: int
    problems: str = ""
    """Where the questions are from, as it was named."""
    version: str = field(default="", compare=False)
    """Of Laconic."""

    def build_sampling(self) -> Sampling:
        """The sampling as engines take it."""
        return Sampling(**self.sampling)

    def line(self) -> dict[str, Any]:
        """The first line of a file."""
        return {ABOUT: asdict(self)}

    def check_same(self, path: str | os.PathLike[str]) -> None:
        """Refuse to add to a file that was made with something else.

        Raises:
            DataError: names what differs.
        """
        there = About.read(path)
        if there is None:
            raise DataError(f"{path}: does not say what was recorded", cure="name another file for these recordings")
        # A file may be gone on with for more questions, from elsewhere too.
        self._check(there, path, (*_RECORDED, "seed"), cure="name another file, or delete this one")

    def check_comparable(self, path: str | os.PathLike[str]) -> None:
        """Refuse a file of recordings that says nothing about these: of another policy, model or sampling.

        Raises:
            DataError: names what differs.
        """
        there, cure = About.read(path), "name recordings of the same policy, model and sampling"
        if there is None:
            raise DataError(f"{path}: does not say what was recorded", cure=cure)
        self._check(there, path, _RECORDED, cure=cure)

    def _check(self, there: About, path: str | os.PathLike[str], names: Sequence[str], *, cure: str) -> None:
        for name in names:
            old, new = (dumps({name: getattr(item, name)}) for item in (there, self))
            if old != new:
                raise DataError(f"{path}: recorded with {old}, not {new}", cure=cure)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Self | None:
        """What the first line of a file says; None if it says nothing of the kind.

        Raises:
            DataError: there is no such file, or its first line is damaged.
        """
        for number, row in islice(numbered_rows(path), 1):
            if ABOUT in row:
                try:
                    return cls(**row[ABOUT])
                except TypeError as error:
                    raise DataError(f"{path}:{number}: damaged ({error})", cure="record again") from None
        return None


def intended_line(ids: Sequence[str], samples: int) -> dict[str, Any]:
    """A line that says which runs are to be recorded, written before the first of them."""
    return {INTENDED: {"ids": list(ids), "samples": samples}}


def intended_runs(path: str | os.PathLike[str]) -> set[tuple[str, int]]:
    """Every (question id, sample) that a file was to hold, by all its lines; nothing if none says so.

    Raises:
        DataError: there is no such file, or it is damaged.
    """
    found: set[tuple[str, int]] = set()
    for number, row in numbered_rows(path):
        if INTENDED not in row:
            continue
        try:
            found |= {(name, sample) for name in row[INTENDED]["ids"] for sample in range(row[INTENDED]["samples"])}
        except (TypeError, KeyError) as error:
            raise DataError(f"{path}:{number}: damaged ({error})", cure="record again") from None
    return found


def check_complete(path: str | os.PathLike[str], recordings: Iterable[Recording]) -> None:
    """Refuse what a killed run left: short runs end first, so the questions there are no sample of those asked.

    Raises:
        DataError: says how many runs are missing.
    """
    intended = intended_runs(path)
    missing = intended - {(item.id, item.sample) for item in recordings}
    if missing:
        raise DataError(
            f"{path}: {len(missing)} of {len(intended)} runs are missing, so it is no sample: short runs end first",
            cure="give the command that recorded it again, which goes on where it was cut",
        )
