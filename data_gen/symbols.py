"""The words that procedural prompts, traces and answers are made of: whitespace-separated, one token each.

A number of up to three digits is one word, its sign glued to it (`-12`). Where the number *is* the problem
(`count_bits`, `prime_factorization`) it is spelled digit by digit instead: the word of a held-out number would never be
seen in training, and no model could read it.
"""

from __future__ import annotations

from laconic.inference.trace import THINK_CLOSE, THINK_OPEN

LARGEST = 999
"""No whole-number word is larger, nor smaller than ``-LARGEST``."""

SEPARATOR = ";"
STRUCTURE = frozenset({THINK_OPEN, THINK_CLOSE, SEPARATOR, "=", "wait", "check", "ok", "again", "maybe", "off", "drop"})
"""Words that any family's traces can contain."""

DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
"""Glyphs of positional numerals up to base 36."""

SLIP = 3
"""How far a wrong guess of an overthinking trace lies from the truth, at most (sorting guesses from its own list)."""


def numbers(low: int, high: int) -> set[str]:
    """The words of all whole numbers from `low` to `high`, both included, cut at ±`LARGEST`."""
    return {str(number) for number in range(max(low, -LARGEST), min(high, LARGEST) + 1)}


def spell(number: int) -> str:
    """A non-negative number digit by digit: ``spell(873) == "8 7 3"``."""
    return " ".join(str(number))
