"""One request that is being answered: its runs, and what they say, handed on."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence

from laconic.inference.ledger import Ledger
from laconic.inference.server.gate import Gate, closing
from laconic.inference.server.refusals import Refused, refusal_of
from laconic.inference.server.replies import BEAT, DONE, Shapes, event
from laconic.inference.server.runs import Run
from laconic.inference.server.visible import Field
from laconic.inference.server.wire import Reply

log = logging.getLogger(__name__)


class Exchange:
    """Answers one request.

    Args:
        runs: Makes one per completion, which tell `hear`; only once there is a place.
        shapes: Of the reply.
        reply: Where it goes.
        gate: To wait at.
        remote: The engine is a server itself.
        beat: Seconds of silence before a stream shows that it lives.
        count: Gets every ledger at the end, however it ended.
    """

    def __init__(
        self,
        runs: Callable[[Exchange], Awaitable[Sequence[Run]]],
        shapes: Shapes,
        reply: Reply,
        gate: Gate,
        *,
        stream: bool,
        remote: bool,
        beat: float,
        count: Callable[[Ledger], None],
    ) -> None:
        self.runs: Sequence[Run] = ()
        self._make = runs
        self.shapes, self.reply, self.gate = shapes, reply, gate
        self.stream, self.remote, self.beat, self.count = stream, remote, beat, count
        self.first: float | None = None
        """When there was something to see for the first time; `time.monotonic`."""
        self._cut = False
        self._task: asyncio.Task[None] | None = None
        self._news: list[tuple[Run, Field, str]] = []
        self._changed = asyncio.Event()
        self._begun: set[int] = set()

    async def perform(self) -> None:
        """Wait for a place, run, reply. What goes wrong is part of the reply."""
        self._task = asyncio.create_task(self._perform())
        try:
            await self._task
        except Refused as refused:
            await self._refuse(refused)
        except asyncio.CancelledError:
            mine = asyncio.current_task()
            if not self._cut or (mine is not None and mine.cancelling()):
                raise
            await self._refuse(closing())

    def cut(self) -> None:
        """The server closes: end it."""
        if self._task is not None and not self._task.done():
            self._cut = True
            self._task.cancel()

    def hear(self, run: Run, name: Field, text: str) -> None:
        """There is more to see of a run, or it is over."""
        if self.first is None and text:
            self.first = time.monotonic()
        if self.stream:
            self._news.append((run, name, text))
            self._changed.set()

    async def _perform(self) -> None:
        async with self.gate:
            self.runs = await self._make(self)
            try:
                async with asyncio.TaskGroup() as group:
                    for run in self.runs:
                        group.create_task(run.go())
                    if self.stream:
                        await self._hand_on()
            except BaseExceptionGroup as errors:
                raise self._refusal(errors) from errors
            finally:
                for run in self.runs:
                    self.count(run.ask.ledger)
        if self.stream:
            await self.reply.finish(self.shapes.usage(self.runs) + DONE)
        else:
            await self.reply.json(200, self.shapes.whole(self.runs))

    async def _hand_on(self) -> None:
        """Send what comes until all runs are over."""
        while self._news or not all(run.over for run in self.runs):
            try:
                async with asyncio.timeout(self.beat):
                    await self._changed.wait()
            except TimeoutError:
                await self.reply.push(BEAT)
                continue
            self._changed.clear()
            news, self._news = self._news, []
            await self.reply.push(b"".join(self._events(run, name, text) for run, name, text in news))

    def _events(self, run: Run, name: Field, text: str) -> bytes:
        lead = b"" if run.index in self._begun else self.shapes.opening(run.index)
        self._begun.add(run.index)
        return lead + (self.shapes.piece(run.index, name, text) if text else self.shapes.closing(run))

    def _refusal(self, errors: BaseExceptionGroup[BaseException]) -> Refused:
        begun = any(run.ask.ledger.generated for run in self.runs)
        refused = refusal_of(errors, remote=self.remote, begun=begun)
        if refused.status == 500:
            log.error("a request failed", exc_info=errors)
        return refused

    async def _refuse(self, refused: Refused) -> None:
        """As the reply, or inside it where it has begun."""
        if self.reply.begun:
            await self.reply.finish(event(refused.to_json()))
        else:
            await self.reply.json(refused.status, refused.to_json(), refused.headers)
