"""Combining numbers, with and without the attempts that miss."""

from __future__ import annotations

from random import Random

from laconic.data_gen.families import countdown
from laconic.data_gen.teachers.base import Step, Teacher, near, values
from laconic.rewards.records import Problem

ATTEMPTS = 3
"""Most attempts that miss in a long trace; at least one is tried for."""


class Countdown(Teacher):
    """For `make 29 from 3 7 8 =`.

    short, values on the way: ``21``; medium: ``3 * 7 = 21 ; 21 + 8 = 29``; long, after attempts that miss:
    ``8 - 3 = 5 ; 5 + 7 = 12 ; 12 != 29 ; 3 * 7 = 21 ; 21 + 8 = 29``.
    """

    def short(self, problem: Problem) -> list[Step]:
        """Results before the last, which is the target; nothing for two numbers."""
        return values([result for *_, result in problem.meta["steps"]][:-1])

    def medium(self, problem: Problem) -> list[Step]:
        """The operations of the solution."""
        return _operations(problem.meta["steps"])

    def long(self, problem: Problem, rng: Random) -> list[Step]:
        """One to `ATTEMPTS` random attempts, of which those that miss are told, then the solution."""
        target, told = problem.meta["target"], []
        for _ in range(rng.randint(1, ATTEMPTS)):
            tree = countdown.random_tree(problem.meta["numbers"], rng)
            if (result := countdown.value(tree)) != target:
                told += [*_operations([list(step) for step in countdown.steps(tree)]), Step(f"{result} != {target}")]
        return [*told, *self.medium(problem)]


def _operations(steps: list[list]) -> list[Step]:
    return [Step(f"{a} {operator} {b} = {result}", near(result, low=1)) for a, operator, b, result in steps]
