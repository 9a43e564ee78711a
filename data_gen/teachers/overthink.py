"""The overthinker: any family's steps with redundancy put in, of which all but the steps themselves can be left out.

Three kinds, all of them true, so that a checker can follow them:

- a re-check repeats the step just made: ``wait check 3 + 4 = 7 ok``;
- a dead branch precedes a step with a wrong result, says by how much it is off, and drops it:
  ``maybe 3 + 4 = 9 off 2 drop``;
- a restart begins again from the first step: ``again``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

from laconic.data_gen.teachers.base import Step

CHECKS = 0.7
"""Expected re-checks per step written, at redundancy 1."""
DEAD_BRANCHES = 0.1
"""Expected dead branches per step written, at redundancy 1."""
RESTARTS = 0.5
"""Expected restarts per trace, at redundancy 1; each comes after a random number of steps."""


def overthink(steps: Sequence[Step], *, redundancy: float, rng: Random) -> list[str]:
    """Clauses of a trace with redundancy; at 0 exactly the steps.

    Args:
        steps: The steps to make, in order.
        redundancy: Scales the expected number of re-checks, dead branches and restarts. Each number is the expectation
            rounded up or down at random, so traces do not grow without bound.
        rng: Where the choices come from.
    """
    restarts = _count(RESTARTS * redundancy, rng) if steps else 0
    clauses: list[str] = []
    for _ in range(restarts):
        attempt = steps[: rng.randint(1, len(steps))]
        clauses += [*_wander(attempt, redundancy, rng), "again"]
    return [*clauses, *_wander(steps, redundancy, rng)]


def _wander(steps: Sequence[Step], redundancy: float, rng: Random) -> Iterator[str]:
    for step in steps:
        for _ in range(_count(DEAD_BRANCHES * redundancy, rng) if step.wrong else 0):
            yield _dead_branch(step, rng)
        yield step.text
        for _ in range(_count(CHECKS * redundancy, rng)):
            yield f"wait check {step.text} ok"


def _dead_branch(step: Step, rng: Random) -> str:
    *words, right = step.text.split()
    wrong = rng.choice(step.wrong)
    return f"maybe {' '.join(words)} {wrong} off {wrong - int(right)} drop"


def _count(expected: float, rng: Random) -> int:
    whole = int(expected)
    return whole + (rng.random() < expected - whole)
