"""NoWait: words that begin another round of thinking are not said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from laconic.inference.engine import Capability
from laconic.inference.policies.base import Answer, Ask, policy
from laconic.inference.policies.plain import answer_of, finish
from laconic.rewards.errors import LaunchError, RecipeError

KEYWORDS = (
    *("wait", "alternatively", "hmm", "but", "however", "alternative", "another", "check", "double-check"),
    *("oh", "maybe", "verify", "other", "again", "now", "ah", "any"),
)
"""The words that the paper suppresses, as a published review of it lists them."""


@policy(paper="arXiv:2506.08343", requires=(Capability.PREFIX, Capability.STOP, Capability.LOGIT_BIAS))
@dataclass(frozen=True, kw_only=True)
class NoWait:
    """Words of doubt cannot be drawn while the model thinks, so that it goes on or ends instead of beginning again.

    ``logit(t) += bias`` for every token t that says one of the words. Nothing else is drawn and nothing is forced. The
    answer is left alone. A model that was distilled, not trained with rewards, may lose accuracy by it (the paper's
    own finding): measure before you use it.

    Source: "Wait, We Don't Need to Wait! Removing Thinking Tokens Improves Reasoning Efficiency" (arXiv:2506.08343):
    keywords, their tokens suppressed by the logits. Its list is known to us from reviews.

    Deviations: the paper takes every token that contains a keyword and removes false finds ("Ohio") by hand; here a
    token must be a keyword but for case, spaces and punctuation around it. A keyword of several tokens is not
    suppressed. The answer is generated without the bias (ours).

    Args:
        words: What is not said; needs the model's tokenizer.
        token_ids: Token ids instead of words, where the tokenizer is not known.
        bias: Added to their logits, in nats. -100 is as good as never; servers take nothing below it. Ours.
    """

    words: Sequence[str] = KEYWORDS
    token_ids: Sequence[int] | None = None
    bias: float = -100.0

    def __post_init__(self) -> None:
        if isinstance(self.words, str) or not all(self.words):
            raise RecipeError(f"no_wait: words={self.words!r}", cure="give a list of words")
        if self.token_ids is not None and any(token < 0 for token in self.token_ids):
            raise RecipeError(f"no_wait: token_ids={list(self.token_ids)}", cure="give token ids from 0 on")

    async def run(self, ask: Ask) -> Answer:
        """Think without the words, then answer."""
        ids = self.suppressed(ask)
        branch = ask.open(follow=True)
        finished = await finish(ask, branch, budget=ask.sampling.max_tokens, bias=dict.fromkeys(ids, self.bias))
        await branch.close("kept")
        notes = {"suppressed": len(ids)}
        how = "stop" if finished else "length"
        return Answer(branch.text, answer_of(ask, branch.text), how, ask.ledger, notes=notes)

    def suppressed(self, ask: Ask) -> tuple[int, ...]:
        """The token ids that cannot be drawn.

        Raises:
            LaunchError: words need a tokenizer, or no token says any of them.
        """
        if self.token_ids is not None:
            return tuple(self.token_ids)
        if ask.vocabulary is None:
            raise LaunchError(
                "policy no_wait: which tokens say these words?",
                cure="name the model's tokenizer (--tokenizer), or give token_ids",
            )
        if not (ids := ask.vocabulary.saying(tuple(self.words))):
            raise LaunchError(
                f"policy no_wait: no token of this model says {', '.join(self.words)}",
                cure="give its own words of doubt",
            )
        return ids
