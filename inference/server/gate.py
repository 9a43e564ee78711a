"""How many requests run, how many wait, and who is turned away."""

from __future__ import annotations

import asyncio
from collections import deque
from types import TracebackType

from laconic.inference.server.refusals import Refused


class Gate:
    """Lets so many in at once, in the order of their coming. An async context manager.

    Args:
        at_once: Requests inside.
        queue: Requests that wait.
    """

    def __init__(self, *, at_once: int, queue: int) -> None:
        self.at_once, self.queue = at_once, queue
        self.inside = 0
        self.closed = False
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return len(self._waiting)

    async def __aenter__(self) -> None:
        """Wait for a place.

        Raises:
            Refused: 503 when the server closes, 429 when the queue is full.
        """
        if self.closed:
            raise closing()
        if self.inside < self.at_once:
            self.inside += 1
            return
        if len(self._waiting) >= self.queue:
            message = f"{self.inside} requests run and {self.waiting} wait; try again later"
            raise Refused(429, message, headers={"Retry-After": "1"})
        await self._wait()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def close(self) -> None:
        """Let nobody in any more; whoever waits is told so."""
        self.closed = True
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_exception(closing())

    async def _wait(self) -> None:
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place in self._waiting:
                self._waiting.remove(place)
            elif place.done() and not place.cancelled() and place.exception() is None:
                self._leave()  # it was let in at the very moment it went
            raise

    def _leave(self) -> None:
        """Hand the place on."""
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                return place.set_result(None)
        self.inside -= 1


def closing() -> Refused:
    """What is said to those who come too late."""
    return Refused(503, "this server is shutting down", headers={"Retry-After": "5"})
