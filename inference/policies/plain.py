"""No policy at all: one completion, as the model gives it. Everything is compared with this."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

from laconic.inference.engine import Branch, Chunk, Hook
from laconic.inference.policies.base import Answer, Ask, policy


@policy(paper="-")
@dataclass(frozen=True)
class Plain:
    """One completion, as the model gives it.

    Source: common practice.
    """

    async def run(self, ask: Ask) -> Answer:
        """Generate to the end."""
        branch = ask.open(follow=True)
        finished = await finish(ask, branch, budget=ask.sampling.max_tokens)
        await branch.close("kept")
        return Answer(branch.text, answer_of(ask, branch.text), "stop" if finished else "length", ask.ledger)


async def finish(ask: Ask, branch: Branch, *, budget: int, bias: Mapping[int, float] | None = None) -> bool:
    """Let the model go on to its end, thinking and answer accounted apart; False if the budget cut it.

    Args:
        ask: The question.
        branch: Where it goes on; its thinking may be closed already.
        budget: Generated tokens at most.
        bias: Added to logits until the thinking is closed.
    """
    ended = False
    async for chunk in phases(ask, branch, budget=budget, bias=bias):
        ended = chunk.ended
    return ended


async def phases(
    ask: Ask,
    branch: Branch,
    *,
    budget: int,
    hook: Hook | None = None,
    top_logprobs: int = 0,
    bias: Mapping[int, float] | None = None,
) -> AsyncIterator[Chunk]:
    """As `finish`, one chunk after the other: the thinking with its closing tag, then the answer.

    Args:
        ask: The question.
        branch: Where it goes on; its thinking may be closed already.
        budget: Generated tokens at most.
        hook: May end it; there is no answer after thinking that it ended.
        top_logprobs: How many of the most likely tokens to report at each place.
        bias: Added to logits until the thinking is closed.
    """
    left = budget
    if ask.think_close not in branch.text:
        thinking = await branch.generate(
            max_tokens=left, stop=[ask.think_close], keep_stop=True, hook=hook, top_logprobs=top_logprobs, bias=bias
        )
        left -= len(thinking.tokens)
        if thinking.reason != "stop":
            if not ask.opens_thinking and ask.think_open not in branch.text:
                branch.relabel("answer")  # it answered without thinking
            left = 0
        yield thinking
    if left > 0:
        yield await branch.generate(max_tokens=left, role="answer", hook=hook, top_logprobs=top_logprobs)


def answer_of(ask: Ask, text: str) -> str | None:
    """The answer in a completion: what follows the thinking, read; None if the thinking never ended."""
    thinking, closed, rest = text.partition(ask.think_close)
    if not closed and (ask.opens_thinking or ask.think_open in thinking):
        return None
    return ask.extract(rest if closed else text)
