"""Rewards and measures for questions whose answer is a set of entities: WebLeaper."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from laconic.rewards.group import Array, Group
from laconic.rewards.registry import Positive, reward
from laconic.rewards.search.qa import normalize_answer, token_f1


@reward(
    paper="arXiv:2510.24697",
    scope="rollout",
    needs=("entities", "gold_entities"),
    claims=(
        "shorter_is_no_worse",
        "no_length_pressure_on_wrong",
        "fewer_searches_is_no_worse",
        "no_search_pressure_on_wrong",
    ),
)
def webleaper(group: Group, *, beta: Positive = 1.0) -> Array:
    """How much of the set of entities that was asked for is in the answer, near misses counted in part.

    Formula::

        precision = mean over the answer's entities of the best similarity with an entity asked for
        recall    = mean over the entities asked for of the best similarity with one of the answer
        r = (1 + beta^2) * precision * recall / (beta^2 * precision + recall)

    Similarity is the token F1 of two names. Nothing found, or nothing asked for, gives 0. A rollout's reward depends on
    no other and on the entities alone, so none correct, one correct, equal lengths and a cut by the token limit change
    nothing. `isr` and `ise` measure what the search itself did; the authors keep trajectories with an ISR above 0.3 and
    an ISE above 0.1 for SFT.

    Args:
        group: The rollouts of one problem.
        beta: How much more recall counts than precision. [-]

    Deviations: No training code was released. That two names are alike to a degree is the paper's, measuring it by
        token F1 is ours, and so is beta = 1. The README's ISE is n / T and does not say which entities n counts; `ise`
        counts those that were asked for.

    Gaming: Near duplicates of one right name raise recall little but cost no precision; searching is free.

    Source: Tao et al., "WebLeaper: Empowering Efficiency and Efficacy in WebAgent via Enabling Info-Rich Seeking";
        Alibaba-NLP/DeepResearch, WebAgent/WebLeaper, README.

    >>> found = [["Marie Curie", "Max Planck"], ["Curie"], []]
    >>> group = Group.of([True, False, False], [9, 9, 9], entities=found, gold_entities=["Marie Curie", "Max Planck"])
    >>> webleaper(group).round(4).tolist()
    [1.0, 0.4444, 0.0]
    """
    assert group.entities is not None
    assert group.gold_entities is not None
    return np.array([soft_f(found, group.gold_entities, beta=beta) for found in group.entities])


def soft_f(found: Sequence[str], required: Sequence[str], *, beta: float = 1.0) -> float:
    """F of two sets of names, each name counted by how like its best match it is; a name said twice counts once.

    >>> round(soft_f(["Curie"], ["Marie Curie", "Max Planck"]), 4)
    0.4444
    """
    return _soft_f(_names(found), _names(required), beta)


def isr(required: Sequence[str], obtained: Sequence[str]) -> float:
    """Information-seeking rate: the share of the required entities that were obtained; 0 if none is required.

    >>> isr(["Marie Curie", "Max Planck"], ["max planck", "Niels Bohr"])
    0.5
    """
    wanted = _names(required)
    return len(wanted & _names(obtained)) / len(wanted) if wanted else 0.0


def ise(required: Sequence[str], obtained: Sequence[str], actions: float) -> float:
    """Information-seeking efficiency: required entities obtained per action; 0 without an action.

    The authors write n / T; that n counts the required entities, and not every one that was found, is our reading.

    >>> ise(["Marie Curie", "Max Planck"], ["max planck"], actions=4)
    0.25
    """
    return len(_names(required) & _names(obtained)) / actions if actions else 0.0


def _names(entities: Sequence[str]) -> frozenset[str]:
    return frozenset(name for name in map(normalize_answer, entities) if name)


@lru_cache(maxsize=65536)
def _soft_f(found: frozenset[str], required: frozenset[str], beta: float) -> float:
    if not found or not required:
        return 0.0
    likeness = np.array([[token_f1(mine, [theirs], yes_no="off") for theirs in required] for mine in found])
    precision, recall = likeness.max(axis=1).mean(), likeness.max(axis=0).mean()
    below = beta**2 * precision + recall
    return float((1.0 + beta**2) * precision * recall / below) if below else 0.0
