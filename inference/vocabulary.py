"""What the tokens of a model say: for policies that make some of them likelier or impossible."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any

_EDGES = re.compile(r"^[\W_]+|[\W_]+$")


class Vocabulary:
    """The texts of a tokenizer's tokens, decoded when they are first asked for.

    Args:
        tokenizer: A Hugging Face tokenizer.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """By token id; tokens that are part of a character have a replacement character."""
        return tuple(self._tokenizer.batch_decode([[token] for token in range(len(self._tokenizer))]))

    def single(self, text: str) -> int | None:
        """The id of the token that is all of this text, as it is encoded; None if several tokens spell it."""
        ids = self._tokenizer.encode(text, add_special_tokens=False)
        return ids[0] if len(ids) == 1 else None

    @lru_cache(maxsize=64)  # noqa: B019 - a vocabulary lives as long as its engine
    def saying(self, words: tuple[str, ...]) -> tuple[int, ...]:
        """Ids of all tokens that say one of these words: whatever the case, with any spaces and punctuation around."""
        return words_among(self.texts, words)


def words_among(texts: Sequence[str], words: Sequence[str]) -> tuple[int, ...]:
    """The places of texts that say one of some words.

    >>> words_among(["wait", " Wait", ".wait,", "waiter", "await", "so", " "], ["wait"])
    (0, 1, 2)
    """
    wanted = {word.casefold() for word in words}
    return tuple(
        place
        for place, text in enumerate(texts)
        if {text.strip().casefold(), _EDGES.sub("", text).casefold()} & wanted  # a word may be a sign itself
    )
