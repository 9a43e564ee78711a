"""What a checker is: it follows a trace clause by clause and knows at each point what may come next.

Checkers read the prompt alone and share no code with the teachers, so that a mistake in a teacher cannot hide in them.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Self

from laconic.rewards.errors import DataError


class Derivation(ABC):
    """How far a solution has come. Immutable, so that a dead branch can be followed and dropped."""

    @classmethod
    @abstractmethod
    def start(cls, prompt: str) -> Self:
        """Before the first step."""

    @abstractmethod
    def follow(self, clause: list[str]) -> Self:
        """The derivation after one more step.

        Raises:
            DataError: the step is not true, or does not come next.
        """

    @abstractmethod
    def conclude(self, answer: str) -> None:
        """Check that the steps lead all the way to this answer, which `solves` has found right.

        Raises:
            DataError: they do not.
        """

    @abstractmethod
    def solves(self, answer: str) -> bool:
        """Whether the answer is right, computed from the prompt without regard to the steps."""


def require(condition: object, message: str) -> None:
    """Raise `DataError` unless the condition holds."""
    if not condition:
        raise DataError(message)


def integer(word: str) -> int:
    """Read a whole number in its one spelling: no plus sign, leading zeros or minus zero.

    Raises:
        DataError: the word is anything else.
    """
    require(re.fullmatch(r"0|-?[1-9][0-9]*", word), f"{word!r} is not a whole number")
    return int(word)


def integers(words: Iterable[str]) -> list[int]:
    """Read several whole numbers; see `integer`."""
    return [integer(word) for word in words]


def spelled(words: Iterable[str]) -> int:
    """Read one number spelled digit by digit.

    Raises:
        DataError: a word is not a digit, there is none, or the first of several is zero.
    """
    words = list(words)
    require(all(re.fullmatch("[0-9]", word) for word in words), f"{' '.join(words)!r} is not spelled in digits")
    return integer("".join(words))


def divide(words: list[str], separator: str) -> tuple[list[str], list[str]]:
    """What stands before and after the first `separator`.

    Raises:
        DataError: it does not occur.
    """
    require(separator in words, f"{separator!r} is missing")
    place = words.index(separator)
    return words[:place], words[place + 1 :]
