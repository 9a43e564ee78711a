"""Trial division."""

from __future__ import annotations

from random import Random

from laconic.data_gen.symbols import spell
from laconic.data_gen.teachers.base import Step, Teacher, near
from laconic.rewards.records import Problem


class PrimeFactorization(Teacher):
    """For `factor 8 5 =` (numbers spelled in digits).

    short, what is left after each factor: ``1 7``; medium, divisions that succeed: ``8 5 = 5 * 1 7 ; 1 7 = 1 7 * 1``;
    long, also those that fail: ``8 5 mod 2 = 1 ; 8 5 mod 3 = 1 ; 8 5 = 5 * 1 7 ; 1 7 = 1 7 * 1``. A prime has no
    short form.
    """

    def short(self, problem: Problem) -> list[Step]:
        """What is left to factor, from the first division to the last prime."""
        left = [after for _, _, after in _divisions(problem)][:-1]
        return [Step(" , ".join(map(spell, left)))] if left else []

    def medium(self, problem: Problem) -> list[Step]:
        """Divide by the smallest prime factor until one is left."""
        return [_success(*division) for division in _divisions(problem)]

    def long(self, problem: Problem, rng: Random) -> list[Step]:
        """Try every prime in turn, until its square exceeds what is left."""
        steps: list[Step] = []
        candidate = 2
        for before, factor, after in _divisions(problem):
            while candidate < factor and candidate * candidate <= before:
                if _prime(candidate):
                    steps.append(Step(f"{spell(before)} mod {spell(candidate)} = {spell(before % candidate)}"))
                candidate += 1
            steps.append(_success(before, factor, after))
        return steps


def _divisions(problem: Problem) -> list[tuple[int, int, int]]:
    """(what was left, its smallest prime factor, what is left then)."""
    left, found = problem.meta["number"], []
    for factor in problem.meta["factors"]:
        found.append((left, factor, left // factor))
        left //= factor
    return found


def _success(before: int, factor: int, after: int) -> Step:
    # A wrong guess is one about the last digit, which is the last word; a numeral of one digit cannot become zero.
    digit, low = after % 10, 0 if after > 9 else 1
    return Step(f"{spell(before)} = {spell(factor)} * {spell(after)}", near(digit, low, 9))


def _prime(number: int) -> bool:
    return all(number % divisor for divisor in range(2, number))
