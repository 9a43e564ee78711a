"""Scores that choose and weigh samples: which rollouts to keep, which pairs to prefer, how much each one counts.

Most were made for samples drawn before training. Each is a reward all the same: one number per rollout, NaN for a
rollout that is left out. ``L`` is the number of generated tokens, ``c`` is 1 for a correct rollout and 0 for a wrong
one.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from laconic.rewards.group import Array, Batch, Group
from laconic.rewards.mode.reading import thinks
from laconic.rewards.registry import Count, NonNegative, Positive, reward


@reward(paper="arXiv:2508.09726", claims=("right_above_wrong",), abstains=True)
def gfpo(group: Group, *, k: Count = 8, metric: Literal["shortest", "token_efficiency"] = "shortest") -> Array:
    """Sample many, learn from few: only the k most concise rollouts of a group have a reward at all.

    Formula::

        shortest:          keep the k smallest L
        token_efficiency:  keep the k largest c / L
        r = c  if kept,  no reward (NaN) if not

    A rollout without a reward is left out of its group's mean and deviation and has advantage 0, which is the paper's
    rule for dropped ones. Where several tie at the limit, the shorter are kept; those that tie in length too are all
    kept, so that equal rollouts are treated equally, and more than k may remain. None correct: the k shortest get 0.
    One correct: it is always kept by token efficiency, by length only if it is short. Equal lengths: all are kept by
    length. A rollout cut by the token limit counts as the verifier judged it.

    Args:
        group: The rollouts of one problem.
        k: How many to keep; the paper keeps 4 to 8 of 8 to 24. Groups no larger than this stay whole. [rollouts]
        metric: What the kept ones are best at. [-]

    Deviations: No code was released by the authors. The paper's own reward is a graded one between -1 and 1 with a
        repetition penalty; here it is ``c``. The paper's third variant, which chooses k by the quartile of the
        problem's difficulty, is left out: how long it warms up is not given. The paper keeps exactly k, by which rule
        among ties it does not say, and TRL's former trainer left that to ``torch.topk``; here four equal lengths with
        k = 2 keep all four.

    Gaming: By length, the kept ones can all be short guesses, and a long right rollout is never seen. By token
        efficiency, a group with k right rollouts keeps no wrong one and has no gradient.

    Source: Shrivastava et al., "Sample More to Think Less: Group Filtered Policy Optimization for Concise Reasoning".

    >>> group = Group.of([True, True, False, True], [900, 300, 100, 1200])
    >>> gfpo(group, k=2).tolist(), gfpo(group, k=2, metric="token_efficiency").tolist()
    ([nan, 1.0, 0.0, nan], [1.0, 1.0, nan, nan])
    """
    length = np.maximum(group.length, 1.0)
    merit = -length if metric == "shortest" else group.correct / length
    last = np.lexsort((length, -merit))[:k][-1]
    kept = (merit > merit[last]) | ((merit == merit[last]) & (length <= length[last]))
    return np.where(kept, group.correct.astype(float), np.nan)


@reward(paper="arXiv:2503.04472", claims=("right_above_wrong", "shorter_is_no_worse"))
def dast(group: Group, *, max_length: Positive = 4096.0) -> Array:
    """Easy problems get a small token budget, hard ones a large one; right answers gain by staying below it.

    Formula, with p the share of correct rollouts of the group::

        budget = p * mean(L of the correct) + (1 - p) * max_length
        lambda = (L - budget) / budget
        r = max(0.5 - 0.5 * lambda, 0.1)   if correct
        r = min(0.9 * lambda - 0.1, -0.1)  if wrong

    None correct: the budget is ``max_length``. All correct: it is their mean length. One correct: mostly
    ``max_length``. Equal lengths: the correct get the same, and so do the wrong. A rollout cut by the token limit
    counts as the verifier judged it.

    Args:
        group: The rollouts of one problem.
        max_length: The most tokens a rollout could have had. [tokens]

    Deviations: The authors' code was not available; the formula is known second hand. They rank rollouts by it and
        train on the pairs with the largest margins (SimPO), not by reinforcement learning.

    Gaming: A wrong rollout loses less the longer it is, up to about the budget: rambling pays where the answer is not
        found.

    Source: Shen et al., "DAST: Difficulty-Adaptive Slow-Thinking for Large Reasoning Models".

    >>> dast(Group.of([True, True, True, False], [100, 200, 300, 50])).round(4).tolist()
    [0.9574, 0.9148, 0.8722, -0.9617]
    """
    share = group.correct.mean()
    mean = group.length[group.correct].mean() if share else 0.0
    budget = max(share * mean + (1.0 - share) * max_length, 1.0)
    excess = (group.length - budget) / budget
    return np.where(group.correct, np.maximum(0.5 - 0.5 * excess, 0.1), np.minimum(0.9 * excess - 0.1, -0.1))


@reward(
    paper="arXiv:2501.12570",
    scope="batch",
    claims=("shorter_is_no_worse",),
    abstains=True,
    ordered=(("lower", "upper"),),
)
def o1_pruner(
    batch: Batch,
    *,
    alpha: NonNegative = 2.0,
    lower: float | None = None,
    upper: float | None = None,
    standardise: bool = False,
    used: Count | None = None,
) -> Array:
    """How much shorter and how much more accurate a rollout is than the reference model is on its problem.

    Formula, with means over all rollouts of the problem, right and wrong::

        r = mean(L) / L - 1 + alpha * (c - mean(c))

    clipped to ``lower`` and ``upper`` where they are set. None correct, or all: length alone decides. Equal lengths:
    correctness alone does. The rollouts are the reference model's, drawn before training; the paper uses r as the
    advantage, off-policy. A rollout cut by the token limit counts as the verifier judged it.

    Args:
        batch: All groups of the data set, each sampled from the reference model.
        alpha: Weight of accuracy; the authors use 2 for a 7B and 5 for a 32B model. [reward]
        lower: Clip from below; null for none. [reward]
        upper: Clip from above, no lower than `lower`; null for none. [reward]
        standardise: Subtract the mean over all rollouts that have a reward, and divide by their standard deviation. [-]
        used: The first so many rollouts of each problem are trained on; the others count in the problem's means and
            have no reward (NaN). Null for all. [rollouts]

    Deviations: The paper neither clips nor standardises. The authors' code does both over the whole data set, with two
        random rollouts of each problem, which can turn signs: ``lower: -2``, ``upper: 4``, ``standardise: true``,
        ``used: 2``. Here the first are taken; whoever wants random ones shuffles.

    Gaming: Where nothing is correct, short wrong rollouts earn the most, without limit unless ``upper`` is set.

    Source: Luo et al., "O1-Pruner: Length-Harmonizing Fine-Tuning for O1-Like Reasoning Pruning"; StarDewXXX/O1-Pruner,
        ``construct_dataset.py``.

    >>> group = Group.of([False, True, False, False], [300, 900, 600, 600])
    >>> o1_pruner(Batch.of(group)).round(4).tolist()
    [0.5, 1.1667, -0.5, -0.5]
    """
    weights = batch.gather(lambda group: _harmony(group, alpha))
    if lower is not None or upper is not None:
        weights = np.clip(weights, lower, upper)
    chosen = batch.gather(lambda group: np.arange(group.size) < (used or group.size)).astype(bool)
    if standardise:
        weights[chosen] = standardised(weights[chosen])
    return np.where(chosen, weights, np.nan)


def _harmony(group: Group, alpha: float) -> Array:
    length = np.maximum(group.length, 1.0)
    return length.mean() / length - 1.0 + alpha * (group.correct - group.correct.mean())


def standardised(weights: Array) -> Array:
    """Weights with mean 0 and (population) standard deviation 1; all 0 where they are all equal."""
    centred, deviation = weights - weights.mean(), weights.std()
    return centred / deviation if deviation > 0 else np.zeros(len(weights))


@reward(
    paper="arXiv:2410.05563", needs=("think_length",), uses=("answer_prob", "direct_answer_prob", "mode"), abstains=True
)
def rational_metareasoning(group: Group, *, gamma: NonNegative = 0.1, epsilon: Positive = 1e-6) -> Array:
    """The value of computation: how much the thinking raises the probability of the answer, less what it costs.

    Formula, with n the tokens of thinking and natural logarithms::

        r = log((p + epsilon) / (p_direct + epsilon)) - gamma * log(n + 1)

    p is the column `answer_prob`: the probability of the gold answer after this thinking. ``p_direct`` is the
    column `direct_answer_prob`, that without any thinking; where it is missing, the mean of p over the group's
    rollouts without thinking (0 tokens of it, or a `mode` such as no_think). These are charged for none. Length
    counts in the thinking alone. None correct, one correct or equal lengths are no special cases. A rollout cut by
    the token limit counts as the verifier judged it, if its verdict enters at all. A rollout without `answer_prob`
    or `think_length` has no reward (NaN).

    Args:
        group: The rollouts of one problem, one or more of them without thinking.
        gamma: Price of thinking. [reward per e-fold of tokens]
        epsilon: Keeps the logarithm finite. [probability]

    Deviations: The paper's p is the probability of the gold answer's tokens, and one direct answer is sampled per
        problem. Ours: a `grpo` stage asks the model in training for both probabilities, with the gold answer right
        after the thinking; where rollouts carry no `answer_prob`, the verdict stands for it (1 or 0, a Monte Carlo
        estimate from one sample), and where nothing is direct, ``p_direct`` is the mean over the whole group. The paper
        keeps rollouts with at least the mean value and fine-tunes on them. The released program does not run.

    Gaming: Thinking that names the gold answer early is worth the most, whether or not it follows from anything.

    Source: De Sabbata, Sumers, AlKhamissi, Bosselut and Griffiths, "Rational Metareasoning for Large Language Models";
        cndesabbata/Rational_Metareasoning, ``reward_model.py``.

    >>> group = Group.of([True, True, False], [140, 20, 15], think_length=[120, 0, 0], answer_prob=[0.6, 0.3, 0.3])
    >>> rational_metareasoning(group).round(4).tolist()
    [0.2136, 0.0, 0.0]
    """
    probability = group.correct.astype(float) if group.answer_prob is None else group.answer_prob
    direct = group.think_length == 0
    if group.mode is not None:
        direct = direct | ~thinks(group)
    if group.answer_prob is None or group.direct_answer_prob is None:
        known = ~np.isnan(probability)
        measure = probability[direct & known] if (direct & known).any() else probability[known]
        without = measure.mean() if len(measure) else np.nan
    else:
        without = group.direct_answer_prob
    gain = np.log((probability + epsilon) / (without + epsilon))
    return gain - gamma * np.log1p(np.where(direct, 0.0, group.think_length))


@reward(
    paper="arXiv:2412.15287",
    claims=("right_above_wrong", "shorter_is_no_worse", "no_length_pressure_on_wrong"),
)
def bon_aware(group: Group, *, n: Count = 32) -> Array:
    """Right answers count for what they add to the best of n samples: much where right ones are rare.

    Formula, with q the probability that one rollout of this problem is wrong::

        r = n * q^(n-1)  if correct,  0 if wrong

    The mean of ``r * grad log pi`` is then the gradient of ``1 - q^n``, the probability that one of n samples is right.
    For each rollout ``q^(n-1)`` is estimated from its siblings alone: as the share of all choices of n - 1 siblings
    that are all wrong, which is unbiased, while n is at most the size of the group; beyond that as the share of wrong
    siblings to the power n - 1, which is not. None correct: all 0. One correct: n. Length plays no part. A rollout cut
    by the token limit counts as the verifier judged it. A group of one has no siblings: its correct rollout gets n.

    Args:
        group: The rollouts of one problem.
        n: How many samples will be drawn for each problem when the model is used. [samples]

    Deviations: No code was released, and the paper's formulas are known second hand. The paper's: the objective, and
        for binary rewards the weight ``n q^(n-1) (1 - q) / (1 - q^n)`` on right samples of the best-of-n policy. Ours:
        the same gradient written for samples of the plain policy, and q from the siblings. The paper's variant with
        weights on wrong samples, and those for a learnt verifier, are left out. All right rollouts of a group get the
        same, so dividing by the group's standard deviation undoes the weight: train it without.

    Gaming: A model that spreads its guesses gains as much as one that reasons: only one of n needs to be right.

    Source: Chow et al., "Inference-Aware Fine-Tuning for Best-of-N Sampling in Large Language Models".

    >>> bon_aware(Group.of([True, False, False, False], [9, 9, 9, 9]), n=4).tolist()
    [4.0, 0.0, 0.0, 0.0]
    >>> bon_aware(Group.of([True, True, False, False], [9, 9, 9, 9]), n=2).round(4).tolist()
    [1.3333, 1.3333, 0.0, 0.0]
    """
    siblings, wrong = group.size - 1, group.size - int(group.correct.sum())
    if n <= group.size:
        all_wrong = math.comb(wrong, n - 1) / math.comb(siblings, n - 1)
    else:
        all_wrong = (wrong / siblings) ** (n - 1) if siblings else 1.0
    return np.where(group.correct, n * all_wrong, 0.0)
