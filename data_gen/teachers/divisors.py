"""Euclid's algorithm, operand by operand."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from laconic.data_gen.teachers.base import Step, Teacher, near, values
from laconic.rewards.records import Problem

Division = tuple[int, int]


class Gcd(Teacher):
    """For `gcd 48 18 =`.

    short, remainders: ``12 6 0``; medium: ``48 mod 18 = 12 ; 18 mod 12 = 6 ; 12 mod 6 = 0``; long, with quotients:
    ``48 = 2 * 18 + 12 ; 18 = 1 * 12 + 6 ; 12 = 2 * 6 + 0``. A third operand is folded in after the first two.
    """

    def short(self, problem: Problem) -> list[Step]:
        """All remainders."""
        return values([a % b for a, b in _gcd_divisions(problem)])

    def medium(self, problem: Problem) -> list[Step]:
        """One division per step, without quotient."""
        return [_remainder(division) for division in _gcd_divisions(problem)]

    def long(self, problem: Problem, rng: Random) -> list[Step]:
        """One division per step, with quotient."""
        return [_quotient(division) for division in _gcd_divisions(problem)]


class Lcm(Teacher):
    """For `lcm 4 6 =`: the greatest common divisor as in `Gcd`, then a division and a multiplication.

    short: ``2 2`` (divisor and quotient; a multiple too where operands follow);
    medium: ``6 mod 4 = 2 ; 4 mod 2 = 0 ; 4 / 2 = 2 ; 2 * 6 = 12``; long: ``6 = 1 * 4 + 2 ; ...``.
    """

    def short(self, problem: Problem) -> list[Step]:
        """Divisor, quotient and multiple of every fold, without the last multiple, which is the answer."""
        found = [word for a, b, divisor in _folds(problem) for word in (divisor, a // divisor, a // divisor * b)]
        return values(found[:-1])

    def medium(self, problem: Problem) -> list[Step]:
        """Remainders, then quotient and product."""
        return [step for fold in _folds(problem) for step in [*map(_remainder, _euclid(*fold[:2])), *_multiple(*fold)]]

    def long(self, problem: Problem, rng: Random) -> list[Step]:
        """The same with quotients in Euclid's algorithm."""
        return [step for fold in _folds(problem) for step in [*map(_quotient, _euclid(*fold[:2])), *_multiple(*fold)]]


def _euclid(a: int, b: int) -> Iterator[Division]:
    """Dividends and divisors until nothing remains, the larger number first."""
    a, b = max(a, b), min(a, b)
    while b:
        yield a, b
        a, b = b, a % b


def _gcd_divisions(problem: Problem) -> Iterator[Division]:
    divisor, *rest = problem.meta["numbers"]
    for operand in rest:
        for division in _euclid(divisor, operand):
            yield division
            divisor = division[1]


def _folds(problem: Problem) -> Iterator[tuple[int, int, int]]:
    """The multiple so far, the next operand, and their greatest common divisor."""
    multiple, *rest = problem.meta["numbers"]
    for operand in rest:
        *_, (_, divisor) = _euclid(multiple, operand)
        yield multiple, operand, divisor
        multiple = multiple // divisor * operand


def _remainder(division: Division) -> Step:
    a, b = division
    return Step(f"{a} mod {b} = {a % b}", near(a % b, low=0))


def _quotient(division: Division) -> Step:
    a, b = division
    return Step(f"{a} = {a // b} * {b} + {a % b}", near(a % b, low=0))


def _multiple(a: int, b: int, divisor: int) -> list[Step]:
    quotient = a // divisor
    return [
        Step(f"{a} / {divisor} = {quotient}", near(quotient, low=0)),
        Step(f"{quotient} * {b} = {quotient * b}", near(quotient * b, low=0)),
    ]
