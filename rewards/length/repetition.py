"""Repeated n-grams: a penalty for them, and where a completion begins to loop."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from itertools import pairwise
from typing import Annotated

import numpy as np

from laconic.rewards.group import Array, Group
from laconic.rewards.registry import Count, Range, reward


@reward(
    paper="arXiv:2502.03373",
    scope="rollout",
    needs=("ids",),
    slow="it reads every token of every completion",
)
def repetition(group: Group, *, ngram_size: Count = 3, max_penalty: Annotated[float, Range(high=0.0)] = -1.0) -> Array:
    """A penalty in proportion to the share of token n-grams that were there before.

    Formula::

        r = max_penalty * (1 - unique n-grams / n-grams)

    A completion of fewer than ``ngram_size`` tokens gets 0. Correctness and length do not enter, and whether a rollout
    ended by itself does not matter, so this is only a term: a recipe lists it beside a task reward.

    Args:
        group: The rollouts of one problem.
        ngram_size: Length of an n-gram. [tokens]
        max_penalty: What a completion that only repeats itself comes near to. [reward]

    Deviations: As in TRL's ``get_repetition_penalty_reward``, with its defaults. The paper's authors count lower-cased
        words of wrong answers only; parameters of `cosine` do that.

    Gaming: Loops longer than the completion, or reworded ones, cost nothing; any long text in a small vocabulary costs
        something.

    Source: Yeo et al., "Demystifying Long Chain-of-Thought Reasoning in LLMs"; huggingface/trl,
        ``trl/rewards/other_rewards.py``.

    >>> group = Group.of([True, True, False], [4, 5, 1], ids=[[1, 2, 3, 4], [5, 5, 5, 5, 5], [1]])
    >>> repetition(group, ngram_size=2).round(4).tolist()
    [0.0, -0.75, 0.0]
    """
    assert group.ids is not None
    # The 0.0 makes a plain zero of -1.0 * 0.0.
    return max_penalty * np.array([repeated_share(ids, ngram_size) for ids in group.ids]) + 0.0


def repeated_share(items: Sequence[Hashable], size: int) -> float:
    """The share of the n-grams of `items` that are repeats; 0 if there is none at all."""
    total = len(items) - size + 1
    if total < 1:
        return 0.0
    return 1.0 - len(set(zip(*(items[start:] for start in range(size)), strict=False))) / total


def loop_start(ids: Sequence[int]) -> int:
    """Where a completion begins to repeat itself, by the rule of LASER-DE; its length if it does not.

    Read from the end, the loop starts at the first n-gram that was met often enough (three times, or twice in fewer
    than 200 tokens) with two of the meetings less than a third of the completion apart. n is 4, in short completions 3
    or 2; an n-gram of one token over and over does not count. Failing that, it starts at the last 2n-gram that comes
    again later, however far away. Completions of up to 8 tokens never loop.

    >>> loop_start([*range(100, 400), *[5, 6, 7, 8] * 50])
    488
    """
    ids = tuple(ids)
    size = len(ids)
    if size <= 8:
        return size
    width = 2 if size < 30 else 3 if size < 100 else 4
    start = _close_repeat(ids, width, wanted=2 if size < 200 else 3)
    if start is None and size >= 4 * width:
        start = _any_repeat(ids, 2 * width)
    return size if start is None else start


def _close_repeat(ids: tuple[int, ...], width: int, wanted: int) -> int | None:
    near = len(ids) // 3
    places: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for start in range(len(ids) - width, -1, -1):
        ngram = ids[start : start + width]
        if width > 2 and len(set(ngram)) == 1:
            continue
        met = places[ngram]
        met.append(start)
        if len(met) >= wanted and any(later - earlier < near for later, earlier in pairwise(met)):
            return start
    return None


def _any_repeat(ids: tuple[int, ...], width: int) -> int | None:
    met: set[tuple[int, ...]] = set()
    for start in range(len(ids) - width, -1, -1):
        ngram = ids[start : start + width]
        if ngram in met:
            return start
        met.add(ngram)
    return None
