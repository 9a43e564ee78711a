"""A retriever behind a server: keeps connections, waits for a server that restarts, believes no answer unread."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from laconic.inference.retrieval.dialects import DIALECTS, Dialect, Malformed, find_dialect, shortened
from laconic.inference.retrieval.documents import Hit
from laconic.inference.retrieval.identity import HEADER, Identity, check_same
from laconic.inference.retrieval.protocol import check_k
from laconic.rewards.errors import LaunchError, RecipeError

if TYPE_CHECKING:
    import httpx

log = logging.getLogger(__name__)
_Found = TypeVar("_Found")

_AWAY = (429, 502, 503, 504)
"""Statuses of a server that is there again later."""
_UNKNOWN = (400, 404, 405, 422)
"""Statuses of a server that speaks another protocol."""


class _Failed(Exception):
    """One attempt failed.

    Args:
        message: How.
        cure: What its user can do.
        status: Of the answer, if there was one.
        away: The server may come back: wait for it.
        passing: It may go better at once.
        after: Seconds that the server asked to wait.
    """

    def __init__(
        self,
        message: str,
        *,
        cure: str,
        status: int | None = None,
        away: bool = False,
        passing: bool = False,
        after: float = 0.0,
    ) -> None:
        super().__init__(message)
        self.message, self.cure, self.status = message, cure, status
        self.away, self.passing, self.after = away, passing, after


class HttpRetriever:
    """Finds documents by asking a server; every search is one request, queries asked before are none.

    A server that cannot be reached, breaks off or is overloaded (429, 502, 503, 504) is waited for and asked again,
    for up to `patience` seconds: it may be killed and restarted during training, and searches go on where they were.
    Any other failure (500, an answer that is no JSON, has fewer lists than queries or items that are no documents) is
    tried again `retries` times and is then an error; it is never an empty result.

    Our own server says with every answer which corpus it searched. Where that changes, after a restart say, the search
    is an error.

    Args:
        url: Of the server; the path of a protocol at its end (``/retrieve``) chooses that protocol.
        protocol: `search_r1`, `skyrl`, `flashrag` or `r1_searcher`; `auto` tries them in this order at the first search
            and stays with the first that the server knows.
        patience: Seconds to wait for a server that is away.
        timeout: Seconds for one answer.
        retries: Attempts after the first where the server is there and answers wrongly.
        back_off: Seconds before the second attempt; doubled each time up to `longest_pause`, less a random part up to a
            half.
        longest_pause: Seconds.
        cache: Queries whose hits are remembered, those used last; 0 remembers none.
        concurrency: Requests at once.
        largest: Queries in one request; more are sent in several.
        corpus: The digest that the corpus must have, where the server says; None: that of the first answer.

    Raises:
        RecipeError: the URL is none, or the protocol unknown.
        LaunchError: httpx is not installed.
    """

    def __init__(
        self,
        url: str,
        *,
        protocol: str = "auto",
        patience: float = 600.0,
        timeout: float = 60.0,
        retries: int = 4,
        back_off: float = 0.25,
        longest_pause: float = 5.0,
        cache: int = 10_000,
        concurrency: int = 32,
        largest: int = 1024,
        corpus: str | None = None,
    ) -> None:
        _check_installed()
        self.url, named = _checked(url)
        self._dialect = find_dialect(protocol) if protocol != "auto" else named
        self.patience, self.timeout, self.retries = patience, timeout, retries
        self.back_off, self.longest_pause = back_off, longest_pause
        self.concurrency, self.largest = concurrency, largest
        self.corpus = corpus
        self.requests = self.retried = 0
        """Requests that were answered well, and attempts that were made again."""
        self._kept: OrderedDict[tuple[str, int], list[Hit]] = OrderedDict()
        self._most = cache
        self._home: _Home | None = None

    async def search(self, queries: Sequence[str], *, k: int) -> list[list[Hit]]:
        """See `Retriever`.

        Raises:
            DataError: the server searches another corpus than before.
            LaunchError: the server stayed away, or answers wrongly again and again.
        """
        check_k(k)
        found = {query: self._recall(query, k) for query in queries}
        # Servers refuse a blank query, or find whatever comes first.
        asked = [query for query, hits in found.items() if hits is None and query.strip()]
        for query, hits in zip(asked, await self._ask(asked, k), strict=True):
            found[query] = hits
            self._keep(query, k, hits)
        return [list(found[query] or ()) for query in queries]

    async def identity(self) -> Identity:
        """What the server's ``/health`` says, once it is there; nothing where there is no such thing.

        Raises:
            DataError: it searches another corpus than before.
            LaunchError: the server stayed away.
        """
        found = await self._insisted(self._health)
        self._note_corpus(found.corpus)
        return found

    async def aclose(self) -> None:
        """Close all connections."""
        home, self._home = self._home, None
        if home is not None and home.loop is asyncio.get_running_loop():
            await home.client.aclose()

    async def _ask(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """Ask in as many requests as it takes, at once."""
        if not queries:
            return []
        if self._dialect is None:
            self._dialect = await self._tried(queries[0], k)
        dialect = self._dialect
        size = 1 if dialect.single else self.largest
        parts = [queries[start : start + size] for start in range(0, len(queries), size)]
        tasks = [asyncio.create_task(self._insist(dialect, part, k)) for part in parts]
        try:
            return [hits for found in await asyncio.gather(*tasks) for hits in found]
        finally:
            for task in tasks:
                task.cancel()

    async def _tried(self, query: str, k: int) -> Dialect:
        """The first protocol in which the server answers a query."""
        refusals = []
        for dialect in DIALECTS:
            try:
                await self._insist(dialect, [query], k, trying=True)
            except _Failed as failed:
                refusals.append(f"/{dialect.path} as {dialect.name}: {failed.status}")
            else:
                return dialect
        raise LaunchError(
            f"{self.url} speaks no protocol that is known ({'; '.join(refusals)})",
            cure="check the URL, or name the protocol to see the server's own words",
        )

    async def _insist(
        self, dialect: Dialect, queries: Sequence[str], k: int, *, trying: bool = False
    ) -> list[list[Hit]]:
        """One search, made until it went through or cannot."""
        body = dialect.body(queries, k)
        found = await self._insisted(lambda: self._attempt(dialect, body, len(queries), k), trying=trying)
        self.requests += 1
        return found

    async def _insisted(self, attempt_once: Callable[[], Awaitable[_Found]], *, trying: bool = False) -> _Found:
        """One request, made until it went through or cannot."""
        loop = asyncio.get_running_loop()
        away, wrong, attempt = None, 0, 0
        while True:
            try:
                found = await attempt_once()
            except _Failed as failed:
                if trying and failed.status in _UNKNOWN:
                    raise
                wrong += not failed.away
                gone = failed.away and loop.time() - (away or loop.time()) >= self.patience
                if gone or wrong > (self.retries if failed.passing else 0):
                    raise self._given_up(failed, attempt + 1) from None
                if failed.away and away is None:
                    away = loop.time()
                    log.warning("%s; waiting up to %g s for it", failed.message, self.patience)
                await asyncio.sleep(self._pause(attempt if failed.away else wrong - 1, failed.after))
                attempt += 1
                self.retried += 1
            else:
                if away is not None:
                    log.warning("%s is there again after %.1f s", self.url, loop.time() - away)
                return found

    async def _attempt(self, dialect: Dialect, body: dict[str, Any], queries: int, k: int) -> list[list[Hit]]:
        import httpx

        home = self._here()
        try:
            async with home.slots:
                response = await home.client.post(f"{self.url}/{dialect.path}", json=body)
        except httpx.DecodingError as error:
            raise _wrong(self.url, dialect, f"it cannot be unpacked: {error}") from None
        except httpx.TransportError as error:
            raise self._unreached(error) from None
        if response.status_code != 200:
            raise self._refusal(dialect.path, response)
        self._note_corpus(response.headers.get(HEADER))
        try:
            return dialect.read(json.loads(response.content), queries=queries, k=k)
        except (ValueError, RecursionError):
            wrong = f"no JSON: {shortened(response.text)}"
        except Malformed as error:
            wrong = str(error)
        raise _wrong(self.url, dialect, wrong)

    async def _health(self) -> Identity:
        import httpx

        # Not in the connections that are kept: they belong to whoever searches.
        try:
            async with httpx.AsyncClient(timeout=httpx.Timeout(self.timeout, connect=10)) as client:
                response = await client.get(f"{self.url}/health")
        except httpx.DecodingError:
            return Identity()
        except httpx.TransportError as error:
            raise self._unreached(error) from None
        if response.status_code in _AWAY:
            raise self._refusal("health", response)
        try:
            return Identity.from_json(json.loads(response.content) if response.status_code == 200 else None)
        except ValueError:
            return Identity()

    def _note_corpus(self, digest: str | None) -> None:
        check_same(self.url, digest, self.corpus)
        self.corpus = self.corpus or digest

    def _unreached(self, error: httpx.TransportError) -> _Failed:
        what = f"{type(error).__name__}: {error}".rstrip(": ")
        cure = "start the server, correct the URL, or raise patience="
        return _Failed(f"cannot reach {self.url} ({what})", cure=cure, away=True)

    def _refusal(self, path: str, response: httpx.Response) -> _Failed:
        status = response.status_code
        return _Failed(
            f"{self.url}/{path} answered {status}: {shortened(response.text.strip()) or '(nothing)'}",
            cure="look at the server's log" if status >= 500 else "check the URL, the protocol and the server's limits",
            status=status,
            away=status in _AWAY,
            passing=status >= 500 or status == 408,
            after=_seconds(response.headers.get("retry-after")),
        )

    def _given_up(self, failed: _Failed, attempts: int) -> LaunchError:
        after = f" (after {attempts} attempts)" if attempts > 1 else ""
        return LaunchError(f"{failed.message}{after}", cure=failed.cure)

    def _pause(self, attempt: int, after: float) -> float:
        doubled = min(self.longest_pause, self.back_off * 2.0 ** min(attempt, 30))
        return max(doubled * random.uniform(0.5, 1.0), min(after, self.patience))

    def _here(self) -> _Home:
        """The connections of this event loop; those of a loop that is over are of no use."""
        loop = asyncio.get_running_loop()
        if self._home is None or self._home.loop is not loop:
            self._home = _Home(loop, timeout=self.timeout, concurrency=self.concurrency)
        return self._home

    def _recall(self, query: str, k: int) -> list[Hit] | None:
        kept = self._kept.get((query, k))
        if kept is not None:
            self._kept.move_to_end((query, k))
        return kept

    def _keep(self, query: str, k: int, hits: list[Hit]) -> None:
        self._kept[query, k] = hits
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)


class _Home:
    """Connections and slots, which belong to one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, timeout: float, concurrency: int) -> None:
        import httpx

        self.loop, self.slots = loop, asyncio.Semaphore(concurrency)
        # The slots are the limit. Connections stay open, and asyncio turns Nagle's delay off on each.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=concurrency, keepalive_expiry=60)
        self.client = httpx.AsyncClient(timeout=httpx.Timeout(timeout, connect=10, pool=None), limits=limits)


