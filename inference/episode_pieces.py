"""A branch whose text is kept apart by where it came from, with the token ids of each part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile

from laconic.inference.engine import Branch, Chunk
from laconic.inference.episode_record import Piece, PieceKind
from laconic.inference.ledger import Ledger


class Pieces:
    """Generates and inserts on a branch, and notes every piece; put together, they are the branch's text and ids.

    Args:
        branch: Nobody else may add to it.
        ledger: Its account, where the tokens of inserted text are read.
    """

    def __init__(self, branch: Branch, ledger: Ledger) -> None:
        self.branch, self.ledger = branch, ledger
        self.pieces: list[Piece] = []

    @property
    def generated(self) -> int:
        """Generated tokens so far."""
        return sum(piece.tokens for piece in self.pieces if piece.kind == "generated")

    @property
    def tokens(self) -> int:
        """Tokens that the branch holds, at most."""
        return sum(piece.tokens for piece in self.pieces)

    async def generate(self, *, max_tokens: int, stop: Sequence[str]) -> Chunk:
        """One generation; the stop string stays."""
        before, start = self.branch.ids, len(self.branch.text)
        chunk = await self.branch.generate(max_tokens=max_tokens, stop=stop, keep_stop=True)
        ids = self._new(before)
        piece = Piece("generated", self.branch.text[start:], len(chunk.tokens), ids)
        self.pieces.append(piece if ids is None else _with_drawn(piece, ids, chunk))
        return chunk

    async def insert(self, kind: PieceKind, text: str) -> None:
        """Put text in."""
        if not text:
            return
        before, start, forced = self.branch.ids, len(self.branch.text), self.ledger.forced
        await self.branch.extend(text)
        # Bytes that were to become a character are shown once other text follows: they belong to the piece before.
        broken = self.branch.text[start : len(self.branch.text) - len(text)]
        if broken:
            self.pieces[-1] = replace(self.pieces[-1], text=self.pieces[-1].text + broken)
        self.pieces.append(Piece(kind, text, self.ledger.forced - forced, self._new(before)))

    def _new(self, before: tuple[int, ...] | None) -> tuple[int, ...] | None:
        now = self.branch.ids
        return None if now is None or before is None else now[len(before) :]


def _with_drawn(piece: Piece, ids: tuple[int, ...], chunk: Chunk) -> Piece:
    """Note how many of the ids are the drawn ones; after a cut within a token others follow."""
    same = takewhile(lambda pair: pair[0] == pair[1].id, zip(ids, chunk.tokens, strict=False))
    drawn = tuple(token for _, token in same)
    logprobs = tuple(token.logprob for token in drawn)
    known = bool(logprobs) and None not in logprobs
    piece = replace(piece, drawn=len(drawn), logprobs=logprobs if known else None)
    if not (chunk.ended and chunk.tokens):
        return piece
    return replace(piece, ended=chunk.tokens[-1].id, ended_logprob=chunk.tokens[-1].logprob)
