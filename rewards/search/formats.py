"""The forms of completion that search papers ask for. Only the completion is read, never the prompt.

A rollout that was recorded with the column `well_formed` is believed: whoever ran the episode knows more about it than
its text shows. Text is read only without that column.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from laconic.rewards.group import Array, Group


def well_formed(group: Group, is_valid: Callable[[str], bool]) -> Array:
    """Whether each rollout has the form asked for, shape (G,).

    The column `well_formed` where it is given, else `is_valid` of the text. Rollouts with neither count as well formed,
    as those that do not say whether they finished count as finished.
    """
    if group.well_formed is not None:
        return group.well_formed
    if group.text is None:
        return np.ones(group.size, dtype=bool)
    return np.array([text is not None and is_valid(text) for text in group.text], dtype=bool)


def _block(tag: str, inside: str) -> str:
    return rf"\s*<{tag}>{inside}</{tag}>"


# Anything without a tag of the protocol; written without alternatives so that matching takes linear time.
_OTHER = r"[^<]*(?:<(?!/?(?:think|search|information|answer)>)[^<]*)*"
_THINK, _SEARCH, _INFORMATION, _ANSWER = (_block(tag, _OTHER) for tag in ("think", "search", "information", "answer"))
_SEARCH_R1 = re.compile(rf"(?:{_THINK}{_SEARCH}{_INFORMATION})*{_THINK}{_ANSWER}\s*")


def is_search_r1(text: str) -> bool:
    """Search-R1's form: think, search, information, any number of times; then think, answer and nothing else.

    >>> is_search_r1("<think>a</think> <answer>b</answer>"), is_search_r1("well, <think>a</think> <answer>b</answer>")
    (True, False)
    """
    return _SEARCH_R1.fullmatch(text) is not None


_PART = r"(?:(?!</?(?:reasoning|search|context|conclusion)>).)*"
_PLAIN = r"[^<>]*"
_SEARCHED = rf"<search>(?!\s*</search>){_PART}</search>{_PLAIN}<context>(?!\s*</context>){_PART}</context>{_PLAIN}"
_STEP = re.compile(
    rf"{_PLAIN}<reasoning>{_PART}</reasoning>{_PLAIN}(?:{_SEARCHED})?<conclusion>{_PART}</conclusion>{_PLAIN}",
    re.DOTALL,
)


def is_hiprag(text: str) -> bool:
    """HiPRAG's form: one think block of steps, then an answer and nothing else.

    A step holds reasoning, search, context and conclusion, or reasoning and conclusion; query and context are not
    empty. What stands before the last ``<think>`` is not looked at.

    >>> step = "<step><reasoning>r</reasoning><conclusion>c</conclusion></step>"
    >>> is_hiprag(f"<think>{step}</think><answer>a</answer>"), is_hiprag("<think>r</think><answer>a</answer>")
    (True, False)
    """
    _, opened, rest = text.rpartition("<think>")
    thinking, closed, rest = rest.partition("</think>")
    answer, answered, rest = rest.partition("</answer>")
    if not (opened and closed and answered) or rest.strip() or not answer.lstrip().startswith("<answer>"):
        return False
    steps = [step.partition("</step>") for step in thinking.split("<step>")[1:]]
    return bool(steps) and all(closed and _STEP.fullmatch(step) for step, closed, _ in steps)


def is_mash_relaxed(text: str) -> bool:
    """MASH's relaxed form: every search is closed, and there is exactly one answer.

    >>> is_mash_relaxed("<think>a <answer>b</answer>"), is_mash_relaxed("<search>a <answer>b</answer>")
    (True, False)
    """
    return _closed(text, "search") and _closed(text, "answer") and text.count("<answer>") == 1


def is_mash_strict(text: str, *, top_k: int = 3) -> bool:
    """MASH's strict form: relaxed, with thinking in closed blocks and exactly `top_k` documents per search.

    >>> is_mash_strict("<think>a</think><answer>b</answer>"), is_mash_strict("<answer>b</answer>")
    (True, False)
    """
    documents = text.count("<document>") == top_k * text.count("<search>") and _closed(text, "document")
    thinking = "<think>" in text and _closed(text, "think")
    return is_mash_relaxed(text) and thinking and documents


def _closed(text: str, tag: str) -> bool:
    return text.count(f"<{tag}>") == text.count(f"</{tag}>")
