"""Scorers by name, for policies that need one: an exact process verifier, an oracle, or anybody's own.

A scorer is made for one problem, because what it verifies with is the problem's.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from laconic.data_gen.checkers import DERIVATIONS, check_so_far
from laconic.inference.policies.base import Scorer
from laconic.inference.trace import THINK_CLOSE, THINK_OPEN
from laconic.rewards.answers import verify
from laconic.rewards.errors import DataError, RecipeError
from laconic.rewards.records import Problem

MakeScorer: TypeAlias = Callable[[Problem], Scorer]


def steps(problem: Problem) -> Scorer:
    """An exact process verifier for the procedural tasks: it reads the steps, and never the gold answer.

    1.0 while every complete step is true and comes next, 0.0 from the first wrong one on; once there is an answer, 1.0
    if it is right and follows from the steps, else 0.0. Steps are written as this project's teachers write them
    (``<think> 3 + 4 = 7 ; 7 - 9 = -2 </think> -2``), so it judges models that were taught by them, and gives 0.0 to
    any other way of thinking. Policies that go step by step need ``separator: ";"`` for these traces.

    Raises:
        DataError: the problem is of a task without a checker.
    """
    if problem.task not in DERIVATIONS:
        raise DataError(
            f"scorer steps: no checker for the task {problem.task!r} of problem {problem.id}",
            cure=f"it knows {', '.join(DERIVATIONS)}; for other tasks give a scorer of your own as module:function",
        )

    async def score(prompt: str, texts: Sequence[str]) -> list[float]:
        return [float(_follows(problem, text)) for text in texts]

    return score


def gold(problem: Problem) -> Scorer:
    """The problem's verifier itself, as an oracle: it knows the gold answer, which no deployed scorer does.

    1.0 for a completion with the right answer, else 0.0, as for a thinking that is still going on and where the gold
    answer cannot be checked. What a policy reaches with it is a bound on what it could reach, and is to be reported as
    that. A text without tags is an answer as a whole.
    """

    async def score(prompt: str, texts: Sequence[str]) -> list[float]:
        return [float(verify(_answer_part(text), problem) is True) for text in texts]

    return score


SCORERS: dict[str, MakeScorer] = {"steps": steps, "gold": gold}


def find_scorer(name: str) -> MakeScorer:
    """The scorer of that name, to be made for a problem.

    Args:
        name: One of `SCORERS`, or ``module:function``: a function from a `Problem` to a scorer, which is an async
            function from the prompt and candidate texts to one number for each text.

    Raises:
        RecipeError: there is none of that name, or the function cannot be imported or called.
    """
    if name in SCORERS:
        return SCORERS[name]
    if ":" not in name:
        cure = f"the scorers are {', '.join(SCORERS)}; one of your own is named module:function"
        raise RecipeError(f"unknown scorer {name!r}", cure=cure)
    make = _load(name)

    def checked(problem: Problem) -> Scorer:
        scorer = make(problem)
        if not callable(scorer):
            raise RecipeError(
                f"scorer {name!r} made {type(scorer).__name__}, which is no scorer",
                cure="return an async function from the prompt and candidate texts to numbers",
            )
        return scorer

    return checked


def _load(place: str) -> Callable[[Problem], Any]:
    module, _, function = place.partition(":")
    cure = "name a function as package.module:function; the module's folder must be on PYTHONPATH"
    try:
        make = getattr(importlib.import_module(module), function)
    except Exception as error:  # a module can fail in any way while it is imported
        raise RecipeError(f"scorer {place!r}: {type(error).__name__}: {error}", cure=cure) from None
    if not callable(make):
        raise RecipeError(f"scorer {place!r}: {function} cannot be called", cure=cure)
    return make


def _follows(problem: Problem, text: str) -> bool:
    try:
        check_so_far(problem, text)
    except DataError:
        return False
    return True


def _answer_part(text: str) -> str | None:
    thinking, closed, rest = text.partition(THINK_CLOSE)
    if closed:
        return rest
    return None if THINK_OPEN in thinking else text
