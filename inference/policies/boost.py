"""End-of-think boosting: making the closing tag likelier as thinking goes on."""

from __future__ import annotations

from dataclasses import dataclass

from laconic.inference.engine import Branch, Capability, Chunk
from laconic.inference.policies.base import Answer, Ask, Finish, policy
from laconic.inference.policies.plain import answer_of, finish
from laconic.inference.policies.thinking import advance, answer_directly, thinks
from laconic.rewards.errors import LaunchError, RecipeError


def boost_at(tokens: int, *, boost: float, growth: float = 0.0, after: int = 0) -> float:
    """What is added to the closing tag's logit after so many tokens.

    Args:
        tokens: Of the trace so far.
        boost: From `after` on.
        growth: More, per token beyond `after`.
        after: Tokens without a boost.

    >>> [boost_at(tokens, boost=1.0, growth=0.5, after=4) for tokens in (3, 4, 6)]
    [0.0, 1.0, 2.0]
    """
    return 0.0 if tokens < after else boost + growth * (tokens - after)


@policy(paper="arXiv:2506.02536", requires=(Capability.PREFIX, Capability.STOP, Capability.LOGIT_BIAS))
@dataclass(frozen=True, kw_only=True)
class EndOfThinkBoost:
    """Add to the logit of the closing tag while the model thinks, so that it ends where ending was near anyway.

    The tag must be one token. Nothing is forced and nothing is drawn besides the trace. The boost holds from the first
    `every` tokens on that show that the model thinks, and never in the answer.

    Source: Answer Convergence (arXiv:2506.02536), from its abstract; values and growth are not known to us, so that
    neither has a default. Ours: `growth`, `after`, and that a growing boost is raised every `every` tokens.

    Args:
        close_id: The token id of the closing tag; None asks the model's tokenizer.
        boost: Added to its logit, in nats; 0 is `plain`.
        growth: More, per token.
        after: Tokens before the boost begins.
        every: Tokens between two raises of a growing boost.
    """

    close_id: int | None = None
    boost: float
    growth: float = 0.0
    after: int = 0
    every: int = 32

    def __post_init__(self) -> None:
        if min(self.close_id or 0, self.after) < 0 or self.every < 1:
            raise RecipeError(
                f"end_of_think_boost: close_id={self.close_id}, after={self.after}, every={self.every}",
                cure="give a token id, 0 or more tokens before the boost, and at least 1 between raises",
            )

    async def run(self, ask: Ask) -> Answer:
        """Think under the boost, answer without it."""
        close_id = self._close_id(ask)
        branch, boosts = ask.open(follow=True), []
        how = await self._run(ask, branch, boosts, close_id)
        await branch.close("kept")
        return Answer(branch.text, answer_of(ask, branch.text), how, ask.ledger, notes={"boosts": boosts})

    def _close_id(self, ask: Ask) -> int:
        found = self.close_id
        if found is None and ask.vocabulary is not None:
            found = ask.vocabulary.single(ask.think_close)
        if found is None:
            raise LaunchError(
                f"policy end_of_think_boost: which token is {ask.think_close}?",
                cure="give close_id, or name the model's tokenizer (--tokenizer); the tag must be one token",
            )
        return found

    async def _run(self, ask: Ask, branch: Branch, boosts: list[float], close_id: int) -> Finish:
        left, ended = ask.sampling.max_tokens, False
        while left > 0 and not ended:
            chunk = await self._go_on(ask, branch, boosts, left, close_id)
            left, ended = left - len(chunk.tokens), chunk.ended
            thinking = thinks(ask, branch.text)
            if ask.think_close in branch.text:
                return "stop" if await finish(ask, branch, budget=left) else "length"
            if thinking is False or (thinking is None and (ended or left < 1)):
                return "stop" if await answer_directly(ask, branch, chunk, left=left) else "length"
        return "stop" if ended else "length"

    async def _go_on(self, ask: Ask, branch: Branch, boosts: list[float], left: int, close_id: int) -> Chunk:
        spent, thinking = ask.sampling.max_tokens - left, thinks(ask, branch.text)
        boost = boost_at(spent, boost=self.boost, growth=self.growth, after=self.after) if thinking else 0.0
        boosts.append(boost)
        # A step ends where the boost changes: where it begins, and at every raise.
        asked = self.after - spent if thinking and spent < self.after else self.every
        if thinking and spent >= self.after and not self.growth:
            asked = left
        asked = min(asked, left)
        return await advance(
            ask,
            branch,
            max_tokens=asked,
            slack=left - asked,
            bias={close_id: boost} if boost else None,
        )
