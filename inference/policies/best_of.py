"""Best-of-N with a scorer: the best completion, the heaviest answer, or the first that is good enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from laconic.inference.policies.base import Answer, Ask, Equal, policy
from laconic.inference.policies.candidates import Candidate, answers_of, best_of, decide, draw, score, tally
from laconic.rewards.errors import RecipeError


def weighted_vote(
    answers: Sequence[str], scores: Sequence[float], *, equal: Equal = lambda one, other: one == other
) -> str:
    """The answer whose scores have the largest sum; of equal sums, the one seen first, in the form seen first.

    Scores are meant to be 0 or more: among negative ones, a second vote would count against an answer.

    >>> weighted_vote(["7", "8", "8"], [0.9, 0.5, 0.5])
    '8'

    Args:
        answers: One per completion.
        scores: Of the completions, in the same order.
        equal: Whether two answers are the same.

    Raises:
        RecipeError: there are none, or not as many scores as answers.
    """
    if not answers or len(answers) != len(scores):
        raise RecipeError(f"{len(answers)} answers and {len(scores)} scores", cure="give one score for each answer")
    return answers[tally(answers, scores, equal=equal)[0].members[0]]


def acceptable(best: float, threshold: float) -> bool:
    """Whether the best score so far ends the sampling: at the threshold it does."""
    return best >= threshold


@policy(paper="arXiv:2408.03314", scorer=True)
@dataclass(frozen=True)
class BestOfN:
    """N completions; the best by the scorer, or the answer with the largest sum of scores.

    Rule: ``argmax_i s_i``, or ``argmax_a sum_{i: a_i = a} s_i`` and of that answer's completions the best one.

    The rule is common practice, also in the paper named and in search-and-learn; the number of samples is ours. A
    completion that a token limit cut, or that holds no answer, is not scored and cannot win; if there is no other, the
    first that ended by itself is returned, or else the first. Ties go to the completion, or the answer, drawn first.

    Deviations: search-and-learn reports no tokens for these completions; here all of them are counted. Its equality of
    answers is symbolic, here it is the question's own.

    Confidence: the best score, or the answer's share of the sum, if all scores lie within 0 and 1; else none.
    """

    samples: int = 8
    """N."""
    choose: Literal["best", "weighted"] = "best"
    """The best completion, or the answer with the largest sum of scores."""

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise RecipeError(f"best_of_n: samples={self.samples}", cure="draw at least one completion")
        if self.choose not in ("best", "weighted"):
            raise RecipeError(f"best_of_n: choose={self.choose!r}", cure="choose: best, or choose: weighted")

    async def run(self, ask: Ask) -> Answer:
        """Draw all at once, score, choose."""
        drawn = await draw(ask, range(self.samples))
        voters = [candidate for candidate in drawn if candidate.votes]
        if not voters:
            return await decide(ask, drawn, None, notes={"scores": []})
        scores = await score(ask, voters)
        place, confidence = self._choose(ask, voters, scores)
        confident = all(0.0 <= value <= 1.0 for value in scores)
        notes = {"scores": scores, "answers": answers_of(voters)}
        return await decide(ask, drawn, voters[place], confidence=confidence if confident else None, notes=notes)

    def _choose(self, ask: Ask, voters: Sequence[Candidate], scores: Sequence[float]) -> tuple[int, float]:
        if self.choose == "best":
            place = best_of(scores)
            return place, scores[place]
        group = tally(answers_of(voters), scores, equal=ask.equal)[0]
        inside = best_of([scores[member] for member in group.members])
        total = sum(scores)
        return group.members[inside], group.weight / total if total else 0.0


@policy(paper="arXiv:2510.04087", scorer=True)
@dataclass(frozen=True)
class BestOfMiniN:
    """Small rounds of best-of-N that end with the first completion that is good enough, or with no answer.

    Rule: ``loops`` rounds of ``samples / loops`` completions. After each round, if the best score so far is at least
    ``threshold``, that completion is the answer. After the last round without one: abstain, or return the best.

    From the paper's abstract: the rounds, the early exit, and a threshold of acceptability from a reward model that
    knows an outside option ("none of these"). Ours: all numbers. A threshold means something only for one scorer:
    calibrate it. The paper's guardrail abstains, its accelerator does not.

    Cut completions are not scored, as in `BestOfN`. Confidence: the best score if it lies within 0 and 1.
    """

    samples: int = 8
    """N, over all rounds."""
    loops: int = 4
    """L."""
    threshold: float = 0.5
    """On the scorer's scale."""
    abstain: bool = True
    """Give no answer when nothing was acceptable; False returns the best."""

    def __post_init__(self) -> None:
        if self.samples < 1 or self.loops < 1 or self.samples % self.loops:
            raise RecipeError(
                f"best_of_mini_n: samples={self.samples} in loops={self.loops}",
                cure="make samples a multiple of loops",
            )

    async def run(self, ask: Ask) -> Answer:
        """Draw round after round."""
        drawn: list[Candidate] = []
        voters: list[Candidate] = []
        scores: list[float] = []
        size = self.samples // self.loops
        for start in range(0, self.samples, size):
            fresh = await draw(ask, range(start, start + size))
            drawn += fresh
            able = [candidate for candidate in fresh if candidate.votes]
            scores += await score(ask, able) if able else []
            voters += able
            if scores and acceptable(max(scores), self.threshold):
                break
        return await self._end(ask, drawn, voters, scores)

    async def _end(
        self, ask: Ask, drawn: Sequence[Candidate], voters: Sequence[Candidate], scores: Sequence[float]
    ) -> Answer:
        best = max(scores, default=None)
        confidence = best if best is not None and 0.0 <= best <= 1.0 else None
        notes = {"scores": list(scores), "rounds": len(drawn) * self.loops // self.samples}
        if self.abstain and (best is None or not acceptable(best, self.threshold)):
            for candidate in drawn:
                await candidate.branch.close("voted" if candidate.votes else "discarded")
            return Answer("", None, "abstained", ask.ledger, confidence, notes)
        winner = voters[best_of(scores)] if voters else None
        return await decide(ask, drawn, winner, confidence=confidence, notes=notes)
