"""LASER and its children: a bonus for right answers within a target length, which may follow difficulty.

``L`` is the number of generated tokens. The base score is 1 for a right answer, -0.5 for a wrong one and -1 for a
completion without the form that the prompt asked for, right or wrong; without the column `well_formed` all have it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from laconic.rewards.group import Array, Batch, Group
from laconic.rewards.length.repetition import loop_start
from laconic.rewards.registry import Count, NonNegative, Positive, reward

BANDS = ("low", "medium", "high")
"""Accuracy of a group: below 1/3, below 2/3, and the rest."""


@reward(
    paper="arXiv:2505.15612",
    scope="rollout",
    uses=("well_formed",),
    claims=("right_above_wrong", "shorter_is_no_worse", "no_length_pressure_on_wrong"),
)
def laser(
    group: Group,
    *,
    target_length: Positive = 8192.0,
    bonus: NonNegative = 0.5,
    shape: Literal["reward", "penalty", "hybrid"] = "reward",
) -> Array:
    """Right answers within a target length earn a bonus.

    Formula::

        r = 1 right, -0.5 wrong, -1 malformed
        right and L <= target_length:  + bonus   (shape reward and hybrid)
        right and L >  target_length:  - bonus   (shape penalty and hybrid)

    The length of wrong rollouts does not matter. A rollout cut by the token limit counts as the verifier judged it, and
    usually lacks the form or the answer.

    Args:
        group: The rollouts of one problem.
        target_length: The longest length that earns the bonus; the paper also tries 2048 and 4096. [tokens]
        bonus: What it is worth. [reward]
        shape: Whether to reward what fits, to punish what does not, or both; the paper rewards. [-]

    Deviations: None.

    Gaming: A step at one length: nothing rewards being shorter than the target.

    Source: Liu et al., "Learn to Reason Efficiently with Adaptive Length-based Reward Shaping"; hkust-nlp/Laser,
        ``reward_score/length_penalty.py``, ``hf_math_verifier.py``.

    >>> group = Group.of([True, True, False, False], [4096, 4097, 10, 10], well_formed=[True, True, True, False])
    >>> laser(group, target_length=4096).tolist()
    [1.5, 1.0, -0.5, -1.0]
    """
    fits = group.length <= target_length
    rewarded, punished = shape != "penalty", shape != "reward"
    term = np.where(fits, bonus * rewarded, -bonus * punished)
    return _base(group) + _right(group) * term


@reward(
    paper="arXiv:2505.15612",
    uses=("well_formed",),
    claims=("right_above_wrong", "shorter_is_no_worse", "no_length_pressure_on_wrong"),
    ordered=(("shortest_target", "longest_target"),),
)
class LaserD:
    """LASER with a target length per difficulty, re-chosen while training from how long answers are.

    Formula::

        r = 1 right, -0.5 wrong, -1 malformed;  right and L <= T(difficulty):  + bonus
        difficulty, by the group's share of right answers: high >= 2/3, medium >= 1/3, else low
        T = the shortest candidate whose coverage * m >= expected_correct
        coverage = share of that difficulty's rollouts, right and wrong, that are no longer than the candidate
        m = ceil(2n/3), ceil(n/3), 1 for high, medium, low, with n rollouts per problem (6, 3, 1 of 8)

    The first batch sets the first targets for the batches after it; every `refresh_steps` batches they are chosen
    again, from the batches since. Where no candidate is covered enough, and in the first batch, there is no target
    and every right answer gets the bonus. Wrong rollouts never feel their length. A rollout cut by the token limit
    counts as the verifier judged it. The choice by itself is `laconic.rewards.length.laser.choose_targets`.

    Args:
        bonus: Of a right answer within its target. [reward]
        target_low: Fixes the target of problems that are rarely solved; null to have it chosen. [tokens]
        target_medium: Fixes the target of problems that are sometimes solved. [tokens]
        target_high: Fixes the target of problems that are mostly solved. [tokens]
        shortest_target: The shortest candidate; the paper tries 1024, 2048 and 4096. [tokens]
        longest_target: The longest candidate, which was the paper's token limit. [tokens]
        target_step: From one candidate to the next. [tokens]
        expected_correct: How many right answers should fit in the target. [rollouts]
        refresh_steps: Batches between two choices of targets. [batches]
        as_released: m is rounded down (5, 2, 1 of 8), as in the authors' code. [-]

    Deviations: The authors measure coverage on 500 problems set aside; here it is measured on the training batches, or
        on yours: call `observe` with a batch of such problems. Their measurement, unlike their reward, counts
        accuracies of exactly 1/3 and 2/3 to the lower difficulty. Their fallback, the longest response of the batch,
        is the same as no target. Before their first measurement all difficulties have one configured length as their
        target; here the first batch has none, and pays the bonus to every right answer. The released code rounds m down
        where the paper has 6, 3, 1, and it also offers laser's shapes penalty and hybrid, which are left out.

    Gaming: Coverage counts wrong answers as well, so short wrong answers tighten the targets of all.

    Source: Liu et al., "Learn to Reason Efficiently with Adaptive Length-based Reward Shaping"; hkust-nlp/Laser,
        ``reward_score/length_penalty.py``, ``count_length_distribution.py``.

    >>> group = Group.of([True, True, False, False], [2000, 3000, 100, 9000])
    >>> LaserD(target_medium=2048)(Batch.of(group)).tolist()
    [1.5, 1.0, -0.5, -0.5]
    """

    def __init__(
        self,
        *,
        bonus: NonNegative = 0.5,
        target_low: Positive | None = None,
        target_medium: Positive | None = None,
        target_high: Positive | None = None,
        shortest_target: Count = 4096,
        longest_target: Count = 16384,
        target_step: Count = 1024,
        expected_correct: Count = 1,
        refresh_steps: Count = 20,
        as_released: bool = False,
    ) -> None:
        self.bonus, self.expected_correct, self.as_released = bonus, expected_correct, as_released
        self.fixed = {"low": target_low, "medium": target_medium, "high": target_high}
        self.candidates = np.arange(shortest_target, longest_target + 1, target_step)
        self.refresh_steps = refresh_steps
        self._coverage: dict[str, list[float]] | None = None
        self._forget()

    def __call__(self, batch: Batch) -> Array:
        """Score a batch with the targets so far, then count its lengths towards the next ones."""
        rewards = batch.gather(self._score)
        self._count(batch)
        if self._coverage is None or self._batches >= self.refresh_steps:
            self._refresh()
        return rewards

    def observe(self, batch: Batch) -> None:
        """Choose the targets by this batch, of problems set aside for it, and count the refresh steps anew."""
        self._forget()
        self._count(batch)
        self._refresh()

    def state_dict(self) -> dict[str, Any]:
        """The coverage in force, and what was counted since."""
        counted = {name: covered.tolist() for name, covered in self._covered.items()}
        return {"coverage": self._coverage, "covered": counted, "seen": dict(self._seen), "batches": self._batches}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self._coverage = state["coverage"]
        self._covered = {band: np.array(state["covered"][band]) for band in BANDS}
        self._seen, self._batches = dict(state["seen"]), state["batches"]

    def _score(self, group: Group) -> Array:
        fits = group.length <= self._target(group)
        return _base(group) + self.bonus * (_right(group) & fits)

    def _target(self, group: Group) -> float:
        band = _band(group)
        fixed = self.fixed[band]
        if fixed is not None:
            return fixed
        if self._coverage is None:
            return math.inf
        rounding = "floor" if self.as_released else "ceil"
        return choose_targets(self.candidates, self._coverage, group.size, self.expected_correct, rounding)[band]

    def _forget(self) -> None:
        self._covered = {band: np.zeros(len(self.candidates), dtype=int) for band in BANDS}
        self._seen = dict.fromkeys(BANDS, 0)
        self._batches = 0

    def _count(self, batch: Batch) -> None:
        for group in batch:
            band = _band(group)
            self._covered[band] += np.searchsorted(np.sort(group.length), self.candidates, side="right")
            self._seen[band] += group.size
        self._batches += 1

    def _refresh(self) -> None:
        self._coverage = {band: (self._covered[band] / max(self._seen[band], 1)).tolist() for band in BANDS}
        self._forget()


@reward(
    paper="arXiv:2505.15612",
    uses=("well_formed", "ids"),
    claims=("right_above_wrong", "shorter_is_no_worse"),
    ordered=(("shortest_target", "longest_target"),),
    slow="once it has targets, it reads every token of the wrong completions that are longer",
)
class LaserDe(LaserD):
    """LASER-D that also pays wrong answers for going on beyond the target, unless they loop.

    Formula::

        as laser_d;  wrong, well formed, L > T(difficulty) and not looping:  + bonus

    A completion loops if it repeats token n-grams close to each other (`laconic.rewards.length.repetition.loop_start`
    has the rule); without the column ``ids`` none does. Where a difficulty has no target, as in the first batch, there
    is nothing to go beyond. A rollout cut by the token limit counts as the verifier judged it.

    Args:
        bonus: Of a right answer within its target, and of a wrong one beyond it. [reward]
        target_low: Fixes the target of problems that are rarely solved; null to have it chosen. [tokens]
        target_medium: Fixes the target of problems that are sometimes solved. [tokens]
        target_high: Fixes the target of problems that are mostly solved. [tokens]
        shortest_target: The shortest candidate; the paper tries 1024, 2048 and 4096. [tokens]
        longest_target: The longest candidate, which was the paper's token limit. [tokens]
        target_step: From one candidate to the next. [tokens]
        expected_correct: How many right answers should fit in the target. [rollouts]
        refresh_steps: Batches between two choices of targets. [batches]
        as_released: m is rounded down and no completion is ever found to loop, as in the authors' code. [-]

    Deviations: Those of laser_d: so in the first batch every right answer gets the bonus and no wrong one does, where
        the authors go by a configured length. Their settings penalty and hybrid are not offered; their own code accepts
        them for this reward and ignores them. In the released code the search for loops compares tensors by identity
        and never finds one, so looping wrong answers earned the bonus; here it works unless `as_released`.

    Gaming: Wrong answers are paid for length: rambling without repeating a phrase is enough.

    Source: Liu et al., "Learn to Reason Efficiently with Adaptive Length-based Reward Shaping"; hkust-nlp/Laser,
        ``reward_score/length_penalty.py``, ``compute_unique_tokens.py``.

    >>> group = Group.of([True, True, False, False], [2000, 3000, 100, 9000])
    >>> LaserDe(target_medium=2048)(Batch.of(group)).tolist()
    [1.5, 1.0, -0.5, 0.0]
    """

    def _score(self, group: Group) -> Array:
        explored = ~group.correct & _well_formed(group) & (group.length > self._target(group))
        if group.ids is not None and not self.as_released:
            for place in np.flatnonzero(explored):
                ids = group.ids[place]
                explored[place] = loop_start(ids) == len(ids)
        return super()._score(group) + self.bonus * explored


def choose_targets(
    thresholds: Sequence[float] | Array,
    coverage: Mapping[str, Sequence[float]],
    n_rollout: int = 8,
    expected_correct: int = 1,
    rounding: Literal["ceil", "floor"] = "ceil",
    longest: float = math.inf,
) -> dict[str, float]:
    """The target length of each difficulty, by the rule of LASER-D.

    Args:
        thresholds: The candidates.
        coverage: For ``low``, ``medium`` (or ``med``) and ``high``, one share per candidate: of the responses to
            problems of that difficulty, how many are no longer.
        n_rollout: Responses per problem.
        expected_correct: How many right ones should fit.
        rounding: Of the smallest number of right responses in a difficulty; ``ceil`` in the paper.
        longest: The target where no candidate, or none below it, covers enough: the longest response around.

    Returns:
        One length for each of ``low``, ``medium`` and ``high``.
    """
    # In whole numbers, so that 2/3 of 9 is 6.
    fewest = {"low": 1, "medium": n_rollout // 3, "high": 2 * n_rollout // 3}
    if rounding == "ceil":
        fewest |= {"medium": -(-n_rollout // 3), "high": -(-2 * n_rollout // 3)}
    covered = {"medium" if band == "med" else band: shares for band, shares in coverage.items()}
    targets = {}
    for band in BANDS:
        shares = zip(thresholds, covered[band], strict=True)
        enough = [float(length) for length, share in shares if share * fewest[band] >= expected_correct]
        targets[band] = min([*enough, longest])
    return targets


def _well_formed(group: Group) -> Array:
    return np.ones(group.size, dtype=bool) if group.well_formed is None else group.well_formed


def _right(group: Group) -> Array:
    return group.correct & _well_formed(group)


def _base(group: Group) -> Array:
    return np.where(_well_formed(group), np.where(group.correct, 1.0, -0.5), -1.0)


def _band(group: Group) -> str:
    solved = 3 * int(_right(group).sum())
    if solved >= 2 * group.size:
        return "high"
    return "medium" if solved >= group.size else "low"
