"""Rewards for what a completion declares before it reasons: how hard the problem is, or which format follows."""

from __future__ import annotations

from collections import Counter

import numpy as np

from laconic.rewards.group import Array, Group, Progress
from laconic.rewards.mode.reading import labelled, spelled
from laconic.rewards.registry import NonNegative, Share, reward


@reward(
    paper="arXiv:2505.18822",
    needs=("label",),
    claims=("right_above_wrong", "shorter_is_no_worse", "no_length_pressure_on_wrong"),
)
def ada_ctrl(
    group: Group, *, threshold: Share = 0.625, label_weight: Share = 0.5, length_weight: NonNegative = 0.5
) -> Array:
    """Right or wrong, a correct estimate of the difficulty, and brevity where the model called the problem easy.

    Formula, with the longest rollout of the group, right or wrong, as ``L_max``::

        accuracy = 1 if c else -1
        label    = 1 if the label fits, 0 if it does not, -1 if there is none
        length   = (1 + cos(pi * L / L_max)) / 2  if c and the label is easy, else 0
        r        = accuracy + label_weight * label + length_weight * length

    A problem is easy if more than ``threshold`` of its rollouts are right, and hard otherwise. With none right it is
    hard. At equal lengths, or alone, the length term is 0, as for the longest rollout. A rollout cut by the token limit
    counts as the verifier judged it.

    Args:
        group: The rollouts of one problem; `label` is easy or hard (or DR.SAF's words for them, CFRB and PFRB) or null.
        threshold: Share of right rollouts above which a problem is easy. [share]
        label_weight: Weight of the label term; up to 1 a right rollout stays above a wrong one. [reward]
        length_weight: Weight of the length term. [reward]

    Deviations: The authors' script adds soft overlong punishment, which is its own reward here: list `soft_overlong`
        beside this one. A second file of theirs with other rules is imported nowhere and not followed.

    Gaming: The label is judged by the group's own accuracy, so a group that agrees on ``[Easy]`` needs only to be right
        more often than not. Saying ``[Hard]`` is free of all length pressure.

    Source: AdaCtrl; JoeYing1019/AdaCtrl, ``verl/verl/workers/reward_manager/naive.py`` and
        ``verl/verl/trainer/ppo/ray_trainer.py``.

    >>> group = Group.of([True, True, False, True], [200, 800, 300, 400], label=["easy", "easy", "hard", None])
    >>> ada_ctrl(group).round(4).tolist()
    [1.9268, 1.5, -1.0, 0.5]
    """
    easy, hard = labelled(group, "easy"), labelled(group, "hard")
    fits = easy if group.correct.mean() > threshold else hard
    label = np.where(easy | hard, fits, -1.0)
    longest = max(group.length.max(), 1.0)
    length = np.where(group.correct & easy, 0.5 + 0.5 * np.cos(np.pi * group.length / longest), 0.0)
    return np.where(group.correct, 1.0, -1.0) + label_weight * label + length_weight * length


@reward(
    paper="arXiv:2505.20258",
    needs=("mode",),
    claims=("right_above_wrong", "shorter_is_no_worse", "no_length_pressure_on_wrong"),
)
def arm(group: Group) -> Array:
    """A right answer earns more the rarer its format is in the group; the difference fades during training.

    Formula, with F rollouts of the same format among the G of the group, at step t of T::

        r = c * (1 + 0.5 * (G / F - 1) * (1 + cos(pi * t / T)))

    At first this is ``c * G / F``, so that all formats with a right answer share the reward equally, at the end it is
    ``c``. With none right all get 0; one format only, or a group of one, gives ``c``. A rollout without a format gets
    0. Length plays no part, and a rollout cut by the token limit counts as the verifier judged it. Where the length of
    the run is unknown, t is 0.

    The column `mode` holds the format: ARM's are ``direct``, ``short_cot``, ``code`` and ``long_cot``, and any other
    names, such as ``think`` and ``no_think``, work the same way.

    Args:
        group: The rollouts of one problem.

    Deviations: None. The authors scale the rewards inside their advantage estimator and standardise afterwards with
        ``std + 1e-6``, as `arm` in `laconic.rewards.advantages` does.

    Gaming: Early on one right answer in a rare format is worth up to G; nothing says that the format suits the problem.

    Source: "ARM: Adaptive Reasoning Model"; TEAM-ARM/ARM, ``verl/verl/trainer/ppo/core_algos.py``.

    >>> group = Group.of([True, True, False, True], [400, 500, 600, 30], mode=["long_cot"] * 3 + ["direct"])
    >>> arm(group).round(4).tolist()
    [1.3333, 1.3333, 0.0, 4.0]
    """
    assert group.mode is not None
    formats = [spelled(mode) for mode in group.mode]
    count = Counter(formats)
    rarity = np.array([group.size / count[name] for name in formats])
    counted = group.correct & np.array([name is not None for name in formats])
    return np.where(counted, 1.0 + (rarity - 1.0) * _fading(group.progress), 0.0)


def _fading(progress: Progress) -> float:
    """From 1 at the start of training to 0 at its end, along half a cosine."""
    return 0.5 * (1.0 + np.cos(np.pi * progress.share))
