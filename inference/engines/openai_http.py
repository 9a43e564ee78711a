"""Requests to an OpenAI-compatible server: retries, limits, and errors that say what to do."""

from __future__ import annotations

import asyncio
import email.utils
import json
import os
import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from laconic.inference.engines.openai_events import data_lines
from laconic.rewards.errors import LaunchError, RecipeError

if TYPE_CHECKING:
    import httpx

    from laconic.inference.engines.openai_call import Call

STREAM_OPTIONS: tuple[dict[str, Any], ...] = (
    {"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
    {"stream_options": {"include_usage": True}},
    {},
)
"""How usage is asked for, best first; strict servers refuse what they do not know."""


class _Failed(Exception):
    """One attempt failed; whether to try again is decided by who made it."""

    def __init__(
        self,
        error: LaunchError,
        *,
        status: int | None = None,
        after: float | None = None,
        passing: bool = False,
        lost: bool = False,
    ) -> None:
        super().__init__(str(error))
        self.error, self.status, self.after, self.passing, self.lost = error, status, after, passing, lost


class Connection:
    """A server, its key and its limits. Belongs to the event loop in which it was used first.

    Args:
        url: The base URL, usually ending with ``/v1``.
        key_env: The environment variable with the key; without it, none is sent.
        concurrency: Requests at once; others wait.
        connect_timeout: Seconds.
        read_timeout: Seconds without anything from the server.
        retries: Attempts after the first, for 429, 408, 5xx and broken connections, before the first token only.
        back_off: Seconds before the first retry; doubled each time up to a minute, less a random part up to a half.
        longest_wait: Seconds; a server that asks for a longer wait (``Retry-After``) is not waited for.

    Raises:
        RecipeError: the URL is none, or holds credentials.
        LaunchError: httpx is not installed, or the key cannot be one.
    """

    def __init__(
        self,
        url: str,
        *,
        key_env: str,
        concurrency: int,
        connect_timeout: float,
        read_timeout: float,
        retries: int,
        back_off: float,
        longest_wait: float,
    ) -> None:
        self.url, self.key_env = _checked(url), key_env
        self._key = _key(key_env)
        self.slots = asyncio.Semaphore(concurrency)
        self.retries, self.back_off, self.longest_wait = retries, back_off, longest_wait
        self.retried = 0
        """Attempts that were made again so far."""
        self._usage_level, self._usage_settled = 0, False
        self._client = _client(self._key, connect_timeout, read_timeout)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def post(self, call: Call) -> None:
        """Make the request of a call until it went through or cannot."""
        attempt, level = 0, self._usage_level
        while True:
            try:
                return await self._attempt(call, level)
            except _Failed as failed:
                call.lost |= failed.lost
                refused = failed.status in (400, 422) and not self._usage_settled
                if refused and level + 1 < len(STREAM_OPTIONS):
                    level += 1  # perhaps the way usage was asked for; if not, the same error comes again
                    continue
                if not failed.passing or call.begun or attempt >= self.retries or self._too_long(failed):
                    raise failed.error from None
                wait = wait_before(attempt, failed.after, back_off=self.back_off)
            attempt += 1
            self.retried += 1
            await asyncio.sleep(wait)

    async def _attempt(self, call: Call, level: int) -> None:
        import httpx

        call.restart()
        body = call.body | {"stream": True} | STREAM_OPTIONS[level]
        try:
            async with self._client.stream("POST", f"{self.url}/{call.path}", json=body) as response:
                if response.status_code != 200:
                    raise self._refusal(call.path, response, await response.aread())
                if "application/json" in response.headers.get("content-type", ""):
                    text = message_of(await response.aread())
                    raise _Failed(self.error(f"the server did not stream: {text}", cure="use a server that streams"))
                self._usage_level, self._usage_settled = level, True
                async for data in data_lines(response.aiter_bytes()):
                    self._take(call, data)
        except httpx.RequestError as error:
            if not call.over:
                raise self._broken(call, error) from None
        if not call.over:
            call.end(self._finished(call))

    def _take(self, call: Call, data: str) -> None:
        if call.over:
            return
        if data == "[DONE]":
            return call.end(self._finished(call))
        try:
            event = json.loads(data)
            error = event.get("error")
            tokens = [] if error else call.reader.read(event)
        except (ValueError, TypeError, KeyError, AttributeError, IndexError):
            cure = "check that the URL is an OpenAI-compatible server's, and look at its log"
            raise _Failed(self.error(f"malformed event from the server: {data[:200]!r}", cure=cure)) from None
        if error:
            code = error.get("code") if isinstance(error, dict) else None
            said = self.error(f"the server failed: {message_of(data.encode())}", cure="look at the server's log")
            raise _Failed(said, passing=_passes(code), lost=True)
        call.put(tokens)

    def _finished(self, call: Call) -> LaunchError | None:
        if call.reader.finish in ("stop", "length"):
            return None
        why = f"ended it with {call.reader.finish!r}" if call.reader.finish else "ended the stream without a reason"
        return self.error(f"the server {why} after {call.reader.count} tokens", cure="look at the server's log")

    def _refusal(self, path: str, response: httpx.Response, body: bytes) -> _Failed:
        status, text = response.status_code, message_of(body)
        cures = {
            401: f"put a key of this server into ${self.key_env}, or name another variable with key_env=",
            403: f"put a key that may do this into ${self.key_env}, or name another variable with key_env=",
            404: f"check the URL, the model's name, and whether the server has /{path} (route=)",
            429: "lower concurrency=, or raise retries=",
        }
        general = "change the request, or say what the server cannot do with server= and without="
        cure = cures.get(status, general if status < 500 else "look at the server's log, or raise retries=")
        error = self.error(f"{self.url}/{path} answered {status}: {text}", cure=cure)
        # Waiting does not fill an account.
        passing = _passes(status) and b"insufficient_quota" not in body
        return _Failed(
            error, status=status, after=seconds_to_wait(response.headers.get("retry-after")), passing=passing
        )

    def _broken(self, call: Call, error: httpx.RequestError) -> _Failed:
        import httpx

        what = f"{type(error).__name__}: {error}".rstrip(": ")
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            said = self.error(f"cannot reach {self.url} ({what})", cure="start the server, or correct the URL")
            return _Failed(said, passing=True)
        cure = "ask again; what was generated is counted. If it took too long, raise read_timeout="
        said = self.error(f"the connection broke after {call.reader.count} tokens ({what})", cure=cure)
        # The server may have generated what never arrived.
        return _Failed(said, passing=True, lost=True)

    def _too_long(self, failed: _Failed) -> bool:
        return failed.after is not None and failed.after > self.longest_wait

    def error(self, message: str, *, cure: str) -> LaunchError:
        """An error that cannot hold the key, whatever the server echoed."""
        return LaunchError(message.replace(self._key, "***") if self._key else message, cure=cure)


def wait_before(
    attempt: int,
    after: float | None,
    *,
    back_off: float,
    draw: Callable[[float, float], float] = random.uniform,
) -> float:
    """Seconds before the next attempt: doubled each time up to 60, less a random part up to a half, and never less than
    the server asked for.

    >>> [wait_before(n, None, back_off=0.5, draw=max) for n in (0, 1, 2, 10)], wait_before(0, 7, back_off=0.5)
    ([0.5, 1.0, 2.0, 60.0], 7)
    """
    return max(after or 0, min(60.0, back_off * 2.0**attempt) * draw(0.5, 1.0))


def seconds_to_wait(header: str | None) -> float | None:
    """What ``Retry-After`` says, as seconds from now; None if it says nothing that can be read.

    >>> seconds_to_wait("3"), seconds_to_wait("soon"), seconds_to_wait("Thu, 01 Jan 1970 00:00:00 GMT")
    (3.0, None, 0.0)
    """
    if header is None:
        return None
    if header.strip().replace(".", "", 1).isdigit():
        return float(header)
    date = email.utils.parsedate_tz(header)
    return None if date is None else max(0.0, email.utils.mktime_tz(date) - time.time())


def message_of(body: bytes) -> str:
    """The message in an error's body, in any of the usual forms; else the beginning of the body."""
    text = body.decode(errors="replace").strip()
    try:
        found = json.loads(text)
    except ValueError:
        return text[:300] or "(no message)"
    for key in ("error", "message", "detail"):
        if isinstance(found, dict) and found.get(key):
            found = found[key]
    return found if isinstance(found, str) else json.dumps(found)[:300]


def _passes(status: Any) -> bool:
    return isinstance(status, int) and (status in (408, 429) or 500 <= status < 600)


def _checked(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise RecipeError(f"not a server's URL: {url!r}", cure="give the base URL, as http://127.0.0.1:8000/v1")
    if parts.username or parts.password or parts.query:
        # The URL itself is not shown: it may hold a key.
        cure = "give the URL alone; a key comes from the environment (key_env=)"
        raise RecipeError(f"the URL of {parts.hostname} holds more than a place", cure=cure)
    return url.rstrip("/")


def _key(variable: str) -> str:
    key = os.environ.get(variable, "").strip()
    if not key.isascii() or not key.isprintable() or " " in key:
        # Sent as it is, it would come back in the error of the HTTP library.
        raise LaunchError(f"${variable} holds characters that no key has", cure="set it to the key alone")
    return key


def _client(key: str, connect_timeout: float, read_timeout: float) -> httpx.AsyncClient:
    try:
        import httpx
    except ImportError:
        raise LaunchError("engines over HTTP need httpx", cure='pip install "laconic[serve]"') from None
    return httpx.AsyncClient(
        headers={"Authorization": f"Bearer {key}"} if key else {},
        timeout=httpx.Timeout(read_timeout, connect=connect_timeout, pool=None),
        # `concurrency` is the limit.
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=32),
    )
