"""Documents in an OpenSearch cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from laconic.inference.retrieval.documents import Document, Hit
from laconic.rewards.errors import DataError, LaunchError

_FIELDS = ("title", "text", "contents")


class OpenSearchRetriever:
    """Finds documents with the cluster's own BM25: one multi-search request for all queries of a call.

    Documents are indexed with `title` and `text`, or with `contents`; their id is the field `id`, or else that of the
    cluster. Equal scores come in the cluster's order. It has been run against a stand-in for the client, not yet
    against a cluster.

    Args:
        client: `opensearchpy.AsyncOpenSearch`, with its own retries and time limits.
        index: Its name.
        fields: That are searched.
    """

    kind = "opensearch"

    def __init__(self, client: Any, index: str, *, fields: Sequence[str] = _FIELDS) -> None:
        self._client, self._index, self._fields = client, index, list(fields)

    @classmethod
    def connect(cls, url: str, index: str, *, fields: Sequence[str] = _FIELDS, **client: Any) -> OpenSearchRetriever:
        """Make the client too, with three retries and 30 seconds unless other keywords say so.

        Raises:
            LaunchError: opensearch-py is not installed.
        """
        try:
            from opensearchpy import AsyncOpenSearch
        except ImportError:
            raise LaunchError("OpenSearch needs its client", cure='pip install "laconic[opensearch]"') from None
        usual = {"timeout": 30, "max_retries": 3, "retry_on_timeout": True}
        return cls(AsyncOpenSearch(hosts=[url], **usual | client), index, fields=fields)

    async def search(self, queries: Sequence[str], *, k: int) -> list[list[Hit]]:
        """See `Retriever`.

        Raises:
            LaunchError: the cluster failed for a query, or answered fewer than were asked.
            DataError: a document has no text.
        """
        asked = [query for query in dict.fromkeys(queries) if query.strip()]
        if not asked:
            return [[] for _ in queries]
        body = [line for query in asked for line in ({"index": self._index}, self._query(query, k))]
        answers = (await self._client.msearch(body=body))["responses"]
        if len(answers) != len(asked):
            raise LaunchError(f"OpenSearch answered {len(answers)} of {len(asked)} queries", cure="look at its log")
        found = {query: self._hits(answer) for query, answer in zip(asked, answers, strict=True)}
        return [list(found.get(query, ())) for query in queries]

    async def aclose(self) -> None:
        """See `Retriever`."""
        await self._client.close()

    def _query(self, query: str, k: int) -> dict[str, Any]:
        wanted = {"multi_match": {"query": query, "fields": self._fields}}
        return {"query": wanted, "size": k, "_source": ["id", *_FIELDS]}

    def _hits(self, answer: Mapping[str, Any]) -> list[Hit]:
        if "error" in answer:
            cure = "check the name of the index and the cluster's log"
            raise LaunchError(f"OpenSearch failed on index {self._index!r}: {answer['error']}", cure=cure)
        return [stored_hit(each["_source"], each["_id"], each["_score"]) for each in answer["hits"]["hits"]]


def stored_hit(row: Mapping[str, Any] | None, id: str | int, score: float) -> Hit:
    """A hit of a document engine.

    Args:
        row: What is stored: `title` and `text`, or `contents`, and maybe `id`.
        id: What the engine calls it.
        score: The engine's.

    Raises:
        DataError: nothing, or no text, is stored.
    """
    if not row:
        raise DataError(f"document {id} is stored without its text", cure="index it with title and text, or contents")
    named = {"id": id, **{key: value for key, value in row.items() if value is not None}}
    return Hit(Document.from_json(named, where=f"document {id}"), float(score))
