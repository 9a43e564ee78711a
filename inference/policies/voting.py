"""Self-consistency: the most frequent answer of several samples, and when enough of them were drawn."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from laconic.inference.policies.base import Answer, Ask, policy
from laconic.inference.policies.candidates import Candidate, Same, agreeing, decide, draw
from laconic.rewards.errors import RecipeError

T = TypeVar("T")


@policy(paper="arXiv:2203.11171, arXiv:2305.11860, arXiv:2401.10480")
@dataclass(frozen=True)
class SelfConsistency:
    """The most frequent answer of several samples, drawn until a stopping rule says that they are enough.

    - ``none``: all `samples` at once; the majority (self-consistency, 2203.11171).
    - ``beta``: `batch` samples at a time; enough when `beta_probability` of the two largest counts reaches `threshold`;
      the majority of all that were drawn (Adaptive-Consistency, 2305.11860). It looks only after whole batches: samples
      beyond the one that would have sufficed vote too, and are counted.
    - ``window``: `window` samples at a time; enough when all answers of one window are the same (ESC, 2401.10480). The
      answer is then that window's, even against the majority of all, and only that window votes: earlier samples are
      discarded. Without such a window, the majority of all.

    Of equally frequent answers the one seen first, in the order of the sample numbers, wins. The trace returned is the
    first one with the winning answer. Samples without an answer, or cut by the token limit, do not vote (ours), and a
    window that has one is not unanimous (ours). `Answer.confidence` is the share of the votes (ours).

    Source: the papers and the released code of the last two. 40 samples, 0.95 and windows of 5 are theirs.
    Deviations: the Beta probability is computed in closed form, not integrated. The loop that Adaptive-Consistency
    documents raises AttributeError; the rule was taken from its stopping criterion.

    Args:
        samples: At most.
        stopping: The rule.
        threshold: With ``beta``: from 0.5 to 1.
        batch: With ``beta``: samples drawn at once. More are faster, and overshoot further.
        window: With ``window``: samples drawn at once.
    """

    samples: int = 40
    stopping: Literal["none", "beta", "window"] = "none"
    threshold: float = 0.95
    batch: int = 1
    window: int = 5

    def __post_init__(self) -> None:
        if min(self.samples, self.batch, self.window) < 1:
            raise RecipeError(
                f"self_consistency: samples={self.samples}, batch={self.batch}, window={self.window}",
                cure="draw at least one sample at a time",
            )
        if self.stopping not in ("none", "beta", "window"):
            raise RecipeError(f"self_consistency: stopping={self.stopping!r}", cure="choose none, beta or window")
        if not 0.5 <= self.threshold <= 1:
            raise RecipeError(
                f"self_consistency: threshold={self.threshold}", cure="give a probability from 0.5 to 1, as 0.95"
            )

    async def run(self, ask: Ask) -> Answer:
        """Draw rounds of samples until the rule is content, and vote."""
        drawn: list[Candidate] = []
        answers: list[str | None] = []
        while len(drawn) < self.samples and not self._enough(ask, answers):
            round_ = await draw(ask, range(len(drawn), min(len(drawn) + self._round, self.samples)))
            drawn += round_
            answers += [candidate.vote for candidate in round_]
        voters = self._voters(ask, answers)
        winners = majority([answers[place] for place in voters], equal=ask.equal)
        return await decide(
            ask,
            drawn,
            drawn[voters[winners[0]]] if winners else None,
            voters=[drawn[place] for place in voters],
            confidence=len(winners) / len(voters) if voters else None,
            notes={"answers": answers, "voters": voters},
        )

    @property
    def _round(self) -> int:
        return {"none": self.samples, "beta": self.batch, "window": self.window}[self.stopping]

    def _enough(self, ask: Ask, answers: Sequence[str | None]) -> bool:
        if self.stopping == "beta":
            return beta_stop(answers, threshold=self.threshold, equal=ask.equal)
        return self.stopping == "window" and unanimous_window(answers, window=self.window, equal=ask.equal) is not None

    def _voters(self, ask: Ask, answers: Sequence[str | None]) -> list[int]:
        decided = unanimous_window(answers, window=self.window, equal=ask.equal) if self.stopping == "window" else None
        return [place for place in decided or range(len(answers)) if answers[place] is not None]


def majority(answers: Sequence[T | None], *, equal: Same = operator.eq) -> list[int]:
    """Places of the most frequent answer; of equally frequent ones, of that seen first. Empty if there is none.

    >>> majority(["8", "7", "7", "8", None])
    [0, 3]
    """
    return max(agreeing(answers, equal=equal), key=len, default=[])


def weighted_majority(
    answers: Sequence[T | None], weights: Sequence[float], *, equal: Same = operator.eq
) -> tuple[list[int], float]:
    """Places of the answer with the largest sum of weights, and its share of all weights that voted.

    Of equal sums, that seen first.

    >>> weighted_majority(["8", "7", "8", None], [1.0, 3.0, 1.0, 9.0])
    ([1], 0.6)
    """
    groups = agreeing(answers, equal=equal)
    if not groups:
        return [], 0.0
    sums = [sum(weights[place] for place in group) for group in groups]
    best, total = sums.index(max(sums)), sum(sums)
    return groups[best], sums[best] / total if total else 0.0


def beta_probability(most: int, second: int) -> float:
    """How probable it is that the most frequent answer is the majority among the two most frequent ones.

    P(p > 1/2) under Beta(most + 1, second + 1), which is 2^-n times the sum over i <= most of C(n, i), with
    n = most + second + 1.

    >>> beta_probability(3, 0), beta_probability(4, 0), beta_probability(2, 1)
    (0.9375, 0.96875, 0.6875)
    """
    tosses = most + second + 1
    return sum(math.comb(tosses, heads) for heads in range(most + 1)) / 2**tosses


def beta_stop(answers: Sequence[T | None], *, threshold: float = 0.95, equal: Same = operator.eq) -> bool:
    """Whether `beta_probability` of the two largest counts reaches the threshold; other answers do not matter."""
    counts = sorted((len(group) for group in agreeing(answers, equal=equal)), reverse=True)
    most, second, *_ = [*counts, 0, 0]
    return beta_probability(most, second) >= threshold


def unanimous_window(answers: Sequence[T | None], *, window: int = 5, equal: Same = operator.eq) -> range | None:
    """The first whole window whose answers are all the same; windows follow each other and do not overlap.

    The samples used are its `stop`, or all of them if there is none.

    >>> unanimous_window([7, 7, 8, 8, 8, 8, 8], window=3), unanimous_window([7, 8, 8, 8, 8, 8], window=2)
    (range(3, 6), range(2, 4))
    """
    for start in range(0, len(answers) - window + 1, window):
        if [len(group) for group in agreeing(answers[start : start + window], equal=equal)] == [window]:
            return range(start, start + window)
    return None
