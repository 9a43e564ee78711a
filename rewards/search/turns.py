"""Rewards for each turn of a rollout: did this search bring the answer, and was it already known before?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from laconic.rewards.group import Array, Group
from laconic.rewards.registry import NonNegative, reward
from laconic.rewards.search.markup import has_answer
from laconic.rewards.search.qa import em_scores, exact_match, normalize_answer
from laconic.rewards.search.retrieval_gain import rounded_f1
from laconic.rewards.search.tfidf import similarities

_MALFORMED = -0.5
_TOO_LATE = -0.05
_EXPLORE = 0.0125
_SHARED = 0.4
_PER_SEARCH = 0.05
_SAME_QUERY = 0.8


@reward(
    paper="arXiv:2604.17337",
    scope="rollout",
    needs=("golds", "queries", "self_answers"),
    uses=("answer", "text", "well_formed", "invalid_actions"),
    claims=("shorter_is_no_worse", "no_length_pressure_on_wrong"),
    slow="compares every query with the earlier ones of its rollout by TF-IDF",
)
def auto_search(group: Group, *, structure_score: NonNegative = 0.2, final_score: NonNegative = 0.1) -> Array:
    """Searches are paid until the model could have answered; every turn after that costs.

    Formula, summed over the turns of `turn_rewards`::

        search t     + structure_score / 8, minus it for a repeated query or an invalid action
                     + max(0, F1(self-answer t) - best F1 so far)
        last turn    + final_score if well formed, else - 0.5;  + EM(answer)
        right        + 0.5 * (0.4 / k - 0.05) for each valid turn up to t* (without t*: for each valid turn)
        wrong        + 0.0125 for each valid turn
        after t*     - 0.05 instead of all of the above

    t* is the first search, not the last one, after which the model's own answer is right; k is t*, or the number of
    turns before the last. The two lines for right and wrong hold for rollouts that searched. A rollout's reward depends
    on no other, so none correct, one correct and equal lengths change nothing. One cut by the token limit has no
    answer and a malformed last turn.

    Args:
        group: The rollouts of one problem.
        structure_score: Eight times what a valid search turn earns. [reward]
        final_score: Of a well-formed last turn. [reward]

    Deviations: The released code compares self-answers with the first accepted answer only; here with all. There, its
        "+0.2 for a direct answer" can never be reached and is left out. There, the bonus of a right answer stops at the
        first invalid or repeated turn before t*; here such a turn alone goes without. There, the gain of the t-th
        search lands on the t-th turn, which after an invalid turn is another one; here on its own. Where invalid
        actions stand is not recorded: they count as turns before the last one. Over-searching costs the last turn's EM
        too, as released. The paper gives each turn its reward at its last token; here they are added up.

    Gaming: One search earns more than none (2.475 to 1.1 when right): a model that knows the answer asks for it
        anyway. A wrong rollout is paid for every new query.

    Source: Sun et al., "AutoSearch: Adaptive Search Depth for Efficient Agentic RAG via Reinforcement Learning";
        bofusun/AutoSearch, ``verl/trainer/main_ppo_format_turn_new78.py``.

    >>> group = Group.of(
    ...     correct=[True, True], length=[40, 90], golds=["Paris"], answer=["Paris", "Paris"],
    ...     queries=[[], ["capital of France"]], self_answers=[[], ["Paris"]],
    ... )
    >>> auto_search(group).round(4).tolist()
    [1.1, 2.475]
    """
    assert group.queries is not None
    assert group.self_answers is not None
    invalid = np.zeros(group.size) if group.invalid_actions is None else np.nan_to_num(group.invalid_actions)
    formed = has_answer(group) if group.well_formed is None else has_answer(group) & group.well_formed
    rows = zip(group.queries, group.self_answers, em_scores(group), formed, invalid, strict=True)
    return np.array(
        [
            sum(
                turn_rewards(
                    queries,
                    self_answers,
                    group.golds or (),
                    correct=bool(em),
                    well_formed=bool(is_formed),
                    invalid_actions=int(invalid_turns),
                    structure_score=structure_score,
                    final_score=final_score,
                )
            )
            for queries, self_answers, em, is_formed, invalid_turns in rows
        ]
    )


def turn_rewards(
    queries: Sequence[str],
    self_answers: Sequence[str],
    golds: Sequence[str],
    *,
    correct: bool,
    well_formed: bool = True,
    invalid_actions: int = 0,
    structure_score: float = 0.2,
    final_score: float = 0.1,
) -> list[float]:
    """The reward at the end of each turn of one rollout: its searches, its invalid actions, its last turn.

    Args:
        queries: Of the executed searches.
        self_answers: What the model would have answered after each of them.
        golds: Every accepted answer.
        correct: The final answer is one of them.
        well_formed: The last turn has the form the prompt asked for.
        invalid_actions: Turns that were answered by a hint.
        structure_score: See `auto_search`.
        final_score: See `auto_search`.

    >>> parts = turn_rewards(["hamlet author"], ["Shakespeare"], ["Shakespeare"], correct=True)
    >>> [round(part, 4) for part in parts]
    [1.2, 1.275]
    """
    valid = [not is_repeated(query, queries[:turn]) for turn, query in enumerate(queries)]
    valid += [False] * invalid_actions
    form = structure_score / 8
    rewards = [form if is_valid else -form for is_valid in valid]
    rewards.append((final_score if well_formed else _MALFORMED) + correct)
    for turn, gain in enumerate(self_answer_gains(self_answers[: len(queries)], golds)):
        rewards[turn] += gain
    if not queries:
        return rewards
    sufficient = sufficient_search(self_answers[: len(queries)], golds)
    useful = len(valid) if sufficient is None else sufficient + 1
    bonus = 0.5 * (_SHARED / useful - _PER_SEARCH) if correct else _EXPLORE
    rewards = [part + bonus * is_valid for part, is_valid in zip(rewards, [*valid, well_formed], strict=True)]
    return rewards if sufficient is None else rewards[:useful] + [_TOO_LATE] * (len(rewards) - useful)


def self_answer_gains(self_answers: Sequence[str], golds: Sequence[str]) -> list[float]:
    """Per search, by how much its self-answer's F1 exceeds the best before it.

    >>> self_answer_gains(["Bacon", "Shakespeare", "Shakespeare"], ["Shakespeare"])
    [0.0, 1.0, 0.0]
    """
    best, gains = 0.0, []
    for said in self_answers:
        score = rounded_f1(said, golds)
        gains.append(max(0.0, score - best))
        best = max(best, score)
    return gains


def sufficient_search(self_answers: Sequence[str], golds: Sequence[str]) -> int | None:
    """Index of the first search, the last one left out, after which the self-answer is right; None if there is none.

    >>> sufficient_search(["Bacon", "Shakespeare", "Shakespeare"], ["Shakespeare"])
    1
    """
    return next((turn for turn, said in enumerate(self_answers[:-1]) if exact_match(said, golds)), None)


def is_repeated(query: str, earlier: Sequence[str]) -> bool:
    """The query is empty, or its TF-IDF cosine with an earlier one of the rollout is above 0.8.

    >>> is_repeated("Author: Hamlet", ["hamlet author"]), is_repeated("author of Macbeth", ["hamlet author"])
    (True, False)
    """
    said, before = normalize_answer(query), [normalize_answer(other) for other in earlier]
    return not said or said in before or any(value > _SAME_QUERY for value in similarities(said, tuple(before)))
