"""What a teacher is: it writes out the steps of its family's method, tersely, ordinarily or at length."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from random import Random
from typing import Any

from laconic.data_gen.symbols import LARGEST, SLIP
from laconic.rewards.records import Problem


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a trace."""

    text: str
    """Whitespace-separated words without the separator, such as ``3 + 4 = 7``."""
    wrong: tuple[int, ...] = ()
    """Plausible wrong values of the last word, a number; with none given the step is never gone wrong about."""


class Teacher(ABC):
    """Writes the steps of a problem's solution; the answer itself is added by `laconic.data_gen.teachers.teach`."""

    @abstractmethod
    def short(self, problem: Problem) -> list[Step]:
        """Intermediate values only; no steps where the family has no form between `medium` and a bare answer."""

    @abstractmethod
    def medium(self, problem: Problem) -> list[Step]:
        """Every step of the method once; what the overthinking style adds redundancy to."""

    @abstractmethod
    def long(self, problem: Problem, rng: Random) -> list[Step]:
        """Every step spelled out, or with the failures that a search meets, drawn from `rng`."""


def values(found: list[Any]) -> list[Step]:
    """One step that lists values, or none where there are none."""
    return [Step(" ".join(map(str, found)))] if found else []


def near(value: int, low: int = -LARGEST, high: int = LARGEST) -> tuple[int, ...]:
    """Numbers close to a value, within bounds and never the value itself."""
    offsets = [offset for offset in range(-SLIP, SLIP + 1) if offset]
    return tuple(value + offset for offset in offsets if low <= value + offset <= high)
