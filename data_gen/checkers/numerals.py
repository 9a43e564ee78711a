"""Follows Horner's rule, repeated division and halving."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from laconic.data_gen.checkers.base import Derivation, divide, integer, require, spelled
from laconic.data_gen.symbols import DIGITS
from laconic.rewards.errors import DataError


@dataclass(frozen=True)
class BaseConversion(Derivation):
    """The value read so far; when all digits are read, what is left of it to write."""

    source: int
    target: int
    digits: tuple[int, ...]
    read: int = 0
    """How many digits are read."""
    value: int = 0
    written: bool = False
    """The last division is done, or only the value was given."""

    @classmethod
    def start(cls, prompt: str) -> Self:
        """See `Derivation.start`."""
        about, numeral = divide(prompt.removesuffix("=").split(), ":")
        return cls(integer(about[1]), integer(about[3]), tuple(int(digit, 36) for digit in numeral))

    def follow(self, clause: list[str]) -> Self:
        """See `Derivation.follow`."""
        match clause:
            case [total, "*", base, "+", digit, "=", result]:
                return self._horner(integer(total), integer(base), integer(digit), integer(result))
            case [value, "mod", base, "=", digit]:
                return self._write(integer(value), integer(base), integer(digit))
            case [value, "=", quotient, "*", base, "+", digit]:
                total = integer(quotient) * integer(base) + integer(digit)
                require(total == integer(value), "both sides differ")
                return self._write(integer(value), integer(base), integer(digit))
            case [value]:
                require(self.read == 0 and integer(value) == self._whole(), "the value is wrong")
                return replace(self, written=True)
        raise DataError("no such step")

    def _whole(self) -> int:
        return sum(digit * self.source**place for place, digit in enumerate(reversed(self.digits)))

    def _horner(self, total: int, base: int, digit: int, result: int) -> Self:
        # The first digit may be taken for granted.
        before = replace(self, read=1, value=self.digits[0]) if self.read == 0 and total else self
        require(before.read < len(self.digits), "all digits are read")
        expected = (before.value, self.source, self.digits[before.read])
        require((total, base, digit) == expected, f"{expected[0]} * {expected[1]} + {expected[2]} comes next")
        require(result == total * base + digit, "the result is wrong")
        return replace(before, read=before.read + 1, value=result)

    def _write(self, value: int, base: int, digit: int) -> Self:
        single = self.read == 0 and len(self.digits) == 1
        before = replace(self, read=1, value=self.digits[0]) if single else self
        require(before.read == len(self.digits) and not self.written, "it is not the time to divide")
        require((value, base) == (before.value, self.target), f"{before.value} is to be divided by {self.target}")
        require(0 <= digit < base and (value - digit) % base == 0, "the remainder is wrong")
        left = (value - digit) // base
        return replace(before, value=left, written=left == 0)

    def conclude(self, answer: str) -> None:
        """See `Derivation.conclude`."""
        require(self.written, "the numeral is not all written")

    def solves(self, answer: str) -> bool:
        """See `Derivation.solves`."""
        words = answer.split()
        if not words or words[0] == "0" or not set(words) <= set(DIGITS[: self.target]):
            return False
        return int("".join(words), self.target) == self._whole()


@dataclass(frozen=True)
class CountBits(Derivation):
    """What is left to halve, and the ones so far."""

    number: int
    left: int
    ones: int = 0

    @classmethod
    def start(cls, prompt: str) -> Self:
        """See `Derivation.start`."""
        number = spelled(prompt.removesuffix("=").split()[1:])
        return cls(number, number)

    def follow(self, clause: list[str]) -> Self:
        """See `Derivation.follow`."""
        if "half" in clause:
            before, rest = divide(clause, "half")
            half, rest = divide(rest, "bit")
            bit, ones = divide(rest, "sum")
            after = self._halve(spelled(before), spelled(bit))
            require(spelled(half) == after.left, f"the half is {after.left}")
            require(len(ones) == 1 and integer(ones[0]) == after.ones, f"the sum is {after.ones}")
            return after
        if "bit" in clause:
            before, bit = divide(clause, "bit")
            return self._halve(spelled(before), spelled(bit))
        require(clause[0] == "1" and set(clause) <= {"0", "1"}, "not a binary numeral")
        require(self.left == self.number == int("".join(clause), 2), "the binary form is wrong")
        return replace(self, left=0, ones=clause.count("1"))

    def _halve(self, number: int, bit: int) -> Self:
        require(self.left and number == self.left, f"{self.left} is left")
        require(bit == (number & 1), "the bit is wrong")
        return replace(self, left=number >> 1, ones=self.ones + bit)

    def conclude(self, answer: str) -> None:
        """See `Derivation.conclude`."""
        require(self.left == 0, f"{self.left} is left")
        require(answer == str(self.ones), f"the ones counted are {self.ones}")

    def solves(self, answer: str) -> bool:
        """See `Derivation.solves`."""
        return answer == str(self.number.bit_count())
