"""What a completion says about itself: its thinking mode, the difficulty it wrote down, whether it counts as right.

Training fills the columns `mode` and `label` with `mode_of` and `label_of`; the rewards of this folder read the columns
and never the text.
"""

from __future__ import annotations

import re

import numpy as np

from laconic.rewards.errors import DataError
from laconic.rewards.group import Array, Group
from laconic.rewards.outcome import has_form

# A control token counts only where it stands first: a completion that thinks and mentions <short> on the way has
# thought. ARM's formats are in capitals, which sets <ANSWER> apart from the <answer> of search prompts.
_STARTS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (mode, re.compile(rf"\s*(?:{start})"))
    for mode, start in (
        ("no_think", r"</think>|<think>\s*</think>|<short>|<no_think>"),
        ("think", "<think>"),
        ("direct", "<ANSWER>"),
        ("short_cot", "<COT>"),
        ("code", "<CODE>"),
        ("long_cot", "<LONG_COT>"),
    )
)

# What a model that does not think in tags may begin with.
_ANSWER_IN_MODE = re.compile(
    r"\s*(?:<(?:short|no_think)>|<(?:ANSWER|COT|CODE|LONG_COT)>)(?:(?!</?think>).)*\S(?:(?!</?think>).)*", re.DOTALL
)

_THINKING = ("think", "thinking", "long", "long_cot")
_NOT_THINKING = ("no_think", "nothink", "no_thinking", "nothinking", "short", "direct", "short_cot", "code")
_MODES: dict[str | None, bool] = dict.fromkeys(_THINKING, True) | dict.fromkeys(_NOT_THINKING, False)
_MODES[None] = True

_LABELS = {"[easy]": "easy", "[hard]": "hard"}
# DR.SAF's models write CFRB and PFRB.
_SPELLINGS = {"easy": ("easy", "cfrb"), "hard": ("hard", "pfrb")}


def mode_of(text: str) -> str | None:
    """The thinking mode of a completion, from the first thing in it.

    A start with ``</think>``, ``<think> </think>``, ``<short>`` or ``<no_think>`` is ``no_think``; a start with
    ``<think>`` is ``think``, and so is a ``</think>`` further on, since many chat templates write the opening tag into
    the prompt. ARM's ``<ANSWER>``, ``<COT>``, ``<CODE>`` and ``<LONG_COT>`` are its formats ``direct``, ``short_cot``,
    ``code`` and ``long_cot``.

    Args:
        text: The completion, without the prompt.

    Returns:
        The mode; None where nothing in the text tells.

    >>> mode_of("</think> 4"), mode_of("<think> Is <short> allowed? </think> 4"), mode_of("4")
    ('no_think', 'think', None)
    """
    for mode, start in _STARTS:
        if start.match(text):
            return mode
    return "think" if "</think>" in text else None


def is_well_formed(text: str) -> bool:
    """Whether a completion has the form of R1, or begins with a mode that has no thinking tags and then answers.

    >>> [is_well_formed(text) for text in ("<think> 2 + 2 </think> 4", "<short> 4", "<short>", "4")]
    [True, True, False, False]
    """
    return has_form(text) or _ANSWER_IN_MODE.fullmatch(text) is not None


def label_of(text: str) -> str | None:
    """The difficulty that the first six characters of a completion declare: ``easy``, ``hard`` or None.

    >>> label_of("[Easy] 2 + 2 = 4"), label_of("This is [Easy]")
    ('easy', None)
    """
    return _LABELS.get(text[:6].lower())


def thinks(group: Group) -> Array:
    """Whether each rollout thought, from the column `mode`; bool, shape (G,).

    A rollout without a mode counts as thinking, so that leaving the tags out cannot earn what answering directly does.

    Raises:
        DataError: a mode that is neither thinking nor its opposite.
    """
    assert group.mode is not None
    return np.array([_MODES[mode] if mode in _MODES else _unusual(mode) for mode in group.mode], dtype=bool)


def spelled(mode: str | None) -> str | None:
    """One spelling of a mode's name: lower case, with underscores."""
    return mode if mode is None else mode.strip().lower().replace("-", "_").replace(" ", "_")


def right(group: Group) -> Array:
    """Correct, and well formed where the column says so; bool, shape (G,)."""
    return group.correct if group.well_formed is None else group.correct & group.well_formed


def labelled(group: Group, label: str) -> Array:
    """Whether the column `label` of each rollout is this one, easy or hard; bool, shape (G,).

    Raises:
        DataError: the column holds something else than easy, hard (or CFRB, PFRB, which mean the same) and null.
    """
    assert group.label is not None
    words = [word and word.lower() for word in group.label]
    for word in words:
        if word is not None and not any(word in spellings for spellings in _SPELLINGS.values()):
            raise DataError(f"label {word!r}", cure="a label is easy, hard or null (CFRB and PFRB mean easy and hard)")
    return np.array([word in _SPELLINGS[label] for word in words], dtype=bool)


def _unusual(mode: str | None) -> bool:
    word = spelled(mode)
    if word not in _MODES:
        legal = f"{', '.join(_THINKING)} for thinking and {', '.join(_NOT_THINKING)} for its opposite"
        raise DataError(f"mode {mode!r} says neither that the rollout thought nor that it did not", cure=f"use {legal}")
    return _MODES[word]
