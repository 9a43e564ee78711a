"""Sending a reply, and noticing that nobody waits for it any more."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Coroutine, Mapping
from typing import Any

from starlette.types import Receive, Send

_STREAM = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache", "x-accel-buffering": "no"}


class Reply:
    """The reply to one request.

    Args:
        send: ASGI's.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self.begun = self.complete = False

    async def json(self, status: int, body: Any, headers: Mapping[str, str] | None = None) -> None:
        """All of it, as JSON."""
        raw = as_bytes(body)
        lengths = {"content-type": "application/json", "content-length": str(len(raw))}
        await self._begin(status, lengths | dict(headers or {}))
        await self._body(raw, last=True)

    async def push(self, events: bytes) -> None:
        """More of a stream, which begins with the first call."""
        await self._begin(200, _STREAM)
        await self._body(events, last=False)

    async def finish(self, events: bytes) -> None:
        """The end of a stream."""
        await self._begin(200, _STREAM)
        await self._body(events, last=True)

    async def _begin(self, status: int, headers: Mapping[str, str]) -> None:
        if not self.begun:
            self.begun = True
            raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
            await self._send({"type": "http.response.start", "status": status, "headers": raw})

    async def _body(self, raw: bytes, *, last: bool) -> None:
        # Set first: once the last byte is out, the server reports the client as gone.
        self.complete = last
        await self._send({"type": "http.response.body", "body": raw, "more_body": not last})


def as_bytes(body: Any) -> bytes:
    """As JSON, all ASCII."""
    return json.dumps(body, allow_nan=False).encode("ascii")


def plain(value: Any) -> Any:
    """A value as JSON can hold it: numbers that are not finite, and what else it has no form for, as texts.

    >>> plain({"threshold": float("inf"), 1: [0.5, None]})
    {'threshold': 'inf', '1': [0.5, None]}
    """
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    held = value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))
    return value if held else str(value)


async def attended(work: Coroutine[Any, Any, None], receive: Receive, reply: Reply) -> bool:
    """Do the work as long as the client is there.

    Args:
        work: Whatever the reply needs; cancelled when the client goes.
        receive: ASGI's, after the body was read.
        reply: What the work sends.

    Returns:
        False if the client went before the reply was complete.
    """
    task, gone = asyncio.create_task(work), asyncio.create_task(_gone(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done() or reply.complete:
            await task
            return True
        return False
    finally:
        for each in (task, gone):
            each.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
