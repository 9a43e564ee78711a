"""Running sums."""

from __future__ import annotations

from itertools import accumulate
from random import Random

from laconic.data_gen.teachers.base import Step, Teacher, near, values
from laconic.rewards.records import Problem


class ChainSum(Teacher):
    """For `7 - 3 + 12 =`.

    short: ``4``; medium: ``7 - 3 = 4 ; 4 + 12 = 16``; long, with what is left:
    ``7 - 3 = 4 so 4 + 12 ; 4 + 12 = 16 so 16``.
    """

    def short(self, problem: Problem) -> list[Step]:
        """Running sums before the last, which is the answer; nothing for two terms."""
        return values(_sums(problem)[1:-1])

    def medium(self, problem: Problem) -> list[Step]:
        """One addition or subtraction per step."""
        sums = _sums(problem)
        rest = zip(problem.meta["operators"], problem.meta["numbers"][1:], strict=True)
        return [
            Step(f"{before} {operator} {number} = {after}", near(after))
            for before, (operator, number), after in zip(sums, rest, sums[1:], strict=False)
        ]

    def long(self, problem: Problem, rng: Random) -> list[Step]:
        """The same, each step followed by the expression that is left."""
        sums, words = _sums(problem), problem.prompt.split()[:-1]
        left = [" ".join([str(total), *words[2 * i + 3 :]]) for i, total in enumerate(sums[1:])]
        return [Step(f"{step.text} so {rest}") for step, rest in zip(self.medium(problem), left, strict=True)]


def _sums(problem: Problem) -> list[int]:
    """The first number and every running sum."""
    first, *rest = problem.meta["numbers"]
    signs = [1 if operator == "+" else -1 for operator in problem.meta["operators"]]
    return list(accumulate((sign * number for sign, number in zip(signs, rest, strict=True)), initial=first))
