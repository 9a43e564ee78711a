"""Rollouts that no model wrote: traces of the programmatic teachers, and the solutions that a data set brings along."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random

from laconic.data_gen.rollouts import request_seed
from laconic.data_gen.sources import gold_text
from laconic.data_gen.teachers import check_trace, teach
from laconic.inference.trace import THINK_CLOSE, THINK_OPEN
from laconic.rewards.answers import judge
from laconic.rewards.errors import DataError
from laconic.rewards.records import Problem, Rollout


def taught(
    problems: Sequence[Problem], styles: Mapping[str, float], *, redundancy: float, samples: int, seed: int
) -> list[Rollout]:
    """Have every problem solved by its family's teacher, in a style drawn for each trace.

    Args:
        problems: Of procedural families.
        styles: Share of each style, in any unit.
        redundancy: How much the overthinking style adds.
        samples: Traces per problem.
        seed: Of the stage; a trace depends on it, its problem and its sample number only.

    Raises:
        DataError: a step of a trace does not follow, or its answer is not accepted (a fault of the teacher), or a
            problem is not procedural.
    """
    return [
        _taught(problem, styles, redundancy=redundancy, sample=sample, seed=request_seed(seed, problem.id, sample))
        for problem in problems
        for sample in range(samples)
    ]


def _taught(problem: Problem, styles: Mapping[str, float], *, redundancy: float, sample: int, seed: int) -> Rollout:
    rng = Random(seed)
    style = rng.choices(list(styles), weights=list(styles.values()))[0]
    trace = teach(problem, style, redundancy=redundancy, rng=rng)
    check_trace(problem, trace)
    return _verified(problem, trace, source=style, sample=sample, seed=seed)


def golden(problems: Sequence[Problem]) -> list[Rollout]:
    """The data set's own solutions as traces: ``<think> solution </think> answer``.

    Raises:
        DataError: a problem has no solution, or its gold answer is refused by its verifier.
    """
    if absent := [problem.id for problem in problems if "solution" not in problem.meta]:
        raise DataError(
            f"{len(absent)} of {len(problems)} problems have no solution to learn from: {', '.join(absent[:5])}",
            cure="the gold teacher needs a solution column (layouts gsm8k, math, or generic with `solution`)",
        )
    return [_verified(problem, _gold_trace(problem), source="gold", sample=0, seed=None) for problem in problems]


def _gold_trace(problem: Problem) -> str:
    return f"{THINK_OPEN} {problem.meta['solution'].strip()} {THINK_CLOSE} {gold_text(problem)}"


def _verified(problem: Problem, trace: str, *, source: str, sample: int, seed: int | None) -> Rollout:
    """The rollout of a trace whose answer must be right. Tokens are counted as words, with one for end-of-sequence."""
    thinking, _, answer_text = trace.rpartition(THINK_CLOSE)
    verdict = judge(answer_text, problem)
    if not verdict.correct:
        raise DataError(
            f"{problem.id}: the {source} trace ends in {answer_text.strip()!r}, gold is {problem.answer!r}",
            cure="report this problem: a teacher must be right",
        )
    think_tokens, answer_tokens = len(thinking.split()) + 1, len(answer_text.split()) + 1
    return Rollout(
        problem_id=problem.id,
        sample=sample,
        task=problem.task,
        text=trace,
        answer=verdict.answer,
        correct=True,
        finished=True,
        tokens=think_tokens + answer_tokens,
        think_tokens=think_tokens,
        answer_tokens=answer_tokens,
        source=source,
        seed=seed,
    )