def _checked(url: str) -> tuple[str, Dialect | None]:
    """The server's own URL, and the protocol whose path stood at the end."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise RecipeError(f"not a server's URL: {url!r}", cure="give it as http://127.0.0.1:8000")
    if parts.username or parts.password or parts.query:
        # The URL itself is not shown: it may hold a key.
        raise RecipeError(f"the URL of {parts.hostname} holds more than a place", cure="give the place alone")
    base = url.rstrip("/")
    for dialect in DIALECTS:
        # Two protocols share a path: there the server is tried.
        if base.endswith(f"/{dialect.path}"):
            shared = sum(each.path == dialect.path for each in DIALECTS) > 1
            return base.removesuffix(f"/{dialect.path}"), None if shared else dialect
    return base, None


def _wrong(url: str, dialect: Dialect, what: str) -> _Failed:
    cure = f"check that it speaks {dialect.name} at /{dialect.path}, and look at its log"
    return _Failed(f"{url}/{dialect.path} answered wrongly: {what}", cure=cure, passing=True)


def _seconds(header: str | None) -> float:
    """``Retry-After`` in seconds; dates are not read."""
    return float(header) if header is not None and header.isdecimal() and len(header) < 6 else 0.0


def _check_installed() -> None:
    try:
        import httpx  # noqa: F401
    except ImportError:
        raise LaunchError("a retriever behind a server needs httpx", cure='pip install "laconic[search]"') from None
