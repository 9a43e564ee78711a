"""Asking a policy about a problem: answers are read, compared and judged as the problem's verifier does it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from laconic.inference.engine import Engine, Sampling
from laconic.inference.opening import Opened
from laconic.inference.policies.base import Answer, Ask, Scorer, read_answer
from laconic.rewards.answers import MATH_TASKS, Verdict, judge
from laconic.rewards.boxed import last_boxed
from laconic.rewards.records import Problem


def ask_about(
    problem: Problem,
    opened: Opened,
    *,
    sampling: Sampling,
    seed: int,
    scorer: Scorer | None = None,
    engines: Mapping[str, Engine] | None = None,
    **fields: Any,
) -> Ask:
    """A question to an engine whose answers are compared as the problem's verifier compares them.

    Symbolic equality is computed in the main thread, so the event loop must run there.

    Args:
        problem: Its prompt is asked; its gold answer is not looked at.
        opened: The engine.
        sampling: How completions are drawn; `max_tokens` is the budget of one.
        seed: See `laconic.data_gen.rollouts.request_seed`.
        scorer: For policies that need one.
        engines: Further engines by name.
        fields: Further fields of `Ask`.
    """
    return opened.ask(
        problem.prompt,
        sampling=sampling,
        seed=seed,
        scorer=scorer,
        engines=engines or {},
        extract=lambda text: extract(text, problem),
        equal=lambda one, other: same(one, other, problem),
        **fields,
    )


def extract(text: str, problem: Problem) -> str | None:
    r"""The answer in what follows the thinking: what is boxed last, else what the verifier reads; None if nothing.

    >>> extract(r"so \boxed{\frac{1}{2}}", Problem("p", "?", "1", "math"))
    '\\frac{1}{2}'
    >>> extract(" 7 ", Problem("p", "?", "1", "sum"))
    '7'
    """
    read = judge(text, problem).answer
    return read_answer(text) if read is not None and last_boxed(text) is not None else read


def same(one: str, other: str, problem: Problem) -> bool:
    r"""Whether two answers to a problem are one.

    >>> same("0.5", r"\frac{1}{2}", Problem("p", "?", "1", "math")), same("0.5", "1/2", Problem("p", "?", "1", "sum"))
    (True, False)
    """
    if one.split() == other.split():
        return True
    if problem.task not in MATH_TASKS:
        return False
    return bool(judge(rf"\boxed{{{one}}}", replace(problem, answer=other)).correct)


def verdict_of(answer: Answer, ask: Ask, problem: Problem) -> Verdict:
    """Whether a policy's answer is right. One that was withheld is wrong; the returned text counts before what was
    read from it.
    """
    if answer.answer is None:
        return judge(None, problem)
    _, closed, rest = answer.text.partition(ask.think_close)
    verdict = judge(rest if closed else answer.text, problem)
    if verdict.answer is not None:
        return verdict
    boxed = rf"\boxed{{{answer.answer}}}" if problem.task in MATH_TASKS else answer.answer
    return judge(boxed, problem)
