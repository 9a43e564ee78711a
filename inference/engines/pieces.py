"""The text of tokens as they come, without decoding everything again for every token."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from laconic.inference.engine import Token

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_LONGEST_CHARACTER = 8
"""Tokens that may spell one character; after as many, bytes that are no character are shown as what they are."""


class Pieces:
    """What each token adds to a text that has begun.

    Args:
        tokenizer: A Hugging Face tokenizer.
        silent: Tokens that add nothing: end-of-sequence and padding.
    """

    def __init__(self, tokenizer: Any, silent: Collection[int]) -> None:
        self.tokenizer, self.silent = tokenizer, frozenset(silent)
        self._anchor = tokenizer("a", add_special_tokens=False)["input_ids"][-1:]
        self._before = len(self._decode(self._anchor))
        self._known: dict[int, str] = {}
        self._tokens: dict[tuple[int, str], Token] = {}
        self.whole: dict[int, str] = {}
        """Of the tokens seen so far, those that are whole characters wherever they come later: their texts."""

    def first(self, ids: list[int]) -> str:
        """The text of tokens that begin a text: tokenizers that mark words by a space leave the first one out."""
        return self._decode(ids)

    def later(self, ids: list[int]) -> str:
        """The text of tokens after others."""
        if len(ids) > 1:
            return self._decode(self._anchor + ids)[self._before :]
        (token,) = ids
        if token not in self._known:
            self._known[token] = self._decode([*self._anchor, token])[self._before :]
        return self._known[token]

    def token(self, number: int, text: str) -> Token:
        """A token about which nothing more is known: always the same object."""
        key = number, text
        if key not in self._tokens:
            self._tokens[key] = Token(text, number)
        return self._tokens[key]

    def _decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=False)


class TextSoFar:
    """Where the text of one branch stands.

    Args:
        pieces: What tokens add.
        begun: Whether there is text already.
        pending: Tokens whose bytes are not yet a whole character.
    """

    def __init__(self, pieces: Pieces, *, begun: bool = False, pending: tuple[int, ...] = ()) -> None:
        self.pieces, self.begun, self.pending = pieces, begun, pending

    def add(self, token: int) -> str:
        """What a token adds; nothing until a character is whole."""
        if self.begun and not self.pending and token in self.pieces.whole:
            return self.pieces.whole[token]
        if token in self.pieces.silent:
            return ""
        self.pending = (*self.pending, token)
        text = self._pending_text()
        if text.endswith(_REPLACEMENT) and len(self.pending) < _LONGEST_CHARACTER:
            return ""
        if self.begun and len(self.pending) == 1:
            self.pieces.whole[token] = text
        self.begun, self.pending = True, ()
        return text

    def interrupt(self) -> str:
        """Other text follows: what is pending will never be a character."""
        text = self._pending_text() if self.pending else ""
        self.begun, self.pending = True, ()
        return text

    def copy(self) -> TextSoFar:
        """For a fork."""
        return TextSoFar(self.pieces, begun=self.begun, pending=self.pending)

    def _pending_text(self) -> str:
        ids = list(self.pending)
        return self.pieces.later(ids) if self.begun else self.pieces.first(ids)
