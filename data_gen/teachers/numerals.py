"""Horner's rule and repeated division."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from laconic.data_gen.symbols import DIGITS, spell
from laconic.data_gen.teachers.base import Step, Teacher, near, values
from laconic.rewards.records import Problem


class BaseConversion(Teacher):
    """For `base 2 to 7 : 1 0 1 1 =`.

    short, the value: ``11``; medium: ``1 * 2 + 0 = 2 ; 2 * 2 + 1 = 5 ; 5 * 2 + 1 = 11 ; 11 mod 7 = 4 ; 1 mod 7 = 1``;
    long starts with zero and writes quotients: ``0 * 2 + 1 = 1 ; ... ; 11 = 1 * 7 + 4 ; 1 = 0 * 7 + 1``.
    """

    def short(self, problem: Problem) -> list[Step]:
        """The value in decimal."""
        return values([problem.meta["value"]])

    def medium(self, problem: Problem) -> list[Step]:
        """Horner's rule from the first digit on, then remainders."""
        target = problem.meta["target"]
        out = [Step(f"{n} mod {target} = {n % target}", near(n % target, low=0)) for n in _divided(problem)]
        return [*_horner(problem)[1:], *out]

    def long(self, problem: Problem, rng: Random) -> list[Step]:
        """Horner's rule from zero on, then divisions with quotients."""
        target = problem.meta["target"]
        return [*_horner(problem), *(Step(f"{n} = {n // target} * {target} + {n % target}") for n in _divided(problem))]


class CountBits(Teacher):
    """For `bits 1 3 =` (numbers spelled in digits).

    short, the binary form: ``1 1 0 1``; medium, halving: ``1 3 bit 1 ; 6 bit 0 ; 3 bit 1 ; 1 bit 1``; long, with halves
    and the running count: ``1 3 half 6 bit 1 sum 1 ; 6 half 3 bit 0 sum 1 ; ...``.
    """

    def short(self, problem: Problem) -> list[Step]:
        """The binary digits."""
        return values(list(f"{problem.meta['number']:b}"))

    def medium(self, problem: Problem) -> list[Step]:
        """The lowest bit of the number, its half, the half of that, ..."""
        return [Step(f"{spell(n)} bit {n % 2}", (1 - n % 2,)) for n in _halves(problem)]

    def long(self, problem: Problem, rng: Random) -> list[Step]:
        """Each half written out, and the ones so far."""
        count, steps = 0, []
        for n in _halves(problem):
            count += n % 2
            steps.append(Step(f"{spell(n)} half {spell(n // 2)} bit {n % 2} sum {count}"))
        return steps


def _horner(problem: Problem) -> list[Step]:
    source, total, steps = problem.meta["source"], 0, []
    for glyph in problem.prompt.split()[5:-1]:
        digit = DIGITS.index(glyph)
        after = total * source + digit
        steps.append(Step(f"{total} * {source} + {digit} = {after}", near(after, low=0)))
        total = after
    return steps


def _divided(problem: Problem) -> Iterator[int]:
    """The value, and what is left of it after each division by the target base, while there is anything."""
    n = problem.meta["value"]
    while n:
        yield n
        n //= problem.meta["target"]


def _halves(problem: Problem) -> Iterator[int]:
    n = problem.meta["number"]
    while n:
        yield n
        n //= 2
