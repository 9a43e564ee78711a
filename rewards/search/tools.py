"""Rewards of agents with several tools or their own tool protocol: HierSearch, Graph-R1, R1-Searcher."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import numpy as np

from laconic.rewards.errors import DataError
from laconic.rewards.group import Array, Group
from laconic.rewards.registry import NonNegative, reward
from laconic.rewards.search.formats import form_scores, well_formed
from laconic.rewards.search.markup import (
    graph_r1_form,
    has_answer,
    is_graph_r1_end,
    is_hier_search_form,
    is_r1_closed,
    is_r1_llama_form,
    is_r1_qwen_form,
    r1_searches,
)
from laconic.rewards.search.qa import answer_scores, f1_scores, match_scores, token_f1

WEB_TOOLS = frozenset({"web_search", "browse_url"})
"""The tools that HierSearch wants tried last; every other one is local, but for the agents."""

_AGENT = "_search_agent"

_LOCAL_FIRST = 3
# The penalty of the first call that goes to the web, by how many calls came before it, from the fourth call on.
_LATER_WEB = (-0.20, -0.15, -0.10, -0.045, -0.030)
_VERY_LATE_WEB = -0.01

_R1_PUNCTUATION = re.compile(f"[{re.escape(string.punctuation)}\u2018\u2019\u00b4]")
_ARTICLES = re.compile(r"\b(a|an|the)\b")


@reward(
    paper="arXiv:2508.08088",
    scope="rollout",
    needs=("tools", "tools_offered"),
    uses=("golds", "answer", "text", "well_formed", "finished"),
    claims=("right_above_wrong", "shorter_is_no_worse", "no_length_pressure_on_wrong"),
)
def hier_search(group: Group, *, tool_bonus: NonNegative = 0.1, local_first: bool = False) -> Array:
    """Answer F1; a wrong answer earns a little for every offered tool it tried.

    Formula::

        r = F1                                                      if F1 > 0
        r = tool_bonus * |used and offered tools| / |offered tools|  if F1 = 0
        r = 0  if malformed, without an answer, or cut by the token limit
        with local_first:  r + `web_penalty` of the order of its calls

    Malformed is said by the column `well_formed`, or read from the text: thinking missing or left open, not exactly one
    answer, a call that is not closed and followed by its ``<result>``. Rollouts with neither `answer` nor `text` are
    scored by their verdict. A rollout's reward depends on no other, so none correct, one correct and equal lengths
    change nothing. With no tool offered a wrong answer earns the whole bonus.

    Args:
        group: The rollouts of one problem.
        tool_bonus: Of a wrong answer that tried every tool. [reward]
        local_first: Penalise calls to the web that come early; off by default in the released code too. [-]

    Deviations: In the released code an F1 that the web penalty pushed to 0 or below is replaced by the positive tool
        bonus, so that the worst order of calls pays; here the penalty is added to either. Tools are the executed calls;
        there they are tags in the text, and for the order of calls tags in the prompt, which describes them, count too.

    Gaming: Calling every tool once, whatever for, is the best that a model can do which does not know the answer.

    Source: Tan et al., "HierSearch: A Hierarchical Enterprise Deep Search Framework Integrating Local and Web
        Searches"; plageon/HierSearch, ``src/verl/utils/reward_score/hier_search.py``.

    >>> group = Group.of(
    ...     correct=[True, False], length=[40, 90], answer=["Paris", "Rome"], golds=["Paris"],
    ...     tools=[["web_search"], ["chunk_search"]], tools_offered=["chunk_search", "web_search"],
    ... )
    >>> hier_search(group).tolist(), hier_search(group, local_first=True).tolist()
    ([1.0, 0.05], [0.0, 0.05])
    """
    assert group.tools is not None
    f1, offered = f1_scores(group), frozenset(group.tools_offered or ())
    share = np.array([len(offered.intersection(tools)) / len(offered) if offered else 1.0 for tools in group.tools])
    score = np.where(f1 > 0, f1, tool_bonus * share)
    if local_first:
        score = score + np.array([web_penalty(tools) for tools in group.tools])
    return np.where(has_answer(group) & group.finished & well_formed(group, is_hier_search_form), score, 0.0)


def web_penalty(tools: Sequence[str]) -> float:
    """HierSearch's price of the first call to the web, by its place: -1 among the first three, less and less after.

    The fourth to eighth call cost 0.20, 0.15, 0.10, 0.045 and 0.030, later ones 0.01. As in the released code, calls of
    a whole agent ("local_search_agent" and the like) are no part of the order.

    Args:
        tools: The tool of each executed call, in order; those in `WEB_TOOLS` go to the web.

    >>> web_penalty(["web_search"]), web_penalty(["chunk_search"] * 3 + ["web_search"]), web_penalty(["chunk_search"])
    (-1.0, -0.2, 0.0)
    """
    order = [tool for tool in tools if not tool.endswith(_AGENT)]
    before = next((place for place, tool in enumerate(order) if tool in WEB_TOOLS), None)
    if before is None:
        return 0.0
    if before < _LOCAL_FIRST:
        return -1.0
    later = before - _LOCAL_FIRST
    return _LATER_WEB[later] if later < len(_LATER_WEB) else _VERY_LATE_WEB


@reward(
    paper="arXiv:2507.21892",
    scope="rollout",
    uses=("golds", "answer", "text", "well_formed", "searches"),
    claims=("shorter_is_no_worse", "no_length_pressure_on_wrong"),
)
def graph_r1(group: Group) -> Array:
    r"""The answer counts only after at least one well-formed search.

    Formula::

        form = 0.5 per turn of thinking and a query + 0.5 for a last turn of thinking and an answer
        r = -1 + min(form, 1) + (F1 if form >= 1 else 0)

    The searches are the column `searches`, and queries are counted in the text only where that is missing. The last
    turn is read from the text, or taken from the column `well_formed`; without either, an answer is enough. With none
    of the three a rollout counts as one search, well formed. Rollouts with neither `answer` nor `text` are scored by
    their verdict. A rollout's reward depends on no other, so none correct, one correct and equal lengths change
    nothing; one cut by the token limit has no last turn.

    Args:
        group: The rollouts of one problem.

    Deviations: The authors count queries in well-formed turns of the text; an executed search counts here whatever its
        turn looked like, and a query that was never executed does not, where `searches` is given. The chat marks that
        separate turns are not part of a completion's text here; a turn ends with its query.

    Gaming: A right answer without a search earns -0.5, a wrong one after a search 0: the model has to search, needed or
        not. Two searches make up for a malformed answer.

    Source: Luo et al., "Graph-R1: Towards Agentic GraphRAG Framework via End-to-end Reinforcement Learning";
        LHRLAB/Graph-R1, ``verl/utils/reward_score/qa_em_and_format.py``.

    >>> text = ["<think>a</think>\n<query>q</query><think>b</think>\n<answer>Paris</answer>"]
    >>> text += ["<think>b</think>\n<answer>Paris</answer>"]
    >>> graph_r1(Group.of(correct=[True, True], length=[40, 20], text=text, golds=["Paris"])).tolist()
    [1.0, -0.5]
    """
    if group.searches is not None:
        form = 0.5 * group.searches + 0.5 * well_formed(group, is_graph_r1_end)
    elif group.well_formed is not None:
        raise _no_searches("the rollouts have 'well_formed' but not 'searches'")
    elif group.text is not None:
        form = form_scores(group, graph_r1_form)
    else:
        form = 0.5 + 0.5 * has_answer(group)
    f1 = answer_scores(group, lambda said, golds: token_f1(said, golds, yes_no="off"))
    return -1.0 + np.minimum(form, 1.0) + np.where(form >= 1.0, f1, 0.0)


@reward(
    paper="arXiv:2503.05592",
    scope="rollout",
    uses=("golds", "answer", "text", "well_formed", "searches"),
    claims=("right_above_wrong", "shorter_is_no_worse", "no_length_pressure_on_wrong"),
)
def r1_searcher(
    group: Group, *, variant: Literal["qwen_stage2", "llama_stage1", "llama_stage2"] = "qwen_stage2"
) -> Array:
    """Answer F1 with a heavy fine for a broken form; the first stage pays for searching at all.

    Formula::

        qwen_stage2   r = F1 - 2 if malformed
        llama_stage2  r = F1 - 1 if malformed
        llama_stage1  r = (1 if every word of a gold is in the answer, else -1) + 0.5 if it searched + 0.5 if closed

    The form is read from the text: marks of queries and documents that fit together, thinking closed once, one answer,
    nothing Chinese outside the documents; for Qwen also at most ten words of answer, and no word "assistant". For
    ``llama_stage1`` only the closing of thinking and answer counts, and on its own whether it searched: `searches` is
    above 0, or, without that column, the text has at least one search with marks that fit. Rollouts with the column
    `well_formed` are not read; without a text, one without an answer is malformed. Without `golds` "llama_stage1" goes
    by the verdict, and so do all three for rollouts with neither `answer` nor `text`. A rollout's reward depends on no
    other, so none correct, one correct and equal lengths change nothing; one cut before its answer has an F1 of 0 and a
    broken form.

    Args:
        group: The rollouts of one problem.
        variant: Model family and training stage. [-]

    Deviations: The opening ``<think>`` is part of the authors' prompt; one at the start of the completion is ignored.
        Of several golds the best counts; they have one. Their normaliser puts a space in the place of punctuation and
        underscores and reads True and False as yes and no; so does this one.

    Gaming: In the first stage a wrong answer after a search (0) lies above one without (-0.5), and listing words until
        the gold's are among them counts as right.

    Source: Song et al., "R1-Searcher: Incentivizing the Search Capability in LLMs via Reinforcement Learning";
        RUCAIBox/R1-Searcher, ``train/reward_server_*.py``.

    >>> text = ["I know </think> <answer> Paris </answer>", "<answer> Paris </answer>"]
    >>> r1_searcher(Group.of(correct=[True, True], length=[9, 5], text=text, golds=["Paris"])).tolist()
    [1.0, -1.0]
    """
    if variant == "llama_stage1":
        outcome = 2.0 * match_scores(group, _covers_words) - 1.0
        return outcome + 0.5 * _searched(group) + 0.5 * well_formed(group, is_r1_closed)
    rule, fine = (is_r1_qwen_form, 2.0) if variant == "qwen_stage2" else (is_r1_llama_form, 1.0)
    return answer_scores(group, _spaced_f1) - fine * ~well_formed(group, rule)


def _searched(group: Group) -> Array:
    """Whether a search was executed, shape (G,); read from the text only where nobody counted."""
    if group.searches is not None:
        return group.searches > 0
    if group.text is None or group.well_formed is not None:
        raise _no_searches("llama_stage1 pays for searching, and the rollouts have no 'searches'")
    return np.array([bool(r1_searches(text or "")) for text in group.text])


def _no_searches(message: str) -> DataError:
    return DataError(message, cure="give every rollout the key 'searches'")


def _spaced_f1(prediction: str, golds: Sequence[str]) -> float:
    return token_f1(_spaced(prediction), [_spaced(gold) for gold in golds])


def _covers_words(prediction: str, golds: Sequence[str]) -> float:
    words = set(_spaced(prediction).split(" "))
    return float(any(words.issuperset(_spaced(gold).split(" ")) for gold in golds))


@lru_cache(maxsize=65536)
def _spaced(text: str) -> str:
    """R1-Searcher's normaliser: as SQuAD's, but punctuation becomes a space."""
    text = {"True": "yes", "False": "no"}.get(text, text)
    return " ".join(_ARTICLES.sub(" ", _R1_PUNCTUATION.sub(" ", text.lower())).split())
