"""Early stop on how far sampled answers agree: adaptive thinking by answer entropy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from laconic.inference.engine import Capability
from laconic.inference.policies.base import Ask, Equal, policy
from laconic.inference.policies.probe import Guess, Probe
from laconic.inference.policies.probing import NEEDS, Probing
from laconic.rewards.errors import RecipeError

PEAK = 1 / (math.e * math.log(2))
"""The most that one candidate adds to an entropy in bits: the largest value of -p log2 p, 0.5307."""


def entropy_bits(probabilities: Sequence[float]) -> float:
    """Shannon entropy of the normalised probabilities, in bits.

    >>> entropy_bits([0.5, 0.0, 0.5])
    1.0
    """
    total = sum(probabilities)
    return -sum(p / total * math.log2(p / total) for p in probabilities if p > 0) + 0.0


def mean_entropy(probabilities: Sequence[float]) -> float:
    """The authors' statistic: entropy in bits over the number of candidates.

    It falls as candidates are added: uniform over 2, 5 and 10 gives 0.5, 0.46 and 0.33, so that more disagreement can
    look surer.
    """
    return entropy_bits(probabilities) / len(probabilities)


def normalised_entropy(probabilities: Sequence[float]) -> float:
    """Ours: entropy over that of the uniform distribution, from 0 to 1; 0 for a single candidate.

    >>> normalised_entropy([0.25] * 4), normalised_entropy([1.0])
    (1.0, 0.0)
    """
    count = len(probabilities)
    return entropy_bits(probabilities) / math.log2(count) if count > 1 else 0.0


def entropy_stop(probabilities: Sequence[float], ratio: float) -> bool:
    """The authors' rule: stop when the mean entropy is below `ratio` times its peak of 0.5307 bits."""
    return mean_entropy(probabilities) < ratio * PEAK


def candidates(guesses: Sequence[Guess], equal: Equal) -> list[float]:
    """One probability per different answer, normalised: of equal answers, each different wording adds its own.

    A guess without an answer is a candidate of its own.
    """
    answers: list[str | None] = []
    weights: list[float] = []
    for guess in {guess.said: guess for guess in guesses}.values():
        places = range(len(answers))
        same = (place for place in places if guess.answer and answers[place] and equal(guess.answer, answers[place]))
        place = next(same, None)
        if place is None:
            answers.append(guess.answer)
            weights.append(0.0)
            place = len(weights) - 1
        weights[place] += math.exp(sum(guess.logprobs))
    total = sum(weights)
    return [weight / total for weight in weights] if total > 0 else [1 / len(weights)] * len(weights)


@policy(paper="arXiv:2505.18237", requires=(*NEEDS, Capability.LOGPROBS))
@dataclass(frozen=True, kw_only=True)
class AdaptiveThinkEntropy(Probing):
    """Stop when the answers the model might give now are as good as one (Adaptive Think).

    At every paragraph, `samples` forks draw an answer; their probabilities, normalised over the different answers,
    have an entropy. The signal is one minus the uncertainty: ``normalised`` H / log n, or the ``authors'`` H / n over
    its peak, whose rule "below ratio" is a threshold of 1 - ratio.

    Source: Think or Not (arXiv:2505.18237): ratio 0.3 in the code, 0.1 in its configurations; paragraphs of at least
    200 characters; candidates from a beam search (5 wide, 10 steps) or the option letters.

    Deviations: drawn answers instead of a beam, which no branch can do; H / log n is the default, because H / n calls a
    uniform distribution over more candidates surer; at exact equality we stop and the authors do not. The authors
    measured on stored full traces and count no probe; here all are counted. Number of samples and threshold are ours.

    Args:
        threshold: Certainty, from 0 to 1.
        statistic: normalised or authors.
        samples: Answers drawn at every checkpoint.
    """

    threshold: float = 0.7
    at: Sequence[str] = ("\n\n",)
    probe_temperature: float = 1.0
    statistic: str = "normalised"
    samples: int = 5

    in_unit: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.statistic not in ("normalised", "authors"):
            raise RecipeError(f"adaptive_think_entropy: statistic={self.statistic!r}", cure="use normalised or authors")
        if self.samples < 2:
            raise RecipeError(f"adaptive_think_entropy: samples={self.samples}", cure="give 2 or more")

    def guesses_each(self) -> int:
        """As many as are drawn."""
        return self.samples

    def signal(self, ask: Ask, probes: Sequence[Probe]) -> float | None:
        """Certainty; None where the likeliest guess has no answer."""
        if probes[-1].answer is None:
            return None
        shares = candidates(probes[-1].guesses, ask.equal)
        return 1 - (normalised_entropy(shares) if self.statistic == "normalised" else mean_entropy(shares) / PEAK)
