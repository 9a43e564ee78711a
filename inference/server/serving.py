"""Running the server: sockets, signals, an end without loss."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable
from types import FrameType
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from laconic.inference.server.app import create_app
from laconic.inference.server.refusals import Refused
from laconic.inference.server.service import Service
from laconic.inference.server.wire import as_bytes

_GRACE = 5
"""Seconds that cancelled requests have to say so."""


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server there.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("::1"), is_loopback("0.0.0.0")
    (True, True, True, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Server(uvicorn.Server):
    """Serves until SIGTERM or Ctrl-C: then nobody is let in, who is being answered has time to be answered.

    Args:
        service: What is served.
        ready: Called once it listens.
    """

    def __init__(self, service: Service, *, ready: Callable[[], None] | None = None) -> None:
        super().__init__(
            uvicorn.Config(
                create_app(service),
                http=_Protocol,
                ws="none",
                lifespan="on",
                log_level="warning",
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=int(service.settings.close_seconds) + _GRACE,
            )
        )
        self.service, self.ready = service, ready

    def run_on(self, listener: socket.socket) -> None:
        """Serve on a bound socket until told to stop."""
        asyncio.run(self.serve(sockets=[listener]))

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's."""
        await super().startup(sockets)
        if self.started and self.ready is not None:
            self.ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, after those who wait were told."""
        self.service.close()
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal ends it in good order, the second one at once.

        uvicorn's own raises the signal again at the end, so that the process would seem to have failed.
        """
        self.force_exit = self.should_exit
        self.should_exit = True


class _Protocol(H11Protocol):
    """What is no HTTP at all is refused in the same shape as everything else."""

    def send_400_response(self, msg: str) -> None:
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return self.transport.close()
        body = as_bytes(Refused(400, msg, code="invalid_http").to_json())
        headers: list[tuple[bytes, Any]] = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        for part in (h11.Response(status_code=400, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(part))
        self.transport.close()
