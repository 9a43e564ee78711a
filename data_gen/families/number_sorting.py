"""Sorting whole numbers up or down."""

from __future__ import annotations

from typing import Any, ClassVar

from laconic.data_gen.families.base import Draw, Option, Options
from laconic.data_gen.families.gym import GymFamily
from laconic.data_gen.symbols import LARGEST, numbers
from laconic.rewards.records import Problem


class NumberSorting(GymFamily):
    """`sort up 9 3 5 =` -> `3 5 9`; `sort down 9 3 5 =` -> `9 5 3`."""

    name = "number_sorting"
    summary = "sort whole numbers: sort up 9 3 5 ="
    declared: ClassVar[dict[str, Option]] = {
        "min_numbers": Option(3, 2, 20, "fewest numbers"),
        "max_numbers": Option(6, 2, 20, "most numbers"),
        "min_value": Option(0, -LARGEST // 2, LARGEST, "smallest number"),
        "max_value": Option(99, -LARGEST // 2, LARGEST, "largest number"),
    }

    def check(self, options: Options) -> None:
        """The generator needs two values; their difference is a word too."""
        if options["min_value"] == options["max_value"]:
            raise self.error("max_value", "must exceed min_value", "raise it by one or more")
        if (span := options["max_value"] - options["min_value"]) > LARGEST:
            raise self.error("max_value", f"lies {span} above min_value", f"choose a range of at most {LARGEST}")

    def config(self, options: dict[str, int | float]) -> dict[str, int | float]:
        """Whole numbers only."""
        return {**options, "min_decimals": 0, "max_decimals": 0}

    def read(self, entry: dict[str, Any]) -> Draw:
        """See `GymFamily.read`; meta holds `numbers` as given and the `direction`, up or down."""
        about = entry["metadata"]
        given = [_whole(text) for text in about["original_numbers"]]
        direction = "up" if about["direction"] == "ascending" else "down"
        answer = " ".join(str(_whole(text)) for text in about["sorted_numbers"])
        meta = {"numbers": given, "direction": direction}
        return Draw(f"sort {direction} {' '.join(map(str, given))} =", answer, meta)

    def canonical(self, problem: Problem) -> str:
        """The sorted multiset and the direction."""
        return f"number_sorting:{problem.meta['direction']}/{sorted(problem.meta['numbers'])}"

    def difficulty(self, problem: Problem) -> float:
        """How many numbers."""
        return len(problem.meta["numbers"])

    def words(self, options: dict[str, int | float]) -> set[str]:
        """See `Family.words`; a wrong pick is off by a difference of two numbers."""
        low, high = int(options["min_value"]), int(options["max_value"])
        return numbers(low, high) | numbers(low - high, high - low) | {"sort", "up", "down", "min", "max"}


def _whole(text: str) -> int:
    # The generator writes whole numbers as floats, zero sometimes as "-0.0".
    return int(float(text))
