"""Rewards that ask whether a question needed a search at all: inside the knowledge boundary a search costs.

In all formulas ``m`` is the number of executed searches and ``c`` is 1 for a correct rollout and 0 for a wrong one.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from laconic.rewards.group import Array, Group
from laconic.rewards.registry import Count, NonNegative, Share, reward
from laconic.rewards.search.formats import is_ikea, is_search_r1, well_formed
from laconic.rewards.search.qa import answer_scores, em_scores, token_f1


@reward(
    paper="arXiv:2505.07596",
    scope="rollout",
    needs=("searches",),
    uses=("invalid_actions", "well_formed", "text"),
    claims=("shorter_is_no_worse", "no_length_pressure_on_wrong", "fewer_searches_is_no_worse"),
)
def ikea(
    group: Group,
    *,
    knowledge_bonus: NonNegative = 0.6,
    max_searches: Count = 3,
    attempt_score: NonNegative = 0.05,
    invalid_penalty: NonNegative = 1.0,
) -> Array:
    """A right answer earns more the fewer searches it took; a wrong one earns a little if it searched at all.

    Formula::

        r = -invalid_penalty                                        if an action was invalid or the form is wrong
            1 + knowledge_bonus * max(0, 1 - m / max_searches)      if correct
            attempt_score                                           if wrong and m > 0
            0                                                       if wrong and m = 0

    With the defaults a correct rollout gets 1.6, 1.4, 1.2 and from three searches on 1. What was invalid is said by
    `invalid_actions` and `well_formed`; where neither is given it is read from the text: no thinking between tags, a
    half bracket at "think", "search" or "answer", as in "(search" or "answer]", or the hint that answers an invalid
    action. Each rollout is scored alone, so nothing changes when none or one is correct. Length plays no part; a
    rollout cut by the token limit counts as its verdict says, unless its form is wrong.

    Args:
        group: The rollouts of one problem.
        knowledge_bonus: Of a correct answer without a search. [reward]
        max_searches: From here on a correct answer has no bonus. [searches]
        attempt_score: Of a wrong answer after at least one search. [reward]
        invalid_penalty: Lost, with everything else, by an invalid rollout. [reward]

    Deviations: The authors count search tags in the text; here searches are executed ones. They always read the form
        from the text; here the two columns come first, and without them and without `text` nothing is invalid. Their
        label of known and unknown questions does not enter the reward, there or here: the balance comes from training
        on half easy and half hard questions.

    Gaming: One pointless search turns a wrong answer from 0 into ``attempt_score``. Read from text, "(I think)" in a
        retrieved passage is an invalid rollout.

    Source: Huang et al., "Reinforced Internal-External Knowledge Synergistic Reasoning for Efficient Adaptive Search
        Agent"; hzy312/knowledge-r1, ``qa_em.py``.

    >>> ikea(Group.of([True, True, True, False, False], [9] * 5, searches=[0, 1, 3, 0, 2])).round(4).tolist()
    [1.6, 1.4, 1.0, 0.0, 0.05]
    """
    bonus = knowledge_bonus * np.maximum(0.0, 1.0 - group.searches / max_searches)
    rewards = np.where(group.correct, 1.0 + bonus, attempt_score * (group.searches > 0))
    return np.where(_invalid(group), -invalid_penalty, rewards)


def _invalid(group: Group) -> Array:
    """Which rollouts did something invalid, shape (G,): what was recorded comes before what the text shows."""
    if group.well_formed is None and group.invalid_actions is None:
        return np.array([text is not None and not is_ikea(text) for text in group.text or [None] * group.size])
    invalid = np.zeros(group.size, dtype=bool)
    if group.invalid_actions is not None:
        invalid |= group.invalid_actions > 0
    if group.well_formed is not None:
        invalid |= ~group.well_formed
    return invalid


@reward(
    paper="arXiv:2605.29796",
    needs=("searches",),
    uses=("golds", "answer", "text", "well_formed", "search_enabled", "queries"),
    claims=("shorter_is_no_worse", "no_length_pressure_on_wrong", "fewer_searches_is_no_worse"),
)
def saas(
    group: Group,
    *,
    search_cost: NonNegative = 0.05,
    solved_without: Count = 2,
    format_score: Share = 0.1,
    duplicate_cost: NonNegative = 0.1,
) -> Array:
    """Searches cost where the search-disabled half of the group shows that none, or fewer, would have done.

    Formula, with m the executed searches and s the F1 of the answer, or ``format_score`` if that is 0 and the rollout
    is well formed::

        r = s - cost - duplicate_cost * (some query was asked twice)
        cost = 0                                 unless s = 1
               search_cost * m                   no search needed: at least `solved_without` search-disabled rollouts
                                                 are exact matches
               search_cost * max(0, m - n)       search needed: else, some search-enabled rollout is an exact match;
                                                 n = the fewest searches of those
               0                                 undetermined: else

    With none correct no search costs. Without the column `search_enabled` all rollouts were allowed to search, and n is
    taken over all of them. Rollouts with neither `answer` nor `text` are scored by their verdict. One without an answer
    is not well formed. Length plays no part; a rollout cut by the token limit is scored by the answer it got to.

    Args:
        group: The rollouts of one problem, some of them with search disabled (the paper: 4 of 8).
        search_cost: Of one search too many. [reward]
        solved_without: Search-disabled exact matches that show a question to need no search. [rollouts]
        format_score: Of a well formed answer that shares no word with a gold. [reward]
        duplicate_cost: Of asking the same query twice in one rollout. [reward]

    Deviations: As the authors' README describes it. As shipped, their function for single-hop questions has the last
        two cases only, with n over all rollouts (what happens here without `search_enabled`), the other one stops with
        a NameError, and the rollouts that should not search can. Their optional penalty for repeated text, off in
        their script, is left out; so is their first training stage without cost, which is a recipe's ``warmup``.
        Queries are equal when their texts are. F1 scores an answer yes or no by whether the gold is the same, as in
        the authors' code, but not a gold that is yes or no. As there, what a question needs is told by exact matches,
        and who pays by s: the gold's words in another order, an F1 of 1, pay for their searches but show nothing.

    Gaming: Only exact answers pay for their searches: an answer that is partly right searches for free. Two lucky
        guesses among the search-disabled rollouts make every search of their siblings expensive.

    Source: Tang et al., "SAAS: Self-Aware Reinforcement Learning for Over-Search Mitigation in Agentic Search";
        XMUDeepLIT/SAAS, ``search/generate_with_search.py``, ``search/utils.py``.

    >>> group = Group.of(
    ...     [True, True, True, False], [9, 9, 9, 9], searches=[0, 0, 2, 1], search_enabled=[False, False, True, True],
    ...     answer=["Seine", "the Seine", "Seine", "Rhine"], golds=["Seine"],
    ... )
    >>> saas(group).round(4).tolist()
    [1.0, 1.0, 0.9, 0.1]
    """
    score = answer_scores(group, partial(token_f1, yes_no="prediction"))
    score = np.where((score == 0) & well_formed(group, is_search_r1), format_score, score)
    cost = search_cost * np.maximum(0.0, group.searches - _free_searches(group, solved_without))
    return score - np.where(score == 1, cost, 0.0) - duplicate_cost * _asked_twice(group)


def _free_searches(group: Group, solved_without: int) -> float:
    """How many searches cost nothing, by what the siblings needed; infinite if nobody knows."""
    exact = em_scores(group) == 1
    enabled = np.ones(group.size, dtype=bool) if group.search_enabled is None else group.search_enabled
    if np.count_nonzero(exact & ~enabled) >= solved_without:
        return 0.0
    return float(group.searches[exact & enabled].min(initial=np.inf))


def _asked_twice(group: Group) -> Array:
    if group.queries is None:
        return np.zeros(group.size, dtype=bool)
    return np.array([len(set(queries)) < len(queries) for queries in group.queries], dtype=bool)
