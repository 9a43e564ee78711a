"""Selective answering: any policy, which says nothing where it is not confident enough."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from laconic.inference.policies import nested
from laconic.inference.policies.base import Answer, Ask, policy
from laconic.rewards.errors import RecipeError


def answers(confidence: float, threshold: float) -> bool:
    """Whether it is confident enough to answer: at the threshold it is."""
    return confidence >= threshold


def utility(outcomes: Sequence[bool | None], odds: float) -> float:
    """Mean worth of a question: 1 for a right answer, ``-odds`` for a wrong one, 0 for none.

    Odds of 0 make answering always free; the paper reports 0, 1 and 20.

    >>> utility([True, True, False, None], odds=1.0)
    0.25

    Args:
        outcomes: Right, wrong, or None for a question that was not answered.
        odds: What a wrong answer costs, in right ones.

    Raises:
        RecipeError: there are no outcomes, or the odds are negative.
    """
    if not outcomes or odds < 0:
        raise RecipeError(f"utility of {len(outcomes)} outcomes at odds {odds}", cure="give outcomes, and odds from 0")
    return sum(0.0 if outcome is None else 1.0 if outcome else -odds for outcome in outcomes) / len(outcomes)


def utility_at(confidences: Sequence[float], correct: Sequence[bool], *, threshold: float, odds: float) -> float:
    """`utility` if only what reaches the threshold were answered.

    >>> utility_at([0.9, 0.8, 0.4], [True, False, False], threshold=0.8, odds=1.0)
    0.0
    """
    pairs = zip(confidences, correct, strict=True)
    return utility([right if answers(confidence, threshold) else None for confidence, right in pairs], odds)


def break_even(odds: float) -> float:
    """The probability of being right from which on an answer is worth giving: ``odds / (1 + odds)``.

    It is the right threshold for a confidence that is calibrated, and for no other.

    >>> break_even(0.0), break_even(1.0), round(break_even(20.0), 4)
    (0.0, 0.5, 0.9524)
    """
    return odds / (1.0 + odds)


@policy(paper="arXiv:2502.13962")
@dataclass(frozen=True)
class Selective:
    """Any policy that reports a confidence; below the threshold there is no answer.

    Rule: answer only if ``confidence >= threshold``. The paper's confidence is the log-likelihood of the answer; here
    it is whatever the inner policy reports, so the threshold has to be calibrated for that policy. The default is ours.

    A withheld completion is in the ledger as voted: it was not returned.
    """

    policy: str = "self_consistency"
    """The inner policy's name."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """The inner policy's."""
    threshold: float = 0.5
    """From 0, which gives every answer that was read, to 1."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.threshold <= 1.0:
            raise RecipeError(f"selective: threshold={self.threshold}", cure="give a confidence from 0 to 1")
        nested.build(self.policy, self.parameters)

    async def run(self, ask: Ask) -> Answer:
        """Run the inner policy and look at its confidence.

        Raises:
            RecipeError: the inner policy answered without a confidence.
        """
        nested.check(self.policy, ask, outer="selective")
        # Nobody hears what may yet be withheld.
        answer = await nested.build(self.policy, self.parameters).run(replace(ask, listener=None))
        if answer.finish == "abstained":
            return answer
        if answer.answer is None or (answer.confidence is None and answer.finish == "length"):
            return _withhold(answer)  # what a token limit cut has no confidence
        if answer.confidence is None:
            raise RecipeError(
                f"selective: policy {self.policy} reported no confidence", cure="choose one that votes or scores"
            )
        return answer if answers(answer.confidence, self.threshold) else _withhold(answer)


def _withhold(answer: Answer) -> Answer:
    # Fates only rise when branches close, and the inner policy has closed its own.
    for segment in answer.ledger.segments:
        if segment.fate == "kept":
            segment.fate = "voted"
    notes = {**answer.notes, "withheld": answer.answer}
    return replace(answer, text="", answer=None, finish="abstained", notes=notes)
