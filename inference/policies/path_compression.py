"""Reasoning-path compression: the key-value cache of what was generated is thinned out while it grows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from laconic.inference.engine import Array, Branch, Capability
from laconic.inference.policies.base import Answer, Ask, policy
from laconic.inference.policies.candidates import thinks
from laconic.inference.policies.plain import answer_of
from laconic.rewards.errors import RecipeError

if TYPE_CHECKING:
    from laconic.inference.engine import Internals


def keep_positions(attention: Array, *, prompt: int, keep: int, recent: int, pool: int = 7) -> list[int]:
    """Which positions of a layer stay: the whole prompt, the most looked-at generated ones, and the newest.

    Between prompt and the newest `recent` positions, each query's weights are made to sum to 1, summed over queries,
    and averaged over `pool` neighbours (zeros beyond both ends). The `keep` highest stay; of equal ones the later.

    >>> keep_positions(np.array([[9, 1, 5, 1, 2, 7]]) / 25, prompt=1, keep=2, recent=1, pool=1)
    [0, 2, 4, 5]

    Args:
        attention: How the newest queries look back, heads averaged, shape (queries, length).
        prompt: Positions of the prompt.
        keep: Positions to keep between prompt and the newest.
        recent: R, the newest positions.
        pool: Width of the average, odd.
    """
    length = attention.shape[-1]
    middle = np.asarray(attention, dtype=np.float64)[:, prompt : length - recent]
    total = middle.sum(axis=-1, keepdims=True)
    summed = (middle / np.where(total > 0, total, 1.0)).sum(axis=0)
    # Sorted before it is added up: the same neighbours in another order must not differ by rounding.
    pooled = np.sort(sliding_window_view(np.pad(summed, pool // 2), pool), axis=-1).sum(axis=-1)
    places = np.arange(len(pooled))
    best = np.lexsort((-places, -pooled))[:keep]
    return [*range(prompt), *sorted((best + prompt).tolist()), *range(length - recent, length)]


@policy(paper="arXiv:2505.13866", requires=(Capability.PREFIX, Capability.STOP, Capability.KV_EDIT))
@dataclass(frozen=True)
class ReasoningPathCompression:
    """One completion whose key-value cache is thinned out regularly, by what its newest tokens look at.

    Rule (`keep_positions`): after P + R generated tokens and then after every P, each layer keeps the prompt, of the
    generated positions before the newest R the j P / c that the newest R look at most (j: how many times it was done,
    this one included), and the newest R. No token is saved: what shrinks is memory and the time of a step.

    Source: paper and released code; P, c, R and the pooling of 7 are theirs.
    Deviations: the code makes each head's weights sum to 1 over the positions in question before it averages over
    heads; an engine reports averages over heads, which are made to sum to 1 after that. Ours: of equal positions the
    later one stays.

    Notes: `kept`, the positions each layer holds after each thinning; `kv_share`, the mean over decode steps of the
    cache's size relative to an untouched one's.
    """

    every: int = 1024
    """P: generated tokens from one thinning to the next."""
    ratio: float = 4.0
    """c: of P generated tokens, P / c stay."""
    recent: int = 32
    """R: newest tokens, whose attention decides and which stay."""
    pool: int = 7
    """Neighbours that attention is averaged over; odd."""

    def __post_init__(self) -> None:
        if self.recent < 1 or not 1 <= self.ratio <= self.every:
            raise RecipeError(
                f"reasoning_path_compression: every={self.every}, ratio={self.ratio}, recent={self.recent}",
                cure="give recent of at least 1, and a ratio from 1 to every",
            )
        if self.pool < 1 or self.pool % 2 == 0:
            raise RecipeError(f"reasoning_path_compression: pool={self.pool}", cure="give an odd number")

    async def run(self, ask: Ask) -> Answer:
        """Generate to the end, stopping to thin out."""
        branch, cache = ask.open(follow=True), _Cache(self)
        left, due, finished = ask.sampling.max_tokens, self.every + self.recent, False
        while left > 0 and not finished:
            closed = ask.think_close in branch.text
            chunk = await branch.generate(
                max_tokens=min(left, due),
                stop=[] if closed else [ask.think_close],
                keep_stop=True,
                role="answer" if closed else "think",
            )
            if not closed and not thinks(ask, branch.text):
                branch.relabel("answer")
            finished = chunk.ended
            cache.grow(len(chunk.tokens))
            left, due = left - len(chunk.tokens), due - len(chunk.tokens)
            if due == 0 and left > 0 and not finished:
                await cache.thin_out(branch)
                due = self.every
        await branch.close("kept")
        text, how = branch.text, "stop" if finished else "length"
        return Answer(text, answer_of(ask, text), how, ask.ledger, notes=cache.notes())


@dataclass
class _Cache:
    """What is known of a branch's cache."""

    rule: ReasoningPathCompression
    prompt: int | None = None
    """Its length; known once the cache was looked at."""
    generated: int = 0
    kept: list[int] = field(default_factory=list)
    at: list[int] = field(default_factory=list)
    """Generated tokens at each thinning."""

    def grow(self, tokens: int) -> None:
        self.generated += tokens

    async def thin_out(self, branch: Branch) -> None:
        inner = cast("Internals", branch)
        attention = await inner.attention(last=self.rule.recent)
        if self.prompt is None:
            self.prompt = attention.shape[-1] - self.generated
        keep = (len(self.kept) + 1) * int(self.rule.every / self.rule.ratio)
        chosen = [
            keep_positions(layer, prompt=self.prompt, keep=keep, recent=self.rule.recent, pool=self.rule.pool)
            for layer in attention
        ]
        await inner.evict(chosen)
        self.kept.append(len(chosen[0]))
        self.at.append(self.generated)

    def notes(self) -> dict[str, Any]:
        return {"kept": self.kept, "kv_share": kv_share(self.prompt or 0, self.generated, self.at, self.kept)}


def kv_share(prompt: int, generated: int, at: Sequence[int], kept: Sequence[int]) -> float:
    """Mean size of a cache over all decode steps, relative to that of one that was left alone; 1 without any thinning.

    >>> kv_share(2, 4, [2], [3])  # 3, 4, then 4, 5 positions instead of 3, 4, 5, 6
    0.8888888888888888

    Args:
        prompt: Its positions.
        generated: Decode steps.
        at: After which of them the cache was thinned out, ascending.
        kept: Positions that it then held.
    """
    if not at:
        return 1.0
    saved = sum(
        (prompt + when - size - before) * (generated - when)
        for when, size, before in zip(at, kept, [0, *_missing(prompt, at, kept)], strict=False)
    )
    return 1.0 - saved / sum(prompt + step for step in range(1, generated + 1))


def _missing(prompt: int, at: Sequence[int], kept: Sequence[int]) -> list[int]:
    """How many positions are missing after each thinning."""
    return [prompt + when - size for when, size in zip(at, kept, strict=True)]
