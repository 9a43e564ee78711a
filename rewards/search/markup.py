"""The forms that search papers ask of a completion's text, for rewards whose formula is about text.

Each rule sees the completion alone. Where the rollouts carry the column `well_formed`, that verdict is taken instead
and no rule is run (`laconic.rewards.search.formats.well_formed`).
"""

from __future__ import annotations

import re

import numpy as np

from laconic.rewards.boxed import last_boxed
from laconic.rewards.group import Array, Group
from laconic.rewards.search.qa import predictions

_TAG = re.compile(r"<(/?)([A-Za-z_][\w-]*)\s*>")
_SSRL_TAGS = frozenset({"think", "search", "information", "answer"})
_SSRL_MOST_THINKS = 8
_SEARCH = re.compile("<(/?)(search)>")
_HIER_TOOL = re.compile(
    "<(/?)(chunk_search|graph_search|get_adjacent_passages|web_search|browse_url|(?:local|web|all)_search_agent)>"
)
# What a model copies from the prompt's own example instead of asking something.
_PLACEHOLDERS = frozenset({"query", "your query", "search query", "your search query"})

_NOT_THE_MODELS = re.compile(r"<knowledge>.*?</knowledge>|<\|im_(?:start|end)\|>(?:assistant|tool|user)?", re.DOTALL)
# Anything without the tags of a turn, matched in linear time.
_OTHER = r"[^<]*(?:<(?!/?(?:think|query)>)[^<]*)*"
_QUERY_TURN = re.compile(rf"<think>{_OTHER}</think>\n<query>{_OTHER}")

_R1_MARKS = (
    "<|begin_of_query|>",
    "<|end_of_query|>",
    "<|begin_of_documents|>",
    "<|begin_of_documents|>\n",
    "<|begin_of_documents|>\n(1)",
    "<|end_of_documents|>",
    "<|end_of_documents|>\n\n",
)
_R1_DOCUMENTS = re.compile(r"<\|begin_of_documents\|>.*?<\|end_of_documents\|>", re.DOTALL)
_CHINESE = re.compile("[\u4e00-\u9fff]")
_R1_ANSWER_WORDS = 10


def has_answer(group: Group) -> Array:
    """Whether an answer could be read from each rollout, shape (G,); true without the columns it could be read from."""
    if group.answer is None and group.text is None:
        return np.ones(group.size, dtype=bool)
    return np.array([answer is not None for answer in predictions(group)])


def nothing_after_answer(text: str) -> bool:
    """White space at most follows the last ``</answer>``; true without one, for protocols with other marks."""
    return "</answer>" not in text or text.rstrip().endswith("</answer>")


def is_research_form(text: str) -> bool:
    r"""ReSearch: thinks paired, each search closed and answered by a result, one answer with a ``\boxed{}`` in it."""
    answer = text[text.find("<answer>") : text.find("</answer>")]
    return _thinks_and_answers(text) and _calls_get_results(text, _SEARCH) and last_boxed(answer) is not None


def is_hier_search_form(text: str) -> bool:
    """HierSearch: as ReSearch, for any of its tools, and without a box around the answer.

    >>> is_hier_search_form("<think>a</think><web_search>q</web_search><result>r</result><answer>b</answer>")
    True
    >>> is_hier_search_form("<think>a</think><web_search>q</web_search><answer>b</answer>")
    False
    """
    return _thinks_and_answers(text) and _calls_get_results(text, _HIER_TOOL)


def _thinks_and_answers(text: str) -> bool:
    """Thinking is there and every block of it closed; one answer, opened before it is closed."""
    thinks = text.count("<think>")
    paired = 0 < thinks == text.count("</think>") and text.count("<answer>") == text.count("</answer>") == 1
    return paired and text.find("<answer>") < text.find("</answer>")


def _calls_get_results(text: str, call: re.Pattern[str]) -> bool:
    """Every call (group 1: empty where it opens, a slash where it closes; 2: the tool) is closed, then answered."""
    tags = list(call.finditer(text))
    place = 0
    for opened in tags:
        if opened[1] or opened.start() < place:
            continue
        start, result = opened.start(), text.find("<result>", opened.start())
        end = next((tag.start() for tag in tags if tag[1] and tag.start() > start), -1)
        place = text.find("</result>", max(result, 0))
        if not start < end < result < place:
            return False
        if any(start < tag.start() < place and not tag[1] and tag[2] != opened[2] for tag in tags):
            return False
    return True


