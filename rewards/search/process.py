"""Rewards that look at the steps of a search episode: what a search brought in, and whether it was needed."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from functools import partial
from typing import Literal

import numpy as np

from laconic.rewards.errors import DataError
from laconic.rewards.group import Array, Group
from laconic.rewards.registry import Count, NonNegative, Share, reward
from laconic.rewards.search.formats import is_hiprag, well_formed
from laconic.rewards.search.qa import answer_scores, em_scores, match_scores, token_f1

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION_TO_SPACE = str.maketrans(dict.fromkeys(string.punctuation, " "))


@reward(
    paper="arXiv:2505.09316",
    scope="rollout",
    needs=("searches", "retrieved", "gold_ids"),
    uses=("golds", "answer", "text"),
    claims=("shorter_is_no_worse", "no_length_pressure_on_wrong"),
)
def inforage(
    group: Group,
    *,
    outcome: Literal["em", "f1"] = "em",
    coverage: Literal["union", "best_search"] = "union",
    gain_weight: NonNegative = 0.2,
    decay: Share = 0.95,
    free_searches: Count = 2,
) -> Array:
    """The answer's score plus a bonus for the gold passages that were found, decaying with the number of searches.

    Formula, with m executed searches, K_t the passages that search t returned and D the gold ones::

        r = (outcome + gain_weight * coverage) * decay^(m - 1)    if m > free_searches, without the decay otherwise
        coverage = |union of K_t and D| / |D|   (union: passages in D that any search found)
                   max over t of |K_t and D| / |D|   (best_search)

    With the defaults up to two searches are free, three keep 0.9025 and four 0.8574. Each rollout is scored alone, so
    nothing changes when none or one is correct; a wrong answer keeps its bonus. Length plays no part; a rollout cut by
    the token limit is scored by the answer it got to. A problem without gold passages has no bonus.

    Args:
        group: The rollouts of one problem.
        outcome: Exact match, or F1 (without a special case for yes and no). [-]
        coverage: Over all searches together, or of the best single one. [-]
        gain_weight: Bonus for finding every gold passage. [reward]
        decay: What every search but the first leaves, once there are too many. [share of the reward]
        free_searches: Up to here nothing decays. [searches]

    Deviations: The authors' code takes the coverage of the best single search and looks gold passages up by the query's
        place in the batch instead of the rollout's, so that a rollout can get its neighbour's; by default coverage is
        that of all searches together, always with the rollout's own gold passages. Decay counts executed searches,
        theirs counts the turns in which the rollout was still unfinished. Without `golds` the verdict is the exact
        match, and the F1 of an answer cannot be had. `searches` must be the length of `retrieved`: a search that
        returned nothing stands there as an empty list.

    Gaming: A wrong answer is paid for good searches, and a second search is free whether it was needed or not.

    Source: Qian and Liu, "Scent of Knowledge: Optimizing Search-Enhanced Reasoning with Information Foraging";
        qhjqhj00/InForage, ``generation.py``, ``main_ppo.py``.

    >>> group = Group.of(
    ...     [True, False], [9, 9], searches=[3, 1], retrieved=[[["a", "x"], ["b"], ["x"]], [["a"]]], gold_ids=["a", "b"]
    ... )
    >>> inforage(group).round(4).tolist()
    [1.083, 0.1]
    """
    _refuse_other_counts(group)
    score = em_scores(group) if outcome == "em" else answer_scores(group, partial(token_f1, yes_no="off"))
    kept = np.where(group.searches > free_searches, decay ** np.maximum(group.searches - 1.0, 0.0), 1.0)
    return (score + gain_weight * _coverage(group, coverage)) * kept


def _refuse_other_counts(group: Group) -> None:
    for searches, retrieved in zip(group.searches.tolist(), group.retrieved, strict=True):
        if searches != len(retrieved):
            raise DataError(
                f"inforage: a rollout has {len(retrieved)} searches in 'retrieved' and {searches:g} in 'searches'",
                cure="give 'retrieved' one list per executed search, an empty one for a search that returned nothing",
            )


def _coverage(group: Group, over: str) -> Array:
    """The share of the gold passages that the searches found, shape (G,)."""
    wanted = set(map(str, group.gold_ids))
    if not wanted:
        return np.zeros(group.size)
    # Ids are compared as texts: the same passage may be 7 in one file and "7" in another.
    found = [[wanted.intersection(map(str, passages)) for passages in searches] for searches in group.retrieved]
    if over == "union":
        counts = [len(set().union(*searches)) for searches in found]
    else:
        counts = [max(map(len, searches), default=0) for searches in found]
    return np.array(counts) / len(wanted)


@reward(
    paper="arXiv:2510.07794",
    scope="rollout",
    needs=("searches", "over_searches", "reasoning_steps", "under_searches"),
    uses=("golds", "answer", "text", "well_formed"),
    claims=("right_above_wrong", "shorter_is_no_worse", "no_length_pressure_on_wrong"),
)
def hiprag(
    group: Group, *, format_weight: Share = 0.2, process_bonus: NonNegative = 0.4, as_released: bool = False
) -> Array:
    """A right, well formed answer earns a bonus for the share of its steps that searched just when it was needed.

    Formula, with m executed searches, o of them needless, k reasoning steps without a search, u of them wrong for want
    of one::

        r = 1 + process_bonus * ((m - o) + (k - u)) / (m + k)    if correct and well formed
            1 - format_weight                                    if correct
            format_weight                                        if well formed
            0                                                    otherwise

    An episode without any step has the full bonus. As released the denominator is m, and the bonus is full at m = 0.
    Correct means that a gold stands in the answer. Each rollout is scored alone, so nothing changes when none or one is
    correct. Length plays no part; a rollout cut by the token limit has no closed answer, so that its text is not well
    formed. Without a text and `well_formed`, a rollout without an answer is malformed and every other one well formed.

    Args:
        group: The rollouts of one problem.
        format_weight: Lost by a right answer in the wrong form, earned by a wrong one in the right form. [reward]
        process_bonus: Of a rollout with no step to blame. [reward]
        as_released: Divide by the searches alone, as the authors' code does. [-]

    Deviations: The authors' code divides by the number of searches instead of all steps, so that good reasoning steps
        push the bonus above ``process_bonus`` and bad ones go unpunished without a search; see ``as_released``. Their
        judge's findings come as the columns `over_searches` (the query alone, asked again, gave the same conclusion)
        and `under_searches` (the step's conclusion is false). Without `golds` the verdict says what is correct.

    Gaming: Splitting easy reasoning into many steps raises the share of good ones; whoever judges the steps is what is
        trained against.

    Source: Wu et al., "HiPRAG: Hierarchical Process Rewards for Efficient Agentic Retrieval Augmented Generation";
        qualidea1217/HiPRAG, ``qa_em_format.py``.

    >>> group = Group.of(
    ...     [True, True, False], [9, 9, 9], well_formed=[True, True, True], searches=[2, 1, 0], over_searches=[1, 0, 0],
    ...     reasoning_steps=[0, 1, 1], under_searches=[0, 0, 1],
    ... )
    >>> hiprag(group).round(4).tolist(), hiprag(group, as_released=True).round(4).tolist()
    ([1.2, 1.4, 0.2], [1.2, 1.8, 0.2])
    """
    _refuse_impossible(group, "over_searches", "searches")
    _refuse_impossible(group, "under_searches", "reasoning_steps")
    right = match_scores(group, _stands_in) == 1
    formed = well_formed(group, is_hiprag)
    steps = group.searches if as_released else group.searches + group.reasoning_steps
    good = group.searches - group.over_searches + group.reasoning_steps - group.under_searches
    share = np.divide(good, steps, out=np.ones(group.size), where=steps > 0)
    best = np.where(formed, 1.0 + process_bonus * share, 1.0 - format_weight)
    return np.where(right, best, format_weight * formed)


def _refuse_impossible(group: Group, blamed: str, all_of_them: str) -> None:
    """A rollout cannot have more steps to blame than steps."""
    some, every = getattr(group, blamed), getattr(group, all_of_them)
    for at in np.flatnonzero(some > every)[:1]:
        raise DataError(
            f"hiprag: a rollout has {some[at]:g} {blamed!r} among {every[at]:g} {all_of_them!r}",
            cure=f"count in {blamed!r} only steps that are counted in {all_of_them!r}",
        )


def _stands_in(prediction: str, golds: Sequence[str]) -> float:
    """Cover match after HiPRAG's own normaliser; an empty answer never matches."""
    said = _normalize(prediction)
    return float(bool(prediction) and any(_normalize(gold) in said for gold in golds))


def _normalize(text: str) -> str:
    """Unlike SQuAD's: articles go first, and punctuation leaves a space, so that "New-York" becomes "new york"."""
    return " ".join(_ARTICLES.sub(" ", text.lower()).translate(_PUNCTUATION_TO_SPACE).split())
