"""Latent-trajectory selection: of several traces, the one whose hidden states move best."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, cast, get_args

import numpy as np

from laconic.inference.engine import Array, Branch, Capability, Internals
from laconic.inference.policies.base import Answer, Ask, policy
from laconic.inference.policies.candidates import Candidate, complete, decide, majority, thinks, together
from laconic.inference.policies.plain import answer_of
from laconic.rewards.errors import RecipeError

Signal: TypeAlias = Literal["net", "cumulative", "aligned"]


def net_change(means: Array) -> float:
    """How far the last block is from the first: |h_B - h_0|.

    >>> net_change(np.array([[0.0, 0.0], [3.0, 0.0], [3.0, 4.0]]))
    5.0

    Args:
        means: Mean hidden state of each block, shape (blocks, hidden), two blocks or more.
    """
    return float(np.linalg.norm(means[-1] - means[0]))


def cumulative_change(means: Array) -> float:
    """How far it went from block to block, per step: the mean of |h_(b+1) - h_b|.

    >>> cumulative_change(np.array([[0.0, 0.0], [3.0, 0.0], [3.0, 4.0]]))
    3.5

    Args:
        means: As in `net_change`.
    """
    return float(np.linalg.norm(np.diff(means, axis=0), axis=1).mean())


def aligned_change(means: Array) -> float:
    """How much of each step goes where the whole went: the mean cosine of h_(b+1) - h_b and h_B - h_0.

    A step of no length counts 0, and so does a whole of none. The sum of the steps' projections, not divided by their
    lengths, would be `net_change` again, whatever the path.

    >>> round(aligned_change(np.array([[0.0, 0.0], [3.0, 0.0], [3.0, 4.0]])), 6)
    0.7

    Args:
        means: As in `net_change`.
    """
    steps, whole = np.diff(means, axis=0), means[-1] - means[0]
    lengths = np.linalg.norm(steps, axis=1) * np.linalg.norm(whole)
    return float(np.divide(steps @ whole, lengths, out=np.zeros(len(steps)), where=lengths > 0).mean())


def trajectory_score(means: Array, signal: Signal) -> float:
    """Higher is better: much net and aligned change, little cumulative change; minus infinity below two blocks."""
    if len(means) < 2:
        return -math.inf
    means = np.asarray(means, dtype=np.float64)
    if signal == "cumulative":
        return -cumulative_change(means)
    return net_change(means) if signal == "net" else aligned_change(means)


@policy(paper="arXiv:2510.10494", requires=(Capability.PREFIX, Capability.STOP, Capability.HIDDEN_STATES))
@dataclass(frozen=True)
class LatentTrajectory:
    """Several traces decoded block by block; the one whose hidden states moved best is returned.

    Rule: a trace's thinking is cut into blocks of tokens, whose hidden states of one layer are averaged. The signal is
    the net change between first and last block, the cumulative change from block to block (less is better), or how
    well the steps are aligned with the net change. Of the finished traces with an answer the one with the best signal
    is returned, the first of equal ones. With `after`, all but the `keep` best of those that still think are ended
    once they have so many blocks.

    From the paper, of which the abstract is known: the three signals, selection by them, and early selection. Ours: the
    block length, one layer instead of all, dividing the cumulative change by the number of steps (traces have different
    lengths) and each step by its own length in the alignment; a last block that is shorter counts like the others;
    traces too short for two blocks come last, and if there is no other, the majority decides.

    Traces wait for each other at the end of each block only if some may be ended.
    """

    traces: int = 5
    """Drawn at once."""
    signal: Signal = "aligned"
    """net, cumulative or aligned."""
    block: int = 128
    """Tokens."""
    layer: int = -1
    """Whose states are looked at: 0 is the embedding, -1 the last."""
    after: int | None = None
    """Blocks after which traces are ended; None: never. At least 2."""
    keep: int = 1
    """Traces that may go on then."""

    def __post_init__(self) -> None:
        if min(self.traces, self.block, self.keep) < 1 or (self.after is not None and self.after < 2):
            raise RecipeError(
                f"latent_trajectory: traces={self.traces}, block={self.block}, keep={self.keep}, after={self.after}",
                cure="give at least one trace, token and trace to keep, and end traces after two blocks or more",
            )
        if self.signal not in get_args(Signal):
            raise RecipeError(
                f"latent_trajectory: signal={self.signal!r}", cure=f"choose of {', '.join(get_args(Signal))}"
            )

    async def run(self, ask: Ask) -> Answer:
        """Think, ending the worst traces on the way, answer, and choose."""
        traces = [_Trace(ask.open(sample=sample), ask.sampling.max_tokens) for sample in range(self.traces)]
        if self.after is not None:
            await together(self._think(ask, trace, blocks=self.after) for trace in traces)
            ask.ledger.barrier()
            await self._end_worst(traces)
        candidates = await together(self._finish(ask, trace) for trace in traces)
        scores = [trace.score(self.signal) for trace in traces]
        notes = {
            "scores": [score if math.isfinite(score) else None for score in scores],
            "blocks": [len(trace.means) for trace in traces],
            "ended": [place for place, trace in enumerate(traces) if trace.lost],
            "answers": [candidate.answer for candidate in candidates],
        }
        able = [place for place, one in enumerate(candidates) if one.votes and math.isfinite(scores[place])]
        if not able:
            going_on = [candidate for candidate, trace in zip(candidates, traces, strict=True) if not trace.lost]
            return await majority(ask, going_on, notes=notes)
        return await decide(ask, candidates, candidates[max(able, key=lambda place: scores[place])], notes=notes)

    async def _end_worst(self, traces: Sequence[_Trace]) -> None:
        going_on = [trace for trace in traces if trace.thinking]
        # The sort is stable: of equal ones the first goes on.
        for trace in sorted(going_on, key=lambda trace: -trace.score(self.signal))[self.keep :]:
            trace.lost = True
            await trace.branch.close("discarded")

    async def _think(self, ask: Ask, trace: _Trace, *, blocks: int | None = None) -> None:
        """Block by block, to the end of the thinking or for so many blocks."""
        while trace.thinking and (blocks is None or len(trace.means) < blocks):
            await trace.next_block(ask, size=self.block, layer=self.layer)

    async def _finish(self, ask: Ask, trace: _Trace) -> Candidate:
        if trace.lost:
            return Candidate(trace.branch, False, None)
        await self._think(ask, trace)
        if trace.ended or trace.left < 1:
            return Candidate(trace.branch, trace.ended, answer_of(ask, trace.branch.text))
        return await complete(ask, trace.branch, budget=trace.left)


@dataclass(eq=False)
class _Trace:
    branch: Branch
    left: int
    """Tokens it may still generate."""
    means: list[Array] = field(default_factory=list)
    thinking: bool = True
    """It can go on thinking."""
    ended: bool = False
    """The model ended it by itself."""
    lost: bool = False

    def score(self, signal: Signal) -> float:
        return trajectory_score(np.array(self.means), signal)

    async def next_block(self, ask: Ask, *, size: int, layer: int) -> None:
        chunk = await self.branch.generate(max_tokens=min(size, self.left), stop=[ask.think_close], keep_stop=True)
        self.left -= len(chunk.tokens)
        self.ended = chunk.ended
        if not thinks(ask, self.branch.text):
            self.branch.relabel("answer")
            self.thinking = False
            return
        self.thinking = not chunk.ended and self.left > 0 and ask.think_close not in self.branch.text
        if (tokens := len(chunk.tokens) - chunk.ended) > 0:
            states = await cast("Internals", self.branch).hidden(layer, last=tokens)
            self.means.append(np.asarray(states, dtype=np.float64).mean(axis=0))
