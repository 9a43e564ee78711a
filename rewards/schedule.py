"""Rewards wrapped: when a reward counts, how much, and for whom.

A wrapper takes a `Scorer` and is one: it scores a group or a batch with shape (N,), NaN where it abstains, and its
``state_dict()`` holds that of what it wraps. The wrapped reward scores every batch, also while it counts for nothing,
so that a reward with memory has seen what it would have seen without the wrapper.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from laconic.rewards.errors import DataError
from laconic.rewards.group import Array, Batch, Group, Progress, as_batch
from laconic.rewards.mode.reading import right
from laconic.rewards.parameters import Count, NonNegative, Share
from laconic.rewards.registry import Scorer

__all__ = [
    "AdaptiveWeight",
    "ForTasks",
    "RunningBestGate",
    "Schedule",
    "TimesCorrect",
    "TopShare",
    "Warmup",
    "WeightedSum",
    "Wrapper",
]


class Wrapper:
    """What all wrappers of one reward have in common; without memory of its own it has that of the reward."""

    def __init__(self, inner: Scorer) -> None:
        self.inner = inner

    def __call__(self, given: Group | Batch) -> Array:
        """One number per rollout, shape (N,); NaN where the wrapped reward abstains."""
        batch = as_batch(given)
        # An empty batch has no accuracy, and nothing to remember.
        return self.inner(batch) * self.factor(batch) if batch.size else np.zeros(0)

    def factor(self, batch: Batch) -> float | Array:
        """What the rewards of this batch are multiplied with: a number, or shape (N,)."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """The memory of the wrapped reward."""
        return self.inner.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a memory that `state_dict` gave."""
        self.inner.load_state_dict(state)


class TimesCorrect(Wrapper):
    """The reward of right rollouts, 0 for wrong ones: ``c * r``."""

    def factor(self, batch: Batch) -> Array:
        """1 for right rollouts, 0 for wrong ones, shape (N,)."""
        return batch.correct.astype(float)


class Warmup(Wrapper):
    """Nothing at first, the whole reward afterwards, as Kimi k1.5 does with its length penalty.

    Args:
        inner: The reward.
        steps: Length of the warm-up; give this or `share`. [optimiser steps]
        share: Length of the warm-up as a share of all training steps. [share of training]
        shape: ``step`` gives 0 and then all at once; ``linear`` grows from 0. [-]

    Source: Kimi Team, "Kimi k1.5: Scaling Reinforcement Learning with LLMs", section 2.3.3: no length penalty first,
        then a constant one. The length of the warm-up is not published.
    """

    def __init__(
        self,
        inner: Scorer,
        *,
        steps: Count | None = None,
        share: Share | None = None,
        shape: Literal["step", "linear"] = "step",
    ) -> None:
        assert (steps is None) != (share is None), "give steps or share"
        super().__init__(inner)
        self.steps, self.share, self.shape = steps, share, shape

    def factor(self, batch: Batch) -> float:
        """From 0 to 1."""
        end = self.steps if self.steps is not None else self.share
        done = _position(batch.progress, "steps" if self.steps is not None else "share")
        if done >= end:
            return 1.0
        return 0.0 if self.shape == "step" else done / end


class Schedule(Wrapper):
    """A weight that follows a line through given points of training, constant before the first and after the last.

    Args:
        inner: The reward.
        steps: Points ``(optimiser steps, weight)`` in increasing order; give this or `share`.
        share: Points ``(share of training, weight)`` in increasing order.
    """

    def __init__(
        self,
        inner: Scorer,
        *,
        steps: Sequence[Sequence[float]] | None = None,
        share: Sequence[Sequence[float]] | None = None,
    ) -> None:
        assert (steps is None) != (share is None), "give steps or share"
        super().__init__(inner)
        self.unit: Literal["steps", "share"] = "share" if steps is None else "steps"
        self.points = tuple((float(at), float(weight)) for at, weight in (share if steps is None else steps))

    def factor(self, batch: Batch) -> float:
        """The weight at this point of training."""
        at, weights = zip(*self.points, strict=True)
        return float(np.interp(_position(batch.progress, self.unit), at, weights))


