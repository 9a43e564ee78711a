"""Selection sort."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from laconic.data_gen.teachers.base import Step, Teacher
from laconic.rewards.records import Problem


class NumberSorting(Teacher):
    """For `sort up 9 3 5 =`; sorting down says `max`.

    medium, one pick per step: ``min 9 3 5 = 3 ; min 9 5 = 5``; long, one comparison per step:
    ``min 9 3 = 3 ; min 3 5 = 3 ; min 9 5 = 5``. There is no form between medium and a bare answer, so short is direct.
    """

    def short(self, problem: Problem) -> list[Step]:
        """None: see the class."""
        return []

    def medium(self, problem: Problem) -> list[Step]:
        """Pick the next number from those left, until one is left."""
        left, steps = list(problem.meta["numbers"]), []
        word, pick = _rule(problem)
        while len(left) > 1:
            best = pick(left)
            others = tuple(number for number in dict.fromkeys(left) if number != best)
            steps.append(Step(f"{word} {' '.join(map(str, left))} = {best}", others))
            left.remove(best)
        return steps

    def long(self, problem: Problem, rng: Random) -> list[Step]:
        """Find each pick by comparing the best so far with the next number."""
        left, steps = list(problem.meta["numbers"]), []
        word, pick = _rule(problem)
        while len(left) > 1:
            best = left[0]
            for number in left[1:]:
                better = pick(best, number)
                steps.append(Step(f"{word} {best} {number} = {better}"))
                best = better
            left.remove(best)
        return steps


def _rule(problem: Problem) -> tuple[str, Callable[..., int]]:
    return ("min", min) if problem.meta["direction"] == "up" else ("max", max)
