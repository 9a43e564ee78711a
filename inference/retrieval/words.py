"""Texts as words, for the retrievers that compare words."""

from __future__ import annotations

import re
import unicodedata

_WORD = re.compile(r"\w+")

STOP_WORDS = frozenset(
    "a an and are as at be but by for if in into is it no not of on or such "  # noqa: SIM905
    "that the their then there these they this to was will with".split()
)
"""English words that say nothing about a topic; the list is Lucene's."""


def words_of(text: str) -> list[str]:
    """Runs of letters and digits, in lower case and without accents.

    >>> words_of("Beyoncé's 2nd single (2003)")
    ['beyonce', 's', '2nd', 'single', '2003']
    """
    if not text.isascii():
        parts = unicodedata.normalize("NFKD", text)
        text = "".join(each for each in parts if not unicodedata.combining(each))
    return _WORD.findall(text.lower())


def query_words(query: str) -> list[str]:
    """Words of a query without stop words, unless it has no others.

    >>> query_words("Who wrote the book It?"), query_words("It")
    (['who', 'wrote', 'book'], ['it'])
    """
    words = words_of(query)
    return [word for word in words if word not in STOP_WORDS] or words
