"""What clients see of a completion while it comes: thinking and answer apart, and nothing after a stop string.

Pieces may be cut anywhere, inside a tag or a stop string too: what is shown is the same however they are cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["mark", "thinking", "answer"]
Field: TypeAlias = Literal["reasoning_content", "content"]


def beginning(text: str, mark: str) -> int:
    """How many characters at the end of a text may be the beginning of a mark.

    >>> beginning("so </th", "</think>"), beginning("so", "</think>")
    (4, 0)
    """
    sizes = range(min(len(mark) - 1, len(text)), 0, -1)
    return next((size for size in sizes if text.endswith(mark[:size])), 0)


class Splitter:
    """Divides a completion into its thinking, its answer and the tags.

    A completion thinks if it begins with the opening tag, spaces before it aside, or if the prompt ended with the tag;
    else all of it is the answer. Every character comes back in one part.

    Args:
        tags: What opens and what closes thinking.
        thinks: The prompt ended with the opening tag.
    """

    def __init__(self, tags: tuple[str, str], *, thinks: bool) -> None:
        self.tags = tags
        self.place: Kind = "thinking" if thinks else "mark"
        self._held = ""

    def add(self, text: str) -> Iterator[tuple[Kind, str]]:
        """The parts that are certain now."""
        self._held += text
        if self.place == "mark":
            yield from self._begin()
        if self.place == "thinking":
            yield from self._think()
        if self.place == "answer" and self._held:
            yield "answer", self._take(len(self._held))

    def end(self) -> Iterator[tuple[Kind, str]]:
        """What was held back, now that nothing follows."""
        if self._held:
            yield ("thinking" if self.place == "thinking" else "answer"), self._take(len(self._held))

    def _begin(self) -> Iterator[tuple[Kind, str]]:
        spaces = len(self._held) - len(self._held.lstrip())
        opening, rest = self.tags[0], self._held[spaces:]
        if rest.startswith(opening):
            self.place = "thinking"
            yield "mark", self._take(spaces + len(opening))
        elif not opening.startswith(rest):
            self.place = "answer"

    def _think(self) -> Iterator[tuple[Kind, str]]:
        closing = self.tags[1]
        end = self._held.find(closing)
        sure = end if end >= 0 else len(self._held) - beginning(self._held, closing)
        if sure:
            yield "thinking", self._take(sure)
        if end >= 0:
            self.place = "answer"
            yield "mark", self._take(len(closing))

    def _take(self, size: int) -> str:
        taken, self._held = self._held[:size], self._held[size:]
        return taken


class Until:
    """A text up to the stop string that is complete first; of those that end at the same place, the longest.

    Args:
        stops: The stop strings.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops = tuple(stops)
        self.stopped = False
        self._held = ""

    def add(self, text: str) -> str:
        """What may be shown now."""
        if self.stopped or not self.stops:
            return "" if self.stopped else text
        self._held += text
        found = [(place + len(stop), place) for stop in self.stops if (place := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            return self._held[: min(found)[1]]
        return self._take(len(self._held) - max(beginning(self._held, stop) for stop in self.stops))

    def end(self) -> str:
        """What was held back, now that nothing follows."""
        return "" if self.stopped else self._take(len(self._held))

    def _take(self, size: int) -> str:
        taken, self._held = self._held[:size], self._held[size:]
        return taken


class Visible:
    """What is shown of one completion, field by field.

    Args:
        tags: What opens and what closes thinking.
        thinks: The prompt ended with the opening tag.
        stops: The request's stop strings; they end the answer, never the thinking.
        separate: Thinking goes out as ``reasoning_content`` without its tags; else all is ``content``.
    """

    def __init__(
        self, tags: tuple[str, str], *, thinks: bool, stops: Sequence[str] = (), separate: bool = True
    ) -> None:
        self.splitter, self.until, self.separate = Splitter(tags, thinks=thinks), Until(stops), separate

    @property
    def stopped(self) -> bool:
        """A stop string was met: nothing else will be shown."""
        return self.until.stopped

    def add(self, text: str) -> list[tuple[Field, str]]:
        """What can be shown now that this was said."""
        return [] if self.stopped else self._shown(self.splitter.add(text))

    def end(self) -> list[tuple[Field, str]]:
        """What is left to show at the end."""
        if self.stopped:
            return []
        shown, rest = self._shown(self.splitter.end()), self.until.end()
        return [*shown, ("content", rest)] if rest else shown

    def _shown(self, parts: Iterator[tuple[Kind, str]]) -> list[tuple[Field, str]]:
        shown: list[tuple[Field, str]] = []
        for kind, text in parts:
            if kind == "answer":
                text = self.until.add(text)
            elif kind == "mark" and self.separate:
                continue
            if text:
                shown.append(("reasoning_content" if kind == "thinking" and self.separate else "content", text))
        return shown
