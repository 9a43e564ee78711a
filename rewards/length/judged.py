"""Rewards for conciseness as such: by a judge's verdict, and the plain reading of a paper that gives no formula.

``L`` is the number of generated tokens, ``c`` is 1 for a correct rollout and 0 for a wrong one.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import numpy as np

from laconic.rewards.group import Array, Group
from laconic.rewards.judge import Judged, number
from laconic.rewards.registry import NonNegative, reward

_CONCISENESS = Judged(
    column="judgement",
    asks="How concise is this reasoning, as one integer from 1 to 10? 8 to 10: brief, and every needed step is there. "
    "5 to 7: some repetition or unclear wording. 1 to 4: verbose, repetitive or vague, or a bare answer without "
    "reasoning. Judge conciseness alone, whether or not the answer is right.",
    parse=partial(number, low=1, high=10),
)


@reward(
    paper="arXiv:2505.17250",
    scope="rollout",
    needs=("judgement",),
    uses=("finished",),
    claims=("right_above_wrong", "no_length_pressure_on_wrong"),
    abstains=True,
    judged=_CONCISENESS,
)
def concise_rl(group: Group, *, variant: Literal["gated", "ungated"] = "gated") -> Array:
    """A judge's verdict on how concise the reasoning is, given to right answers only.

    Formula, with the verdict an integer from 1 to 10 and right meaning correct and finished::

        gated:    r = verdict / 10  if right,  0 if not
        ungated:  r = verdict / 10 + (1 if right, 0 if not)

    Each rollout stands for itself: it makes no difference how many of its siblings are correct or how long they are.
    Length enters through the judge alone. A rollout cut by the token limit is not right. A verdict that cannot be read,
    or that is no number from 1 to 10, is no reward (NaN).

    Args:
        group: The rollouts of one problem, each with its verdict.
        variant: Whether the verdict counts for right answers only. [-]

    Deviations: In the authors' server an unreadable verdict becomes a reward of 5, five to fifty times the usual; here
        it is none. Gated, their judge is asked about right answers only; here about every rollout, and a wrong one
        whose verdict cannot be read has no reward either. The wording of the question is ours, its scale theirs.

    Gaming: Whatever the judge likes: text that calls itself brief, or steps too terse to follow. Ungated, a wrong
        answer with a verdict of 10 earns 1, hardly less than a right one with a verdict of 1.

    Source: Dumitru et al., "ConciseRL: Conciseness-Guided Reinforcement Learning for Efficient Reasoning Models";
        RazvanDu/ConciseRL, ``reward_server/math_server.py``.

    >>> group = Group.of([True, True, False], [100, 900, 50], judgement=[9, None, 10])
    >>> concise_rl(group).tolist()
    [0.9, nan, 0.0]
    """
    legible = (group.judgement >= 1) & (group.judgement <= 10)
    concise = np.where(legible, group.judgement, np.nan) / 10.0
    right = (group.correct & group.finished).astype(float)
    return concise * right if variant == "gated" else concise + right


@reward(
    paper="arXiv:2506.15647",
    claims=("right_above_wrong", "shorter_is_no_worse", "no_length_pressure_on_wrong"),
)
def self_rewarded_efficiency(group: Group, *, brevity_weight: NonNegative = 1.0) -> Array:
    """Right answers earn more the closer they come to the shortest right answer of their own group.

    Formula, which is ours; the abstract says "rewarding concise correct solutions" and no more::

        r = c * (1 + brevity_weight * min / L)

    ``min`` is the length of the shortest correct rollout of the group, so the model's own samples set the measure. None
    correct: all 0. One correct, or equal lengths: ``1 + brevity_weight`` for the correct. A rollout cut by the token
    limit counts as the verifier judged it.

    Args:
        group: The rollouts of one problem.
        brevity_weight: Of the length term. [reward]

    Deviations: Only the abstract was available and no code was released: this is its plainest reading, not the authors'
        formula, and numbers reported for the paper say nothing about it.

    Gaming: Nothing asks for thinking: a lucky short guess sets the measure for its siblings.

    Source: Zhao et al., "Exploring and Exploiting the Inherent Efficiency within Large Reasoning Models for Self-Guided
        Efficiency Enhancement", abstract (Self-Rewarded Efficiency RL).

    >>> self_rewarded_efficiency(Group.of([True, True, False], [100, 400, 50])).tolist()
    [2.0, 1.25, 0.0]
    """
    if not group.correct.any():
        return np.zeros(group.size)
    length = np.maximum(group.length, 1.0)
    return group.correct * (1.0 + brevity_weight * length[group.correct].min() / length)
