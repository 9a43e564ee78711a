"""Advantages from rewards: GRPO's exactly as TRL computes them, and the estimators of papers that differ.

Rewards and advantages have one entry per rollout of the batch, shape (N,), groups one after the other. A reward of NaN
means that the rollout was not scored: it is left out of every mean and spread, and its advantage is 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, TypeAlias

import numpy as np

from laconic.rewards.group import Array, Batch

__all__ = ["PAPER", "Estimator", "dler", "dr_saf", "grpo", "paper", "rewards_themselves", "rloo"]

Estimator: TypeAlias = Callable[[Batch, Array], Array]
"""A batch and its rewards in, advantages of shape (N,) out."""


def grpo(
    batch: Batch, rewards: Array, *, scale: Literal["group", "batch", "none"] = "group", eps: float = 1e-4
) -> Array:
    """Each reward less the mean of its group, over a standard deviation: what TRL's `GRPOTrainer` trains on.

    Formula::

        A = (r - mean of the group) / (std + eps)

    ``std`` is unbiased, and 0 where fewer than two rewards are there.

    Args:
        batch: The groups.
        rewards: Shape (N,).
        scale: Whose standard deviation: the group's, the whole batch's, or none at all (Dr. GRPO).
        eps: Added to it; 1e-4 is TRL's, 1e-6 verl's.

    >>> from laconic.rewards.group import Group
    >>> batch = Batch.of(Group.of([True, False, False], [5, 5, 5]))
    >>> grpo(batch, np.array([1.0, 0.0, np.nan])).round(3).tolist()
    [0.707, -0.707, 0.0]
    """
    centred = _by_group(batch, rewards, lambda group: group - _mean(group))
    if scale == "group":
        centred = centred / (_by_group(batch, rewards, lambda group: np.full(len(group), _std(group))) + eps)
    elif scale == "batch":
        centred = centred / (_std(rewards) + eps)
    return np.nan_to_num(centred, nan=0.0)


def rloo(batch: Batch, rewards: Array) -> Array:
    """Each reward less the mean of the other rewards of its group.

    >>> from laconic.rewards.group import Group
    >>> rloo(Batch.of(Group.of([True, False, True], [5, 5, 5])), np.array([1.0, 0.0, 1.0])).tolist()
    [0.5, -1.0, 0.5]
    """

    def against_the_others(group: Array) -> Array:
        scored = int((~np.isnan(group)).sum())
        # r - (sum - r) / (n - 1) is the distance from the mean, times n / (n - 1).
        return (group - _mean(group)) * (scored / (scored - 1)) if scored > 1 else np.zeros(len(group))

    return np.nan_to_num(_by_group(batch, rewards, against_the_others), nan=0.0)


def dler(batch: Batch, rewards: Array, *, boost: float = 0.0) -> Array:
    """DLER: each reward less its group's mean, then whitened over all tokens of the batch.

    A rollout counts in the mean and the variance (unbiased) as often as it has tokens. A group of equal rewards gets
    an advantage through the batch's mean.

    Args:
        batch: The groups.
        rewards: Shape (N,).
        boost: Added afterwards where the reward is at least 1. The released code adds 0.1, the paper nothing.
    """
    centred = _by_group(batch, rewards, lambda group: group - _mean(group))
    scored = ~np.isnan(centred)
    values = np.where(scored, centred, 0.0)
    tokens = np.where(scored, batch.length, 0.0)
    total = tokens.sum()
    if total <= 1:
        return np.zeros(batch.size)
    mean = (values * tokens).sum() / total
    variance = ((values - mean) ** 2 * tokens).sum() / (total - 1)
    whitened = (values - mean) / np.sqrt(variance + 1e-8) + boost * (rewards >= 1)
    return np.where(scored, whitened, 0.0)


def dr_saf(batch: Batch, rewards: Array) -> Array:
    """DR.SAF: GRPO with a floor, so that no right rollout is pushed down for being the worst of the right ones.

    A wrong rollout is compared with the group's mean, a right one (reward above 0.5) with the mean or the smallest
    right reward, whichever is less. Both are divided by the group's ``std + 1e-6``.
    """
    return np.nan_to_num(_by_group(batch, rewards, _with_floor), nan=0.0)


def rewards_themselves(batch: Batch, rewards: Array) -> Array:
    """The reward is the advantage, as in AdaptThink and O1-Pruner, whose rewards hold a baseline already."""
    return np.nan_to_num(np.asarray(rewards, dtype=float), nan=0.0)


_centred: Estimator = partial(grpo, scale="none")

PAPER: Mapping[str, Estimator] = {
    "efficient_reasoning": rloo,
    "dler": dler,
    "dr_saf": dr_saf,
    "lc_r1": _centred,
    "s_grpo_early_exit": _centred,
    "gfpo": grpo,
    "adapt_think": rewards_themselves,
    "o1_pruner": rewards_themselves,
    "thinkless": _centred,
    "arm": partial(grpo, eps=1e-6),
    # Dividing by the group's spread would undo its weights.
    "bon_aware": _centred,
}
"""The estimator that a reward's paper trains with, where it matters; `gfpo` abstains from the rollouts it drops."""


def paper(name: str, batch: Batch, rewards: Array, parameters: Mapping[str, Any] | None = None) -> Array:
    """Advantages by the estimator of a reward's own paper; GRPO's for a reward whose paper has no other.

    Args:
        name: Of the reward.
        batch: The groups.
        rewards: Shape (N,).
        parameters: The reward's, as they were given: with ``as_released``, `dler` adds the released code's boost.
    """
    if name == "dler" and (parameters or {}).get("as_released"):
        return dler(batch, rewards, boost=0.1)
    return PAPER.get(name, grpo)(batch, rewards)


def _with_floor(group: Array) -> Array:
    right = group > 0.5
    mean = _mean(group)
    floor = min(mean, group[right].min()) if right.any() else mean
    return (group - np.where(right, floor, mean)) / (_std(group) + 1e-6)


def _by_group(batch: Batch, rewards: Array, function: Callable[[Array], Array]) -> Array:
    rewards = np.asarray(rewards, dtype=float)
    return np.concatenate([np.zeros(0), *map(function, batch.split(rewards))])


def _mean(rewards: Array) -> float:
    scored = rewards[~np.isnan(rewards)]
    return float(scored.mean()) if scored.size else 0.0


def _std(rewards: Array) -> float:
    scored = rewards[~np.isnan(rewards)]
    return float(scored.std(ddof=1)) if scored.size > 1 else 0.0
