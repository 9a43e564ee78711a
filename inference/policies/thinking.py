"""What policies on one trace share: whether it is thinking, and going on to the next place where one may look at it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from laconic.inference.engine import Branch, Capability, Chunk, Token
from laconic.inference.policies.base import Ask
from laconic.inference.policies.plain import finish
from laconic.rewards.errors import LaunchError


def thinks(ask: Ask, text: str) -> bool | None:
    """Whether a trace is inside its thinking; None while that cannot be told yet (nothing but the start of the tag).

    >>> from laconic.inference.ledger import Ledger
    >>> ask = Ask(None, "?", Ledger())
    >>> [thinks(ask, text) for text in ("", "<thi", "<think> so", "<think> so</think> 7", "It is 7")]
    [None, None, True, False, False]
    """
    if ask.think_close in text:
        return False
    if ask.opens_thinking or ask.think_open in text:
        return True
    return None if ask.think_open.startswith(text.strip()) else False


class Watch:
    """A hook that ends a generation as soon as one of the texts is complete, wherever earlier generations ended.

    Unlike a stop string it cuts nothing, so looking at a trace does not change it.

    Args:
        texts: What to look for.
        before: The text the generation goes on from.
    """

    def __init__(self, texts: Sequence[str], before: str = "") -> None:
        self.texts, self.text = tuple(texts), before

    def __call__(self, token: Token) -> bool:
        """Take a token; True if one of the texts ends within it."""
        seen = len(self.text)
        self.text += token.text
        return any(self.text.find(text, max(0, seen - len(text) + 1)) >= 0 for text in self.texts)


async def advance(
    ask: Ask,
    branch: Branch,
    *,
    max_tokens: int,
    min_tokens: int = 0,
    slack: int = 0,
    at: Sequence[str] = (),
    keep_close: bool = True,
    bias: Mapping[int, float] | None = None,
) -> Chunk:
    """Let the thinking go on to its closing tag, to the end of one of the texts `at`, or for `max_tokens`.

    An engine without per-token hooks stops at the texts as stop strings instead; where one of them ends inside a
    token, the rest of that token is lost there.

    Args:
        ask: The question.
        branch: Where it goes on.
        max_tokens: Generated tokens at most.
        min_tokens: Generated tokens before an end-of-sequence may come.
        slack: Tokens more at most, to complete a closing tag that several tokens spell.
        at: Texts to stop after.
        keep_close: The closing tag stays in the text, and so do the texts `at` in any case.
        bias: Added to logits.

    Raises:
        LaunchError: the engine generated more than it was asked for.
    """
    hooked = bool(at) and Capability.TOKEN_HOOK in ask.engine.capabilities
    chunk = await branch.generate(
        max_tokens=max_tokens,
        min_tokens=min_tokens,
        stop=[ask.think_close, *(() if hooked else at)],
        keep_stop=keep_close,
        hook=Watch(at, branch.text) if hooked else None,
        bias=bias,
    )
    within(chunk, max_tokens)
    if not keep_close and chunk.reason == "stop" and chunk.stop != ask.think_close:
        await branch.extend(chunk.stop or "")
    while slack > 0 and chunk.reason in ("length", "hook") and _closing(ask, branch.text):
        more = await branch.generate(max_tokens=1)
        chunk, slack = _joined(ask, branch, chunk, more), slack - 1
    return chunk


def within(chunk: Chunk, max_tokens: int) -> Chunk:
    """The chunk, if its engine kept to the limit.

    Raises:
        LaunchError: it did not.
    """
    if len(chunk.tokens) > max_tokens:
        raise LaunchError(
            f"the engine generated {len(chunk.tokens)} tokens where at most {max_tokens} were asked for",
            cure="use an engine that enforces max_tokens; no budget holds on this one",
        )
    return chunk


def tokens_of_end(chunk: Chunk) -> int:
    """How many tokens of a chunk spell what ended it (a stop string or end-of-sequence) rather than what it says."""
    if chunk.stop is None:
        return int(chunk.ended)
    spelled = ""
    for count, token in enumerate(reversed(chunk.tokens), start=1):
        spelled = token.text + spelled
        if chunk.stop in spelled:
            return count
    return len(chunk.tokens)


async def answer_directly(ask: Ask, branch: Branch, chunk: Chunk, *, left: int) -> bool:
    """Go on with a trace that turned out to answer without thinking; False if the budget cut it.

    Args:
        ask: The question.
        branch: The trace.
        chunk: Its last generation.
        left: Generated tokens it may still have.
    """
    branch.relabel("answer")
    if chunk.ended or left < 1:
        return chunk.ended
    return await finish(ask, branch, budget=left)


def _closing(ask: Ask, text: str) -> bool:
    """Whether a text that thinks ends inside a closing tag, which several tokens spell."""
    begun = any(text.endswith(ask.think_close[:size]) for size in range(1, len(ask.think_close)))
    return begun and thinks(ask, text) is True


def _joined(ask: Ask, branch: Branch, first: Chunk, second: Chunk) -> Chunk:
    both = replace(second, text=first.text + second.text, tokens=first.tokens + second.tokens)
    return replace(both, reason="stop", stop=ask.think_close) if ask.think_close in branch.text else both
