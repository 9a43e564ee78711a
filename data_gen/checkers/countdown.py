"""Follows combinations of numbers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Self

from laconic.data_gen.checkers.base import Derivation, divide, integer, integers, require
from laconic.rewards.procedural import makes, parse_expression

Operation = tuple[Fraction, str, Fraction, Fraction]


@dataclass(frozen=True)
class Countdown(Derivation):
    """The numbers that are left to combine, and the operations of the current attempt."""

    target: int
    numbers: tuple[int, ...]
    left: tuple[Fraction, ...]
    operations: tuple[Operation, ...] = ()
    values: tuple[int, ...] = ()
    """Intermediate values that were given without their operations; checked against the answer."""

    @classmethod
    def start(cls, prompt: str) -> Self:
        """See `Derivation.start`."""
        about, words = divide(prompt.removesuffix("=").split(), "from")
        numbers = tuple(integers(words))
        return cls(integer(about[1]), numbers, tuple(map(Fraction, numbers)))

    def follow(self, clause: list[str]) -> Self:
        """See `Derivation.follow`."""
        match clause:
            case [a, operator, b, "=", result]:
                return self._combine(integer(a), operator, integer(b), integer(result))
            case [result, "!=", target]:
                return self._miss(integer(result), integer(target))
        require(len(self.left) == len(self.numbers) > 2, "values only where there is nothing else")
        return replace(self, values=tuple(integers(clause)))

    def _combine(self, a: int, operator: str, b: int, result: int) -> Self:
        left = Counter(self.left)
        left.subtract([Fraction(a), Fraction(b)])
        require(min(left.values()) >= 0, f"{a} and {b} are not both left")
        require(_inverse(Fraction(result), operator, Fraction(b)) == a, "the result is wrong")
        operation = (Fraction(a), operator, Fraction(b), Fraction(result))
        return replace(self, left=(*left.elements(), Fraction(result)), operations=(*self.operations, operation))

    def _miss(self, result: int, target: int) -> Self:
        require(self.left == (result,), "the attempt is not finished")
        require(target == self.target != result, f"the target is {self.target}")
        return replace(self, left=tuple(map(Fraction, self.numbers)), operations=())

    def conclude(self, answer: str) -> None:
        """See `Derivation.conclude`."""
        steps = parse_expression(answer).steps
        if self.values:
            require([result for *_, result in steps[:-1]] == list(self.values), "not the values of the expression")
            return
        require(self.left == (self.target,), "the target is not reached")
        require(steps == list(self.operations), "not the operations of the attempt")

    def solves(self, answer: str) -> bool:
        """See `Derivation.solves`."""
        return makes(answer, self.numbers, self.target)


def _inverse(result: Fraction, operator: str, b: Fraction) -> Fraction | None:
    """The left operand that gives the result."""
    match operator:
        case "+":
            return result - b
        case "-":
            return result + b
        case "*":
            return result / b if b else None
        case "/":
            return result * b
    return None
