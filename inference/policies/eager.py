"""EAGer: one sequence that becomes several only where the model is uncertain."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from laconic.inference.engine import Branch, Capability, Hook, Token
from laconic.inference.policies.base import Answer, Ask, policy
from laconic.inference.policies.candidates import Candidate, majority, thinks, together
from laconic.inference.policies.plain import answer_of
from laconic.rewards.errors import RecipeError


def branches(entropy: float | None, *, threshold: float, sequences: int, most: int) -> bool:
    """Whether a sequence is forked here: above the threshold, and while there are fewer than the most.

    >>> branches(2.5, threshold=2.0, sequences=1, most=4), branches(2.0, threshold=2.0, sequences=1, most=4)
    (True, False)

    Args:
        entropy: Of the distribution the token was drawn from, in nats; None never forks.
        threshold: Theta.
        sequences: There are so far, finished ones included.
        most: M.
    """
    return entropy is not None and entropy > threshold and sequences < most


def top_entropy(logprobs: Sequence[float]) -> float:
    """The entropy of the most likely tokens after their probabilities were made to sum to 1, in nats.

    >>> round(top_entropy([math.log(0.2), math.log(0.2)]), 6) == round(math.log(2), 6)
    True

    Args:
        logprobs: Of the K most likely tokens; at least one.
    """
    weights = [math.exp(value) for value in logprobs]
    total = sum(weights)
    return -sum(weight / total * math.log(weight / total) for weight in weights if weight > 0)


@policy(
    paper="arXiv:2510.11170",
    requires=(Capability.PREFIX, Capability.STOP, Capability.FORK, Capability.ENTROPY, Capability.TOKEN_HOOK),
)
@dataclass(frozen=True)
class Eager:
    """One sequence that forks at uncertain tokens, up to a number of sequences; the finished ones vote.

    Rule: decode; at a token whose entropy is above theta, while fewer than M sequences exist, fork and go on with both.
    What all share is decoded once. Each sequence, with what it shares, stays within the budget of one completion.

    From the paper (EAGer-init): the rule. M = 32 and theta = 2.0 are what its repository's page gives as examples,
    without the unit; the number of tokens its entropy is taken over was not found. So they are ours: the entropy is
    that of the whole distribution in nats (`top_entropy` is the paper's form), and the threshold has to be set for the
    model at hand. The vote is ours too; the paper reports pass@k and the majority.

    Deviations: both sequences share the uncertain token and part after it, because a branch cannot be taken back by a
    token. The second stage, which gives the sequences that one question did not need to questions that reached M,
    works on many questions at once and is not here.

    At temperature 0, forks say the same: draw with a temperature above it.
    """

    sequences: int = 32
    """M."""
    threshold: float = 2.0
    """Theta, in nats."""

    def __post_init__(self) -> None:
        if self.sequences < 1:
            raise RecipeError(f"eager: sequences={self.sequences}", cure="allow at least one sequence")

    async def run(self, ask: Ask) -> Answer:
        """Decode until every sequence has ended, then vote."""
        if ask.sampling.temperature <= 0 and self.sequences > 1:
            raise RecipeError("eager: temperature 0 makes all sequences equal", cure="draw with a temperature above 0")
        forked_at: list[float] = []
        found = await self._grow(ask, ask.open(), ask.sampling.max_tokens, forked_at)
        notes = {"sequences": len(found), "forked_at": forked_at, "answers": [each.answer for each in found]}
        return await majority(ask, found, notes=notes)

    async def _grow(self, ask: Ask, branch: Branch, left: int, forked_at: list[float]) -> list[Candidate]:
        """The sequences that come of this one, itself first."""
        while left > 0:
            closed = ask.think_close in branch.text
            chunk = await branch.generate(
                max_tokens=left,
                stop=[] if closed else [ask.think_close],
                keep_stop=True,
                role="answer" if closed else "think",
                hook=self._watch(left, forked_at),
            )
            left -= len(chunk.tokens)
            if ask.think_close not in branch.text and not thinks(ask, branch.text):
                branch.relabel("answer")
            if chunk.reason == "hook":
                fork = await ask.fork(branch)
                halves = [self._grow(ask, each, left, forked_at) for each in (branch, fork)]
                return [candidate for half in await together(halves) for candidate in half]
            if chunk.ended:
                return [Candidate(branch, True, answer_of(ask, branch.text))]
        return [Candidate(branch, False, answer_of(ask, branch.text))]

    def _watch(self, left: int, forked_at: list[float]) -> Hook:
        seen = 0

        def uncertain(token: Token) -> bool:
            nonlocal seen
            seen += 1
            # A fork with no tokens left would say nothing new. The place is taken here and not when the fork is made:
            # other sequences may see an uncertain token in the same tick.
            most = self.sequences if seen < left else 0
            if not branches(token.entropy, threshold=self.threshold, sequences=1 + len(forked_at), most=most):
                return False
            assert token.entropy is not None
            forked_at.append(token.entropy)
            return True

        return uncertain