class RunningBestGate(Wrapper):
    """The reward counts only while accuracy stays near the best so far (Short-RL's gate, for any reward).

    Formula, with the accuracy of the whole batch, and the best updated first; right is correct, and well formed where
    the rollouts have the column `well_formed`::

        best <- max(best, accuracy)
        r = reward if accuracy >= best - tolerance else 0

    Args:
        inner: The reward.
        tolerance: How far accuracy may fall below the best batch so far. [share]

    Source: Short-RL; lblankl/Short-RL, ``rewards/ShortRL.py``, where the best is a global of each process. Here it is
        one, and saved with the training.
    """

    def __init__(self, inner: Scorer, *, tolerance: Share = 0.05) -> None:
        super().__init__(inner)
        self.tolerance = tolerance
        self.best = 0.0

    def factor(self, batch: Batch) -> float:
        """1 or 0; updates the best accuracy."""
        accuracy = float(batch.gather(right).mean())
        self.best = max(self.best, accuracy)
        return float(accuracy >= self.best - self.tolerance)

    def state_dict(self) -> dict[str, Any]:
        """The best accuracy so far, and the memory of the reward."""
        return {"best": self.best, "inner": self.inner.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a memory."""
        self.best = float(state["best"])
        self.inner.load_state_dict(state["inner"])


class AdaptiveWeight(Wrapper):
    """A weight that grows while accuracy is above its target and shrinks below (A-DLP's lambda, for any reward).

    Formula, with the accuracy of the whole batch; a batch is scored with the weight before it::

        r = weight * reward
        weight <- max(0, weight + rate * (accuracy - target))

    The defaults are the paper's, for a penalty counted in tokens (``-L``). A reward of the order of 1 wants `start`
    and `rate` about a thousand times larger.

    Args:
        inner: The reward.
        start: The first weight. [-]
        rate: How fast the weight follows accuracy. [-]
        target: Accuracy at which the weight rests. [share]

    Source: A-DLP, arXiv:2505.18298; JinyanSu1/A-DLP, ``ppo/ray_trainer.py``.
    """

    def __init__(
        self, inner: Scorer, *, start: NonNegative = 1e-3, rate: NonNegative = 1e-3, target: Share = 0.62
    ) -> None:
        super().__init__(inner)
        self.rate, self.target = rate, target
        self.weight = start

    def factor(self, batch: Batch) -> float:
        """The weight for this batch; moves it for the next one."""
        weight = self.weight
        self.weight = max(0.0, weight + self.rate * (float(batch.correct.mean()) - self.target))
        return weight

    def state_dict(self) -> dict[str, Any]:
        """The weight, and the memory of the reward."""
        return {"weight": self.weight, "inner": self.inner.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a memory."""
        self.weight = float(state["weight"])
        self.inner.load_state_dict(state["inner"])


class TopShare(Wrapper):
    """The reward counts only in the groups that do best (GRPO-lambda's choice of groups, for any reward).

    The ``ceil(share * groups)`` groups of highest accuracy feel it, all others get 0. Of equally accurate groups the
    earlier one of the batch comes first.

    Args:
        inner: The reward.
        share: Of the batch's groups. [share of groups]

    Source: "Stable RL for efficient reasoning" (GRPO-lambda), arXiv:2505.18086; no code was released, and how
        the authors break ties is not known.
    """

    def __init__(self, inner: Scorer, *, share: Share = 0.2) -> None:
        super().__init__(inner)
        self.share = share

    def factor(self, batch: Batch) -> Array:
        """1 in the chosen groups, 0 in the others, shape (N,)."""
        accuracies = np.array([group.correct.mean() for group in batch])
        # Binary fractions: 0.55 * 20 is a little above 11, which is 11 groups and not 12.
        count = math.ceil(round(self.share * len(accuracies), 9))
        chosen = set(np.argsort(-accuracies, kind="stable")[:count].tolist())
        return np.concatenate([np.full(group.size, float(i in chosen)) for i, group in enumerate(batch)])


class ForTasks(Wrapper):
    """The reward for some tasks, and NaN (no reward of this kind here) for the others.

    The reward never sees the other tasks: accuracies of gates and shares of groups are those of its own tasks.

    Args:
        inner: The reward.
        tasks: Names of the tasks it is for.
    """

    def __init__(self, inner: Scorer, tasks: Collection[str]) -> None:
        super().__init__(inner)
        self.tasks = frozenset(tasks)

    def __call__(self, given: Group | Batch) -> Array:
        """One number per rollout of its tasks, NaN for the rest, shape (N,)."""
        batch = as_batch(given)
        rewards = np.full(batch.size, np.nan)
        mine = Batch(tuple(group for group in batch if group.task in self.tasks))
        if mine.groups:
            rewards[batch.gather(lambda group: np.full(group.size, group.task in self.tasks))] = self.inner(mine)
        return rewards


class WeightedSum:
    """The weighted sum of several rewards, each ignored where it abstains; NaN where all do.

    Args:
        parts: Pairs ``(weight, reward)``.
    """

    def __init__(self, parts: Sequence[tuple[float, Scorer]]) -> None:
        self.weights = np.array([weight for weight, _ in parts], dtype=float)
        self.parts = [part for _, part in parts]

    def __call__(self, given: Group | Batch) -> Array:
        """One number per rollout, shape (N,)."""
        batch = as_batch(given)
        rewards = np.stack([part(batch) for part in self.parts])
        total = np.nansum(self.weights[:, None] * rewards, axis=0)
        return np.where(np.isnan(rewards).all(axis=0), np.nan, total)

    def state_dict(self) -> dict[str, Any]:
        """The memories of the rewards, in order; {} if none has any."""
        states = [part.state_dict() for part in self.parts]
        return {"parts": states} if any(states) else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up the memories."""
        for part, part_state in zip(self.parts, state.get("parts", [{}] * len(self.parts)), strict=True):
            if part_state:
                part.load_state_dict(part_state)


def _position(progress: Progress, unit: Literal["steps", "share"]) -> float:
    if unit == "steps":
        return progress.step
    if progress.total is None:
        raise DataError(
            "a share of training is asked for, and nobody knows how many steps training has",
            cure="give warmup or schedule in steps",
        )
    return progress.share
