"""Length rewards of methods that cut the thinking short and look at what the prefix is still worth.

``L`` is the number of generated tokens, ``c`` is 1 for a correct rollout and 0 for a wrong one.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import numpy as np

from laconic.rewards.errors import DataError
from laconic.rewards.group import Array, Batch, Group
from laconic.rewards.registry import NonNegative, Share, reward


@reward(
    paper="arXiv:2506.14755",
    uses=("well_formed", "prefix_length", "think_length"),
    claims=("right_above_wrong", "shorter_is_no_worse", "no_length_pressure_on_wrong"),
)
def lc_r1(
    group: Group, *, length_weight: NonNegative = 1.0, bonus_weight: NonNegative = 0.0, as_released: bool = False
) -> Array:
    """Accuracy and format, plus a term for being shorter than the longest right rollout of the group.

    Formula, with ``format`` 1 for a well-formed rollout (for all, where the column is missing)::

        r = c + format + length_weight * c * (1 - L / (longest correct L + 1e-4)) + bonus_weight * bonus

    ``L`` is the length of the sequence that is trained on. The authors train on compressed sequences: an extractor
    model finds the shortest start of the thinking that already holds the answer, and the rest of the thinking is cut
    out; who does the same gives the compressed lengths. ``bonus`` is `laconic.rewards.length.prefix.compression_bonus`.
    None correct: no length term. One correct, or equal lengths: about 0. A rollout cut by the token limit counts as the
    verifier judged it, and is usually ill formed.

    Args:
        group: The rollouts of one problem.
        length_weight: Of the length term. [reward]
        bonus_weight: Of the compression bonus, where the columns `prefix_length` and `think_length` are given. [reward]
        as_released: Give the length term of a group with a right rollout to every rollout, as the authors' code does;
            right then means correct and well formed. [-]

    Deviations: As released, wrong rollouts get the length term too, far below zero for long ones; in the paper, and
        here by default, they get 0, and right means correct. The paper's bonus belongs to the </think> token alone,
        with weight 1; adding it to the whole rollout is ours, and off by default. The authors' length is the place of
        the end-of-sequence token, one less than ours, and for a sequence without one the width of the padded batch.
        The paper uses the advantage ``r - mean`` without division by the standard deviation.

    Gaming: As released, a short wrong rollout earns almost as much as a long right one, up to ``length_weight``.

    Source: Cheng et al., "Optimizing Length Compression in Large Reasoning Models"; zxiangx/LC-R1,
        ``grpo_trainer.py``.

    >>> group = Group.of([True, True, True, False], [100, 200, 400, 50])
    >>> lc_r1(group).round(3).tolist()
    [2.75, 2.5, 2.0, 1.0]
    """
    well_formed = _well_formed(group)
    right = group.correct & well_formed if as_released else group.correct
    rewards = group.correct + well_formed.astype(float)
    if right.any():
        term = 1.0 - group.length / (group.length[right].max() + 1e-4)
        rewards = rewards + length_weight * (term if as_released else np.where(right, term, 0.0))
    if bonus_weight:
        rewards = rewards + bonus_weight * compression_bonus(group, as_released=as_released)
    return rewards


def compression_bonus(group: Group, *, as_released: bool = False) -> Array:
    """What LC-R1 adds to the advantage of the </think> token: the share of the thinking that was not needed.

    ``1 - prefix / (thinking + 1e-4)`` for a right rollout, -1 if its thinking never holds the answer (no prefix), 0 for
    a wrong rollout; shape (G,).

    Args:
        group: The rollouts of one problem, with the columns `prefix_length` and `think_length`.
        as_released: Right means correct and well formed, not only correct.

    Raises:
        DataError: one of the two columns is missing.

    >>> group = Group.of([True, True, False], [460, 420, 500], prefix_length=[100, None, None],
    ...                  think_length=[400, 400, 450])
    >>> compression_bonus(group).round(4).tolist()
    [0.75, -1.0, 0.0]
    """
    if group.prefix_length is None or group.think_length is None:
        raise DataError(
            "the compression bonus of lc_r1 needs 'prefix_length' and 'think_length'",
            cure="give every rollout both keys (prefix_length null where none was found), or set bonus_weight to 0",
        )
    right = group.correct & _well_formed(group) if as_released else group.correct
    # A prefix of no tokens cannot hold the answer; it is how the authors' extractor says that it found none.
    bonus = np.where(group.prefix_length > 0, 1.0 - group.prefix_length / (group.think_length + 1e-4), -1.0)
    return np.where(right, bonus, 0.0)


@reward(paper="arXiv:2505.07686", claims=("right_above_wrong", "shorter_is_no_worse", "no_length_pressure_on_wrong"))
def s_grpo_early_exit(group: Group) -> Array:
    """Of several early exits from one chain of thought, the first right one earns 1, the second 1/2, the third 1/4.

    Formula, with the exits of one problem in order of length::

        r_i = 1 / 2^(number of shorter right exits)  if right,  0 if wrong

    None correct: all 0. One correct: it gets 1, however long. Exits of equal length share the better place. A rollout
    cut by the token limit counts as the verifier judged it.

    Args:
        group: The exits of one problem: full chains of thought, cut at several places and made to answer there.

    Deviations: No code was released, and the formula is known second hand. The method cuts one chain; a group of
        independent rollouts is ordered in the same way. The advantage is ``r - mean``, without division by the standard
        deviation.

    Gaming: Where a guess is often right, the shortest exit collects the 1 and thinking is unlearnt.

    Source: Dai et al., "S-GRPO: Early Exit via Reinforcement Learning in Reasoning Models". Two other methods are
        called S-GRPO.

    >>> s_grpo_early_exit(Group.of([False, False, True, True, True], [10, 20, 30, 40, 50])).tolist()
    [0.0, 0.0, 1.0, 0.5, 0.25]
    """
    right = np.sort(group.length[group.correct])
    return np.where(group.correct, 0.5 ** np.searchsorted(right, group.length), 0.0)


@reward(
    paper="arXiv:2509.23392",
    scope="batch",
    uses=("well_formed",),
    claims=("right_above_wrong", "shorter_is_no_worse", "no_length_pressure_on_wrong"),
)
def jet(
    batch: Batch,
    *,
    shape: Literal["scaled", "linear"] = "scaled",
    format_weight: Share = 0.1,
    alpha: NonNegative = 1.2,
    delta: Share = 0.05,
    as_released: bool = False,
) -> Array:
    """Accuracy and format, and for a right answer a bonus that falls from the shortest right length to the longest.

    Formula, with ``format`` 1 for a well-formed rollout (for all, where the column is missing)::

        r = (1 - format_weight) * c + format_weight * format + c * bonus
        scaled:  bonus = (max - L) / (max - min + 1e-8) * alpha * (1 - delta) + delta
        linear:  bonus = 1 - (L - min) / (max - min + 1e-8)

    ``min`` and ``max`` are taken over the correct rollouts of the same problem. None correct: no bonus. One correct, or
    equal lengths: ``delta`` (scaled) or 1 (linear). A rollout cut by the token limit counts as the verifier judged it.

    Args:
        batch: The groups that are scored together.
        shape: Of the bonus; the authors' code has the linear one beside it. [-]
        format_weight: Share of the base reward that is for the format. [share]
        alpha: Bonus of the shortest right rollout before ``delta`` is mixed in. [reward]
        delta: Bonus of the longest right rollout; the rest is scaled to its complement. [reward]
        as_released: Take ``min`` and ``max`` over all correct rollouts of the batch, as the authors' trainer does. [-]

    Deviations: The paper normalises per question, as here by default; the released trainer hands in the whole batch, so
        that rollouts of easy questions earn the most. The paper trains on truncated copies of its own rollouts; that is
        up to who samples them.

    Gaming: The bonus of the shortest right rollout is larger than the reward for being right, so a short guess that is
        right half the time earns more than a long certain answer.

    Source: Han et al., "Your Models Have Thought Enough: Training Large Reasoning Models to Stop Overthinking";
        JinyiHan99/Just-Enough-Think, ``reward_function/math.py``, ``math_linear.py``.

    >>> jet(Batch.of(Group.of([True, True, True, False], [100, 200, 300, 50]))).round(2).tolist()
    [2.19, 1.62, 1.05, 0.1]
    """
    measure = partial(_conciseness, shape=shape, alpha=alpha, delta=delta)
    bonus = measure(batch) if as_released else batch.gather(measure)
    return (1.0 - format_weight) * batch.correct + format_weight * batch.gather(_well_formed) + bonus


def _conciseness(rollouts: Group | Batch, *, shape: str, alpha: float, delta: float) -> Array:
    """The bonus of JET, compared over all these rollouts."""
    correct, length = rollouts.correct, rollouts.length
    if not correct.any():
        return np.zeros(len(length))
    shortest, longest = length[correct].min(), length[correct].max()
    span = longest - shortest + 1e-8
    if shape == "linear":
        bonus = 1.0 - (length - shortest) / span
    else:
        bonus = (longest - length) / span * alpha * (1.0 - delta) + delta
    return np.where(correct, bonus, 0.0)


def _well_formed(group: Group) -> Array:
    return np.ones(group.size, dtype=bool) if group.well_formed is None else group.well_formed


@reward(paper="arXiv:2506.10822", scope="rollout", needs=("text",), claims=("right_above_wrong",), abstains=True)
def recut_step(group: Group, *, alpha: NonNegative = 1.0, beta: NonNegative = 1.0) -> Array:
    """A right step of reasoning earns one over its characters, a wrong one loses as much.

    Formula, with n the number of characters of the text::

        r = (alpha * c - beta * (1 - c)) / n

    Each text stands for itself: it makes no difference how many of its siblings are correct, and equally long right
    ones earn the same. An empty text has no reward (NaN). A rollout cut by the token limit counts as the verifier
    judged it.

    Args:
        group: Candidates for the next step of one problem, each with its text.
        alpha: Of a right text. [reward * characters]
        beta: Of a wrong text. [reward * characters]

    Deviations: The authors give an empty text minus infinity, so that it is never chosen; this reward abstains. They
        use the number to choose between a long and a short candidate step, not to train with.

    Gaming: Among wrong texts the longer wins. It counts characters, so what is worth one token in one alphabet is worth
        several in another.

    Source: Jin et al., "ReCUT: Balancing Reasoning Length and Accuracy in LLMs via Stepwise Trails and Preference
        Optimization"; NEUIR/ReCUT, ``long2short_reward_generate.py``.

    >>> recut_step(Group.of([True, False, False], [9, 5, 1], text=["1 + 1 = 2", "2 + 1", ""])).round(4).tolist()
    [0.1111, -0.2, nan]
    """
    characters = np.array([len(text or "") for text in group.text], dtype=float)
    characters[characters == 0] = np.nan
    return np.where(group.correct, alpha, -beta) / characters
