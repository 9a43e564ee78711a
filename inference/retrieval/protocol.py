"""What every retriever can do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from laconic.inference.retrieval.documents import Hit
from laconic.rewards.errors import RecipeError

_Found = TypeVar("_Found")

_INLINE = 50_000
"""Documents that are looked through on the event loop's own thread."""


class Retriever(Protocol):
    """Finds documents for queries, many at once."""

    async def search(self, queries: Sequence[str], *, k: int) -> list[list[Hit]]:
        """Find documents.

        Args:
            queries: Any number of them; one without a word finds nothing.
            k: Hits per query, at least 1.

        Returns:
            One list for every query, in their order: at most `k` hits, the best first. The same call on the same corpus
            returns the same hits in the same order.
        """
        ...

    async def aclose(self) -> None:
        """Let go of files and connections. A closed retriever is not used again."""
        ...


async def off_the_loop(work: Callable[[], _Found], *, cost: int) -> _Found:
    """Do blocking work: at once where it is short, else in a thread, so that decoding goes on meanwhile.

    Short work costs less than the thread would, and what happens then does not depend on its timing.

    Args:
        work: What to do.
        cost: In documents that BM25 looks through in the same time.
    """
    return work() if cost <= _INLINE else await asyncio.to_thread(work)


def check_k(k: int) -> None:
    """Refuse a number of hits below 1.

    Raises:
        RecipeError: it is.
    """
    if k < 1:
        raise RecipeError(f"k is {k}", cure="ask for at least 1 hit")
