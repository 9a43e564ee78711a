"""Length rewards that remember: the best length seen for a problem, the best accuracy of a batch, an adaptive weight.

``L`` is the number of generated tokens, ``c`` is 1 for a correct rollout and 0 for a wrong one. Where a docstring does
not say otherwise, a batch is scored with the memory of the batches before it and remembered afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from laconic.rewards.group import Array, Batch, Group
from laconic.rewards.registry import NonNegative, Share, reward


@reward(paper="arXiv:2505.11225", claims=("right_above_wrong", "shorter_is_no_worse"))
class Hapo:
    """Rewards a right answer for being shorter than the shortest right answer ever seen for its problem.

    Formula, with h the shortest correct length of this problem in all earlier batches (``mode: mean``: the mean)::

        cosine:  q = cos(pi/2 * min(L / h, 2))
                 r = 1 + length_weight * max(-0.7, q)  if correct,  length_weight * min(0, q)  if wrong
        linear:  q = 1 - L/h  if L < h,  0 up to (1 + tolerance) h,  (1 + tolerance) - L/h beyond
                 r = 1 + length_weight * max(-0.7, q)  if correct,  length_weight * clip(q, -1, 0)  if wrong

    While a problem has no correct answer yet the length term is 0. A group is scored with the history before it, so
    none correct leaves the history as it is, one correct is enough to start it, and equal lengths earn the same. A
    rollout cut by the token limit counts as the verifier judged it. A problem without an id is not remembered.

    Args:
        shape: Of the length term. [-]
        mode: What is kept of the correct lengths: the shortest, or the mean over all of them. [-]
        tolerance: How far above h the linear shape stays 0. [share of h]
        length_weight: Of the length term. [reward]

    Deviations: Lengths count the end-of-sequence token; the authors re-tokenise the text, which does not have it. Their
        history is kept per process and gathered by its minimum (its weighted mean); here it is one, which is the same.
        Their repetition penalty, 0 by default, is left out: it is an average over the tokens that repeated n-grams
        cover, which the reward `repetition`, a share of n-grams, is not.

    Gaming: A wrong answer longer than h is penalised, one shorter is not: giving up early is free.

    Source: Huang et al., "HAPO: Training Language Models to Reason Concisely via History-Aware Policy Optimization";
        HCY123902/HAPO, ``utils.py``, ``grpo_trainer.py``.

    >>> hapo = Hapo()
    >>> first = Group.of([True, False], [1200, 300], problem_id="p")
    >>> second = Group.of([True, True], [600, 2400], problem_id="p")
    >>> hapo(Batch.of(first)).tolist(), hapo(Batch.of(second)).round(4).tolist()
    ([1.0, 0.0], [1.7071, 0.3])
    """

    def __init__(
        self,
        *,
        shape: Literal["cosine", "linear"] = "cosine",
        mode: Literal["min", "mean"] = "min",
        tolerance: NonNegative = 0.1,
        length_weight: Share = 1.0,
    ) -> None:
        self.shape, self.mode, self.tolerance, self.length_weight = shape, mode, tolerance, length_weight
        self._history: dict[str, tuple[float, int]] = {}

    def __call__(self, batch: Batch) -> Array:
        """Score a batch, then remember its correct lengths."""
        rewards = batch.gather(self._score)
        for group in batch:
            if group.problem_id is not None and group.correct.any():
                self._remember(group.problem_id, group.length[group.correct])
        return rewards

    def _score(self, group: Group) -> Array:
        reference, _ = self._history.get(group.problem_id, (0.0, 0))
        # 0 also where all known lengths are 0, which the authors take for no history too.
        if reference <= 0:
            return group.correct.astype(float)
        ratio = group.length / reference
        if self.shape == "cosine":
            term = np.cos(np.pi / 2 * np.minimum(ratio, 2.0))
        else:
            excess = np.minimum(0.0, 1.0 + self.tolerance - ratio)
            term = np.where(ratio < 1.0, 1.0 - ratio, np.maximum(excess, -1.0))
        right, wrong = np.maximum(term, -0.7), np.minimum(term, 0.0)
        return group.correct + self.length_weight * np.where(group.correct, right, wrong)

    def _remember(self, problem: str, lengths: Array) -> None:
        known, count = self._history.get(problem, (float("inf"), 0))
        total = count + len(lengths)
        if self.mode == "min":
            kept = min(known, float(lengths.min()))
        else:
            kept = float(lengths.sum() + (known * count if count else 0.0)) / total
        self._history[problem] = (kept, total)

    def state_dict(self) -> dict[str, Any]:
        """Per problem the length it is compared with and how many correct rollouts that stands for."""
        return {"history": {problem: list(entry) for problem, entry in self._history.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a history."""
        self._history = {problem: (length, count) for problem, (length, count) in state["history"].items()}


