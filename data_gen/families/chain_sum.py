"""Sums and differences of several numbers."""

from __future__ import annotations

from typing import Any, ClassVar

from laconic.data_gen.families.base import Draw, Option, Options
from laconic.data_gen.families.gym import GymFamily
from laconic.data_gen.symbols import LARGEST, SLIP, numbers
from laconic.rewards.records import Problem


class ChainSum(GymFamily):
    """`7 - 3 + 12 =` -> `16`."""

    name = "chain_sum"
    summary = "add and subtract several numbers from left to right: 7 - 3 + 12 ="
    declared: ClassVar[dict[str, Option]] = {
        "min_terms": Option(2, 2, 99, "fewest numbers in a sum"),
        "max_terms": Option(6, 2, 99, "most numbers in a sum"),
        "min_digits": Option(1, 1, 2, "fewest digits of a number; all numbers of one sum have equally many"),
        "max_digits": Option(1, 1, 2, "most digits of a number"),
    }

    def check(self, options: Options) -> None:
        """Keep every possible running sum within the words that exist."""
        most = options["max_terms"] * _largest(options)
        if most > LARGEST:
            message = f"{options['max_terms']} terms of {options['max_digits']} digits can reach {most}"
            cure = f"numbers end at {LARGEST}: choose at most {LARGEST // _largest(options)} terms or fewer digits"
            raise self.error("max_terms", message, cure)

    def read(self, entry: dict[str, Any]) -> Draw:
        """See `GymFamily.read`; meta holds `numbers` and the `operators` between them."""
        expression = entry["metadata"]["expression"]
        words = expression.split()
        meta = {"numbers": [int(word) for word in words[::2]], "operators": words[1::2]}
        return Draw(f"{expression} =", entry["answer"], meta)

    def canonical(self, problem: Problem) -> str:
        """The signed terms, sorted: `7 - 3 + 12` and `12 + 7 - 3` are one problem."""
        first, *rest = problem.meta["numbers"]
        signed = [first, *(n if op == "+" else -n for op, n in zip(problem.meta["operators"], rest, strict=True))]
        return f"chain_sum:{sorted(signed)}"

    def difficulty(self, problem: Problem) -> float:
        """Number of additions and subtractions."""
        return len(problem.meta["operators"])

    def words(self, options: dict[str, int | float]) -> set[str]:
        """See `Family.words`."""
        most = int(options["max_terms"]) * _largest(options)
        return numbers(-most - SLIP, most + SLIP) | {"+", "-", "so"}


def _largest(options: Options) -> int:
    return 10 ** int(options["max_digits"]) - 1
