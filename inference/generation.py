"""One call of `Branch.generate` as it comes in, token by token: where it ends, and what may be streamed already."""

from __future__ import annotations

from collections.abc import Sequence

from laconic.inference.engine import Chunk, Hook, Reason, Token
from laconic.rewards.errors import RecipeError


class Generation:
    """Tokens in, one `Chunk` out; the same rules for every engine.

    Args:
        max_tokens: Generated tokens at most.
        min_tokens: Before as many tokens, stop strings are ignored. (That no end-of-sequence is drawn is the engine's.)
        stop: Strings that end it.
        keep_stop: The stop string stays in the text.
        hook: Sees every token.

    Raises:
        RecipeError: `max_tokens` is below 1, `min_tokens` above it, or a stop string is empty.
    """

    def __init__(
        self,
        *,
        max_tokens: int,
        min_tokens: int = 0,
        stop: Sequence[str] = (),
        keep_stop: bool = False,
        hook: Hook | None = None,
    ) -> None:
        if max_tokens < 1 or not 0 <= min_tokens <= max_tokens:
            raise RecipeError(
                f"generate: max_tokens={max_tokens}, min_tokens={min_tokens}",
                cure="ask for at least one token, and for no more at least than at most",
            )
        if isinstance(stop, str) or not all(stop):
            raise RecipeError(f"generate: stop={stop!r}", cure="give a list of texts that are not empty")
        self.max_tokens, self.min_tokens, self.stop, self.hook = max_tokens, min_tokens, tuple(stop), hook
        self.keep_stop = keep_stop
        self.tokens: list[Token] = []
        self.text = ""
        self.reason: Reason | None = None
        self.stopped_by: str | None = None
        self._watched_from = self._searched = 0

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self.reason is not None

    def push(self, token: Token, *, eos: bool = False) -> bool:
        """Take the next token; returns whether the generation ends with it.

        Args:
            token: Its `text` is what it adds to the text; nothing for end-of-sequence.
            eos: It is an end-of-sequence token.
        """
        assert not self.done
        self.tokens.append(token)
        self.text += token.text
        if eos:
            self.reason = "eos"
        elif self.stop and self._at_stop():
            self.reason = "stop"
        elif self.hook is not None and self.hook(token):
            self.reason = "hook"
        elif len(self.tokens) >= self.max_tokens:
            self.reason = "length"
        return self.done

    def streamable(self) -> str:
        """The text so far, without an end that may turn out to be the beginning of a stop string."""
        if self.done:
            return self.text
        held = max((_overlap(self.text, stop) for stop in self.stop), default=0)
        return self.text[: len(self.text) - held]

    def chunk(self) -> Chunk:
        """What came of it. Only once it has ended."""
        assert self.reason is not None
        return Chunk(self.text, tuple(self.tokens), self.reason, self.stopped_by)

    def _at_stop(self) -> bool:
        if len(self.tokens) < self.min_tokens:
            # What was complete by then does not end it later.
            self._watched_from = len(self.text)
            return False
        # What was searched before holds no stop string, at most the beginning of one.
        searched, self._searched = self._searched, len(self.text)
        starts = [max(0, max(self._watched_from, searched) - len(stop) + 1) for stop in self.stop]
        found = [(self.text.find(stop, start), stop) for stop, start in zip(self.stop, starts, strict=True)]
        found = [(place, stop) for place, stop in found if place >= 0]
        if not found:
            return False
        place, self.stopped_by = min(found)
        self.text = self.text[: place + len(self.stopped_by) * self.keep_stop]
        return True


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` are a beginning of `stop`."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)