@reward(
    paper="arXiv:2505.12284",
    scope="batch",
    uses=("well_formed",),
    claims=("right_above_wrong", "shorter_is_no_worse", "no_length_pressure_on_wrong"),
)
class ShortRl:
    """Right answers within a tolerance of the shortest right one earn the most; only while the model stays accurate.

    Formula, a rollout being right if it is correct and well formed::

        right:       2 + 1 + gate * (0.5 if L <= min + length_tolerance, else 0.5 - (L - min) / (max - min + 1e-5))
        wrong:       -1.5 + 1
        ill formed:  -2 - 1
        gate = 1 if accuracy >= best - acc_tolerance, else 0

    ``min`` and ``max`` are taken over the right rollouts of the group, ``accuracy`` is the share of right rollouts in
    the batch and ``best`` the highest that any batch had, this one included. None right: no length term. One right, or
    equal lengths: 0.5. Without the column `well_formed` every rollout is well formed. A rollout cut by the token limit
    counts as the verifier judged it, and is ill formed if it never closed its tags.

    Args:
        length_tolerance: Right rollouts this much longer than the shortest still get the full term; the authors use 100
            for mathematics, 200 for logic. [tokens]
        acc_tolerance: How far the batch's accuracy may fall below the best before the length term pauses. [share]
        best_accuracy: What earlier batches, which this object has not seen, had reached. [share]

    Deviations: None for mathematics. The authors' logic variant reads a setting that nothing sets and cannot run as
        released; its formula is the same.

    Gaming: The gate watches a noisy number: after one lucky batch the length term pauses for long.

    Source: Yuan et al., "Efficient RL Training for Reasoning Models via Length-Aware Optimization"; lblankl/Short-RL,
        ``deepscaler/rewards/ShortRL.py``.

    >>> group = Group.of([True, True, True, False], [400, 501, 1200, 100])
    >>> ShortRl()(Batch.of(group)).round(4).tolist()
    [3.5, 3.3738, 2.5, -0.5]
    """

    def __init__(
        self,
        *,
        length_tolerance: NonNegative = 100.0,
        acc_tolerance: Share = 0.05,
        best_accuracy: Share = 0.0,
    ) -> None:
        self.length_tolerance, self.acc_tolerance = length_tolerance, acc_tolerance
        self._best = best_accuracy

    def __call__(self, batch: Batch) -> Array:
        """Note the batch's accuracy, then score it."""
        accuracy = float(batch.gather(_right).mean())
        self._best = max(self._best, accuracy)
        gate = float(accuracy >= self._best - self.acc_tolerance)
        return batch.gather(lambda group: _answer_and_format(group) + gate * self._length_term(group))

    def _length_term(self, group: Group) -> Array:
        right = _right(group)
        if not right.any():
            return np.zeros(group.size)
        shortest, longest = group.length[right].min(), group.length[right].max()
        slope = 0.5 - (group.length - shortest) / (longest - shortest + 1e-5)
        return np.where(right, np.where(group.length <= shortest + self.length_tolerance, 0.5, slope), 0.0)

    def state_dict(self) -> dict[str, Any]:
        """The best accuracy of a batch so far."""
        return {"best_accuracy": self._best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take it up."""
        self._best = state["best_accuracy"]


@reward(paper="arXiv:2505.18298", scope="batch", claims=("shorter_is_no_worse",))
class ADlp:
    """Every token costs; the price rises while the model is more accurate than a target and falls while it is less.

    Formula, with lambda from the batches before::

        r = c - lambda * L
        lambda <- max(0, lambda + learning_rate * (accuracy - reference_accuracy))

    ``accuracy`` is the share of correct rollouts of the batch just scored. Nothing is compared inside the group, so one
    correct, none or equal lengths are no special cases: with none correct the rewards still differ by length. Nothing
    is clipped. A rollout cut by the token limit counts as the verifier judged it, and pays for all its tokens.

    Args:
        initial_lambda: Price of a token in the first batch. [reward/token]
        learning_rate: Change of the price per unit of accuracy and batch. [reward/token]
        reference_accuracy: Accuracy at which the price stays; the authors take the model's own before training. [share]

    Deviations: The authors' trainer calls the reward twice per step; the price moves once per batch here.

    Gaming: Wrong rollouts pay too, so a short wrong one beats a long wrong one, and a correct one of more than
        ``1 / lambda`` tokens (1000 at first) loses to a short wrong one.

    Source: Su and Cardie, "Thinking Fast and Right: Balancing Accuracy and Reasoning Length with Adaptive Rewards";
        JinyanSu1/A-DLP, ``main_ppo.py``, ``ray_trainer.py``.

    >>> a_dlp = ADlp()
    >>> batch = Batch.of(Group.of([True, True, False], [100, 300, 50]))
    >>> a_dlp(batch).round(4).tolist(), round(a_dlp.state_dict()["lambda"], 6)
    ([0.9, 0.7, -0.05], 0.001047)
    """

    def __init__(
        self,
        *,
        initial_lambda: NonNegative = 1e-3,
        learning_rate: NonNegative = 1e-3,
        reference_accuracy: Share = 0.62,
    ) -> None:
        self.learning_rate, self.reference_accuracy = learning_rate, reference_accuracy
        self._lambda = initial_lambda

    def __call__(self, batch: Batch) -> Array:
        """Score a batch, then move the price."""
        rewards = batch.correct - self._lambda * batch.length
        surplus = float(batch.correct.mean()) - self.reference_accuracy
        self._lambda = max(0.0, self._lambda + self.learning_rate * surplus)
        return rewards

    def state_dict(self) -> dict[str, Any]:
        """The price of a token in the next batch."""
        return {"lambda": self._lambda}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take it up."""
        self._lambda = state["lambda"]


def _right(group: Group) -> Array:
    return group.correct if group.well_formed is None else group.correct & group.well_formed


def _answer_and_format(group: Group) -> Array:
    well_formed = np.ones(group.size, dtype=bool) if group.well_formed is None else group.well_formed
    return np.where(well_formed, np.where(group.correct, 2.0, -1.5) + 1.0, -3.0)
