"""What a file of recordings was made with: its first line, so that a run that was cut goes on with the same."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any, Self

from laconic.inference.engine import Sampling
from laconic.inference.recording import ABOUT
from laconic.rewards.errors import DataError
from laconic.rewards.jsonl import dumps, numbered_rows


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
        for name in ("policy", "settings", "model", "sampling", "seed"):
            old, new = (dumps({name: getattr(item, name)}) for item in (there, self))
            if old != new:
                raise DataError(f"{path}: recorded with {old}, not {new}", cure="name another file, or delete this one")

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