def ssrl_form(text: str) -> float:
    """SSRL: how well the number of thinks fits the number of searches, from 0 to 1; 0 if anything else is wrong.

    No other tag may occur, tags are closed before the next opens, a query is one line and no placeholder, and the
    information that the model writes itself comes right after it.
    """
    blocks = _flat_blocks(text)
    if blocks is None or any(name not in _SSRL_TAGS for name, *_ in blocks):
        return 0.0
    following = [(name, gap) for name, _, gap in blocks[1:]] + [("", "")]
    for (name, content, _), after in zip(blocks, following, strict=False):
        if name == "search" and (not _is_query(content) or after[0] != "information" or after[1].strip()):
            return 0.0
    names = [name for name, *_ in blocks]
    thinks, due = names.count("think"), names.count("search") + 1
    if not 1 <= thinks <= _SSRL_MOST_THINKS:
        return 0.0
    return min(thinks / 2, 1.0) * min(thinks, due) / max(thinks, due)


def _is_query(content: str) -> bool:
    query = content.strip()
    return bool(query) and "\n" not in query and query.lower().strip(".\"' ") not in _PLACEHOLDERS


def _flat_blocks(text: str) -> list[tuple[str, str, str]] | None:
    """(name, content, text before it) of every ``<name> ... </name>``; None if tags are nested or left open."""
    tags = list(_TAG.finditer(text))
    if len(tags) % 2:
        return None
    blocks, place = [], 0
    for opening, closing in zip(tags[::2], tags[1::2], strict=True):
        if opening[1] or not closing[1] or opening[2] != closing[2]:
            return None
        blocks.append((opening[2], text[opening.end() : closing.start()], text[place : opening.start()]))
        place = closing.end()
    return blocks


def graph_r1_form(text: str) -> float:
    """Graph-R1: half a point for every turn of thinking and a query, and for a last turn of thinking and an answer.

    A turn ends with its query; what the tool said, in ``<knowledge>``, and the marks of the chat format are left out.
    """
    *queries, last = _NOT_THE_MODELS.sub("", text).split("</query>")
    if not last.strip():
        # It stopped with a query, and as a last turn only an answer counts.
        queries = queries[:-1]
    asked = sum(_QUERY_TURN.fullmatch(turn.strip()) is not None for turn in queries)
    return 0.5 * asked + 0.5 * is_graph_r1_end(text)


def is_graph_r1_end(text: str) -> bool:
    """Graph-R1: the last turn is thinking and an answer, nothing else."""
    last = _NOT_THE_MODELS.sub("", text).split("</query>")[-1].strip()
    return last.startswith("<think>") and "</think>\n<answer>" in last and last.endswith("</answer>")


def r1_searches(text: str) -> int | None:
    """R1-Searcher: the number of searches with their documents; None if the marks do not fit together."""
    counts = {text.count(mark) for mark in _R1_MARKS}
    return counts.pop() if len(counts) == 1 else None


def is_r1_closed(text: str) -> bool:
    """R1-Searcher: the thinking, which the prompt opens, is closed once, and there is one answer."""
    text = text.lstrip().removeprefix("<think>")
    return "<think>" not in text and all(text.count(tag) == 1 for tag in ("</think>", "<answer>", "</answer>"))


def is_r1_llama_form(text: str) -> bool:
    """R1-Searcher, second stage of Llama: marks that fit, one answer, nothing Chinese outside the documents."""
    return r1_searches(text) is not None and is_r1_closed(text) and not _CHINESE.search(_R1_DOCUMENTS.sub("", text))


def is_r1_qwen_form(text: str) -> bool:
    """R1-Searcher, Qwen: as for Llama, an answer of at most ten words without marks, no word "assistant"."""
    answer = text.split("<answer>")[-1].split("</answer>")[0]
    return (
        is_r1_llama_form(text)
        and "begin_of_query" not in answer
        and "begin_of_documents" not in answer
        and len(answer.split()) <= _R1_ANSWER_WORDS
        and "Assistant" not in text
        and "assistant" not in text
    )
