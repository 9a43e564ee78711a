"""Streaming: a branch whose text is handed on as it comes, because it is the completion that will be returned."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from types import TracebackType
from typing import Any, Self

from laconic.inference.engine import Branch, Chunk
from laconic.inference.ledger import Fate, Role


class Following:
    """Implements `laconic.inference.engine.Branch` over another branch, whose text it tells a listener.

    A branch's text only grows, so what was told stays true: a stop string that may yet be cut is held back by the
    engine's stream, forced text is told once it is there. Forks are forks of the branch below: nobody hears them. What
    an engine offers besides (`Internals`) is reached through it.

    Args:
        branch: The branch below; it must not be used any more but through this one.
        tell: Gets every addition to its text, from now on.
    """

    def __init__(self, branch: Branch, tell: Callable[[str], None]) -> None:
        self._branch, self._tell = branch, tell

    def __getattr__(self, name: str) -> Any:
        """What only some engines' branches have."""
        return getattr(self._branch, name)

    @property
    def text(self) -> str:
        """What follows the prompt."""
        return self._branch.text

    @property
    def ids(self) -> tuple[int, ...] | None:
        """Its token ids."""
        return self._branch.ids

    async def generate(self, **wishes: Any) -> Chunk:
        """As `Branch.generate`, telling on the way."""
        chunk = None
        async with aclosing(self.stream(**wishes)) as pieces:
            async for piece in pieces:
                chunk = piece
        assert chunk is not None
        return chunk

    async def stream(self, **wishes: Any) -> AsyncIterator[Chunk]:
        """As `Branch.stream`, telling on the way."""
        told = 0
        async with aclosing(self._branch.stream(**wishes)) as pieces:
            async for piece in pieces:
                self._add(piece.text[told:])
                told = len(piece.text)
                yield piece

    async def extend(self, text: str) -> None:
        """As `Branch.extend`."""
        before = len(self.text)
        await self._branch.extend(text)
        self._add(self.text[before:])

    def relabel(self, role: Role) -> None:
        """As `Branch.relabel`."""
        self._branch.relabel(role)

    async def fork(self, *, back: int = 0) -> Branch:
        """A fork that nobody listens to."""
        return await (self._branch.fork(back=back) if back else self._branch.fork())

    async def close(self, fate: Fate) -> None:
        """As `Branch.close`."""
        await self._branch.close(fate)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close("discarded")

    def _add(self, text: str) -> None:
        if text:
            self._tell(text)
