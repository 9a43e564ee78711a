"""Document engines, over the part of their clients that is used; Qdrant's own in-memory mode where it is installed."""

import asyncio
import sys
import types
from dataclasses import dataclass

import numpy as np
import pytest

from laconic.inference.retrieval.documents import Document
from laconic.inference.retrieval.opensearch import OpenSearchRetriever
from laconic.inference.retrieval.qdrant import QdrantRetriever
from laconic.rewards.errors import DataError, LaunchError

STORED = {
    "1": {"id": "spree", "title": "Berlin", "text": "Berlin lies on the Spree"},
    "2": {"contents": '"Paris"\nParis lies on the Seine'},
    "3": {"title": None, "text": "A river flows"},
}
DOCUMENTS = [
    Document("spree", "Berlin lies on the Spree", "Berlin"),
    Document("2", "Paris lies on the Seine", "Paris"),
    Document("3", "A river flows"),
]


class Cluster:
    """`AsyncOpenSearch`: multi-search counts the words that query and document share."""

    def __init__(self):
        self.requests, self.closed = [], False

    async def msearch(self, *, body):
        self.requests.append(body)
        pairs = zip(body[::2], body[1::2], strict=True)
        return {"responses": [self._one(header["index"], asked) for header, asked in pairs]}

    async def close(self):
        self.closed = True

    def _one(self, index, asked):
        if index != "wiki":
            return {"error": {"type": "index_not_found_exception"}, "status": 404}
        words = set(asked["query"]["multi_match"]["query"].lower().split())
        hits = []
        for name, source in STORED.items():
            fields = [source.get(field) or "" for field in asked["query"]["multi_match"]["fields"]]
            shared = words & set(" ".join(fields).lower().split())
            if shared:
                hits.append({"_id": name, "_score": float(len(shared)), "_source": source})
        hits.sort(key=lambda hit: -hit["_score"])
        return {"hits": {"hits": hits[: asked["size"]]}, "status": 200}


def test_opensearch_gets_one_request_for_all_queries():
    cluster = Cluster()
    retriever = OpenSearchRetriever(cluster, "wiki")
    found = asyncio.run(retriever.search(["river flows", "", "seine", "lies on", "river flows"], k=2))
    assert [[hit.document for hit in hits] for hits in found] == [
        [DOCUMENTS[2]],
        [],
        [DOCUMENTS[1]],
        DOCUMENTS[:2],
        [DOCUMENTS[2]],
    ]
    assert [hit.score for hit in found[0]] == [2.0]
    assert [len(body) for body in cluster.requests] == [6]
    asyncio.run(retriever.aclose())
    assert cluster.closed


def test_what_opensearch_reports_is_an_error(monkeypatch):
    with pytest.raises(LaunchError, match=r"index 'none': .*index_not_found"):
        asyncio.run(OpenSearchRetriever(Cluster(), "none").search(["a"], k=1))
    monkeypatch.setitem(STORED, "4", {"title": "Zebra"})
    with pytest.raises(DataError, match="document 4: text is None"):
        asyncio.run(OpenSearchRetriever(Cluster(), "wiki").search(["zebra"], k=1))
    cut = Cluster()
    cut.msearch = lambda body: asyncio.sleep(0, {"responses": []})
    with pytest.raises(LaunchError, match="answered 0 of 1 queries"):
        asyncio.run(OpenSearchRetriever(cut, "wiki").search(["a"], k=1))


class Letters:
    settings = None

    def encode(self, texts, *, kind):
        assert kind == "query"
        return np.array([[text.count(letter) for letter in "abc"] for text in texts], dtype=np.float32)


@dataclass
class QueryRequest:
    query: list
    limit: int
    with_payload: bool


@dataclass
class Point:
    id: int
    score: float
    payload: dict | None


class Collection:
    """`AsyncQdrantClient` with one collection, searched exactly."""

    vectors = ((3.0, 0.0, 0.0), (0.0, 2.0, 0.0), (0.0, 1.0, 4.0))

    def __init__(self, *, payloads=None):
        self.payloads, self.requests, self.closed = payloads or tuple(STORED.values()), 0, False

    async def query_batch_points(self, collection_name, requests):
        assert collection_name == "wiki"
        self.requests += 1
        return [types.SimpleNamespace(points=self._one(request)) for request in requests]

    async def close(self):
        self.closed = True

    def _one(self, request):
        assert request.with_payload is True
        assert all(isinstance(number, float) for number in request.query)
        scores = [sum(a * b for a, b in zip(vector, request.query, strict=True)) for vector in self.vectors]
        order = sorted(range(3), key=lambda place: -scores[place])[: request.limit]
        return [Point(place + 1, scores[place], self.payloads[place]) for place in order]


@pytest.fixture
def models(monkeypatch):
    module = types.ModuleType("qdrant_client")
    module.models = types.SimpleNamespace(QueryRequest=QueryRequest)
    monkeypatch.setitem(sys.modules, "qdrant_client", module)


@pytest.mark.usefixtures("models")
def test_qdrant_gets_one_request_for_all_queries():
    client = Collection()
    retriever = QdrantRetriever(client, "wiki", Letters())
    found = asyncio.run(retriever.search(["bb", "", "ca", "bb"], k=2))
    assert [[hit.document for hit in hits] for hits in found] == [
        DOCUMENTS[1:],
        [],
        [DOCUMENTS[2], DOCUMENTS[0]],
        DOCUMENTS[1:],
    ]
    assert [hit.score for hit in found[2]] == [4.0, 3.0]
    assert client.requests == 1
    asyncio.run(retriever.aclose())
    assert client.closed
    with pytest.raises(DataError, match="document 2 is stored without"):
        asyncio.run(QdrantRetriever(Collection(payloads=(None,) * 3), "wiki", Letters()).search(["b"], k=1))


def test_qdrant_in_memory_finds_the_same():
    qdrant = pytest.importorskip("qdrant_client")

    async def run():
        client = qdrant.AsyncQdrantClient(":memory:")
        size = qdrant.models.VectorParams(size=3, distance=qdrant.models.Distance.DOT)
        await client.create_collection("wiki", vectors_config=size)
        points = [
            qdrant.models.PointStruct(id=number, vector=list(vector), payload=payload)
            for number, (vector, payload) in enumerate(zip(Collection.vectors, STORED.values(), strict=True), start=1)
        ]
        await client.upsert("wiki", points=points)
        retriever = QdrantRetriever(client, "wiki", Letters())
        found = await retriever.search(["bb", "", "ca"], k=2)
        await retriever.aclose()
        return found

    found = asyncio.run(run())
    assert [[hit.document for hit in hits] for hits in found] == [DOCUMENTS[1:], [], [DOCUMENTS[2], DOCUMENTS[0]]]
    assert [hit.score for hit in found[2]] == [4.0, 3.0]


@pytest.mark.parametrize(
    ("module", "connect"),
    [
        ("opensearchpy", lambda: OpenSearchRetriever.connect("http://127.0.0.1:1", "wiki")),
        ("qdrant_client", lambda: QdrantRetriever.connect("http://127.0.0.1:1", "wiki", Letters())),
    ],
    ids=["opensearch", "qdrant"],
)
def test_a_missing_client_is_named(monkeypatch, module, connect):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(LaunchError, match="needs its client"):
        connect()
