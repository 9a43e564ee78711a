"""Running the retrieval server: a socket without Nagle's delay, and an end in good order."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from laconic.inference.retrieval.server import Service, create_app
from laconic.rewards.errors import LaunchError

_GRACE = 10
"""Seconds that requests have to be answered after the server was told to stop."""


def listen(host: str, port: int) -> socket.socket:
    """A bound socket; port 0 takes a free one.

    Raises:
        LaunchError: it cannot be had.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        # With the protocol named: asyncio turns Nagle's delay off on connections that it knows to be TCP.
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise LaunchError(
            f"cannot listen at {host}:{port}: {error.strerror or error}", cure="choose another --port or --host"
        ) from None
    return listener


def place_of(listener: socket.socket) -> str:
    """The URL of a bound socket."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


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
