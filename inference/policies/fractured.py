"""Fractured sampling: answers not only after the whole thinking, but also after parts of it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from laconic.inference.engine import Branch, Capability, Token
from laconic.inference.policies.base import Answer, Ask, policy
from laconic.inference.policies.candidates import (
    Candidate,
    best_of,
    complete,
    decide,
    majority,
    score,
    thinks,
    together,
)
from laconic.inference.policies.plain import answer_of
from laconic.rewards.errors import LaunchError, RecipeError


def cut_points(length: int, cuts: int) -> list[int]:
    """After how many of its tokens a thinking is cut: ``i * length // cuts`` for i = 1 to ``cuts``; the last is whole.

    >>> cut_points(10, 4)
    [2, 5, 7, 10]
    """
    return [i * length // cuts for i in range(1, cuts + 1)]


def places(points: Sequence[int], marks: Sequence[int], length: int) -> list[int]:
    """For each cut point the first mark at or after it, or the whole length; each place once, in order.

    >>> places([12, 25, 37, 50], [16, 32, 48], 50)
    [16, 32, 48, 50]

    Args:
        points: Of `cut_points`.
        marks: Where a cut can be made, ascending.
        length: Of the whole thinking.
    """
    chosen = [next((mark for mark in marks if point <= mark < length), length) for point in points]
    return list(dict.fromkeys(chosen))


def pass_at_k(n: int, correct: int, k: int) -> float:
    """The probability that k of n answers, drawn without replacement, hold one of the correct ones.

    ``1 - C(n - correct, k) / C(n, k)``

    >>> pass_at_k(8, 2, 1)
    0.25

    Raises:
        RecipeError: not 0 <= correct <= n or not 1 <= k <= n.
    """
    if not (0 <= correct <= n and 1 <= k <= n):
        raise RecipeError(f"pass_at_k: n={n}, correct={correct}, k={k}", cure="draw no more than there are")
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


@policy(paper="arXiv:2505.12992", requires=(Capability.PREFIX, Capability.STOP, Capability.FORK))
@dataclass(frozen=True)
class Fractured:
    """Some traces, cut at several points of their thinking, with some answers after each cut; all of them vote.

    Rule: n traces; each thinking of L tokens is cut after ``i * L // H`` of them, i = 1 to H; after each cut the
    thinking is closed and m answers are drawn; of the n H m answers the most frequent one wins, or the best by a
    scorer. The first answer after the whole thinking is the trace's own.

    From the paper: the three dimensions and the cuts. Ours: the numbers, and that cuts are made at the first multiple
    of ``stride`` tokens at or after the paper's place. L is known only when the thinking has ended, so a fork is kept
    at every multiple; cuts that fall on the same place are made once. A fork costs no tokens and shares its cache.

    Deviations: the released code closes a thinking that the token limit cut and gives its answer tokens beyond the
    limit; here one completion, cut or whole, stays within it. Its option for several answers after the whole thinking
    has a name that does not exist, and it is not copied. A trace that does not think gives its one answer. The early
    stop over cuts that the paper describes is not in its code and not here.

    The ledger counts each thinking once, and every answer. Its critical path does not know that an answer after an
    early cut waited for the end of the thinking.
    """

    traces: int = 4
    """n."""
    cuts: int = 4
    """H."""
    answers: int = 1
    """m."""
    stride: int = 16
    """Tokens between places where a thinking can be cut; 1 is the paper's rule exactly."""
    after_close: str = "\n\n"
    """Forced after the closing tag of a cut thinking, as the released code does."""
    choose: Literal["vote", "best"] = "vote"
    """best: the highest score; needs a scorer."""

    def __post_init__(self) -> None:
        if min(self.traces, self.cuts, self.answers, self.stride) < 1:
            raise RecipeError(f"fractured: {self}", cure="make traces, cuts, answers and stride at least 1")
        if self.choose not in ("vote", "best"):
            raise RecipeError(f"fractured: choose={self.choose!r}", cure="choose: vote, or choose: best")

    async def run(self, ask: Ask) -> Answer:
        """Decode the traces at once, then the answers of each as soon as its thinking has ended."""
        if self.choose == "best" and ask.scorer is None:
            raise LaunchError("fractured with choose: best needs a scorer", cure="pass a verifier or reward model")
        found = await together(self._trace(ask, ask.open(sample=sample)) for sample in range(self.traces))
        candidates = [candidate for of_trace in found for candidate in of_trace]
        notes = {"answers": [candidate.answer for candidate in candidates]}
        voters = [candidate for candidate in candidates if candidate.votes]
        if self.choose == "vote" or not voters:
            return await majority(ask, candidates, notes=notes)
        scores = await score(ask, voters)
        return await decide(ask, candidates, voters[best_of(scores)], notes={**notes, "scores": scores})

    async def _trace(self, ask: Ask, branch: Branch) -> list[Candidate]:
        thinking = await self._think(ask, branch)
        if not thinking.began:
            return [await _answer_at_once(ask, branch, thinking)]
        starts: list[tuple[Branch, int]] = []
        own: list[Candidate] = []
        if thinking.closed and not thinking.ended:
            whole = [branch, *[await ask.fork(branch) for _ in range(self.answers - 1)]]
            starts += [(each, ask.sampling.max_tokens - len(thinking.tokens)) for each in whole]
        else:
            own = [Candidate(branch, thinking.ended, answer_of(ask, branch.text))]
        for place, mark in await self._cut(thinking):
            forks = [mark, *[await ask.fork(mark) for _ in range(self.answers - 1)]]
            for fork in forks:
                await fork.extend(ask.think_close + self.after_close)
            starts += [(fork, ask.sampling.max_tokens - place) for fork in forks]
        return own + await together(complete(ask, start, budget=budget) for start, budget in starts)

    async def _think(self, ask: Ask, branch: Branch) -> _Thinking:
        """Decode the thinking, with a fork at every multiple of the stride."""
        thinking, limit = _Thinking(), ask.sampling.max_tokens
        while True:
            most = min(self.stride, limit - len(thinking.tokens))
            chunk = await branch.generate(max_tokens=most, stop=[ask.think_close], keep_stop=True)
            thinking.tokens += chunk.tokens
            thinking.ended = chunk.ended
            thinking.began, thinking.closed = thinks(ask, branch.text), ask.think_close in branch.text
            if thinking.closed:
                thinking.length = _before(thinking.tokens, branch.text.index(ask.think_close))
                return thinking
            thinking.length = len(thinking.tokens)
            if chunk.ended or thinking.length >= limit or not thinking.began:
                return thinking
            thinking.marks[thinking.length] = await ask.fork(branch)

    async def _cut(self, thinking: _Thinking) -> list[tuple[int, Branch]]:
        """The forks where the thinking is cut before its end; the others are freed."""
        chosen = places(cut_points(thinking.length, self.cuts), list(thinking.marks), thinking.length)
        cuts = [(place, thinking.marks[place]) for place in chosen if place < thinking.length]
        for place, mark in thinking.marks.items():
            if (place, mark) not in cuts:
                await mark.close("discarded")
        return cuts


@dataclass
class _Thinking:
    """A thinking as far as it was decoded."""

    tokens: list[Token] = field(default_factory=list)
    length: int = 0
    """Tokens before the closing tag."""
    marks: dict[int, Branch] = field(default_factory=dict)
    """Forks, by the tokens before them."""
    began: bool = False
    closed: bool = False
    ended: bool = False


def _before(tokens: Sequence[Token], size: int) -> int:
    """How many tokens end within the first `size` characters."""
    return sum(end <= size for end in itertools.accumulate(len(token.text) for token in tokens))


async def _answer_at_once(ask: Ask, branch: Branch, so_far: _Thinking) -> Candidate:
    """The rest of a completion that does not think."""
    branch.relabel("answer")
    left, finished = ask.sampling.max_tokens - len(so_far.tokens), so_far.ended
    if left and not finished:
        finished = (await branch.generate(max_tokens=left, role="answer")).ended
    return Candidate(branch, finished, answer_of(ask, branch.text))
