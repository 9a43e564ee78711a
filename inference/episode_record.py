"""What an episode came to: its text in pieces, its searches, its answer, its account."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from laconic.inference.ledger import Ledger
from laconic.rewards.errors import LaunchError

PieceKind: TypeAlias = Literal["generated", "forced", "retrieved"]
"""generated: by the model; retrieved: an observation with documents, its tags included; forced: everything else that
was put in (hints, notices, empty observations)."""
EpisodeFinish: TypeAlias = Literal["answer", "budget", "length", "invalid"]
"""answer: it was given; budget: it went on searching after the budget; length: a token limit cut it; invalid: too many
actions could not be carried out."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of the text that is of one kind."""

    kind: PieceKind
    text: str
    tokens: int
    """As the ledger counts them: of a generated piece also end-of-sequence and what a stop string cut off."""
    ids: tuple[int, ...] | None = None
    """What the branch holds of it; None where the engine has no ids."""
    drawn: int = 0
    """Of `ids`: the first ones, which the model itself drew. More there are only where the closing tag ended within a
    token: what was left of that token was encoded anew."""
    logprobs: tuple[float | None, ...] | None = None
    """Of the drawn ids, where the engine reports them."""
    ended: int | None = None
    """The end-of-sequence token that the model drew after the ids. The branch goes on without it."""
    ended_logprob: float | None = None
    """Of that token, where the engine reports it."""


@dataclass(frozen=True, slots=True)
class Search:
    """One executed search."""

    query: str
    ids: tuple[str, ...]
    """Of the documents found, the best first."""
    turn: int
    """The generation that asked for it, from 0."""
    scores: tuple[float, ...]
    shown: int
    """How many of the documents the model was shown."""

    def to_json(self) -> dict[str, Any]:
        """As results files hold it."""
        return {
            "query": self.query,
            "ids": list(self.ids),
            "turn": self.turn,
            "scores": list(self.scores),
            "shown": self.shown,
        }


@dataclass(frozen=True)
class Episode:
    """One question, thought and searched about to the end."""

    text: str
    """What follows the prompt; the pieces' texts put together."""
    pieces: tuple[Piece, ...]
    searches: tuple[Search, ...]
    """Those that were executed: their number is the number of searches."""
    invalid: int
    """Actions that could not be carried out."""
    refused: int
    """Searches that were not executed: after the budget, or where searches are disabled."""
    turns: int
    """Generations."""
    answer: str | None
    finish: EpisodeFinish
    ledger: Ledger
    """The account of whoever asked; it may hold more than this episode."""

    @property
    def generated_tokens(self) -> int:
        """Of the model."""
        return self._tokens("generated")

    @property
    def retrieved_tokens(self) -> int:
        """Of observations with documents; part of what the ledger calls forced."""
        return self._tokens("retrieved")

    @property
    def forced_tokens(self) -> int:
        """Of everything else that was put in."""
        return self._tokens("forced")

    @property
    def citations(self) -> tuple[str, ...]:
        """Ids of the documents the model was shown, each once, in the order it saw them."""
        return tuple(dict.fromkeys(name for search in self.searches for name in search.ids[: search.shown]))

    @property
    def ids(self) -> tuple[int, ...]:
        """Token ids of the whole text.

        Raises:
            LaunchError: the engine has none.
        """
        return tuple(number for piece in self._with_ids() for number in piece.ids or ())

    @property
    def logprobs(self) -> tuple[float | None, ...]:
        """Of every one of `ids`, as it was drawn; None for those that the model did not draw, or that have none.

        Raises:
            LaunchError: the engine has no ids.
        """
        values: list[float | None] = []
        for piece in self._with_ids():
            known = piece.logprobs or ()
            values += [*known, *[None] * (len(piece.ids or ()) - len(known))]
        return tuple(values)

    def loss_mask(self, *, recoded: bool = False) -> tuple[int, ...]:
        """1 for every one of `ids` that the model is trained on, 0 for the rest.

        Args:
            recoded: Train also on tokens that the model did not draw, but that spell what it said (`Piece.drawn`).

        Raises:
            LaunchError: the engine has no ids.
        """
        mask: list[int] = []
        for piece in self._with_ids():
            size = len(piece.ids or ())
            trained = (size if recoded else piece.drawn) if piece.kind == "generated" else 0
            mask += [1] * trained + [0] * (size - trained)
        return tuple(mask)

    def to_json(self) -> dict[str, Any]:
        """Everything but ids, as results files and viewers hold it."""
        return {
            "text": self.text,
            "pieces": [{"kind": piece.kind, "text": piece.text, "tokens": piece.tokens} for piece in self.pieces],
            "searches": [search.to_json() for search in self.searches],
            "invalid": self.invalid,
            "refused": self.refused,
            "turns": self.turns,
            "answer": self.answer,
            "finish": self.finish,
        }

    def _tokens(self, kind: PieceKind) -> int:
        return sum(piece.tokens for piece in self.pieces if piece.kind == kind)

    def _with_ids(self) -> Iterator[Piece]:
        for piece in self.pieces:
            if piece.ids is None:
                raise LaunchError("the engine gave no token ids", cure="use an engine with token ids in and out")
            yield piece
