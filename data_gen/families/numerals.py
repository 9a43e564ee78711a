"""Positional numerals: conversion between bases, and counting the ones of the binary form."""

from __future__ import annotations

from typing import Any, ClassVar

from laconic.data_gen.families.base import Draw, Option, Options
from laconic.data_gen.families.gym import GymFamily
from laconic.data_gen.symbols import DIGITS, LARGEST, SLIP, numbers, spell
from laconic.rewards.records import Problem


class BaseConversion(GymFamily):
    """`base 2 to 7 : 1 0 1 1 =` -> `1 4`; digits from ten on are the letters a, b, c, ..."""

    name = "base_conversion"
    summary = "write a numeral in another base: base 2 to 7 : 1 0 1 1 ="
    declared: ClassVar[dict[str, Option]] = {
        "min_base": Option(2, 2, 36, "smallest base"),
        "max_base": Option(16, 2, 36, "largest base"),
        # Zero is excluded: the generator writes it as the empty numeral.
        "min_value": Option(1, 1, LARGEST, "smallest value"),
        "max_value": Option(255, 2, LARGEST, "largest value"),
    }

    def check(self, options: Options) -> None:
        """The generator needs two bases and two values to choose from."""
        for kind in ("base", "value"):
            if options[f"min_{kind}"] == options[f"max_{kind}"]:
                raise self.error(f"max_{kind}", f"must exceed min_{kind}", "raise it by one or more")

    def read(self, entry: dict[str, Any]) -> Draw:
        """See `GymFamily.read`; meta holds `value`, `source` and `target` (the bases)."""
        about = entry["metadata"]
        source, target = about["source_base"], about["target_base"]
        prompt = f"base {source} to {target} : {' '.join(about['source_repr'])} ="
        meta = {"value": about["decimal_value"], "source": source, "target": target}
        return Draw(prompt, " ".join(entry["answer"]), meta)

    def canonical(self, problem: Problem) -> str:
        """Value and unordered bases: converting back asks for what the other prompt shows."""
        return f"base_conversion:{problem.meta['value']}/{sorted((problem.meta['source'], problem.meta['target']))}"

    def difficulty(self, problem: Problem) -> float:
        """Digits to read and to write."""
        read = len(problem.prompt.split(":")[1].split()) - 1
        return read + len(problem.answer.split())

    def words(self, options: dict[str, int | float]) -> set[str]:
        """See `Family.words`."""
        glyphs = set(DIGITS[: int(options["max_base"])])
        most = max(int(options["max_value"]), int(options["max_base"]))
        return numbers(0, most + SLIP) | glyphs | {"base", "to", ":", "mod", "*", "+"}


class CountBits(GymFamily):
    """`bits 8 7 3 =` -> `7`; the number is spelled in decimal digits."""

    name = "count_bits"
    summary = "how many ones the binary form has: bits 8 7 3 ="
    declared: ClassVar[dict[str, Option]] = {
        "min_n": Option(1, 1, 999_999, "smallest number"),
        "max_n": Option(4095, 1, 999_999, "largest number"),
    }

    def read(self, entry: dict[str, Any]) -> Draw:
        """See `GymFamily.read`; meta holds the `number`."""
        number = entry["metadata"]["number"]
        return Draw(f"bits {spell(number)} =", entry["answer"], {"number": number})

    def canonical(self, problem: Problem) -> str:
        """The number."""
        return f"count_bits:{problem.meta['number']}"

    def difficulty(self, problem: Problem) -> float:
        """Binary digits."""
        return problem.meta["number"].bit_length()

    def words(self, options: dict[str, int | float]) -> set[str]:
        """See `Family.words`."""
        most = max(9, int(options["max_n"]).bit_length())
        return numbers(0, most) | {"bits", "bit", "half", "sum"}
