"""The forms of completion that search papers ask for. Only the completion is read, never the prompt.

A rollout that was recorded with the column `well_formed` is believed: whoever ran the episode knows more about it than
its text shows. Text is read only without that column, and without text all there is to go by is whether it answered.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from laconic.rewards.group import Array, Group


def well_formed(group: Group, is_valid: Callable[[str], bool]) -> Array:
    """Whether each rollout has the form asked for, shape (G,): `form_scores` of a form that one has or has not."""
    return form_scores(group, is_valid) > 0


def form_scores(group: Group, rule: Callable[[str], float]) -> Array:
    """How good each rollout's form is, shape (G,), for forms of which there are degrees.

    The column `well_formed` as 1 and 0 where it is given, else `rule` of the text. A rollout without a text is well
    formed if it has an answer; where nobody says what was answered either it counts as well formed, as those that do
    not say whether they finished count as finished.
    """
    if group.well_formed is not None:
        return group.well_formed.astype(float)
    if group.text is None and group.answer is None:
        return np.ones(group.size)
    nothing = (None,) * group.size
    pairs = zip(group.text or nothing, group.answer or nothing, strict=True)
    return np.array([float(answer is not None if text is None else rule(text)) for text, answer in pairs])


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


_IKEA_HINT = "My previous action is invalid"
_IKEA_BRACKETS = re.compile(r"[(\[](?:think|search|answer)|(?:think|search|answer)[)\]]")


def is_ikea(text: str) -> bool:
    """IKEA's form: it thinks between tags, no tag is in round or square brackets, and no action was called invalid.

    Brackets anywhere in the text count, one half of a pair too.

    >>> is_ikea("<think>a</think><answer>b</answer>"), is_ikea("<think>a</think>[answer]b"), is_ikea("<think>a")
    (True, False, False)
    """
    thinking = "<think>" in text and "</think>" in text
    return thinking and _IKEA_HINT not in text and _IKEA_BRACKETS.search(text) is None


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
