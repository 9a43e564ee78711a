"""Many searches at the same time as few batches."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import TracebackType

from laconic.inference.retrieval.documents import Hit
from laconic.inference.retrieval.protocol import Retriever

_TURNS = 8
"""Turns of the event loop that a batch waits for company: as many as nested task groups need to hand results on."""


class BatchingRetriever:
    """Merges searches of concurrent tasks into one search of the retriever below.

    Searches that arrive in the same turn of the event loop, or in the few that follow, become one batch; while it is on
    its way, later ones gather for the next. A batch asks every distinct query once. So the episodes of a training step
    that search in the same turn cause one request.

    Args:
        retriever: Where batches go; it is closed with this one.
        largest: Distinct queries of one batch.
    """

    def __init__(self, retriever: Retriever, *, largest: int = 1024) -> None:
        self.retriever, self.largest = retriever, largest
        self.batches = self.queries = self.asked = 0
        """Batches sent; queries of all searches; those that were sent, once for every batch."""
        self._waiting: list[_Search] = []
        self._sender: asyncio.Task[None] | None = None

    async def search(self, queries: Sequence[str], *, k: int) -> list[list[Hit]]:
        """See `Retriever`. Whatever the batch raises, every search in it raises."""
        if not queries:
            return []
        search = _Search(tuple(queries), k)
        self._waiting.append(search)
        self.queries += len(search.queries)
        loop = asyncio.get_running_loop()
        # A sender whose event loop ended with it is not done, and never will be.
        if self._sender is None or self._sender.done() or self._sender.get_loop() is not loop:
            self._sender = loop.create_task(self._send_all())
        return await search.found

    async def aclose(self) -> None:
        """Close the retriever below; searches that still wait are cancelled."""
        if self._sender is not None:
            self._sender.cancel()
        for search in self._waiting:
            search.found.cancel()
        await self.retriever.aclose()

    async def __aenter__(self) -> BatchingRetriever:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _send_all(self) -> None:
        while self._waiting:
            for _ in range(_TURNS):
                await asyncio.sleep(0)
            batch = self._taken()
            if batch:
                await self._send(batch)

    def _taken(self) -> list[_Search]:
        """The searches of the next batch: those with the same number of hits as the first, as many as fit."""
        self._waiting = [search for search in self._waiting if not search.found.done()]
        batch: list[_Search] = []
        distinct: set[str] = set()
        for search in self._waiting:
            if search.k == self._waiting[0].k and (not batch or len(distinct | set(search.queries)) <= self.largest):
                batch.append(search)
                distinct.update(search.queries)
        self._waiting = [search for search in self._waiting if search not in batch]
        return batch

    async def _send(self, batch: list[_Search]) -> None:
        queries = list(dict.fromkeys(query for search in batch for query in search.queries))
        self.batches += 1
        self.asked += len(queries)
        try:
            found = dict(zip(queries, await self.retriever.search(queries, k=batch[0].k), strict=True))
        except BaseException as error:
            for search in batch:
                search.fail(error)
            if not isinstance(error, Exception):
                raise
            return
        for search in batch:
            search.end([list(found[query]) for query in search.queries])


class _Search:
    """One search that waits for its hits."""

    def __init__(self, queries: tuple[str, ...], k: int) -> None:
        self.queries, self.k = queries, k
        self.found: asyncio.Future[list[list[Hit]]] = asyncio.get_running_loop().create_future()

    def end(self, hits: list[list[Hit]]) -> None:
        if not self.found.done():
            self.found.set_result(hits)

    def fail(self, error: BaseException) -> None:
        if self.found.done():
            return
        if isinstance(error, asyncio.CancelledError):
            self.found.cancel()
        else:
            self.found.set_exception(error)
