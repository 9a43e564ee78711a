"""AutoThink: three stages of training with one reward each."""

from __future__ import annotations

from typing import Literal

import numpy as np

from laconic.rewards.group import Array, Batch, Group
from laconic.rewards.mode.reading import right, thinks
from laconic.rewards.registry import NonNegative, Share, reward

_SMALLEST_SPREAD = 1e-6


@reward(
    paper="arXiv:2505.10832",
    scope="batch",
    needs=("mode",),
    uses=("well_formed",),
    claims=("right_above_wrong", "shorter_is_no_worse", "no_length_pressure_on_wrong"),
)
def auto_think(
    batch: Batch,
    *,
    stage: Literal[1, 2, 3] = 1,
    balance: Share = 0.5,
    slope: NonNegative = 2.0,
    alpha: NonNegative = 0.05,
    beta: NonNegative = 0.05,
) -> Array:
    """A right direct answer earns double and a wrong one loses; then balance of the modes, then brevity.

    Formula::

        base:     thinking 1 if c else 0;  no thinking 2 if c else -1;  not well formed 0
        stage 1:  f = clip(slope * (share - balance), 0, 1), share of the batch that took the rollout's mode
                  thinking     r = (1 - f) * base + f * (0 if c else -1)
                  no thinking  r = (1 - f) * base + f * (1 if c else -2)
        stage 2:  r = base
        stage 3:  z = (L - mean) / max(std, 1e-6) over the right ones of the group, or over its wrong ones
                  r = base + exp(-alpha * z) - 1  if c
                  r = base + 1 - exp(-beta * z)   if not

    ``std`` is unbiased; ``L`` is the number of generated tokens. Stage 1 keeps a batch from falling into one mode,
    stage 2 lets the modes compete, stage 3 shortens. In stage 3 a right or a wrong rollout that is alone of its kind in
    the group keeps its base, and equal lengths change nothing; with none right the longer wrong rollouts get more. A
    rollout that is not well formed counts as wrong; one cut by the token limit as the verifier judged it. The share
    of stage 1 is that of the whole batch, over all processes.

    Args:
        batch: The groups that are scored together.
        stage: Which of the three stages of training. [-]
        balance: Share of a mode in the batch above which stage 1 holds against it; without effect in stages 2 and 3.
            [share]
        slope: How fast it does: at 2 a batch of one mode is moved all the way; without effect in stages 2 and 3. [-]
        alpha: Strength of the pressure of stage 3 towards short right answers; without effect in stages 1 and 2. [-]
        beta: Strength of its pull towards long wrong answers; without effect in stages 1 and 2. [-]

    Deviations: The released code also turns a negative base, which only a wrong direct answer has, into -2 where the
        text repeats some words 10 or more times in a row or holds a word of 120 or more characters; that rule reads the
        text and is left out. Its lengths and rewards are single precision.

    Gaming: In stages 1 and 2 nothing depends on length. In stage 3 the longer a wrong answer is for its group, the less
        it loses. With ``c`` rare, thinking costs nothing and a direct answer costs 1.

    Source: Tu et al., "Learning When to Think: Shaping Adaptive Reasoning in R1-Style Models via Multi-Stage RL";
        TU2021/AutoThink, ``verl/verl/trainer/main_ppo.py``, ``deepscaler/rewards/math_reward.py``.

    >>> modes = ["think", "think", "think", "no_think"]
    >>> batch = Batch.of(Group.of([True, False, True, True], [900, 2000, 300, 40], mode=modes))
    >>> auto_think(batch).tolist(), auto_think(batch, stage=2).tolist()
    ([0.5, -0.5, 0.5, 2.0], [1.0, 0.0, 1.0, 2.0])
    >>> auto_think(batch, stage=3).round(4).tolist()
    [0.9463, 0.0, 1.0129, 2.0432]
    """
    base = batch.gather(_base)
    if stage == 1:
        return _balanced(batch, base, balance, slope)
    if stage == 3:
        return base + batch.gather(lambda group: _brevity(group, alpha, beta))
    return base


def _base(group: Group) -> Array:
    thinking = thinks(group)
    wrong = np.where(thinking, 0.0, -1.0)
    if group.well_formed is not None:
        wrong = np.where(group.well_formed, wrong, 0.0)
    return np.where(right(group), np.where(thinking, 1.0, 2.0), wrong)


def _balanced(batch: Batch, base: Array, balance: float, slope: float) -> Array:
    """Move the rewards of a mode that too much of the batch took towards its floor."""
    thinking = batch.gather(thinks).astype(bool)
    share = np.where(thinking, thinking.mean(), 1.0 - thinking.mean())
    moved = np.clip(slope * (share - balance), 0.0, 1.0)
    floor = np.where(batch.gather(right).astype(bool), np.where(thinking, 0.0, 1.0), np.where(thinking, -1.0, -2.0))
    return (1.0 - moved) * base + moved * floor


def _brevity(group: Group, alpha: float, beta: float) -> Array:
    """What stage 3 adds: short among the right, long among the wrong."""
    added = np.zeros(group.size)
    for members, strength, sign in ((right(group), alpha, 1.0), (~right(group), beta, -1.0)):
        lengths = group.length[members]
        if len(lengths) > 1:
            z = (lengths - lengths.mean()) / max(lengths.std(ddof=1), _SMALLEST_SPREAD)
            added[members] = sign * np.expm1(-strength * z)
    return added
