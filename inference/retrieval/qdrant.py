"""Documents in a Qdrant collection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from laconic.inference.retrieval.dense import Encoder
from laconic.inference.retrieval.documents import Hit
from laconic.inference.retrieval.opensearch import stored_hit
from laconic.rewards.errors import LaunchError


class QdrantRetriever:
    """Finds the documents with the nearest vectors, by Qdrant's index: one request for all queries of a call.

    A point's payload holds `title` and `text`, or `contents`; its id is the payload's `id`, or else the point's. It has
    been run against the client's in-memory mode, not yet against a server.

    Args:
        client: `qdrant_client.AsyncQdrantClient`.
        collection: Its name.
        encoder: Of queries; the one that made the vectors.
    """

    kind = "qdrant"

    def __init__(self, client: Any, collection: str, encoder: Encoder) -> None:
        self._client, self._collection, self._encoder = client, collection, encoder

    @classmethod
    def connect(cls, url: str, collection: str, encoder: Encoder, **client: Any) -> QdrantRetriever:
        """Make the client too.

        Raises:
            LaunchError: qdrant-client is not installed.
        """
        try:
            from qdrant_client import AsyncQdrantClient
        except ImportError:
            raise LaunchError("Qdrant needs its client", cure='pip install "laconic[qdrant]"') from None
        return cls(AsyncQdrantClient(url=url, **client), collection, encoder)

    async def search(self, queries: Sequence[str], *, k: int) -> list[list[Hit]]:
        """See `Retriever`.

        Raises:
            LaunchError: the server answered fewer queries than were asked.
            DataError: a document has no text.
        """
        from qdrant_client import models

        asked = [query for query in dict.fromkeys(queries) if query.strip()]
        if not asked:
            return [[] for _ in queries]
        vectors = np.asarray(self._encoder.encode(asked, kind="query")).tolist()
        requests = [models.QueryRequest(query=vector, limit=k, with_payload=True) for vector in vectors]
        answers = await self._client.query_batch_points(self._collection, requests=requests)
        if len(answers) != len(asked):
            raise LaunchError(f"Qdrant answered {len(answers)} of {len(asked)} queries", cure="look at its log")
        found = {
            query: [stored_hit(point.payload, point.id, point.score) for point in answer.points]
            for query, answer in zip(asked, answers, strict=True)
        }
        return [list(found.get(query, ())) for query in queries]

    async def aclose(self) -> None:
        """See `Retriever`."""
        await self._client.close()
