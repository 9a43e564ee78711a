"""Reading a request's body: bounded in size, depth and time, and nothing but a JSON object of real text."""

from __future__ import annotations

import asyncio
import json
from typing import Any, NoReturn

from starlette.requests import Request

from laconic.inference.server.refusals import Refused

DEEPEST = 64
"""Levels of lists and objects in a body."""


async def read_object(request: Request, *, most: int, seconds: float) -> dict[str, Any]:
    """The JSON object of a request.

    Args:
        request: The request.
        most: Bytes.
        seconds: For all of it to arrive.

    Raises:
        Refused: 415 if it is said to be something else, 413 if it is larger, 408 if it takes longer, 400 otherwise.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    # Also keeps web pages of other origins out: a browser asks before it sends them this type.
    if kind != "application/json":
        raise Refused(415, f"Content-Type is {kind or 'missing'}; send application/json")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Refused(415, "send the body without a Content-Encoding")
    try:
        async with asyncio.timeout(seconds):
            return parsed(await _read(request, most))
    except TimeoutError:
        raise Refused(408, f"the body did not arrive within {seconds:g} seconds") from None


def parsed(raw: bytes) -> dict[str, Any]:
    """Bytes as a JSON object.

    Raises:
        Refused: they are none, it is nested too deeply, or a text in it is no Unicode.
    """
    try:
        found = json.loads(raw.decode("utf-8"), parse_constant=_constant)
    except RecursionError:
        raise Refused(400, f"the body is nested more than {DEEPEST} levels deep", code="invalid_json") from None
    except ValueError as error:
        raise Refused(400, f"the body is not valid JSON: {error}", code="invalid_json") from None
    if not isinstance(found, dict):
        raise Refused(400, "the body must be a JSON object", code="invalid_json")
    _check(found)
    return found


async def _read(request: Request, most: int) -> bytes:
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and len(announced) < 20 and int(announced) <= most:
        raw = bytearray()
        async for piece in request.stream():
            raw += piece
            if len(raw) > most:
                break
        else:
            return bytes(raw)
    raise Refused(413, f"the body is larger than {most} bytes")


def _check(found: Any) -> None:
    """Look at every value, without recursion: depth, and surrogates that no encoding takes."""
    level = [found]
    for _ in range(DEEPEST):
        if not level:
            return
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                below += [*value, *value.values()]
            elif isinstance(value, list):
                below += value
            elif isinstance(value, str):
                _check_text(value)
        level = below
    raise Refused(400, f"the body is nested more than {DEEPEST} levels deep", code="invalid_json")


def _check_text(value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Refused(400, "a text of the body holds half a surrogate pair", code="invalid_json") from None


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
