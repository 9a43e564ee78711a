"""Follows trial division."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import count
from math import prod
from typing import Self

from laconic.data_gen.checkers.base import Derivation, divide, require, spelled
from laconic.rewards.procedural import is_prime


@dataclass(frozen=True)
class PrimeFactorization(Derivation):
    """What is left to factor, the factors found, and the prime to try next."""

    number: int
    left: int
    found: tuple[int, ...] = ()
    trial: int = 2
    thorough: bool = False
    """A failing division was told, so from here on none may be skipped."""

    @classmethod
    def start(cls, prompt: str) -> Self:
        """See `Derivation.start`."""
        number = spelled(prompt.removesuffix("=").split()[1:])
        return cls(number, number)

    def follow(self, clause: list[str]) -> Self:
        """See `Derivation.follow`."""
        require(self.left > 1, "nothing is left to factor")
        if "mod" in clause:
            number, rest = divide(clause, "mod")
            trial, remainder = divide(rest, "=")
            return self._fail(spelled(number), spelled(trial), spelled(remainder))
        if "*" in clause:
            number, rest = divide(clause, "=")
            factor, after = divide(rest, "*")
            return self._succeed(spelled(number), spelled(factor), spelled(after))
        return self._values([spelled(part.split()) for part in " ".join(clause).split(",")])

    def _fail(self, number: int, trial: int, remainder: int) -> Self:
        require((number, trial) == (self.left, self.trial), f"{self.left} is to be tried by {self.trial}")
        require(remainder == number % trial, "the remainder is wrong")
        require(remainder and trial * trial <= number, f"{trial} need not be tried or does divide")
        following = next(candidate for candidate in count(trial + 1) if is_prime(candidate))
        return replace(self, trial=following, thorough=True)

    def _succeed(self, number: int, factor: int, after: int) -> Self:
        require(number == self.left, f"{self.left} is left")
        require(factor * after == number and is_prime(factor), "not a prime factor and what it leaves")
        require(all(number % smaller for smaller in range(2, factor)), "not the smallest prime factor")
        require(not self.thorough or factor == self.trial or self.trial**2 > number, f"{self.trial} was not tried")
        return replace(self, left=after, found=(*self.found, factor), trial=factor)

    def _values(self, lefts: list[int]) -> Self:
        after = self
        for left in lefts:
            require(left and after.left % left == 0, f"{left} does not divide {after.left}")
            after = after._succeed(after.left, after.left // left, left)
        require(is_prime(after.left), f"{after.left} is left")
        return after._succeed(after.left, after.left, 1)

    def conclude(self, answer: str) -> None:
        """See `Derivation.conclude`."""
        require(self.left == 1, f"{self.left} is left")
        require(_factors(answer) == list(self.found), "not the factors that were found")

    def solves(self, answer: str) -> bool:
        """See `Derivation.solves`."""
        factors = _factors(answer)
        return prod(factors) == self.number and all(is_prime(factor) for factor in factors)


def _factors(answer: str) -> list[int]:
    return [spelled(part.split()) for part in answer.split("*")]
