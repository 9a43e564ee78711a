"""Length rewards that compare a rollout with a number of tokens: a budget, a limit, the end of a schedule.

In all formulas ``L`` is the number of generated tokens and ``c`` is 1 for a correct rollout and 0 for a wrong one. None
of them looks at a rollout's siblings, so a group without a correct rollout is nothing special.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np

from laconic.rewards.errors import DataError
from laconic.rewards.group import Array, Group
from laconic.rewards.length.relative import sigmoid
from laconic.rewards.length.repetition import repeated_share
from laconic.rewards.registry import Count, NonNegative, Positive, Range, Share, reward

_CORRECTNESS_FIRST = ("right_above_wrong", "shorter_is_no_worse", "no_length_pressure_on_wrong")


@reward(paper="arXiv:2503.04697", scope="rollout", uses=("budget",), abstains=True)
def l1_exact(group: Group, *, budget: Positive = 1024.0, alpha: NonNegative = 3e-4, own_prompts: bool = False) -> Array:
    """Right answers earn 1, and every token away from the length that the prompt asked for costs (LCPO-Exact).

    Formula, with n the length that the prompt asked for::

        r = c - alpha * |n - L|

    Wrong rollouts pay for their distance too; nothing is clipped. A rollout cut by the token limit counts as the
    verifier judged it.

    Args:
        group: The rollouts of one problem.
        budget: n for a rollout without the column ``budget``; ours, the prompts of the paper always name n. A negative
            ``budget`` in the data counts by its absolute value. [tokens]
        alpha: Reward lost per token away from n. [reward/token]
        own_prompts: No reward (NaN) for a negative ``budget``, which in the authors' data marks a prompt that names an
            upper bound; such prompts are `l1_max`'s. [-]

    Deviations: None in the linear form, which is the paper's. Two more settings of the released code are not offered:
        the sigmoid form pays more the further a rollout is from n, and the multiplied form is 0 for every rollout.

    Gaming: A right answer that is ``1 / alpha`` tokens off is worth as much as a wrong one on target, and with none
        correct the length is all there is to learn. Filler words reach n as well as thoughts do.

    Source: Aggarwal and Welleck, "L1: Controlling How Long A Reasoning Model Thinks With Reinforcement Learning";
        cmu-l3/l1, ``math_reward.py``.

    >>> group = Group.of([True, True, False], [500, 1000, 3000], budget=[1000, 1000, 1000])
    >>> l1_exact(group).round(4).tolist()
    [0.85, 1.0, -0.6]
    """
    rewards = group.correct - alpha * np.abs(_budgets(group, budget) - group.length)
    return np.where(_negative(group), np.nan, rewards) if own_prompts else rewards


@reward(paper="arXiv:2503.04697", scope="rollout", uses=("budget",), claims=_CORRECTNESS_FIRST, abstains=True)
def l1_max(
    group: Group,
    *,
    budget: Positive = 1024.0,
    alpha: NonNegative = 3e-4,
    delta: Share = 0.5,
    shape: Literal["linear", "sigmoid"] = "linear",
    combine: Literal["multiply", "add"] = "multiply",
    as_released: bool = False,
    own_prompts: bool = False,
) -> Array:
    """Right answers earn more the further they stay below the length that the prompt allowed (LCPO-Max).

    Formula, with n the length that the prompt allowed::

        linear:       s = clip(alpha * (n - L) + delta, 0, 1)
        as_released:  s = clip(alpha / 2 * (n - L) + 1/2, 0, 1)
        sigmoid:      s = min(1, sigmoid(alpha * (n - L)) + 0.1 [L <= n])
        r = c * s  (multiply)   or   r = c + s  (add)

    Multiplied, wrong rollouts get 0 and so do right ones far beyond n; added, short wrong rollouts get up to 1. A
    rollout cut by the token limit counts as the verifier judged it.

    Args:
        group: The rollouts of one problem.
        budget: n for a rollout without the column ``budget``; ours, the prompts of the paper always name n. A negative
            ``budget`` (how the authors' data marks these prompts) counts by its absolute value. [tokens]
        alpha: Slope of s. [1/token]
        delta: s of a rollout of exactly n tokens; only the linear form of the paper has it. [share of the reward]
        shape: Of s; the paper's is linear. [-]
        combine: How s meets correctness; the paper multiplies. [-]
        as_released: Half the slope, as in the authors' code. [-]
        own_prompts: No reward (NaN) for a positive ``budget``: where negative ones mark these prompts, the others are
            `l1_exact`'s. [-]

    Deviations: The released code has slope ``alpha / 2`` where the paper has ``alpha``; it alone has the sigmoid and
        the sum. The released script for this reward switches none of its forms on. Its data mixes prompts of both
        kinds, told apart by the sign of the budget; here `l1_exact` and `l1_max` are two rewards, and with
        `own_prompts` each is for its own.

    Gaming: s is the same for all lengths that are short enough, so thinking may shrink to nothing where guessing works.
        Added, a short wrong answer (1) is worth as much as a right one that is far too long (1).

    Source: Aggarwal and Welleck, "L1: Controlling How Long A Reasoning Model Thinks With Reinforcement Learning";
        cmu-l3/l1, ``math_reward.py``.

    >>> group = Group.of([True, True, True, False], [500, 1000, 2500, 500], budget=[1000] * 4)
    >>> l1_max(group).round(4).tolist()
    [0.65, 0.5, 0.05, 0.0]
    """
    spare = _budgets(group, budget) - group.length
    if shape == "sigmoid":
        term = np.minimum(1.0, sigmoid(alpha * spare) + 0.1 * (spare >= 0))
    else:
        slope, offset = (alpha / 2, 0.5) if as_released else (alpha, delta)
        term = np.clip(slope * spare + offset, 0.0, 1.0)
    rewards = group.correct * term if combine == "multiply" else group.correct + term
    return np.where(_positive(group), np.nan, rewards) if own_prompts else rewards


def _negative(group: Group) -> Array | bool:
    """Which budgets are marked as upper bounds; a missing one is neither."""
    return False if group.budget is None else group.budget < 0


def _positive(group: Group) -> Array | bool:
    return False if group.budget is None else group.budget > 0


def _budgets(group: Group, default: float) -> Array:
    """The tokens that each prompt asked for."""
    if group.budget is None:
        return np.full(group.size, default)
    return np.where(np.isnan(group.budget), default, np.abs(group.budget))


@reward(paper="arXiv:2504.01296", scope="rollout", claims=_CORRECTNESS_FIRST, cap="length_limit")
def think_prune(group: Group, *, length_limit: Positive = 4000.0) -> Array:
    """1 for a right answer within a hard limit of tokens, else 0.

    Formula::

        r = c * [L <= length_limit]

    The paper lowers the limit between rounds of training: 4k, then 3k, then 2k tokens. It cuts generation at the limit,
    so an answer that needs more never appears; scoring longer rollouts as wrong has the same effect without
    generating again. A rollout cut by the token limit counts as the verifier judged it.

    Args:
        group: The rollouts of one problem.
        length_limit: The longest length that still counts. [tokens]

    Deviations: The authors set the limit as the sampler's token limit, with a sentence in the prompt that names it.

    Gaming: The authors' grader takes a boxed answer from anywhere, also from inside the thinking; ours is the
        verifier's matter. Nothing rewards being shorter than the limit.

    Source: Hou et al., "ThinkPrune: Pruning Long Chain-of-Thought of LLMs via Reinforcement Learning";
        UCSB-NLP-Chang/ThinkPrune, ``qwen_math.py`` and the training scripts.

    >>> think_prune(Group.of([True, True, True, False], [900, 4000, 4001, 900])).tolist()
    [1.0, 1.0, 0.0, 0.0]
    """
    return (group.correct & (group.length <= length_limit)).astype(float)


@reward(
    paper="arXiv:2503.14476",
    scope="rollout",
    claims=("shorter_is_no_worse",),
    ordered=(("cache", "max_length"),),
    cap="max_length",
)
def soft_overlong(group: Group, *, max_length: Positive = 20480.0, cache: NonNegative = 4096.0) -> Array:
    """DAPO's soft overlong punishment: 0, then down to -1 over the last tokens before the limit.

    Formula::

        r = clip((max_length - cache - L) / cache, -1, 0)

    With ``cache`` 0 it is a step, -1 beyond ``max_length``. Right and wrong rollouts are punished alike, and whether a
    rollout ended by itself does not matter. This is only the length term: DAPO adds it to a task reward of 1 and -1, so
    a recipe lists one beside it.

    Args:
        group: The rollouts of one problem.
        max_length: Where the punishment reaches -1; DAPO's token limit. [tokens]
        cache: Over how many tokens it grows. [tokens]

    Deviations: None. TRL's version is the same; verl's goes on below -1 beyond ``max_length``, where its rollouts end.

    Gaming: Free of charge up to ``max_length - cache``; below that it says nothing about length.

    Source: Yu et al., "DAPO: An Open-Source LLM Reinforcement Learning System at Scale", equation 13; huggingface/trl,
        ``trl/rewards/other_rewards.py``; volcengine/verl, ``reward_manager/dapo.py``.

    >>> soft_overlong(Group.of([True] * 4, [80, 90, 100, 200]), max_length=100, cache=20).tolist()
    [0.0, -0.5, -1.0, -1.0]
    """
    if cache == 0:
        return np.where(group.length > max_length, -1.0, 0.0)
    return np.clip((max_length - cache - group.length) / cache, -1.0, 0.0)


@reward(
    paper="arXiv:2502.03373",
    scope="rollout",
    uses=("text",),
    claims=("shorter_is_no_worse",),
    cap="max_length",
    cap_wants="exceed",
)
def cosine(
    group: Group,
    *,
    max_length: Positive = 14336.0,
    max_value_correct: float = 2.0,
    min_value_correct: float = 1.0,
    min_value_wrong: float = -10.0,
    max_value_wrong: float = 0.0,
    exceed: float | None = -10.0,
    margin: NonNegative = 16.0,
    repetition_penalty: Annotated[float, Range(high=0.0)] = 0.0,
    repetition_ngram: Count = 40,
) -> Array:
    """Short right answers earn more than long ones, short wrong answers lose more than long ones.

    Formula::

        u = (1 + cos(pi * min(L / max_length, 1))) / 2
        correct:  r = min_value_correct + (max_value_correct - min_value_correct) * u
        wrong:    r = max_value_wrong + (min_value_wrong - max_value_wrong) * u
                      + repetition_penalty * share of repeated word n-grams
        L + margin >= max_length:  r = exceed, right or wrong

    The defaults are those of the paper's section 4.2. With ``exceed`` null there is no such case and lengths beyond
    ``max_length`` count as ``max_length``; that, with the values 1, 0.5, -1 and -0.5, is TRL's
    ``get_cosine_scaled_reward``. A rollout cut by the token limit counts as the verifier judged it.

    Args:
        group: The rollouts of one problem.
        max_length: Where the cosine ends; the paper's token limit. [tokens]
        max_value_correct: Of a right answer without a token. [reward]
        min_value_correct: Of a right answer of `max_length` tokens. [reward]
        min_value_wrong: Of a wrong answer without a token. [reward]
        max_value_wrong: Of a wrong answer of `max_length` tokens. [reward]
        exceed: Of a rollout that comes within `margin` of `max_length`; null for none. [reward]
        margin: How close to `max_length` already counts as too long. [tokens]
        repetition_penalty: Of a wrong answer that only repeats itself; needs ``text``, and a missing text repeats
            nothing. [reward]
        repetition_ngram: Length of the n-grams of lower-cased words it counts. [words]

    Deviations: In the authors' code a missing ``exceed`` is 0, here it means none; a text shorter than an n-gram stops
        their code, here it has no repetition. Their ``length_scaled`` reward, which they gave up, is not offered.

    Gaming: Wrong answers are better the longer they are, up to ``margin`` before the limit, which pays for filling up
        the context. A right answer near the limit falls below every wrong one that is not.

    Source: Yeo et al., "Demystifying Long Chain-of-Thought Reasoning in LLMs"; eddycmu/demystify-long-cot,
        ``openrlhf/reward/cosine.py``; huggingface/trl, ``trl/rewards/accuracy_rewards.py``.

    >>> group = Group.of([True, True, False, False, True], [3584, 7168, 10, 7168, 14320])
    >>> cosine(group).round(4).tolist()
    [1.8536, 1.5, -10.0, -5.0, -10.0]
    """
    share = 0.5 * (1.0 + np.cos(np.pi * np.minimum(group.length / max_length, 1.0)))
    right = min_value_correct + (max_value_correct - min_value_correct) * share
    wrong = max_value_wrong + (min_value_wrong - max_value_wrong) * share
    if repetition_penalty:
        wrong = wrong + repetition_penalty * _repeated_words(group, repetition_ngram)
    rewards = np.where(group.correct, right, wrong)
    return rewards if exceed is None else np.where(group.length + margin >= max_length, exceed, rewards)


def _repeated_words(group: Group, ngram: int) -> Array:
    if group.text is None:
        raise DataError("reward cosine: repetition_penalty needs 'text'", cure="give every rollout the key 'text'")
    return np.array([repeated_share((text or "").lower().split(), ngram) for text in group.text])


@reward(paper="arXiv:2510.15110", scope="rollout", uses=("finished",), claims=_CORRECTNESS_FIRST)
def dler(group: Group, *, as_released: bool = False) -> Array:
    """1 for a right answer that ended before the token limit, else 0.

    Formula::

        r = c * finished
        as_released:  r = c * (1 if finished else 0.1)

    A rollout cut by the token limit is no right one, whatever the verifier says. The limit itself, 4000 in the paper,
    is the sampler's. DLER's point is that this plain reward is enough with the right optimiser: advantages normalised
    over the batch, a higher upper clip, dynamic sampling, no KL to speak of.

    Args:
        group: The rollouts of one problem.
        as_released: A right answer that was cut keeps a tenth, as in the authors' code. [-]

    Deviations: The released code keeps 10 % of the reward of a right answer that was cut where the paper says 0, and
        adds 0.1 to the advantage of rollouts whose reward is 1, which the paper does not mention; the latter is no
        part of a reward.

    Gaming: Nothing rewards being shorter than the token limit.

    Source: Liu et al., "DLER: Doing Length pEnalty Right"; NVlabs/DLER, ``reward_manager/dapo.py`` (research licence;
        written from the formula).

    >>> group = Group.of([True, True, False], [900, 4000, 500], finished=[True, False, True])
    >>> dler(group).tolist(), dler(group, as_released=True).tolist()
    ([1.0, 0.0, 0.0], [1.0, 0.1, 0.0])
    """
    return group.correct * np.where(group.finished, 1.0, 0.1 if as_released else 0.0)
