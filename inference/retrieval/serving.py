"""Running the retrieval server: a socket without Nagle's delay, and an end in good order."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from laconic.inference.retrieval.server import Service, create_app

_GRACE = 10
"""Seconds that requests have to be answered after the server was told to stop."""


class Server(uvicorn.Server):
    """Serves until SIGTERM or Ctrl-C, and answers then what it has begun to answer.

    Args:
        service: What is served.
        ready: Called once it listens.
    """

    def __init__(self, service: Service, *, ready: Callable[[], None] | None = None) -> None:
        self.app = create_app(service)
        super().__init__(
            uvicorn.Config(
                self.app,
                ws="none",
                lifespan="off",
                log_level="warning",
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=_GRACE,
            )
        )
        self.service, self.ready = service, ready

    def run_on(self, listener: socket.socket) -> None:
        """Serve on a bound socket until told to stop."""
        asyncio.run(self._run(listener))

    async def _run(self, listener: socket.socket) -> None:
        try:
            await self.serve(sockets=[listener])
        finally:
            await self.service.batching.aclose()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's."""
        await super().startup(sockets)
        if self.started and self.ready is not None:
            self.ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal ends it in good order, the second one at once; neither counts as a failure."""
        self.force_exit = self.should_exit
        self.should_exit = True
