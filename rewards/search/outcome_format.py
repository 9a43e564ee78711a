"""Rewards for the answer and the form of a search episode; a search costs nothing."""

from __future__ import annotations

import re
from typing import Literal

import numpy as np

from laconic.rewards.group import Array, Group
from laconic.rewards.registry import Share, reward
from laconic.rewards.search.formats import is_search_r1, well_formed
from laconic.rewards.search.markup import has_answer
from laconic.rewards.search.qa import cover_scores, em_scores, f1_scores, normalize_answer, required_golds

_INFORMATION = re.compile(r"<information>(.*?)</information>", re.DOTALL)


@reward(
    paper="arXiv:2503.09516",
    scope="rollout",
    uses=("golds", "answer", "text", "well_formed", "passages"),
    claims=(
        "right_above_wrong",
        "shorter_is_no_worse",
        "no_length_pressure_on_wrong",
        "fewer_searches_is_no_worse",
        "no_search_pressure_on_wrong",
    ),
)
def search_r1(
    group: Group,
    *,
    variant: Literal["em", "f1", "cover_em", "format"] = "em",
    structure_format_score: Share = 0.2,
    final_format_score: Share = 0.1,
    retrieval_score: Share = 0.0,
) -> Array:
    """The answer's exact match; as variants its F1, its cover match, or exact match with a score for the format.

    Formula, with the golds' best score, after SQuAD's normaliser::

        em:        r = 1 if the answer is a gold, else 0
        f1:        r = F1 of the words of answer and gold
        cover_em:  r = 1 if a gold stands in the answer, else 0
        format:    exact match:  r = 1 if well formed, else 1 - structure_format_score
                   otherwise:    r = structure_format_score + retrieval_score * hit  if well formed
                                     final_format_score                              if there is an answer
                                     0                                               else

    ``hit`` is 1 if a gold stands in a retrieved passage. Each rollout is scored alone, so nothing changes when none or
    one is correct. The format is (think, search, information) any number of times, then think, answer. A rollout cut
    by the token limit is scored by the answer it got to. Rollouts with neither `answer` nor `text` are scored by their
    verdict; so are all of a problem without `golds`, where "f1" and ``retrieval_score`` cannot be had. Where neither
    `text` nor `well_formed` tells the form, a rollout without an answer is malformed and every other one well formed.

    Args:
        group: The rollouts of one problem.
        variant: What is scored. [-]
        structure_format_score: Of a well formed wrong answer; what a right one loses that is not. [reward]
        final_format_score: Of a wrong answer that is not well formed. [reward]
        retrieval_score: Added for a gold in the passages of a well formed wrong rollout; the paper's ablation has 0.1.
            [reward]

    Deviations: The authors score prompt and completion together and therefore want two answers, the prompt's example
        and the model's; here the completion alone is scored and one answer is enough. The column `well_formed`, where
        given, replaces their reading of tags, `passages` their reading of information blocks. The paper scores by exact
        match; F1 is what later papers score in its place.

    Gaming: No search is too many. With `format`, a wrong answer in good form earns more than one in bad form, and with
        `retrieval_score` a search is paid for even where it does not help.

    Source: Jin et al., "Search-R1: Training LLMs to Reason and Leverage Search Engines with Reinforcement Learning";
        "An Empirical Study on Reinforcement Learning for Reasoning-Search Interleaved LLM Agents", arXiv:2505.15117
        (format); PeterGriffinJin/Search-R1, ``qa_em.py``, ``qa_em_format.py``.

    >>> group = Group.of([True, False], [9, 9], answer=["the Seine", "Rhine"], golds=["Seine"])
    >>> search_r1(group).tolist(), search_r1(group, variant="format").tolist()
    ([1.0, 0.0], [1.0, 0.2])
    """
    if variant == "f1":
        return f1_scores(group)
    if variant == "cover_em":
        return cover_scores(group)
    right = em_scores(group)
    if variant == "em":
        return right
    formed = well_formed(group, is_search_r1)
    hit = _retrieved(group) if retrieval_score else 0.0
    wrong = np.where(formed, structure_format_score + retrieval_score * hit, final_format_score * has_answer(group))
    return np.where(right, 1.0 - structure_format_score * ~formed, wrong)


def _retrieved(group: Group) -> Array:
    """Whether a gold stands in what a search returned, shape (G,)."""
    golds = [normalize_answer(gold) for gold in required_golds(group, "looks for them in the passages")]
    found = [any(gold in block for block in blocks for gold in golds) for blocks in _blocks(group)]
    return np.array(found, dtype=bool)


def _blocks(group: Group) -> list[list[str]]:
    """The normalised text that each search returned, one list per rollout."""
    if group.passages is not None:
        searches = [["\n".join(passages) for passages in rollout] for rollout in group.passages]
    else:
        searches = [_INFORMATION.findall(text or "") for text in group.text or [""] * group.size]
    return [[normalize_answer(block) for block in blocks] for blocks in searches]
