"""Early stops that look at answers only: the same one several times in a row, and runs that grow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from laconic.inference.policies.base import Ask, Equal, policy
from laconic.inference.policies.probe import Probe
from laconic.inference.policies.probing import NEEDS, SENTENCE, Probing
from laconic.rewards.errors import RecipeError


def trailing_run(answers: Sequence[str | None], equal: Equal) -> int:
    """How many answers at the end are pairwise equal; an empty one breaks the run.

    >>> [trailing_run(answers, str.__eq__) for answers in (["3", "5", "5"], ["5", None, "5"], [])]
    [2, 1, 0]
    """
    run: list[str] = []
    for answer in reversed(answers):
        if not answer or not all(equal(answer, other) for other in run):
            break
        run.append(answer)
    return len(run)


def consistency_stop(answers: Sequence[str | None], k: int, equal: Equal = str.__eq__) -> int | None:
    """The first place at which the last `k` answers are equal and none is empty; None if there is none.

    >>> consistency_stop(["3", "5", "5", "5", "7"], 3), consistency_stop(["1", "2", "1", "2"], 3)
    (3, None)
    """
    places = range(len(answers))
    return next((place for place in places if trailing_run(answers[: place + 1], equal) >= k), None)


def run_lengths(answers: Sequence[str | None], equal: Equal = str.__eq__) -> list[int]:
    """Lengths of the runs of equal answers, in order; an empty answer ends a run and makes none.

    >>> run_lengths(["4", "4", "9", "4", "4", "4", "4", "4", "4"])
    [2, 1, 6]
    """
    lengths, last = [], None
    for answer in answers:
        if answer and last and equal(answer, last):
            lengths[-1] += 1
        elif answer:
            lengths.append(1)
        last = answer
    return lengths


def run_jumps(lengths: Sequence[int]) -> list[int]:
    """By how much each run is longer than the longest before it (than nothing, for the first).

    >>> run_jumps([2, 1, 6])
    [2, -1, 4]
    """
    return [length - max(lengths[:place], default=0) for place, length in enumerate(lengths)]


def run_stop(lengths: Sequence[int], *, jump: float, minimum: int) -> bool:
    """Whether the last run is at least `minimum` long and at least `jump` longer than every earlier one."""
    return bool(lengths) and lengths[-1] >= minimum and run_jumps(lengths)[-1] >= jump


@policy(paper="arXiv:2506.02536", requires=NEEDS)
@dataclass(frozen=True, kw_only=True)
class AnswerConsistency(Probing):
    """Stop when the last `threshold` probes give the same answer (Answer Convergence).

    After every sentence, the thinking of a fork is closed and its answer read; equal is `Ask.equal`, and a probe
    without an answer breaks the run. The signal is the length of the run.

    Source: arXiv:2506.02536, from its abstract; the number of equal answers is not verified there and is ours, as is
    the way sentences are told (the paper uses NLTK).
    """

    threshold: float = 10
    at: Sequence[str] = SENTENCE

    def signal(self, ask: Ask, probes: Sequence[Probe]) -> float | None:
        """The length of the run of equal answers."""
        return trailing_run([probe.answer for probe in probes], ask.equal)


@policy(paper="arXiv:2509.14004", requires=NEEDS)
@dataclass(frozen=True, kw_only=True)
class EsCot(Probing):
    """Stop when a run of equal answers is much longer than every run before it (ES-CoT).

    Runs of equal step answers are counted; the signal is the jump of the current run over the longest earlier one,
    once that run is `minimum` long.

    Source: arXiv:2509.14004 (v1: a probe after every step; v2: at words such as "wait"). The paper asks for a
    statistically significant jump; its test, level and minimum are not known to us: a plain difference instead, and
    both numbers, are ours. Its authors' saving fell from 41 % (v1) to 16 % (v2) of the tokens.

    Args:
        threshold: The jump, in probes.
        minimum: Length of the run at least, in probes.
    """

    threshold: float = 5
    at: Sequence[str] = ("\n\n",)
    minimum: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.minimum < 1:
            raise RecipeError(f"es_cot: minimum={self.minimum}", cure="give 1 or more")

    def signal(self, ask: Ask, probes: Sequence[Probe]) -> float | None:
        """The jump of the current run; None while it is short, and where the last probe has no answer."""
        lengths = run_lengths([probe.answer for probe in probes], ask.equal)
        if not probes[-1].answer or lengths[-1] < self.minimum:
            return None
        return run_jumps(lengths)[-1]
