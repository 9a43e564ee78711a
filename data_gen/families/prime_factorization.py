"""Prime factorization."""

from __future__ import annotations

from typing import Any, ClassVar

from laconic.data_gen.families.base import Draw, Option
from laconic.data_gen.families.gym import GymFamily
from laconic.data_gen.symbols import DIGITS, spell
from laconic.rewards.records import Problem


class PrimeFactorization(GymFamily):
    """`factor 8 4 =` -> `2 * 2 * 3 * 7`; every number is spelled in decimal digits."""

    name = "prime_factorization"
    summary = "split a number into primes: factor 8 4 ="
    declared: ClassVar[dict[str, Option]] = {
        "min_value": Option(2, 2, 9999, "smallest number"),
        "max_value": Option(999, 2, 9999, "largest number"),
    }

    def read(self, entry: dict[str, Any]) -> Draw:
        """See `GymFamily.read`; meta holds the `number` and its prime `factors`, ascending."""
        number, factors = entry["metadata"]["number"], list(entry["metadata"]["factors"])
        answer = " * ".join(spell(factor) for factor in factors)
        return Draw(f"factor {spell(number)} =", answer, {"number": number, "factors": factors})

    def canonical(self, problem: Problem) -> str:
        """The number."""
        return f"prime_factorization:{problem.meta['number']}"

    def difficulty(self, problem: Problem) -> float:
        """Candidate divisors up to where trial division stops, plus one per factor."""
        *rest, largest = problem.meta["factors"]
        reach = max([*rest, int(largest**0.5)])
        return len(problem.meta["factors"]) + reach - 1

    def words(self, options: dict[str, int | float]) -> set[str]:
        """See `Family.words`."""
        return set(DIGITS[:10]) | {"factor", "*", "mod", ","}
