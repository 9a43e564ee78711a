"""Bounds on how long one trace thinks: at least, at most, so many thoughts, so many ends ignored."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from laconic.inference.engine import Branch, Capability, Chunk
from laconic.inference.policies.base import Answer, Ask, Finish, policy
from laconic.inference.policies.plain import answer_of, finish
from laconic.inference.policies.thinking import advance, answer_directly, thinks, tokens_of_end, within
from laconic.rewards.errors import RecipeError


def forced_calls(lengths: Iterable[int], *, ignored_ends: int, maximum: int) -> list[int]:
    """The token limits of the thinking calls of budget forcing: what is left after each round.

    Args:
        lengths: Thinking tokens that each round would give; one is used up per round.
        ignored_ends: How often the end of thinking is replaced.
        maximum: Thinking tokens over all rounds; forced text is not charged.

    >>> forced_calls([10, 7], ignored_ends=1, maximum=32000), forced_calls([10, 7, 5], ignored_ends=2, maximum=30)
    ([32000, 31990], [30, 20, 13])
    """
    calls, left = [], maximum
    for _, length in zip(range(ignored_ends + 1), lengths, strict=False):
        if left < 1:
            break
        calls.append(left)
        left -= min(length, left)
    return calls


@dataclass
class _Trace:
    """What has happened in one trace."""

    ask: Ask
    branch: Branch
    thinking: int = 0
    """Generated tokens of the thinking; closing tags, dropped or not, and forced text are none."""
    spent: int = 0
    """All generated tokens."""
    ignored: int = 0
    thoughts: int = 0
    cut: bool = False
    """Thinking was closed by the policy."""
    forced: list[str] = field(default_factory=list)

    @property
    def left(self) -> int:
        return self.ask.sampling.max_tokens - self.spent

    async def force(self, text: str) -> None:
        self.forced.append(text)
        await self.branch.extend(text)

    def take(self, chunk: Chunk) -> None:
        self.spent += len(chunk.tokens)
        self.thinking += len(chunk.tokens) - (tokens_of_end(chunk) if self.ended(chunk) else 0)
        self.thoughts += not self.ended(chunk) and chunk.reason in ("hook", "stop")

    def ended(self, chunk: Chunk) -> bool:
        """The model ended its thinking, or everything."""
        return chunk.ended or chunk.stop == self.ask.think_close


@policy(paper="arXiv:2501.19393", requires=(Capability.PREFIX, Capability.STOP))
@dataclass(frozen=True, kw_only=True)
class ThinkBudget:
    """Think at least, at most, and for so many thoughts; budget forcing is ignoring the end of thinking.

    While thinking is shorter than `minimum`, or fewer than `ignored_ends` ends were ignored, an end (the closing tag
    or end-of-sequence) is dropped, one of `switches` is put in, and the model goes on. At `maximum` thinking tokens, or
    after as many `thoughts`, `transition` and the closing tag are put in and the model answers. Every call asks only
    for what is left, and an engine that gives more than it was asked for is an error, not a longer trace. Without any
    bound this is `plain`.

    Source: budget forcing from s1 (arXiv:2501.19393): 32000 thinking tokens, 1 ignored end, "Wait"; minimum and
    thoughts from optillm's ThinkDeeper (1024, 4196 and 64 there, with "Wait," and "Alternatively,").

    Deviations: ThinkDeeper charges put-in phrases as thinking and makes one forward pass too many at the maximum; here
    forced text is never charged (as in s1) and none is made. s1's example never puts in the closing tag after a cut,
    which its evaluation does. An end-of-sequence inside thinking closes it, as in ThinkDeeper, if any bound is set. A
    model that answers without thinking is left alone unless `opens`.

    Args:
        minimum: Thinking tokens at least.
        maximum: Thinking tokens at most; None: whatever the completion's budget allows. 0 answers at once.
        thoughts: Switch phrases, generated or put in, after which thinking is closed; None: no limit.
        ignored_ends: Ends that are ignored whatever the length.
        switches: Phrases that begin another thought; one is drawn at random where one is put in.
        transition: Text before a closing tag that is put in.
        answer_tokens: The answer's own budget, as in s1; None: what thinking left of the completion's budget.
        opens: Put the opening tag in, where the template does not.
    """

    minimum: int = 0
    maximum: int | None = None
    thoughts: int | None = None
    ignored_ends: int = 0
    switches: Sequence[str] = ("Wait",)
    transition: str = ""
    answer_tokens: int | None = None
    opens: bool = False

    def __post_init__(self) -> None:
        low = min(self.minimum, self.ignored_ends, 0 if self.maximum is None else self.maximum)
        if low < 0 or (self.maximum is not None and self.minimum > self.maximum):
            raise RecipeError(
                f"think_budget: minimum={self.minimum}, maximum={self.maximum}, ignored_ends={self.ignored_ends}",
                cure="give numbers from 0 on, and a minimum that is not above the maximum",
            )
        if isinstance(self.switches, str) or not self.switches or not all(self.switches):
            raise RecipeError(f"think_budget: switches={self.switches!r}", cure="give a list of phrases")
        for name, value in (("thoughts", self.thoughts), ("answer_tokens", self.answer_tokens)):
            if value is not None and value < 1:
                raise RecipeError(f"think_budget: {name}={value}", cure="give 1 or more, or leave it out")

    async def run(self, ask: Ask) -> Answer:
        """Think within the bounds, then answer."""
        trace = _Trace(ask, ask.open(follow=True))
        if (self.opens or self.maximum == 0) and not ask.opens_thinking:
            await trace.force(ask.think_open)
        how = await self._think(trace) or await self._answer(trace)
        await trace.branch.close("kept")
        text = trace.branch.text
        notes = {
            "think_tokens": trace.thinking,
            "ignored_ends": trace.ignored,
            "thoughts": trace.thoughts,
            "forced": trace.forced,
        }
        return Answer(text, answer_of(ask, text), how, ask.ledger, notes=notes)

    async def _think(self, trace: _Trace) -> Finish | None:
        """Up to the closing tag; how the completion ended, if it ended before."""
        ask, rng = trace.ask, trace.ask.rng
        while self._room(trace) > 0 and (self.thoughts is None or trace.thoughts < self.thoughts):
            drops = self._drops(trace)
            chunk = await self._go_on(trace, drops)
            trace.take(chunk)
            thinking = thinks(ask, trace.branch.text)
            if not (chunk.stop == ask.think_close or thinking or (thinking is None and not chunk.ended)):
                return await _directly(trace, chunk)
            if ask.think_close in trace.branch.text:
                return None
            if not trace.ended(chunk):
                continue
            if chunk.ended and not self._bounded:
                return "stop"
            if not drops or self._room(trace) < 1:
                return await self._close(trace, chunk)
            await self._another_thought(trace, rng)
        trace.cut = True
        return await self._close(trace, None)

    async def _go_on(self, trace: _Trace, drops: bool) -> Chunk:
        room = self._room(trace)
        # Up to the minimum an end is dropped, after it an end stands: two generations.
        asked = min(room, self.minimum - trace.thinking) if drops and not self._ignores(trace) else room
        at = () if self.thoughts is None else self.switches
        return await advance(
            trace.ask,
            trace.branch,
            max_tokens=asked,
            min_tokens=int(trace.ignored > 0),
            slack=room - asked,
            at=at,
            keep_close=not drops,
        )

    async def _another_thought(self, trace: _Trace, rng: random.Random) -> None:
        trace.ignored += 1
        trace.thoughts += 1
        await trace.force(rng.choice(list(self.switches)))

    async def _close(self, trace: _Trace, last: Chunk | None) -> Finish | None:
        """Put the closing tag in, if there is anything to close and anything left to answer with."""
        if last is None and not thinks(trace.ask, trace.branch.text):
            return await _never_thought(trace)
        if self.answer_tokens is None and trace.left < 1:
            return "length"
        await trace.force(self.transition + trace.ask.think_close)
        return None

    async def _answer(self, trace: _Trace) -> Finish:
        budget = trace.left if self.answer_tokens is None else self.answer_tokens
        if budget < 1:
            return "length"
        chunk = within(await trace.branch.generate(max_tokens=budget, role="answer"), budget)
        if not chunk.ended:
            return "length"
        return "policy_stop" if trace.cut else "stop"

    def _room(self, trace: _Trace) -> int:
        """Tokens that thinking may still take."""
        return trace.left if self.maximum is None else min(trace.left, self.maximum - trace.thinking)

    def _ignores(self, trace: _Trace) -> bool:
        return trace.ignored < self.ignored_ends

    def _drops(self, trace: _Trace) -> bool:
        """Whether an end is dropped now."""
        return trace.thinking < self.minimum or self._ignores(trace)

    @property
    def _bounded(self) -> bool:
        return self != type(self)(switches=self.switches, transition=self.transition)


async def _directly(trace: _Trace, chunk: Chunk) -> Finish:
    """It answers without thinking: nothing here is for it."""
    trace.thinking = 0
    ended = await answer_directly(trace.ask, trace.branch, chunk, left=trace.left)
    return "stop" if ended else "length"


async def _never_thought(trace: _Trace) -> Finish:
    """A bound was reached before it was known whether the model thinks: let it show."""
    if trace.spent:
        trace.branch.relabel("answer")
        trace.thinking = 0
    ended = trace.left > 0 and await finish(trace.ask, trace.branch, budget=trace.left)
    return "stop" if ended else "length"
