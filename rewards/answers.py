r"""Verification: is the answer that a trace ends with the right one?

The task of a problem names its verifier:

- ``math``: symbolic equality through math-verify (imported on first use);
- a procedural family with several right answers: its checker in `laconic.rewards.procedural`;
- ``qa`` and ``world_qa``: short answers with several spellings, `laconic.rewards.short_answers`;
- everything else: equality of whitespace-normalised strings.

Where an answer holds a ``\boxed{}``, what is in the last one is the answer, whatever the task.
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from laconic.rewards.boxed import last_boxed
from laconic.rewards.procedural import VERIFIERS
from laconic.rewards.records import Problem

MATH_TASKS = frozenset({"math", "gsm8k"})
_SECONDS_PER_EXPRESSION = 5
# A dollar sign that is not an escaped currency sign, or a box.
_IN_MATHS = re.compile(r"(?<!\\)\$|\\boxed")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was read from a completion's answer part, and whether it is right."""

    answer: str | None
    """Canonical text of the answer, equal for answers that vote together; None when there is nothing to read."""
    correct: bool | None
    """None when the gold answer itself cannot be checked, so that nobody is paid or punished for it."""


def judge(answer_text: str | None, problem: Problem) -> Verdict:
    """Read and verify the answer part of a completion (what follows ``</think>``).

    Args:
        answer_text: The answer part; None if the completion never stopped thinking.
        problem: The problem with its gold answer.
    """
    if problem.task in MATH_TASKS:
        return _judge_math(answer_text, problem.answer)
    text = answer_text or ""
    boxed = last_boxed(text)
    answer = " ".join((text if boxed is None else boxed).split())
    if not answer:
        return Verdict(None, False)
    checker = VERIFIERS.get(problem.task)
    correct = answer == " ".join(problem.answer.split()) if checker is None else checker(answer, problem)
    return Verdict(answer, correct)


def verify(answer_text: str | None, problem: Problem) -> bool | None:
    """Whether the answer part is right; None if the gold answer cannot be checked."""
    return judge(answer_text, problem).correct


def _judge_math(answer_text: str | None, gold: str) -> Verdict:
    from math_verify import verify as equal

    target = _parse_gold(gold)
    if not target:
        return Verdict(None, None)
    answer = _parse(answer_text or "")
    if not answer:
        return Verdict(None, False)
    return Verdict(str(answer[-1]), bool(equal(list(target), answer, timeout_seconds=_timeout())))


@lru_cache(maxsize=65536)
def _parse_gold(gold: str) -> tuple[Any, ...]:
    # math-verify reads LaTeX only inside an environment: without the dollars 22 % of MATH-500 golds do not match
    # themselves.
    return tuple(_parse(gold if _IN_MATHS.search(gold) else f"${gold}$"))


def _parse(text: str) -> list[Any]:
    from math_verify import parse

    return parse(text, parsing_timeout=_timeout())


def _timeout() -> int | None:
    # math-verify enforces its limit with SIGALRM, which Python allows in the main thread only.
    return _SECONDS_PER_EXPRESSION if threading.current_thread() is threading.main_thread() else None
