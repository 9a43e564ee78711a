"""Follows running sums."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from laconic.data_gen.checkers.base import Derivation, integer, integers, require


@dataclass(frozen=True)
class ChainSum(Derivation):
    """The sum so far and the words that are still to be added."""

    prompt: str
    total: int
    left: tuple[str, ...]
    brief: bool = False
    """Only intermediate values were given, so the answer takes the last step."""

    @classmethod
    def start(cls, prompt: str) -> Self:
        """See `Derivation.start`."""
        first, *rest = prompt.removesuffix("=").split()
        return cls(prompt, integer(first), tuple(rest))

    def follow(self, clause: list[str]) -> Self:
        """See `Derivation.follow`."""
        match clause:
            case [a, operator, b, "=", result]:
                return self._add(a, operator, b, result)
            case [a, operator, b, "=", result, "so", *rest]:
                after = self._add(a, operator, b, result)
                require(rest == [result, *after.left], f"{' '.join(after.left)!r} is left")
                return after
        return self._add_all(integers(clause))

    def _add(self, a: str, operator: str, b: str, result: str) -> Self:
        require(self.left, "nothing is left to add")
        require(integer(a) == self.total, f"the sum so far is {self.total}")
        require((operator, b) == self.left[:2], f"{' '.join(self.left[:2])!r} comes next")
        total = integer(a) + integer(b) if operator == "+" else integer(a) - integer(b)
        require(integer(result) == total, f"the sum is {total}")
        return replace(self, total=total, left=self.left[2:])

    def _add_all(self, results: list[int]) -> Self:
        after = self
        for result in results:
            require(after.left, "nothing is left to add")
            after = after._add(str(after.total), *after.left[:2], str(result))
        return replace(after, brief=True)

    def conclude(self, answer: str) -> None:
        """See `Derivation.conclude`."""
        require(not self.left or (self.brief and len(self.left) == 2), f"{' '.join(self.left)!r} is left to add")

    def solves(self, answer: str) -> bool:
        """See `Derivation.solves`."""
        words = self.prompt.removesuffix("=").replace("- ", "-").replace("+ ", "+").split()
        return answer == str(sum(map(int, words)))
