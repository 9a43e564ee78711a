"""Rewards for what each search brought: passages like those that hold the answer, and none seen before."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from laconic.rewards.group import Array, Group
from laconic.rewards.registry import NonNegative, reward
from laconic.rewards.search.formats import well_formed
from laconic.rewards.search.markup import has_answer, nothing_after_answer
from laconic.rewards.search.qa import answer_scores, normalize_answer, token_f1
from laconic.rewards.search.tfidf import similarities


@reward(
    paper="arXiv:2505.15107",
    scope="rollout",
    needs=("queries", "gold_queries", "passages", "gold_passages"),
    uses=("golds", "answer", "text", "well_formed", "retrieved"),
    claims=("shorter_is_no_worse", "no_length_pressure_on_wrong"),
    slow="compares every passage with every gold passage by TF-IDF; what was compared before is remembered",
)
def step_search(group: Group, *, key_weight: NonNegative = 0.618, step_weight: NonNegative = 0.6) -> Array:
    """Answer F1, a bonus for asking the right sub-questions, and per search what is new minus what is repeated.

    Formula::

        r = F1 + key_weight * key + step_weight * sum over searches of (gain - redundancy)
        r = -1  without an answer, or with text after it

        key         mean over sub-questions of the best F1 of a query that fits this one better than the others
        gain        mean over gold passages of how much the best TF-IDF cosine seen so far grew
        redundancy  share of the returned passages that this rollout had already seen

    A rollout's reward depends on no other, so none correct, one correct and equal lengths change nothing. One cut by
    the token limit before its answer gets -1. Text after the answer means text after the last ``</answer>``. Passages
    are their bodies, without a title. They are the same if their ids (`retrieved`) are, or their texts where there are
    no ids. Rollouts with neither `answer` nor `text` are scored by their verdict. The parts are public: `key_score`,
    `information_gains`, `redundancies`; a trainer with token-level rewards puts each step's part on its search.

    Args:
        group: The rollouts of one problem.
        key_weight: Of the sub-question bonus. [reward]
        step_weight: Of gain and redundancy; 0 leaves the released code's score of the whole completion. [reward]

    Deviations: The released code writes a step's score into the row that it then adds to itself, so that steps weigh
        1.6 instead of 0.6; a later, weaker query overwrites a better match of the same sub-question; passages are
        compared by text. None of it is followed. Each F1 is rounded to four digits and has no rule for yes and no, as
        there. The paper's steps are rewards of tokens; here they are added up, and ``step_weight=0`` gives the score
        that the released code puts on the last token.

    Gaming: A wrong answer after good searches earns up to ``key_weight + step_weight``, a right one without any
        search 1: there is always a reason to search.

    Source: Wang et al., "StepSearch: Igniting LLMs Search Ability via Step-Wise Proximal Policy Optimization";
        Zillwang/StepSearch, ``verl/utils/reward_score/qa_step.py``.

    >>> group = Group.of(
    ...     correct=[True, True], length=[40, 90], answer=["Paris", "Paris"], golds=["Paris"],
    ...     queries=[[], ["capital of France"]], gold_queries=[["capital of France"]],
    ...     passages=[[], [["Paris is the capital of France", "Lyon"]]],
    ...     gold_passages=["Paris is the capital of France"],
    ... )
    >>> step_search(group).round(4).tolist()
    [1.0, 2.218]
    """
    assert group.queries is not None
    assert group.passages is not None
    seen = group.passages if group.retrieved is None else group.retrieved
    golds, gold_queries = group.gold_passages or (), group.gold_queries or ()
    keys = np.array([key_score(queries, gold_queries) for queries in group.queries])
    steps = np.array(
        [
            sum(information_gains(passages, golds)) - sum(redundancies(list(map(_as_texts, ids)))) if golds else 0.0
            for passages, ids in zip(group.passages, seen, strict=True)
        ]
    )
    score = answer_scores(group, rounded_f1) + key_weight * keys + step_weight * steps
    return np.where(has_answer(group) & well_formed(group, nothing_after_answer), score, -1.0)


def _as_texts(ids: Sequence[object]) -> list[str]:
    """Ids may be numbers in one search and texts in the next."""
    return list(map(str, ids))


def rounded_f1(prediction: str | None, golds: Sequence[str]) -> float:
    """`token_f1` without its rule for yes and no, rounded to four digits: StepSearch's and AutoSearch's."""
    return round(token_f1(prediction, golds, yes_no="off"), 4)


def key_score(queries: Sequence[str], gold_queries: Sequence[Sequence[str]]) -> float:
    """How many of the sub-questions were asked: mean over them of the best match among the queries, from 0 to 1.

    Args:
        queries: Of the executed searches.
        gold_queries: Per sub-question the queries that fit it.

    >>> key_score(["hamlet author"], [["author of hamlet", "hamlet author"], ["shakespeare birthplace"]])
    0.5
    """
    best = [0.0] * len(gold_queries)
    for query in queries:
        matches = [rounded_f1(query, fitting) for fitting in gold_queries]
        if any(matches):
            nearest = matches.index(max(matches))
            best[nearest] = max(best[nearest], matches[nearest])
    return sum(best) / len(best) if best else 0.0


def information_gains(passages: Sequence[Sequence[str]], gold_passages: Sequence[str]) -> list[float]:
    """Per search, the mean over gold passages of how much the best similarity seen so far grew.

    Args:
        passages: The texts that each search returned.
        gold_passages: The texts that hold the answer, at least one.

    >>> information_gains([["red apple"], ["green pear", "red apple"]], ["red apple", "green pear"])
    [0.5, 0.5]
    """
    golds = tuple(map(normalize_answer, gold_passages))
    best = np.zeros(len(golds))
    gains = []
    for returned in passages:
        found = [similarities(normalize_answer(passage), golds) for passage in returned]
        reached = np.max([best, *found], axis=0)
        gains.append(float((reached - best).mean()))
        best = reached
    return gains


def redundancies(retrieved: Sequence[Sequence[str]]) -> list[float]:
    """Per search, the share of the passages it returned that were seen before; 0 for one that returned nothing.

    >>> redundancies([["p1", "p2"], ["p2", "p3"], []])
    [0.0, 0.5, 0.0]
    """
    seen: set[str] = set()
    shares = []
    for returned in retrieved:
        repeated = 0
        for passage in returned:
            repeated += passage in seen
            seen.add(passage)
        shares.append(repeated / len(returned) if returned else 0.0)
    return shares
