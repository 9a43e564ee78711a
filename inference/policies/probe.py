"""What a probe brought: the guesses of one checkpoint, and how an answer is read from a side generation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from laconic.inference.engine import Chunk, Token
from laconic.inference.policies.base import Ask
from laconic.rewards.errors import LaunchError

_BOX = "\\boxed"


@dataclass(frozen=True)
class Guess:
    """One side generation."""

    text: str
    said: str
    """The text up to the end of the box that the suffix opened; all of it if there is none."""
    answer: str | None
    """None where there is nothing to read: an open box, or a text that was cut."""
    tokens: tuple[Token, ...]
    """Of `said`."""
    generated: int
    """All its tokens."""

    @property
    def logprobs(self) -> tuple[float, ...]:
        """Of the tokens of `said` that have one.

        Raises:
            LaunchError: the engine gave none at all.
        """
        known = tuple(token.logprob for token in self.tokens if token.logprob is not None)
        if self.tokens and not known:
            raise LaunchError("the engine gave no log-probabilities", cure="use an engine that has them")
        return known


@dataclass(frozen=True)
class Probe:
    """One checkpoint."""

    place: int
    """Tokens of the trace before it."""
    guesses: tuple[Guess, ...]

    @property
    def guess(self) -> Guess:
        """The likeliest; of equally likely ones, the first."""
        return max(self.guesses, key=lambda guess: sum(token.logprob or 0.0 for token in guess.tokens))

    @property
    def answer(self) -> str | None:
        """Of the likeliest guess."""
        return self.guess.answer

    def to_json(self, signal: float | None) -> dict[str, Any]:
        """For notes."""
        return {
            "place": self.place,
            "answer": self.answer,
            "answers": [guess.answer for guess in self.guesses],
            "texts": [guess.text for guess in self.guesses],
            "tokens": sum(guess.generated for guess in self.guesses),
            "signal": signal,
        }


def read_guess(ask: Ask, suffix: str, chunk: Chunk) -> Guess:
    r"""Read the answer from what a probe generated after its suffix.

    Where the suffix ends in ``\boxed`` or ``\boxed{``, the answer is the box, and there is none until it is closed.
    Otherwise it is what `Ask.extract` finds in the generated text, and there is none if the text was cut.
    """
    asks_for_box = suffix.rstrip().endswith((_BOX, _BOX + "{"))
    before = suffix[suffix.rfind(_BOX) :] if asks_for_box else ""
    whole = before + chunk.text
    end = box_end(whole)
    said = chunk.text if end is None or not asks_for_box else whole[len(before) : end]
    readable = end is not None or (not asks_for_box and chunk.reason != "length")
    answer = ask.extract(before + said) if readable else None
    return Guess(chunk.text, said, answer or None, _tokens_of(said, chunk), len(chunk.tokens))


def box_end(text: str) -> int | None:
    r"""Where the first ``\boxed{...}`` ends, braces matched; None if there is none or it is still open.

    >>> box_end(r"\boxed{\frac{1}{2}} so"), box_end(r"\boxed{\frac{1}{2}"), box_end("7}")
    (19, None, None)
    """
    start = text.find(_BOX + "{")
    if start < 0:
        return None
    depth = 0
    for place in range(start + len(_BOX), len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return place + 1
    return None


def _tokens_of(said: str, chunk: Chunk) -> tuple[Token, ...]:
    if said == chunk.text:
        return chunk.tokens
    length = 0
    for count, token in enumerate(chunk.tokens, start=1):
        length += len(token.text)
        if length >= len(said):
            return chunk.tokens[:count]
    return chunk.tokens
