"""Searches of concurrent tasks become few batches, and each gets its own hits."""

import asyncio

import pytest

from laconic.inference.retrieval.batching import BatchingRetriever
from laconic.inference.retrieval.documents import Document, Hit
from laconic.rewards.errors import LaunchError


class Recording:
    """Every query finds itself, `k` times; each call is a batch."""

    def __init__(self, *, gate=None, error=None):
        self.calls, self.closed, self.gate, self.error = [], False, gate, error

    async def search(self, queries, *, k):
        self.calls.append((list(queries), k))
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None and "bad" in queries:
            raise self.error
        return [[Hit(Document(query, query), float(k))] * k for query in queries]

    async def aclose(self):
        self.closed = True


def ids(found):
    return [[hit.document.id for hit in hits] for hits in found]


def test_tasks_of_one_turn_share_a_batch():
    async def run():
        below = Recording()
        async with BatchingRetriever(below) as searching:
            found = await asyncio.gather(*(searching.search([f"q{n}", "same"], k=1) for n in range(50)))
        return below, searching, found

    below, searching, found = asyncio.run(run())
    assert [ids(each) for each in found] == [[[f"q{n}"], ["same"]] for n in range(50)]
    assert [len(queries) for queries, _ in below.calls] == [51]
    assert (searching.batches, searching.queries, searching.asked) == (1, 100, 51)
    assert below.closed


def test_tasks_behind_task_groups_and_gathers_share_it_too():
    async def nested(searching, depth, name):
        if depth:
            async with asyncio.TaskGroup() as group:
                task = group.create_task(nested(searching, depth - 1, name))
            return task.result()
        return await searching.search([name], k=1)

    async def run():
        below = Recording()
        searching = BatchingRetriever(below)
        await asyncio.gather(*(nested(searching, depth, f"q{depth}") for depth in range(4)))
        return below

    assert len(asyncio.run(run()).calls) == 1


def test_searches_during_a_batch_gather_for_the_next():
    async def run():
        below = Recording(gate=asyncio.Event())
        searching = BatchingRetriever(below)
        first = asyncio.create_task(searching.search(["a"], k=1))
        while not below.calls:
            await asyncio.sleep(0)
        rest = []
        for name in "bcd":
            rest.append(asyncio.create_task(searching.search([name], k=1)))
            await asyncio.sleep(0.001)
        below.gate.set()
        await asyncio.gather(first, *rest)
        return below

    assert asyncio.run(run()).calls == [(["a"], 1), (["b", "c", "d"], 1)]


def test_numbers_of_hits_and_sizes_of_batches_are_kept_apart():
    async def run():
        below = Recording()
        searching = BatchingRetriever(below, largest=3)
        asked = [(["a"], 1), (["b"], 2), (["a", "c", "d"], 1), (["e"], 1), (["f", "g", "h", "i"], 2), ([], 5)]
        found = await asyncio.gather(*(searching.search(queries, k=k) for queries, k in asked))
        for (queries, k), hits in zip(asked, found, strict=True):
            assert ids(hits) == [[query] * k for query in queries]
        return below

    calls = asyncio.run(run()).calls
    # One larger than a batch goes alone; nothing is split.
    assert calls == [(["a", "c", "d"], 1), (["b"], 2), (["e"], 1), (["f", "g", "h", "i"], 2)]


def test_an_error_reaches_those_of_its_batch_alone():
    async def run():
        below = Recording(error=LaunchError("gone", cure="start it"))
        searching = BatchingRetriever(below)
        found = await asyncio.gather(*(searching.search([q], k=1) for q in ("a", "bad")), return_exceptions=True)
        return found, await searching.search(["b"], k=1)

    failed, later = asyncio.run(run())
    assert [str(each) for each in failed] == ["gone\n  -> start it"] * 2
    assert ids(later) == [["b"]]


def test_a_cancelled_search_takes_nobody_along():
    async def run():
        below = Recording(gate=asyncio.Event())
        searching = BatchingRetriever(below)
        kept, dropped = (asyncio.create_task(searching.search([name], k=1)) for name in "ab")
        while not below.calls:
            await asyncio.sleep(0)
        dropped.cancel()
        below.gate.set()
        with pytest.raises(asyncio.CancelledError):
            await dropped
        return await kept

    assert ids(asyncio.run(run())) == [["a"]]


def test_closing_ends_those_who_wait():
    async def run():
        below = Recording(gate=asyncio.Event())
        searching = BatchingRetriever(below)
        tasks = [asyncio.create_task(searching.search(["a"], k=1))]
        while not below.calls:
            await asyncio.sleep(0)
        tasks.append(asyncio.create_task(searching.search(["b"], k=1)))
        await asyncio.sleep(0)
        await searching.aclose()
        return await asyncio.gather(*tasks, return_exceptions=True), below

    found, below = asyncio.run(run())
    assert [type(each) for each in found] == [asyncio.CancelledError] * 2
    assert below.closed


def test_it_outlives_its_event_loop():
    below = Recording()
    searching = BatchingRetriever(below)
    for name in "ab":
        assert ids(asyncio.run(searching.search([name], k=1))) == [[name]]
