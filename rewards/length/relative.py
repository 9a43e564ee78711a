"""Length rewards that compare a rollout with its siblings.

In all formulas ``L`` is the number of generated tokens (end-of-sequence included) and ``c`` is 1 for a correct rollout
and 0 for a wrong one.
"""

from __future__ import annotations

import numpy as np

from laconic.rewards.group import Array, Group
from laconic.rewards.registry import NonNegative, Share, reward


@reward(
    paper="arXiv:2502.04463",
    uses=("finished",),
    claims=("right_above_wrong", "shorter_is_no_worse", "no_length_pressure_on_wrong"),
)
def efficient_reasoning(group: Group, *, alpha: Share = 0.1) -> Array:
    """Correct answers earn less the longer they are, compared with the correct answers of the same group.

    Formula::

        r = c * (1 - alpha * sigmoid((L - mean) / (std + 1e-7)))

    ``mean`` and ``std`` (population) are taken over the correct rollouts of the group. Wrong rollouts get 0; with none
    correct all get 0. One correct rollout, or equal lengths, gives ``1 - alpha / 2``. A rollout cut by the token limit
    counts as wrong and is left out of ``mean`` and ``std``.

    Args:
        group: The rollouts of one problem.
        alpha: Strength of the length pressure; the paper sweeps 0.05 to 0.4. [share of the reward]

    Deviations: The authors' server reads ``reward_type: linear`` by default, which it does not implement; only the
        sigmoid here is. They train with RLOO, without division by the standard deviation of rewards.

    Gaming: Nothing asks for thinking: a model that guesses short answers earns the most where guessing works.

    Source: Arora and Zanette, "Training Language Models to Reason Efficiently"; Zanette-Labs/efficient-reasoning,
        ``reward_server/math_server.py``.

    >>> group = Group.of(correct=[True, True, True, False], length=[100, 200, 300, 50])
    >>> efficient_reasoning(group, alpha=0.1).round(4).tolist()
    [0.9773, 0.95, 0.9227, 0.0]
    """
    counted = group.correct & group.finished
    if not counted.any():
        return np.zeros(group.size)
    lengths = group.length[counted]
    standardised = (group.length - lengths.mean()) / (lengths.std() + 1e-7)
    return np.where(counted, 1.0 - alpha * sigmoid(standardised), 0.0)


@reward(paper="arXiv:2504.21370", claims=("shorter_is_no_worse",))
def shorter_better(group: Group, *, correct_weight: NonNegative = 2.0, length_weight: NonNegative = 1e-3) -> Array:
    """Every rollout is pulled towards the length of the shortest correct one (the sample optimal length).

    Formula::

        r = correct_weight * c - length_weight * |L - target|

    ``target`` is the shortest correct length of the group, or the group's mean length when none is correct: then the
    rewards still differ inside the group. Wrong rollouts feel the pressure too. One correct: it gets the full
    ``correct_weight``. Equal lengths: all are on target. A rollout cut by the token limit counts as the verifier judged
    it.

    Args:
        group: The rollouts of one problem.
        correct_weight: Reward of a correct rollout at the target length. [reward]
        length_weight: Reward lost per token away from the target. [reward/token]

    Deviations: None; both weights are literals in the authors' code.

    Gaming: A long wrong rollout loses to a short wrong one, and with none correct lengths drift towards the group's
        mean. A correct rollout more than ``correct_weight / length_weight`` tokens too long falls below wrong ones.

    Source: Yi et al., "ShorterBetter: Guiding Reasoning Models to Find Optimal Inference Length for Efficient
        Reasoning"; jingyang-yi/ShorterBetter, ``reward_manager/naive.py``.

    >>> shorter_better(Group.of(correct=[True, True, False], length=[100, 200, 50])).round(4).tolist()
    [2.0, 1.9, -0.05]
    """
    target = group.length[group.correct].min() if group.correct.any() else group.length.mean()
    return correct_weight * group.correct - length_weight * np.abs(group.length - target)


@reward(paper="arXiv:2501.12599", claims=("shorter_is_no_worse",))
def kimi_length(group: Group) -> Array:
    """Length term of Kimi k1.5: from +0.5 for the shortest rollout to -0.5 for the longest.

    Formula, with the extremes taken over all rollouts of the group, right and wrong::

        lambda = 0.5 - (L - min) / (max - min)
        r = lambda if correct else min(0, lambda)

    Equal lengths: 0 for all. None correct: the longer half is still penalised. One correct: its place among the wrong
    ones counts all the same, so it may get -0.5. A rollout cut by the token limit counts as the verifier judged it.

    This is only the length term: the paper adds it to the task reward with a weight it does not publish, after a
    warm-up without it, so a recipe lists `accuracy` beside it and sets its ``weight`` and ``warmup``.

    Args:
        group: The rollouts of one problem.

    Deviations: No code was released. Two third-party versions differ (weight 0.4 and other rules for wrong rollouts in
        hkust-nlp/Laser; +0.5 instead of 0 for equal lengths in lblankl/Short-RL) and are not followed.

    Gaming: The longest correct rollout gets -0.5 and a short wrong one 0: without a task reward beside it, long right
        answers lose to short wrong ones.

    Source: Kimi Team, "Kimi k1.5: Scaling Reinforcement Learning with LLMs", section 2.3.3.

    >>> kimi_length(Group.of(correct=[True, True, True, False], length=[100, 200, 300, 50])).round(4).tolist()
    [0.3, -0.1, -0.5, 0.0]
    """
    shortest, longest = group.length.min(), group.length.max()
    if shortest == longest:
        return np.zeros(group.size)
    term = 0.5 - (group.length - shortest) / (longest - shortest)
    return np.where(group.correct, term, np.minimum(0.0, term))


def sigmoid(x: Array) -> Array:
    """The logistic function; tanh does not overflow for lengths far from the mean of a group with little spread."""
    return 0.5 * (1.0 + np.tanh(0.5 * x))
