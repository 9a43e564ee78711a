"""Rewards of the answer and its form, without a price for searching: ReSearch, ZeroSearch, SSRL; and SEM, with one."""

from __future__ import annotations

import numpy as np

from laconic.rewards.boxed import last_boxed
from laconic.rewards.group import Array, Group
from laconic.rewards.registry import NonNegative, Share, reward
from laconic.rewards.search.formats import form_scores, well_formed
from laconic.rewards.search.markup import has_answer, is_research_form, ssrl_form
from laconic.rewards.search.qa import answer_scores, em_scores, exact_match, token_f1

_BLIND = (
    "right_above_wrong",
    "shorter_is_no_worse",
    "no_length_pressure_on_wrong",
    "fewer_searches_is_no_worse",
    "no_search_pressure_on_wrong",
)


@reward(
    paper="arXiv:2503.19470",
    scope="rollout",
    uses=("golds", "answer", "text", "well_formed", "finished"),
    claims=_BLIND,
)
def research(group: Group, *, form_score: NonNegative = 0.1) -> Array:
    r"""ReSearch: answer F1, a little for a wrong answer in the right form, nothing in the wrong form.

    Formula::

        r = F1          if well formed, finished and F1 > 0
        r = form_score  if well formed, finished and F1 = 0
        r = 0           otherwise

    Well formed: thinks paired, each search closed and followed by a result, one answer, and in it a ``\boxed{}`` whose
    content is what is scored. It is read from the text, or taken from the column `well_formed`. Rollouts with neither
    `answer` nor `text` are scored by their verdict. A rollout's reward depends on no other, so none correct, one
    correct and equal lengths change nothing; one cut by the token limit gets 0.

    Args:
        group: The rollouts of one problem.
        form_score: Of a wrong answer in the right form. [reward]

    Deviations: The released code asks for the end-of-sequence token in the text; here the column `finished` says it.
        The protocol of ReCall, the later version with tool calls, is not read: give its rollouts `well_formed`.

    Gaming: Searches cost nothing, and one shared word is enough to leave the floor.

    Source: Chen et al., "ReSearch: Learning to Reason with Search for LLMs via Reinforcement Learning";
        Agent-RL/ReCall, branch re-search, ``src/verl/utils/reward_score/re_search.py``.

    >>> text = [r"<think>a</think> <answer>\boxed{Paris}</answer>", r"<think>a</think> <answer>\boxed{Rome}</answer>"]
    >>> text += ["<think>a</think> <answer>Paris</answer>"]
    >>> research(Group.of(correct=[True, False, True], length=[9, 9, 8], text=text, golds=["Paris"])).tolist()
    [1.0, 0.1, 0.0]
    """
    f1 = answer_scores(group, lambda said, golds: token_f1(_unboxed(said), golds))
    valid = has_answer(group) & group.finished & well_formed(group, is_research_form)
    return np.where(valid, np.where(f1 > 0, f1, form_score), 0.0)


def _unboxed(answer: str) -> str | None:
    """What is in the box, for an answer as it stands between its tags; one that was read already stays as it is."""
    return last_boxed(answer) if "\\boxed{" in answer else answer


@reward(paper="arXiv:2505.04588", scope="rollout", uses=("golds", "answer", "text"), claims=_BLIND)
def zero_search(group: Group) -> Array:
    """ZeroSearch: answer F1, and nothing else.

    Formula::

        r = F1

    A rollout's reward depends on no other, so none correct, one correct and equal lengths change nothing; one cut by
    the token limit before its answer gets 0. Rollouts with neither `answer` nor `text` are scored by their verdict.
    What is particular to the paper is the engine, simulated by a model that returns useless documents more and more
    often: `noise_probability` has that curriculum.

    Args:
        group: The rollouts of one problem.

    Deviations: The released code fails on a completion without an answer; here it gets 0. As there, F1 has no rule for
        yes and no. What that code logs as exact match is a cover match.

    Gaming: Any shared word is paid: a long answer that names many candidates is never at 0.

    Source: Sun et al., "ZeroSearch: Incentivize the Search Capability of LLMs without Searching";
        Alibaba-NLP/ZeroSearch, ``verl/utils/reward_score/qa_em.py``.

    >>> answer = ["Paris", "It is Paris in France", "Rome", None]
    >>> zero_search(Group.of(correct=[True] * 2 + [False] * 2, length=[9] * 4, answer=answer, golds=["Paris"])).tolist()
    [1.0, 0.3333333333333333, 0.0, 0.0]
    """
    return answer_scores(group, lambda said, golds: token_f1(said, golds, yes_no="off"))


