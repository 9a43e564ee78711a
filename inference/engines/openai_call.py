"""One request to a server as it comes in, read in the background so that a slow policy holds nobody up."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from laconic.inference.engine import Token
from laconic.inference.engines.openai_events import Reader
from laconic.rewards.errors import LaunchError

if TYPE_CHECKING:
    from laconic.inference.engines.openai_http import Connection


class Call:
    """One request that goes on by itself: tokens wait here until they are asked for.

    Args:
        connection: Where to.
        path: Below the base URL.
        body: Without the fields of streaming.
        reader: Makes the reader of one attempt.
    """

    def __init__(
        self, connection: Connection, path: str, body: Mapping[str, Any], reader: Callable[[], Reader]
    ) -> None:
        self.path, self.body = path, dict(body)
        self.over = self.lost = False
        self.error: Exception | None = None
        self.pending: deque[Token] = deque()
        self._make_reader, self._changed = reader, asyncio.Event()
        self.reader = reader()
        self._task = asyncio.get_running_loop().create_task(self._run(connection))

    @property
    def begun(self) -> bool:
        """Whether a token came: from then on, nothing is asked for again."""
        return self.reader.count > 0

    @property
    def count(self) -> int:
        """Generated tokens so far, those included that nobody asked for."""
        return self.reader.count

    @property
    def exact(self) -> bool:
        """Whether `count` is known and not a lower bound."""
        return self.reader.exact and not self.lost

    async def next(self) -> Token | None:
        """The next token; None once the server ended.

        Raises:
            LaunchError: the request failed.
        """
        while not self.pending:
            if self.over:
                if self.error is not None:
                    raise self.error
                return None
            self._changed.clear()
            await self._changed.wait()
        return self.pending.popleft()

    async def abort(self) -> None:
        """Close the stream, which tells the server to stop; without effect once it is over."""
        if not self.over:
            self.end(LaunchError("the branch was closed while it generated", cure="close it after generate returned"))
        if not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])

    def when_done(self, tell: Callable[[Call], None]) -> None:
        """`tell` is called once nothing of it goes on any more."""
        self._task.add_done_callback(lambda task: tell(self))

    def restart(self) -> None:
        """A new attempt."""
        self.reader = self._make_reader()

    def put(self, tokens: list[Token]) -> None:
        """Tokens came."""
        self.pending.extend(tokens)
        self._changed.set()

    def end(self, error: Exception | None) -> None:
        """Nothing more will come."""
        self.over, self.error = True, error
        self._changed.set()

    async def _run(self, connection: Connection) -> None:
        try:
            async with connection.slots:
                await connection.post(self)
        except Exception as error:
            # Raised where the tokens are awaited.
            if not self.over:
                self.end(error)
