"""Follows Euclid's algorithm, from the operands as they are or folded one after the other."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Self

from laconic.data_gen.checkers.base import Derivation, integer, integers, require


@dataclass(frozen=True)
class _Euclid(Derivation):
    """Where Euclid's algorithm stands, and the operands that it has not seen."""

    operands: tuple[int, ...]
    a: int
    b: int
    """The next division is a by b; zero when the divisor `a` is found."""
    left: tuple[int, ...]

    @classmethod
    def start(cls, prompt: str) -> Self:
        """See `Derivation.start`."""
        operands = tuple(integers(prompt.removesuffix("=").split()[1:]))
        return cls(operands, max(operands[:2]), min(operands[:2]), operands[2:])

    def follow(self, clause: list[str]) -> Self:
        """See `Derivation.follow`."""
        match clause:
            case [a, "mod", b, "=", rest]:
                return self.divide(integer(a), integer(b), integer(rest))
            case [a, "=", quotient, "*", b, "+", rest]:
                require(integer(a) == integer(quotient) * integer(b) + integer(rest), "both sides differ")
                return self.divide(integer(a), integer(b), integer(rest))
        return self.other(clause)

    def divide(self, a: int, b: int, rest: int) -> Self:
        """One division with remainder."""
        require(self.b, "the divisor is already found")
        require((a, b) == (self.a, self.b), f"{self.a} is to be divided by {self.b}")
        require(0 <= rest < b and (a - rest) % b == 0, "the remainder is wrong")
        return replace(self, a=b, b=rest).found() if rest == 0 else replace(self, a=b, b=rest)

    def found(self) -> Self:
        """What happens when a remainder is zero, so that `a` is the divisor."""
        return self

    @abstractmethod
    def other(self, clause: list[str]) -> Self:
        """A clause that is no division with remainder."""


@dataclass(frozen=True)
class Gcd(_Euclid):
    """A divisor that is found is folded with the next operand."""

    def found(self) -> Self:
        """See `_Euclid.found`."""
        if not self.left:
            return self
        operand, *left = self.left
        return replace(self, a=max(self.a, operand), b=min(self.a, operand), left=tuple(left))

    def other(self, clause: list[str]) -> Self:
        """Remainders, one after the other."""
        after = self
        for rest in integers(clause):
            require(after.b, "the divisor is already found")
            after = after.divide(after.a, after.b, rest)
        return after

    def conclude(self, answer: str) -> None:
        """See `Derivation.conclude`."""
        require(self.b == 0, f"{self.a} is still to be divided by {self.b}")
        require(answer == str(self.a), f"the divisor found is {self.a}")

    def solves(self, answer: str) -> bool:
        """See `Derivation.solves`."""
        return answer == str(math.gcd(*self.operands))


@dataclass(frozen=True)
class Lcm(_Euclid):
    """A divisor that is found divides the multiple so far; the quotient multiplies the next operand."""

    multiple: int = 0
    """Of the operands folded so far; zero stands for the first operand."""
    quotient: int | None = None
    brief: bool = False
    """Only values were given, so the answer takes the last multiplication."""
    finished: bool = False

    def other(self, clause: list[str]) -> Self:
        """A quotient, a product, or a list of divisors, quotients and products."""
        match clause:
            case [a, "/", b, "=", quotient]:
                return self._quotient(integer(a), integer(b), integer(quotient))
            case [quotient, "*", b, "=", product]:
                return self._product(integer(quotient), integer(b), integer(product))
        return self._values(integers(clause))

    @property
    def _folded(self) -> int:
        return self.multiple or self.operands[0]

    @property
    def _operand(self) -> int:
        return self.operands[len(self.operands) - len(self.left) - 1]

    def _quotient(self, a: int, b: int, quotient: int) -> Self:
        require(self.b == 0 and self.quotient is None, "it is not the time to divide by the divisor")
        require((a, b) == (self._folded, self.a), f"{self._folded} is to be divided by {self.a}")
        require(quotient * b == a, "the quotient is wrong")
        return replace(self, quotient=quotient)

    def _product(self, quotient: int, b: int, product: int) -> Self:
        require(self.quotient is not None and not self.finished, "there is no quotient to multiply")
        require(
            (quotient, b) == (self.quotient, self._operand), f"{self.quotient} is to be multiplied by {self._operand}"
        )
        require(product == quotient * b, "the product is wrong")
        if not self.left:
            return replace(self, multiple=product, finished=True)
        operand, *left = self.left
        return replace(
            self, multiple=product, quotient=None, a=max(product, operand), b=min(product, operand), left=tuple(left)
        )

    def _values(self, found: list[int]) -> Self:
        after = replace(self, brief=True)
        while found:
            divisor, quotient, *found = [*found, None] if len(found) == 1 else found
            require(divisor == math.gcd(after._folded, after._operand), "the divisor is wrong")
            require(quotient is not None, "a quotient is missing")
            after = replace(after, a=divisor, b=0)._quotient(after._folded, divisor, quotient)
            if found:
                product, *found = found
                after = after._product(quotient, after._operand, product)
        return after

    def conclude(self, answer: str) -> None:
        """See `Derivation.conclude`."""
        nearly = self.brief and not self.left and self.quotient is not None
        require(nearly or self.finished, "not all operands are folded")
        require(nearly or answer == str(self.multiple), f"the multiple found is {self.multiple}")

    def solves(self, answer: str) -> bool:
        """See `Derivation.solves`."""
        return answer == str(math.lcm(*self.operands))
