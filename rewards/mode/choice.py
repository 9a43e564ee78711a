"""Rewards for choosing between thinking and answering directly.

The choice is the column `mode`; a rollout without one counts as thinking. In all formulas ``c`` is 1 for a right
rollout and 0 for a wrong one.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np

from laconic.rewards.group import Array, Group
from laconic.rewards.mode.reading import right, thinks
from laconic.rewards.registry import NonNegative, Range, Share, reward

_LENGTH_BLIND = ("right_above_wrong", "shorter_is_no_worse", "no_length_pressure_on_wrong")
_Loss = Annotated[float, Range(high=0.0)]
# Means of verdicts carry rounding, which must not decide between modes that are exactly `delta` apart.
_ROUNDING = 1e-9


@reward(
    paper="arXiv:2505.13417",
    scope="rollout",
    needs=("mode",),
    uses=("reference_accuracy", "well_formed"),
    claims=_LENGTH_BLIND,
)
def adapt_think(group: Group, *, delta: Share = 0.05) -> Array:
    """Right or wrong, compared with the model before training, and a small bonus for not thinking.

    Formula::

        r = c - reference_accuracy + delta * [no thinking]

    ``reference_accuracy`` is the share of right thinking answers of the model before training (the paper samples 16 per
    problem); where the column is missing it is 0. It is one number per problem, so it cancels in every advantage that
    subtracts the group's mean, and matters where the reward itself is the advantage, as in the paper (`adapt_think` in
    `laconic.rewards.advantages`). With none right, direct answers still get ``delta`` more than thinking ones. Length
    plays no part. A rollout that is not well formed counts as wrong; one cut by the token limit as the verifier judged
    it.

    Args:
        group: The rollouts of one problem.
        delta: Bonus of a direct answer: how much accuracy the paper's objective gives up for not thinking; the paper
            sweeps 0 to 0.1. [reward]

    Deviations: The authors force half of the rollouts of a problem to start with ``</think>`` and pay the bonus for
        having been forced; here it is paid for the mode that the rollout took. Their loss uses a clipped geometric mean
        of token ratios with an assumed first-token probability of 0.5, which is no part of a reward.

    Gaming: The bonus is paid to wrong direct answers too. Where the model is no better with thinking than without, or
        fails either way, it stops thinking.

    Source: Zhang et al., "AdaptThink: Reasoning Models Can Learn When to Think"; THU-KEG/AdaptThink,
        ``src/adapt_think_reward_manager.py``.

    >>> group = Group.of([True, False, True], [90, 80, 700], mode=["no_think", "no_think", "think"])
    >>> adapt_think(group).round(4).tolist()
    [1.05, 0.05, 1.0]
    """
    return right(group) - (group.reference_accuracy or 0.0) + delta * ~thinks(group)


@reward(
    paper="arXiv:2505.13379",
    scope="rollout",
    needs=("mode",),
    uses=("well_formed", "finished"),
    claims=_LENGTH_BLIND,
)
def thinkless(
    group: Group,
    *,
    think: Share = 0.5,
    short: Share = 1.0,
    wrong_think: _Loss = -1.0,
    wrong_short: _Loss = -1.0,
) -> Array:
    """A right direct answer earns more than a right answer after thinking; everything else loses.

    Formula::

        thought:        r = think  if c,  wrong_think  if not
        did not think:  r = short  if c,  wrong_short  if not

    Right means correct, finished, well formed and with a mode: a rollout cut by the token limit is no right one, and
    one without a control token is no right one and counts as having thought. Nothing depends on the group: with none
    right all get what wrong ones get, and length plays no part.

    Args:
        group: The rollouts of one problem.
        think: Reward of a right answer after thinking; the authors raise it to 0.8 in a second phase. [reward]
        short: Reward of a right direct answer. [reward]
        wrong_think: Reward of every other rollout that thought. [reward]
        wrong_short: Reward of every other direct answer. [reward]

    Deviations: The released code looks for ``<short>`` anywhere in the text, which pays the full reward to a thinking
        answer that mentions it; here the control token counts where it stands first. It has no rule for the token
        limit, beyond asking for ``</think>``. The paper's loss weighs the control token apart from the answer, which is
        no part of a reward.

    Gaming: Where direct answers are right at least half as often as thinking ones, thinking no longer pays; and the
        gap between them says nothing about how long either is.

    Source: Fang, Ma and Wang, "Thinkless: LLM Learns When to Think"; VainF/Thinkless,
        ``deepscaler/rewards/math_reward.py``.

    >>> group = Group.of([True, True, False], [90, 700, 80], mode=["short", "think", "short"])
    >>> thinkless(group).tolist()
    [1.0, 0.5, -1.0]
    """
    assert group.mode is not None
    paid = right(group) & group.finished & np.array([mode is not None for mode in group.mode])
    thinking = thinks(group)
    return np.where(paid, np.where(thinking, think, short), np.where(thinking, wrong_think, wrong_short))


@reward(paper="arXiv:2505.14631", needs=("mode",), claims=_LENGTH_BLIND)
def hgpo(group: Group, *, delta: Share = 0.2, alpha: Share = 1.0) -> Array:
    """The best answers of each mode, and every answer of the mode that does better on this problem.

    Formula, with the mean of c over the rollouts of each mode::

        between = 1 for the mode that wins:  thinking     if mean_think > mean_direct + delta
                                             no thinking  otherwise
        r = c + alpha * between

    Within a mode the paper gives 1 to the answer with the highest score; under a verdict of right or wrong those are
    the right ones. With none right, direct answers win. If the group holds one mode only there is nothing to compare
    and ``between`` is 0. Length plays no part, and a rollout cut by the token limit counts as the verifier judged it.

    Args:
        group: The rollouts of one problem.
        delta: How much better thinking must do to win. [share of right answers]
        alpha: Weight of the term between the modes. [reward]

    Deviations: No code was released. The paper standardises the two terms apart and lets the second move only the first
        token, the one that chooses the mode; one reward per rollout reaches all tokens. It samples both modes equally
        often; nothing here forces that. It says nothing about ties: between the modes they go to no thinking (at most
        ``delta`` apart is no win), and within a mode without a right answer none is best. That second term by itself,
        for scores of any kind, is `laconic.rewards.mode.choice.between_modes`.

    Gaming: A wrong answer in the winning mode gets as much as a right one in the losing mode. Where thinking is right
        less than ``delta`` more often, direct answers win, whatever they cost in accuracy.

    Source: Jiang et al., "Think Only When You Need with Large Hybrid-Reasoning Models".

    >>> group = Group.of([True, True, True, False], [900, 700, 80, 60], mode=["think", "think", "no_think", "no_think"])
    >>> hgpo(group).tolist(), hgpo(group, delta=0.6).tolist()
    ([2.0, 2.0, 1.0, 0.0], [1.0, 1.0, 2.0, 1.0])
    """
    scores = group.correct.astype(float)
    return scores + alpha * between_modes(scores, thinks(group), delta)


def between_modes(scores: Array, thinking: Array, delta: NonNegative = 0.2) -> Array:
    """HGPO's reward between the modes: 1 for every rollout of the mode with the better mean score, else 0.

    Args:
        scores: One score per rollout, shape (G,).
        thinking: Which rollouts thought, shape (G,).
        delta: How much better thinking must do to win; a tie goes to the direct answers.

    Returns:
        Shape (G,); all 0 if one of the modes was not sampled.

    >>> between_modes(np.array([1, 0, 1, 1]), np.array([True, True, False, False])).tolist()
    [0.0, 0.0, 1.0, 1.0]
    """
    if thinking.all() or not thinking.any():
        return np.zeros(len(scores))
    lead = scores[thinking].mean() - scores[~thinking].mean()
    return (thinking == (lead > delta + _ROUNDING)).astype(float)