def noise_probability(step: int, total: int, *, start: float = 0.0, end: float = 0.5, base: float = 4.0) -> float:
    """ZeroSearch's curriculum: how likely the simulated engine returns useless documents at a training step.

    It goes from `start` to `end`, slowly at first: ``start + (base^p - 1) / (base - 1) * (end - start)`` with p the
    share of training that is done.

    Args:
        step: Training steps done.
        total: Training steps of the whole run.
        start: Probability at the beginning.
        end: Probability at the end.
        base: How late most of the rise comes; above 1.

    >>> round(noise_probability(50, 203), 6)
    0.067831
    """
    done = min(step / total, 1.0)
    return start + (base**done - 1.0) / (base - 1.0) * (end - start)


@reward(paper="arXiv:2508.10874", scope="rollout", uses=("golds", "answer", "text", "well_formed"), claims=_BLIND)
def ssrl(group: Group, *, em_weight: NonNegative = 0.9, form_weight: NonNegative = 0.1) -> Array:
    """SSRL: exact match, and a little for as many thoughts as searches ask for.

    Formula::

        r = em_weight * EM + form_weight * form
        form = min(thinks / 2, 1) * min(thinks, searches + 1) / max(thinks, searches + 1)

    The model writes queries and information itself, so thinks and searches are counted in the text; there is no engine.
    The form is 0 above eight thinks, for other tags, nested or open ones, a query that is empty, of several lines or a
    placeholder ("your query"), and a search without information right after it. Rollouts with the column `well_formed`
    are not read: their form is 1 or 0; without a text it is 1 for one with an answer. Without `golds`, or with neither
    `answer` nor `text`, the verdict is the exact match. A rollout's reward depends on no other, so none correct, one
    correct and equal lengths change nothing; one cut by the token limit has an open tag, or no answer.

    Args:
        group: The rollouts of one problem.
        em_weight: Of the answer. [reward]
        form_weight: Of the form. [reward]

    Deviations: Which texts count as placeholders is ours but for "your query".

    Gaming: A right answer without a search earns 0.95 and one with a search 1, so one search that nobody needs is
        worth writing; its information is the model's own and can be anything.

    Source: "SSRL: Self-Search Reinforcement Learning"; TsinghuaC3I/SSRL, ``verl/workers/reward_manager/naive.py``.

    >>> searched = "<think>a</think><search>q?</search><information>i</information><think>b</think>"
    >>> text = [searched + "<answer>Paris</answer>", "<think>a</think><answer>Paris</answer>"]
    >>> ssrl(Group.of(correct=[True, True], length=[40, 9], text=text, golds=["Paris"])).round(4).tolist()
    [1.0, 0.95]
    """
    return em_weight * em_scores(group) + form_weight * form_scores(group, ssrl_form)


@reward(
    paper="arXiv:2505.07903",
    scope="rollout",
    needs=("golds", "searches", "text"),
    claims=_BLIND,
)
def sem(group: Group, *, needless: Share = 0.5) -> Array:
    """SEM, our own reading: a search that a right first answer made needless costs part of the reward.

    Formula::

        r = c * (1 - needless * [it searched, though its first answer was right])

    The completion gives a first answer before it may search, and a last one after. The first answer is the content of
    the first ``<answer>``, if that stands before the first ``<search>``; it is right if it matches a gold exactly. So a
    right answer without a search, and one that a search corrected, earn 1. Wrong rollouts get 0: none correct gives 0
    for all, and equal lengths and a cut by the token limit change nothing beside the verdict c.

    Args:
        group: The rollouts of one problem.
        needless: What such a search costs. [share of the reward]

    Deviations: No code was released, and the exact cases of the paper's reward could not be verified: the abstract asks
        for accurate answers without unnecessary search, and for search where it is needed. The price and the
        multiplication by correctness are ours. Do not report numbers made with it as SEM's.

    Gaming: A model that leaves out its first answer, or answers wrongly at first, searches for free.

    Source: Sha, Cui and Wang, "SEM: Reinforcement Learning for Search-Efficient Large Language Models", abstract.

    >>> first, rest = "<answer>Paris</answer>", "<search>q</search><answer>Paris</answer>"
    >>> text = [first, first + rest, "<answer>Rome</answer>" + rest]
    >>> sem(Group.of(correct=[True] * 3, length=[9] * 3, searches=[0, 1, 1], text=text, golds=["Paris"])).tolist()
    [1.0, 0.5, 1.0]
    """
    assert group.text is not None
    assert group.searches is not None
    golds = group.golds or ()
    knew = np.array([exact_match(first_answer(text), golds) for text in group.text])
    return group.correct * (1.0 - needless * knew * (group.searches > 0))


def first_answer(text: str | None) -> str | None:
    """What the first ``<answer>`` holds, if it stands before the first ``<search>``; else None.

    >>> first_answer("<answer> Rome </answer><search>q</search><answer>Paris</answer>")
    'Rome'
    """
    before = (text or "").partition("<search>")[0]
    content, closed, _ = before.partition("<answer>")[2].partition("</answer>")
    return content.strip() if closed else None
