"""Early stop on how sure a probe was of its own tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from laconic.inference.engine import Capability
from laconic.inference.policies.base import Ask, policy
from laconic.inference.policies.probe import Guess, Probe
from laconic.inference.policies.probing import NEEDS, Probing
from laconic.rewards.errors import RecipeError

NO_DIGIT = -5.0
"""The log-probability of an answer without a digit, in final_answer's analysis."""


def confidence(logprobs: Sequence[float], statistic: str = "arithmetic", *, skip: int = 1) -> float:
    r"""DEER's confidence in a probe, from 0 to 1.

    Args:
        logprobs: Of the probe's tokens, natural logarithms.
        statistic: ``arithmetic`` or ``geometric`` mean of the tokens' probabilities, or their ``min``.
        skip: Tokens at the beginning that say nothing: DEER asks with ``\boxed``, and the first is the brace.

    Returns:
        0 where no token is left.

    >>> [round(confidence([-0.5, -0.01, -0.02, -0.3], name), 4) for name in ("arithmetic", "geometric", "min")]
    [0.9037, 0.8958, 0.7408]
    """
    counted = list(logprobs[skip:])
    if not counted:
        return 0.0
    if statistic == "arithmetic":
        return sum(math.exp(value) for value in counted) / len(counted)
    return math.exp(min(counted) if statistic == "min" else sum(counted) / len(counted))


def digits_logprob(texts: Sequence[str], logprobs: Sequence[float], *, letters: bool = False) -> float:
    """final_answer's confidence: summed log-probabilities of the tokens that are one digit; -5 if none is.

    Args:
        texts: Of the probe's tokens.
        logprobs: Of the same tokens.
        letters: Count the options a to d instead, for multiple choice.

    >>> digits_logprob(["{", "4", "2"], [-1.0, -0.25, -0.5]), digits_logprob(["so"], [-0.1])
    (-0.75, -5.0)
    """
    wanted = set("abcd") if letters else set("0123456789")
    counted = [value for text, value in zip(texts, logprobs, strict=True) if text.strip().lower() in wanted]
    return sum(counted) if counted else NO_DIGIT


def _digits(guess: Guess, skip: int, *, letters: bool = False) -> float:
    texts = [token.text for token in guess.tokens if token.logprob is not None]
    return math.exp(digits_logprob(texts[skip:], guess.logprobs[skip:], letters=letters))


STATISTICS: dict[str, Callable[[Guess, int], float]] = {
    "arithmetic": lambda guess, skip: confidence(guess.logprobs, "arithmetic", skip=skip),
    "geometric": lambda guess, skip: confidence(guess.logprobs, "geometric", skip=skip),
    "min": lambda guess, skip: confidence(guess.logprobs, "min", skip=skip),
    "digits": _digits,
    "letters": lambda guess, skip: _digits(guess, skip, letters=True),
}


@policy(paper="arXiv:2504.15895", requires=(*NEEDS, Capability.LOGPROBS))
@dataclass(frozen=True, kw_only=True)
class ConfidenceProbe(Probing):
    r"""Stop when the probe was sure of the answer it gave (DEER).

    At a word that begins another thought, a fork is asked for the boxed answer; the signal is a statistic of its
    token probabilities. A probe without a readable answer says nothing.

    Source: DEER (arXiv:2504.15895): "Wait", 20 tokens, 0.95 of the arithmetic mean, at most 10 probes. ``digits`` and
    ``letters``: the probability of the answer's tokens as final_answer (arXiv:2502.13962) measures it, which the
    paper analyses and does not stop on; its probes have 3 tokens after ``\boxed{`` every 100 (skip=0).

    Deviations: the probe comes after the word where DEER cuts the word off first, since the trace is not to be
    changed; tokens after the box are not counted as confidence; DEER reports the tokens of the final answer only, here
    every probe is counted. Its cap on thinking is `think_budget`.

    Args:
        threshold: Confidence.
        statistic: arithmetic, geometric, min, digits or letters.
        skip: Tokens at the beginning of a probe that are not counted; use 0 with a suffix that opens the brace.
    """

    threshold: float = 0.95
    at: Sequence[str] = ("Wait",)
    suffix: str = "\n\n**Final Answer**\n\n\\boxed"
    max_probes: int | None = 10
    statistic: str = "arithmetic"
    skip: int = 1

    in_unit: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.statistic not in STATISTICS:
            cure = f"use one of {', '.join(STATISTICS)}"
            raise RecipeError(f"confidence_probe: statistic={self.statistic!r}", cure=cure)
        if self.skip < 0:
            raise RecipeError(f"confidence_probe: skip={self.skip}", cure="give 0 or more")

    def signal(self, ask: Ask, probes: Sequence[Probe]) -> float | None:
        """The last probe's confidence."""
        guess = probes[-1].guess
        return None if guess.answer is None else STATISTICS[self.statistic](guess, self.skip)
