"""Follows selection sort."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Self

from laconic.data_gen.checkers.base import Derivation, divide, integer, integers, require


@dataclass(frozen=True)
class NumberSorting(Derivation):
    """What is left, what is picked, and how far the numbers left are compared with each other."""

    up: bool
    numbers: tuple[int, ...]
    left: tuple[int, ...]
    picked: tuple[int, ...] = ()
    best: int | None = None
    """Best of the numbers compared so far; None before the first comparison."""
    compared: int = 1
    """How many of the numbers left have been compared."""

    @classmethod
    def start(cls, prompt: str) -> Self:
        """See `Derivation.start`."""
        _, direction, *words = prompt.removesuffix("=").split()
        numbers = tuple(integers(words))
        return cls(direction == "up", numbers, numbers)

    def follow(self, clause: list[str]) -> Self:
        """See `Derivation.follow`."""
        require(clause[0] == ("min" if self.up else "max"), "the wrong direction")
        given, result = divide(clause[1:], "=")
        require(len(result) == 1, "one number should follow")
        numbers, pick = integers(given), integer(result[0])
        require(len(self.left) > 1, "nothing is left to compare")
        require(pick in numbers and not any(self._before(number, pick) for number in numbers), "not the first of them")
        if self.best is None and tuple(numbers) == self.left:
            return self._pick(pick)
        return self._compare(numbers, pick)

    def _before(self, a: int, b: int) -> bool:
        return a < b if self.up else a > b

    def _compare(self, pair: list[int], pick: int) -> Self:
        best = self.left[0] if self.best is None else self.best
        require(pair == [best, self.left[self.compared]], f"{best} and {self.left[self.compared]} come next")
        after = replace(self, best=pick, compared=self.compared + 1)
        return after._pick(pick) if after.compared == len(self.left) else after

    def _pick(self, number: int) -> Self:
        place = self.left.index(number)
        left = self.left[:place] + self.left[place + 1 :]
        return replace(self, left=left, picked=(*self.picked, number), best=None, compared=1)

    def conclude(self, answer: str) -> None:
        """See `Derivation.conclude`."""
        require(len(self.left) == 1, f"{self.left} are left")
        require(integers(answer.split()) == [*self.picked, *self.left], "not the numbers in the order of picking")

    def solves(self, answer: str) -> bool:
        """See `Derivation.solves`."""
        found = integers(answer.split())
        ordered = not any(self._before(b, a) for a, b in pairwise(found))
        return ordered and Counter(found) == Counter(self.numbers)
