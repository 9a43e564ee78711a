"""What follows the prompt of a branch: its text and its token ids, which always say the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from laconic.inference.engine import Token
from laconic.inference.engines.openai_branch import kept_ids
from laconic.inference.engines.pieces import TextSoFar


class Said:
    """Generated and forced text, in order.

    Args:
        so_far: Where decoding stands.
        encode: Token ids of a text.
        text: The text.
        ids: Its tokens.
        pieces: The text of each token; of a cut one what is left.
    """

    def __init__(
        self,
        so_far: TextSoFar,
        encode: Callable[[str], list[int]],
        *,
        text: str = "",
        ids: Sequence[int] = (),
        pieces: Sequence[str] = (),
    ) -> None:
        self.so_far, self.encode = so_far, encode
        self.text, self.ids, self.pieces = text, list(ids), list(pieces)

    def copy(self) -> Said:
        """For a fork."""
        return Said(self.so_far.copy(), self.encode, text=self.text, ids=self.ids, pieces=self.pieces)

    def generated(self, tokens: Sequence[Token], text: str, *, cut: bool) -> None:
        """Tokens came, decoded with `so_far`.

        Args:
            tokens: All of them.
            text: What is kept of their text, a beginning.
            cut: The text ends inside them, by a stop string: what is left of a token is encoded anew.
        """
        self.ids += kept_ids(tokens, text, self.encode, self.so_far.pieces.silent)
        self._add(text, [token.text for token in tokens])
        if cut:
            self.so_far = TextSoFar(self.so_far.pieces, begun=bool(self.text))

    def again(self, tokens: Sequence[Token]) -> None:
        """The same tokens once more, after a copy that was made before them."""
        pieces = [self.so_far.add(token.id) for token in tokens if token.id is not None]
        text = "".join(pieces)
        self.ids += kept_ids(tokens, text, self.encode, self.so_far.pieces.silent)
        self._add(text, pieces)

    def forced(self, text: str) -> int:
        """Text was put in, encoded by itself; returns its tokens."""
        ids = self.encode(text)
        self.ids += ids
        broken = self.so_far.interrupt()
        spelled = TextSoFar(self.so_far.pieces, begun=True)
        self._add(broken + text, [spelled.add(number) for number in ids])
        return len(ids)

    def _add(self, text: str, pieces: Sequence[str]) -> None:
        """Tokens whose text a stop string cut have no piece."""
        self.text += text
        left = len(text)
        for piece in pieces:
            if left <= 0:
                break
            self.pieces.append(piece[:left])
            left -= len(piece)
