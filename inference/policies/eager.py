"""EAGer: one sequence that becomes several only where the model is uncertain."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from laconic.inference.engine import Branch, Capability, Hook, Token, check_capabilities
from laconic.inference.policies.base import Answer, Ask, policy
from laconic.inference.policies.candidates import Candidate, majority, thinks, together
from laconic.inference.policies.plain import answer_of
from laconic.rewards.errors import RecipeError

NEVER = -100.0
"""Added to a token's logit so that it is not drawn: as little as servers take."""


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

    Rule: decode; at a token whose entropy is above theta, while fewer than M sequences exist, fork before it and go on
    with both: the second sequence draws its own token there, and is not forked again at that place. What both share is
    decoded once. Each sequence, with what it shares, stays within the budget of one completion. With `share`, what
    questions left of their M is there for questions that reached it.

    From the paper: the rule, and that unused sequences go to prompts that reached M (its second stage). M = 32 and
    theta = 2.0 are what its repository's page gives as examples, without the unit; the number of tokens its entropy is
    taken over, and how the second sequence's token is chosen, were not found. So they are ours: the entropy is that of
    the whole distribution in nats (`top_entropy` is the paper's form), the threshold has to be set for the model at
    hand, and the second token is drawn like the first one, which it may equal unless `differ`. The vote is ours too;
    the paper reports pass@k and the majority.

    Deviation: the paper's second stage begins once all questions had their first. Here a question gives back what it
    did not use when it is done, and one that has reached M takes it while it decodes: nobody waits, but who gets it
    depends on the order of the questions. Questions share through the policy object that they are asked with.

    At temperature 0, forks say the same unless they have to differ: draw with a temperature above it.
    """

    sequences: int = 32
    """M."""
    threshold: float = 2.0
    """Theta, in nats."""
    differ: bool = False
    """The second sequence's token at the uncertain place must be another one; needs a bias on logits and token ids."""
    share: bool = False
    """Take sequences that other questions of this policy object did not use."""

    def __post_init__(self) -> None:
        if self.sequences < 1:
            raise RecipeError(f"eager: sequences={self.sequences}", cure="allow at least one sequence")

    async def run(self, ask: Ask) -> Answer:
        """Decode until every sequence has ended, then vote."""
        if ask.sampling.temperature <= 0 and self.sequences > 1:
            raise RecipeError("eager: temperature 0 makes all sequences equal", cure="draw with a temperature above 0")
        if self.differ:
            check_capabilities(ask.engine, (Capability.LOGIT_BIAS, Capability.TOKEN_IDS), who="policy eager (differ)")
        forked_at: list[float] = []
        found = await self._grow(ask, ask.open(), ask.sampling.max_tokens, forked_at)
        self._spare.left += max(0, self.sequences - len(found))
        notes = {"sequences": len(found), "forked_at": forked_at, "answers": [each.answer for each in found]}
        return await majority(ask, found, notes=notes)

    @cached_property
    def _spare(self) -> _Spare:
        return _Spare()

    async def _grow(
        self, ask: Ask, branch: Branch, left: int, forked_at: list[float], *, beside: Token | None = None
    ) -> list[Candidate]:
        """The sequences that come of this one, itself first; `beside` is the token that it is to draw once more."""
        while left > 0:
            closed = ask.think_close in branch.text
            chunk = await branch.generate(
                max_tokens=left if beside is None else 1,
                stop=[] if closed else [ask.think_close],
                keep_stop=True,
                role="answer" if closed else "think",
                hook=self._watch(left, forked_at) if beside is None else None,
                bias=self._against(beside),
            )
            left, beside = left - len(chunk.tokens), None
            if ask.think_close not in branch.text and not thinks(ask, branch.text):
                branch.relabel("answer")
            if chunk.reason == "hook":
                fork, token = await ask.fork(branch, back=1), chunk.tokens[-1]
                halves = await together(
                    [
                        self._grow(ask, branch, left, forked_at),
                        self._grow(ask, fork, left + 1, forked_at, beside=token),
                    ]
                )
                return [candidate for half in halves for candidate in half]
            if chunk.ended:
                return [Candidate(branch, True, answer_of(ask, branch.text))]
        return [Candidate(branch, False, answer_of(ask, branch.text))]

    def _against(self, token: Token | None) -> dict[int, float] | None:
        return {token.id: NEVER} if self.differ and token is not None and token.id is not None else None

    def _watch(self, left: int, forked_at: list[float]) -> Hook:
        seen = 0

        def uncertain(token: Token) -> bool:
            nonlocal seen
            seen += 1
            # A fork with no tokens left would say nothing new. The place is taken here and not when the fork is made:
            # other sequences may see an uncertain token in the same tick.
            sequences = 1 + len(forked_at)
            spare = self.share and sequences >= self.sequences and self._spare.left > 0
            most = 0 if seen >= left else sequences + 1 if spare else self.sequences
            if not branches(token.entropy, threshold=self.threshold, sequences=sequences, most=most):
                return False
            self._spare.left -= spare
            assert token.entropy is not None
            forked_at.append(token.entropy)
            return True

        return uncertain


@dataclass
class _Spare:
    """Sequences that questions did not use."""

    left: int = 0
