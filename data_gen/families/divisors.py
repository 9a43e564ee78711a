"""Greatest common divisor and least common multiple."""

from __future__ import annotations

from abc import abstractmethod
from math import gcd, lcm
from typing import Any, ClassVar

from laconic.data_gen.families.base import Draw, Option, Options
from laconic.data_gen.families.gym import GymFamily
from laconic.data_gen.symbols import LARGEST, SLIP, numbers
from laconic.rewards.records import Problem


class _Divisors(GymFamily):
    """What gcd and lcm share: the operands commute."""

    def check(self, options: Options) -> None:
        """The generator needs two values to choose from."""
        if options["min_value"] == options["max_value"]:
            raise self.error("max_value", "must exceed min_value", "raise it by one or more")

    def read(self, entry: dict[str, Any]) -> Draw | None:
        """See `GymFamily.read`; meta holds the operands as `numbers`."""
        operands = entry["metadata"]["numbers"]
        if int(entry["answer"]) > LARGEST:
            return None
        prompt = f"{self.name} {' '.join(map(str, operands))} ="
        return Draw(prompt, entry["answer"], {"numbers": list(operands)})

    def canonical(self, problem: Problem) -> str:
        """The operands, sorted."""
        return f"{self.name}:{sorted(problem.meta['numbers'])}"

    def difficulty(self, problem: Problem) -> float:
        """Divisions that Euclid's algorithm needs, folding the operands from left to right."""
        folds = [problem.meta["numbers"][0]]
        for operand in problem.meta["numbers"][1:]:
            folds.append(self.fold(folds[-1], operand))
        return sum(_divisions(a, b) for a, b in zip(folds, problem.meta["numbers"][1:], strict=False))

    @abstractmethod
    def fold(self, a: int, b: int) -> int:
        """Combine two operands."""


class Gcd(_Divisors):
    """`gcd 48 18 =` -> `6`."""

    name = "gcd"
    summary = "greatest common divisor: gcd 48 18 ="
    declared: ClassVar[dict[str, Option]] = {
        "min_numbers": Option(2, 2, 5, "fewest operands"),
        "max_numbers": Option(2, 2, 5, "most operands"),
        "min_value": Option(1, 1, LARGEST, "smallest operand"),
        "max_value": Option(99, 2, LARGEST, "largest operand"),
    }

    def fold(self, a: int, b: int) -> int:
        """See `_Divisors.fold`."""
        return gcd(a, b)

    def words(self, options: dict[str, int | float]) -> set[str]:
        """See `Family.words`."""
        return numbers(0, int(options["max_value"]) + SLIP) | {"gcd", "mod", "*", "+"}


class Lcm(_Divisors):
    """`lcm 4 6 =` -> `12`; operands whose multiple has more than three digits are left out."""

    name = "lcm"
    summary = f"least common multiple, where it is at most {LARGEST}: lcm 4 6 ="
    declared: ClassVar[dict[str, Option]] = {
        "min_numbers": Option(2, 2, 3, "fewest operands"),
        "max_numbers": Option(2, 2, 3, "most operands"),
        "min_value": Option(1, 1, 99, "smallest operand"),
        "max_value": Option(60, 2, 99, "largest operand"),
    }

    def fold(self, a: int, b: int) -> int:
        """See `_Divisors.fold`."""
        return lcm(a, b)

    def words(self, options: dict[str, int | float]) -> set[str]:
        """See `Family.words`."""
        return numbers(0, LARGEST) | {"lcm", "mod", "*", "+", "/"}


def _divisions(a: int, b: int) -> int:
    sequence = [max(a, b), min(a, b)]
    while sequence[-1]:
        sequence.append(sequence[-2] % sequence[-1])
    return len(sequence) - 2
