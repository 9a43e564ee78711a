"""Length rewards whose pressure follows how often a problem is solved.

``L`` is the number of generated tokens, ``c`` is 1 for a correct rollout and 0 for a wrong one, ``p`` is the share of
correct rollouts of the group. The rewards of `laconic.rewards.length.laser` belong here too.
"""

from __future__ import annotations

import math

import numpy as np

from laconic.rewards.group import Array, Batch, Group
from laconic.rewards.length.relative import sigmoid
from laconic.rewards.mode.reading import labelled
from laconic.rewards.registry import NonNegative, Share, reward


@reward(paper="arXiv:2506.05256", claims=("shorter_is_no_worse",))
def alp(group: Group, *, beta_over_n: NonNegative = 1e-7) -> Array:
    """Every token costs in proportion to how often the problem is solved (adaptive length penalty).

    Formula, with K the size of the group::

        r = c - beta_over_n * max(p, 1/K) * L

    Easy problems are taxed most, unsolved ones a K-th as much, and so are those with one correct rollout. Wrong
    rollouts are penalised too; with none correct the penalty is all there is. Equal lengths differ by correctness
    alone. A rollout cut by the token limit counts as the verifier judged it.

    Args:
        group: The rollouts of one problem.
        beta_over_n: Cost of a token on a problem that is always solved. The paper divides a weight beta by a constant
            N; a reader of it reports beta as 1e-7 and nobody reports N, so the default takes N as 1. [reward/token]

    Deviations: No code was released. A third party's version divides by the longest allowed length and lacks the floor
        1/K; it is not followed.

    Gaming: With a larger `beta_over_n` a right answer of more than its inverse in tokens falls below wrong ones, and on
        unsolved problems giving up early pays.

    Source: Xiang et al., "Just Enough Thinking: Efficient Reasoning with Adaptive Length Penalties Reinforcement
        Learning".

    >>> group = Group.of([True, True, True, False], [100, 200, 300, 50])
    >>> alp(group, beta_over_n=1e-4).round(5).tolist()
    [0.9925, 0.985, 0.9775, -0.00375]
    """
    solved = max(float(group.correct.mean()), 1.0 / group.size)
    return group.correct - beta_over_n * solved * group.length


@reward(
    paper="arXiv:2508.11582",
    uses=("label",),
    claims=("right_above_wrong", "shorter_is_no_worse"),
    ordered=(("hard", "easy"),),
)
def dr_saf(
    group: Group,
    *,
    easy: Share = 0.95,
    hard: Share = 0.3,
    length_bonus: NonNegative = 0.05,
    match_bonus: NonNegative = 0.02,
    label_bonus: NonNegative = 0.01,
) -> Array:
    """Short right answers earn a bonus on easy problems, long wrong ones on hard problems.

    Formula, with K the size of the group and a = correct / (K + 0.001)::

        r = c
        a >= easy, right, L <= median:   + length_bonus
        a <  hard, wrong, L >= median:   + length_bonus
        wrote down its difficulty:       + label_bonus
        and that is easy if a >= easy, else hard:  + match_bonus

    The median is taken over the correct rollouts, over all where none is correct. Up to 20 rollouts, easy means all
    right. Equal lengths all count as short and as long. A rollout cut by the token limit counts as the verifier judged
    it.

    Args:
        group: The rollouts of one problem; `label` is easy or hard (the paper's CFRB and PFRB mean the same) or null.
        easy: From which accuracy a problem is easy. [share]
        hard: Below which accuracy it is hard. [share]
        length_bonus: For the fitting half of the lengths. [reward]
        match_bonus: For a label that fits the group's accuracy. [reward]
        label_bonus: For any label. [reward]

    Deviations: The authors count lengths from 0, which changes nothing. Their advantage, never negative for a
        right answer, is no part of the reward.

    Gaming: On hard problems a wrong answer earns by being long; with none correct the longer half does.

    Source: Chen et al., "Aware First, Think Less: Dynamic Boundary Self-Awareness Drives Extreme Reasoning Efficiency
        in Large Language Models"; sfasfaffa/DR_SAF, ``reward_score/__init__.py``, ``reward_manager/naive.py``.

    >>> dr_saf(Group.of([True] * 4, [400, 800, 1200, 1600], label=["easy", "hard", None, None])).round(4).tolist()
    [1.08, 1.06, 1.0, 1.0]
    """
    accuracy = group.correct.sum() / (group.size + 1e-3)
    median = np.median(group.length[group.correct] if group.correct.any() else group.length)
    fits = np.zeros(group.size, dtype=bool)
    if accuracy >= easy:
        fits = group.correct & (group.length <= median)
    elif accuracy < hard:
        fits = ~group.correct & (group.length >= median)
    rewards = group.correct + length_bonus * fits
    if group.label is None:
        return rewards
    said_easy, said_hard = labelled(group, "easy"), labelled(group, "hard")
    matching = said_easy if accuracy >= easy else said_hard
    return rewards + match_bonus * matching + label_bonus * (said_easy | said_hard)


@reward(
    paper="arXiv:2505.18086",
    scope="batch",
    claims=("right_above_wrong", "shorter_is_no_worse", "no_length_pressure_on_wrong"),
)
def grpo_lambda(batch: Batch, *, top_share: Share = 0.2, alpha: Share = 0.6) -> Array:
    """Only the groups of a batch that are solved best feel a length penalty.

    Formula::

        top groups:    r = c * (1 - alpha * sigmoid((L - mean) / (std + 1e-7)))
        other groups:  r = c

    The ``ceil(top_share * groups)`` groups with the highest share of correct rollouts are the top; of equals the
    earlier in the batch. ``mean`` and ``std`` (population) are taken over the group's correct rollouts: one alone, or
    equal lengths, gives ``1 - alpha / 2``. Wrong rollouts always get 0, also in a top group without a correct one. A
    rollout cut by the token limit counts as the verifier judged it.

    Args:
        batch: The groups that are scored together.
        top_share: Share of the groups that are penalised; the paper's lambda. [share of the groups]
        alpha: Strength of the penalty. [share of the reward]

    Deviations: No code was released; the defaults are those of a third-party note on the paper, whose own code rewards
        wrong answers of the top groups and fails where a top group has no correct answer. It is not followed.

    Gaming: In a batch of hard problems the top groups are hard ones, which are then pressed for length all the same.

    Source: Dai et al., "Stable Reinforcement Learning for Efficient Reasoning".

    >>> easy, hard = Group.of([True, True], [400, 800]), Group.of([True, False], [400, 800])
    >>> grpo_lambda(Batch.of(hard, easy)).round(4).tolist()
    [1.0, 0.0, 0.8386, 0.5614]
    """
    rewards = [group.correct.astype(float) for group in batch]
    # Floating point turns 7 % of 100 groups into a little more than 7.
    count = math.ceil(top_share * len(rewards) - 1e-9)
    order = np.argsort([-values.mean() for values in rewards], kind="stable")
    for place in order[:count]:
        rewards[place] *= 1.0 - alpha * _standing(batch.groups[place])
    return np.concatenate(rewards) if rewards else np.zeros(0)


def _standing(group: Group) -> Array:
    """Where each length lies among the correct ones, from 0 (far shorter) to 1 (far longer)."""
    if not group.correct.any():
        return np.zeros(group.size)
    lengths = group.length[group.correct]
    return sigmoid((group.length - lengths.mean()) / (lengths.std() + 1e-7))
