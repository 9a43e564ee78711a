"""What a model is shown of the documents that a search found: shortened to a number of tokens, tags never cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from laconic.inference.episode_protocols import EpisodeProtocol
from laconic.inference.retrieval.documents import Document, Hit

Count: TypeAlias = Callable[[str], int]
"""How many tokens a text has."""

_WORD = 30
"""Characters that are given up, so that a shortened text ends with a word."""


def count_words(text: str) -> int:
    """Where no tokenizer is known, a word is a token."""
    return len(text.split())


def counter(tokenizer: Any) -> Count:
    """Tokens by a Hugging Face tokenizer; words if it is None."""
    if tokenizer is None:
        return count_words
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False))


def special_texts(tokenizer: Any) -> set[str]:
    """What a Hugging Face tokenizer reads as control tokens wherever it stands; nothing if it is None."""
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    return {*getattr(tokenizer, "all_special_tokens", ()), *(str(token) for token in added if token.special)}


def shorten(text: str, limit: int, count: Count) -> str:
    """The longest beginning with at most `limit` tokens, as far as they grow with the text; it ends with a whole word
    where one ends nearby.

    >>> shorten("It lies on the Spree.", 3, count_words), shorten("It lies", 3, count_words)
    ('It lies on', 'It lies')
    """
    if limit < 1:
        return ""
    over = limit
    while over < len(text) and count(text[:over]) <= limit:
        over *= 2
    if over >= len(text) and count(text) <= limit:
        return text
    # At most `limit` tokens up to `fits`, more up to `over`.
    fits, over = 0, min(over, len(text))
    while over - fits > 1:
        middle = (fits + over) // 2
        fits, over = (middle, over) if count(text[:middle]) <= limit else (fits, middle)
    start = fits
    while not (start == 0 or text[start].isspace() or text[start - 1].isspace()):
        start -= 1  # back to where the word that was cut begins
    whole = text[:start].rstrip()
    return whole if whole and fits - start <= _WORD and count(whole) <= limit else text[:fits].rstrip()


@dataclass(frozen=True, slots=True)
class Shown:
    """An observation."""

    text: str
    documents: int
    """How many of the documents are in it, the last one perhaps shortened."""


def observation(protocol: EpisodeProtocol, hits: Sequence[Hit], *, limit: int, count: Count) -> Shown:
    """Documents in their order between the information tags, until the limit is reached.

    Only the text of the document that reaches it is shortened; those after it are left out. A document's own words that
    look like tags of the protocol are taken out, so that nobody who wrote a document can end an observation or search.

    Args:
        protocol: Tags and the form of a document.
        hits: The best first.
        limit: Tokens of all documents with their numbers and titles, each counted by itself; the information tags are
            not counted.
        count: How tokens are counted.
    """
    shown: list[str] = []
    left = limit
    for number, hit in enumerate(hits, start=1):
        text, whole = _fitting(protocol, number, hit.document, left, count)
        if text is None:
            break
        shown.append(text)
        left -= count(text)
        if not whole:
            break
    body = "".join(shown).strip() if shown else protocol.nothing
    return Shown(f"{protocol.information_open}{body}{protocol.information_close}", len(shown))


def _fitting(
    protocol: EpisodeProtocol, number: int, document: Document, left: int, count: Count
) -> tuple[str | None, bool]:
    """A document as it is shown, as much of it as there is room for; None if there is none."""
    text, title = _harmless(document.text, protocol), _harmless(document.title or "", protocol)
    form = protocol.document if title else protocol.untitled

    def shown(text: str) -> str:
        return form.format(number=number, title=title, text=text)

    full = shown(text)
    if count(full) <= left:
        return full, True
    short = shorten(text, left - count(shown("")), count)
    return (shown(short) if short else None), False


def _harmless(text: str, protocol: EpisodeProtocol) -> str:
    """A text without tags, also without those that come up once others are taken out."""
    while found := [mark for mark in protocol.marks if mark in text]:
        for mark in found:
            text = text.replace(mark, "")
    return text
