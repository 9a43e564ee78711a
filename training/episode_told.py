"""A search episode as training sees it: token ids with a mask for the loss, and the columns for rewards.

Whatever the model did not draw itself (observations, hints, what was left of a token after a closing tag) is masked,
and is in none of the texts and counts that rewards get.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from laconic.inference.episode import Episode, EpisodeProtocol, Piece
from laconic.inference.trace import THINK_CLOSE, THINK_OPEN, TraceReader
from laconic.rewards.short_answers import BETWEEN

__all__ = ["Told", "columns_of", "drawn_logprobs", "tell", "trained_ids"]


@dataclass(frozen=True, slots=True)
class Told:
    """What the model itself said and did in an episode: all that rewards and metrics see of it."""

    text: str
    """The generated pieces, put together."""
    ids: tuple[int, ...]
    """Those of its ids that the model drew."""
    answer: str | None
    """What stands between the answer tags."""
    finished: bool
    """No token limit cut it."""
    think_tokens: int
    """Generated tokens of the turns before the answer, and of the answering one up to its last closing think tag."""
    answer_tokens: int
    columns: dict[str, Any]
    """Of `laconic.rewards.group.COLUMNS`."""
    facts: dict[str, Any]
    """For metrics: `searches`, their `limit`, `refused`, `turns`, `finish`, `retrieved_tokens`, `forced_tokens`; empty
    where nothing can be searched."""

    @property
    def tokens(self) -> int:
        """All generated tokens."""
        return self.think_tokens + self.answer_tokens


def trained_ids(episode: Episode, *, eos_id: int) -> tuple[list[int], list[int]]:
    """Token ids of the completion, and for each of them whether it is trained on.

    What was put in after the model's last word is left out. An episode that no token limit cut gets an end-of-sequence
    token, by which trainers know that it is complete; it is trained on only if the model drew it.

    Args:
        episode: From an engine with token ids.
        eos_id: Closes an episode whose end the model did not draw.
    """
    mask = list(episode.loss_mask())
    said = sum(len(piece.ids or ()) for piece in episode.pieces[: _last_said(episode) + 1])
    ids, mask = list(episode.ids)[:said], mask[:said]
    drawn = episode.pieces[_last_said(episode)].ended
    if drawn is not None:
        return [*ids, drawn], [*mask, 1]
    return (ids, mask) if episode.finish == "length" else ([*ids, eos_id], [*mask, 0])


def drawn_logprobs(episode: Episode, mask: Sequence[int]) -> list[float | None]:
    """Log-probabilities as the tokens of `trained_ids` were drawn; 0.0, as TRL has it, for those that were not.

    Args:
        episode: From an engine that reports them.
        mask: That of `trained_ids`.
    """
    place = _last_said(episode)
    said = sum(len(piece.ids or ()) for piece in episode.pieces[: place + 1])
    values = [*episode.logprobs[:said], episode.pieces[place].ended_logprob][: len(mask)]
    return [value if kept else 0.0 for value, kept in zip(values, mask, strict=True)]


def columns_of(
    episode: Episode,
    protocol: EpisodeProtocol,
    *,
    searches_enabled: bool,
    opens_thinking: bool = False,
    passages: Sequence[Sequence[str]] | None = None,
    self_answers: Sequence[str] | None = None,
) -> dict[str, Any]:
    """What rewards can ask about an episode, from its record; a tag in the text is never counted.

    Entities are what a semicolon separates in the answer. Well formed is an episode that came to an answer without an
    invalid action, that thought, and closed its thinking.

    Args:
        episode: The record.
        protocol: Whose tool was called.
        searches_enabled: Whether it could search.
        opens_thinking: The chat template writes the first opening think tag.
        passages: The texts of the documents that each search found; None where nobody asks.
        self_answers: What the model would have answered after each search; None where nobody asks.
    """
    said = _said(episode)
    thoughts = said.count(THINK_OPEN) + opens_thinking
    found: dict[str, Any] = {
        "searches": len(episode.searches),
        "queries": [search.query for search in episode.searches],
        "retrieved": [list(search.ids) for search in episode.searches],
        "tools": [protocol.tool] * len(episode.searches),
        "invalid_actions": episode.invalid,
        "search_enabled": searches_enabled,
        "entities": [name.strip() for name in (episode.answer or "").split(BETWEEN) if name.strip()],
        "well_formed": episode.finish == "answer" and episode.invalid == 0 and said.count(THINK_CLOSE) == thoughts > 0,
    }
    if passages is not None:
        found["passages"] = [list(texts) for texts in passages]
    if self_answers is not None:
        found["self_answers"] = list(self_answers)
    return found


def tell(episode: Episode, reader: TraceReader, *, limit: int, columns: dict[str, Any]) -> Told:
    """An episode without what the model did not say.

    Args:
        episode: The record.
        reader: Finds the end of the thinking in the answering turn.
        limit: Searches that it could make.
        columns: What `columns_of` found.
    """
    last = episode.pieces[_last_said(episode)]
    answered = last.tokens - _thinking(last, reader) if episode.finish == "answer" else 0
    return Told(
        text=_said(episode),
        ids=tuple(
            number
            for piece in episode.pieces
            if piece.kind == "generated"
            for number in [*(piece.ids or ())[: piece.drawn], *([] if piece.ended is None else [piece.ended])]
        ),
        answer=episode.answer,
        finished=episode.finish != "length",
        think_tokens=episode.generated_tokens - answered,
        answer_tokens=answered,
        columns=columns,
        facts={
            "searches": [search.to_json() for search in episode.searches],
            "limit": limit,
            "refused": episode.refused,
            "turns": episode.turns,
            "finish": episode.finish,
            "retrieved_tokens": episode.retrieved_tokens,
            "forced_tokens": episode.forced_tokens,
        },
    )


def _thinking(piece: Piece, reader: TraceReader) -> int:
    """Tokens of an answering turn up to its last closing think tag."""
    ids, thinking = list(piece.ids or ()), 0
    # The reader stops at the first closing tag; a turn may think more than once.
    while (trace := reader.read(ids[thinking:])).answer_text is not None and trace.think_tokens:
        thinking += trace.think_tokens
    return thinking


def _said(episode: Episode) -> str:
    return "".join(piece.text for piece in episode.pieces if piece.kind == "generated")


def _last_said(episode: Episode) -> int:
    """The place of the last generated piece."""
    return max(place for place, piece in enumerate(episode.pieces) if piece.kind == "generated")
