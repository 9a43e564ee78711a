"""Where servers listen."""

from __future__ import annotations

import socket

from laconic.rewards.errors import LaunchError


def bind(host: str, port: int) -> socket.socket:
    """A bound socket; port 0 takes a free one.

    Raises:
        LaunchError: it cannot be had.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        # With the protocol named: else asyncio does not take it for TCP, and small pieces wait for acknowledgements.
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
