"""Programmatic teachers: verified traces for the procedural families, from a bare answer to overthinking.

A trace is ``<think> step ; step ; ... </think> answer``, all words separated by single spaces. Styles:

- ``direct``: no thinking;
- ``short``: intermediate values only, in one clause (a family or problem that has none is direct);
- ``medium``: every step once;
- ``long``: every step spelled out, or the search with its failures;
- ``overthink``: medium with re-checks, dead branches and restarts (`laconic.data_gen.teachers.overthink`).
"""

from __future__ import annotations

import math
from random import Random

from laconic.data_gen.checkers import check_trace
from laconic.data_gen.symbols import SEPARATOR
from laconic.data_gen.teachers.base import Step, Teacher
from laconic.data_gen.teachers.chain_sum import ChainSum
from laconic.data_gen.teachers.countdown import Countdown
from laconic.data_gen.teachers.divisors import Gcd, Lcm
from laconic.data_gen.teachers.number_sorting import NumberSorting
from laconic.data_gen.teachers.numerals import BaseConversion, CountBits
from laconic.data_gen.teachers.overthink import overthink
from laconic.data_gen.teachers.prime_factorization import PrimeFactorization
from laconic.data_gen.teachers.shortest_path import ShortestPath
from laconic.inference.trace import THINK_CLOSE, THINK_OPEN
from laconic.rewards.errors import RecipeError
from laconic.rewards.records import Problem

__all__ = ["STYLES", "TEACHERS", "Step", "Teacher", "check_trace", "teach"]

STYLES = ("direct", "short", "medium", "long", "overthink")

TEACHERS: dict[str, Teacher] = {
    "chain_sum": ChainSum(),
    "gcd": Gcd(),
    "lcm": Lcm(),
    "base_conversion": BaseConversion(),
    "number_sorting": NumberSorting(),
    "count_bits": CountBits(),
    "prime_factorization": PrimeFactorization(),
    "shortest_path": ShortestPath(),
    "countdown": Countdown(),
}
"""By task."""


def teach(problem: Problem, style: str, *, redundancy: float = 1.0, rng: Random) -> str:
    """Write a trace.

    Args:
        problem: Of a procedural family.
        style: One of `STYLES`.
        redundancy: For ``overthink``: 0 gives exactly the medium trace; the expected length grows with it.
        rng: Where a style that chooses takes its choices from.

    Raises:
        RecipeError: there is no teacher for the task, no such style, or the redundancy is negative or not finite.
    """
    if problem.task not in TEACHERS:
        cure = f"there are teachers for {', '.join(TEACHERS)}; for other data use teacher: {{source: gold}}"
        raise RecipeError(f"teacher: none for the task {problem.task!r}", cure=cure)
    if not (math.isfinite(redundancy) and redundancy >= 0):
        raise RecipeError(f"teacher.redundancy: {redundancy} is not a number from 0 up", cure="1.0 is the default")
    clauses = _clauses(TEACHERS[problem.task], problem, style, redundancy, rng)
    return " ".join([THINK_OPEN, *f" {SEPARATOR} ".join(clauses).split(), THINK_CLOSE, problem.answer])


def _clauses(teacher: Teacher, problem: Problem, style: str, redundancy: float, rng: Random) -> list[str]:
    match style:
        case "direct":
            steps = []
        case "short":
            steps = teacher.short(problem)
        case "medium":
            steps = teacher.medium(problem)
        case "long":
            steps = teacher.long(problem, rng)
        case "overthink":
            return overthink(teacher.medium(problem), redundancy=redundancy, rng=rng)
        case _:
            raise RecipeError(f"teacher.styles: unknown style {style!r}", cure=f"the styles are {', '.join(STYLES)}")
    return [step.text for step in steps]
