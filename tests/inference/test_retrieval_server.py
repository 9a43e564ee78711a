"""The retrieval server on loopback: raw requests in each protocol's shape, limits, and our client in every protocol."""

import asyncio
import json
import socket
import threading
from contextlib import contextmanager

import httpx
import pytest

from laconic.inference.retrieval.batching import BatchingRetriever
from laconic.inference.retrieval.bm25 import Bm25Retriever
from laconic.inference.retrieval.documents import Document, digest_of
from laconic.inference.retrieval.http import HttpRetriever
from laconic.inference.retrieval.identity import Identity, identify
from laconic.inference.retrieval.server import Limits, Service
from laconic.inference.retrieval.serving import Server
from laconic.inference.sockets import bind, place_of
from laconic.rewards.errors import DataError

BERLIN = Document("7", "Berlin lies on the Spree.", "Berlin")
SPREE = Document("8", "The Spree is a river.")
PARIS = Document("9", "Paris lies on the Seine.", "Paris")
CORPUS = [BERLIN, SPREE, PARIS]
ROWS = {each.id: each.to_json() for each in CORPUS}
QUERIES = ["Spree", "Paris and the Seine", "nothing known", "", "Spree"]


@contextmanager
def serving(retriever, **limits):
    """A server in a thread; gives its URL and itself."""
    listener, ready = bind("127.0.0.1", 0), threading.Event()
    server = Server(Service(retriever, limits=Limits(**limits)), ready=ready.set)
    thread = threading.Thread(target=server.run_on, args=[listener])
    thread.start()
    assert ready.wait(20)
    try:
        yield place_of(listener), server
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()


@pytest.fixture(scope="module")
def url():
    with serving(Bm25Retriever.from_documents(CORPUS), k=2, most_k=50, queries=4, characters=100, body=2000) as (at, _):
        yield at


def post(url, path, body):
    response = httpx.post(f"{url}/{path}", json=body)
    assert response.status_code == 200, response.text
    return response.json()


def test_retrieve_as_search_r1_asks(url):
    answer = post(url, "retrieve", {"queries": ["Spree", "Paris"], "topk": 3, "return_scores": True})
    (first, second), (only,) = answer["result"]
    assert set(first) == {"document", "score"}
    # The shorter document of two with the word.
    assert (first["document"], second["document"], only["document"]) == (ROWS["8"], ROWS["7"], ROWS["9"])
    assert first["score"] > second["score"] > 0
    assert ROWS["7"] == {"id": "7", "contents": '"Berlin"\nBerlin lies on the Spree.'}


@pytest.mark.parametrize("queries", [["Spree"], ["Spree", "Paris"], ["Spree", "Paris", "Seine"]])
def test_without_scores_there_are_documents_alone(url, queries):
    scored = post(url, "retrieve", {"queries": queries, "topk": 2, "return_scores": True})
    bare = post(url, "retrieve", {"queries": queries, "topk": 2, "return_scores": False})
    assert bare["result"] == [[item["document"] for item in items] for items in scored["result"]]
    assert post(url, "retrieve", {"queries": queries}) == bare  # neither number nor scores asked: 2 here, and none


def test_retrieve_as_skyrl_and_zero_search_ask(url):
    many = post(url, "retrieve", {"queries": ["Spree"], "topk": 1, "return_scores": True})
    assert post(url, "retrieve", {"query": "Spree", "topk": 1, "return_scores": True}) == many
    assert post(url, "retrieve", {"query": "Spree", "top_k": 1}) == {"result": [[ROWS["8"]]]}


def test_answers_say_which_corpus_was_searched(url):
    bodies = {
        "retrieve": {"queries": ["Spree"]},
        "search": {"query": "Spree"},
        "batch_search": {"query": ["Spree"]},
        "queries": {"queries": ["Spree"]},
    }
    said = {httpx.post(f"{url}/{path}", json=body).headers["x-corpus"] for path, body in bodies.items()}
    assert said == {digest_of(CORPUS)}


def test_another_corpus_at_the_same_place_is_an_error():
    async def run(url, server):
        before = HttpRetriever(url, cache=0)
        wanting = HttpRetriever(url, corpus=digest_of(CORPUS[:2]))
        with pytest.raises(DataError, match=f"{url} searches another corpus than before"):
            await wanting.search(["Spree"], k=1)
        assert await identify(BatchingRetriever(before)) == Identity("bm25", 3, digest_of(CORPUS))
        await before.search(["Spree"], k=1)
        server.service.batching.retriever = Bm25Retriever.from_documents(CORPUS[:2])
        for asked in (before.search(["Spree"], k=1), before.identity()):
            with pytest.raises(DataError, match="another corpus than before") as caught:
                await asked
        assert digest_of(CORPUS[:2])[:12] in caught.value.message
        await before.aclose()
        await wanting.aclose()

    with serving(Bm25Retriever.from_documents(CORPUS)) as (url, server):
        asyncio.run(run(url, server))


def test_an_index_on_disk_is_served_from_memory(tmp_path):
    Bm25Retriever.build(CORPUS, tmp_path / "index")
    stored = Bm25Retriever.open(tmp_path / "index")
    with serving(stored, kept=2) as (url, _):
        asked = {"queries": ["Spree", "Paris", "Spree", "Berlin"], "topk": 3}
        first = post(url, "retrieve", asked)
        assert first == post(url, "retrieve", asked)
        assert first["result"] == [[ROWS["8"], ROWS["7"]], [ROWS["9"]], [ROWS["8"], ROWS["7"]], [ROWS["7"]]]
        # The last two that were read; the oldest went.
        assert stored.documents[0] is stored.documents[0]


def test_search_and_batch_search_as_flashrag_asks(url):
    assert post(url, "search", {"query": "Spree", "top_n": 2, "return_score": False}) == [ROWS["8"], ROWS["7"]]
    documents, scores = post(url, "search", {"query": "Spree", "top_n": 2, "return_score": True})
    assert (documents, len(scores)) == ([ROWS["8"], ROWS["7"]], 2)
    asked = {"query": ["Spree", "zzz", "Seine"], "top_n": 1}
    assert post(url, "batch_search", asked) == [[ROWS["8"]], [], [ROWS["9"]]]
    documents, scores = post(url, "batch_search", asked | {"return_score": True})
    assert documents == [[ROWS["8"]], [], [ROWS["9"]]]
    assert [len(row) for row in scores] == [1, 0, 1]


def test_queries_as_r1_searcher_asks(url):
    answer = post(url, "queries", {"queries": ["Seine", "zzz"], "k": 5})
    assert answer == {"answers": [['"Paris"\nParis lies on the Seine.'], []]}


def test_health_says_what_is_served(url):
    found = httpx.get(f"{url}/health").json()
    assert found == {
        "status": "ok",
        "kind": "bm25",
        "documents": 3,
        "corpus": Bm25Retriever.from_documents(CORPUS).corpus,
    }


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("retrieve", {}, "give queries or query"),
        ("retrieve", {"queries": ["a"], "query": "b"}, "one of them"),
        ("retrieve", {"queries": ["a", 3]}, "queries must be a list of texts"),
        ("retrieve", {"queries": {"a": 1}}, "queries must be a list of texts"),
        ("retrieve", {"queries": ["a"], "topk": 0}, "topk must be a whole number from 1 to 50"),
        ("retrieve", {"queries": ["a"], "topk": 51}, "topk must be"),
        ("retrieve", {"queries": ["a"], "topk": True}, "topk must be"),
        ("retrieve", {"queries": ["a"], "topk": "3"}, "topk must be"),
        ("retrieve", {"queries": ["a"], "return_scores": "yes"}, "return_scores must be"),
        ("retrieve", {"queries": ["a"] * 5}, "5 queries; this server takes 4"),
        ("retrieve", {"query": "a" * 101}, "more than 100 characters"),
        ("search", {"query": ["a"]}, "query must be a text"),
        ("search", {"queries": ["a"]}, "give query"),
        ("queries", {"query": "a"}, "give queries"),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(url, path, body, message):
    response = httpx.post(f"{url}/{path}", json=body)
    assert response.status_code == 400
    assert message in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "content", "kind", "status"),
    [
        ("POST", "retrieve", b"{nothing", "application/json", 400),
        ("POST", "retrieve", b"[]", "application/json", 400),
        ("POST", "retrieve", b"queries=a", "application/x-www-form-urlencoded", 415),
        ("POST", "retrieve", json.dumps({"query": "a", "pad": "x" * 3000}).encode(), "application/json", 413),
        ("GET", "retrieve", b"", "application/json", 405),
        ("POST", "elsewhere", b"{}", "application/json", 404),
    ],
)
def test_what_is_no_request_gets_its_status(url, method, path, content, kind, status):
    response = httpx.request(method, f"{url}/{path}", content=content, headers={"content-type": kind})
    assert response.status_code == status
    assert response.json()["error"]["message"]


def test_a_failing_retriever_is_a_500_and_the_server_goes_on():
    class Failing:
        async def search(self, queries, *, k):
            if "bad" in queries:
                raise RuntimeError("secret of the inside")
            return [[] for _ in queries]

        async def aclose(self):
            pass

    with serving(Failing()) as (at, _):
        response = httpx.post(f"{at}/retrieve", json={"query": "bad"})
        assert response.status_code == 500
        assert "secret" not in response.text
        assert post(at, "retrieve", {"query": "good"}) == {"result": [[]]}


def test_too_many_requests_at_once_are_told_to_come_back():
    class Slow:
        def __init__(self):
            self.entered, self.let_go = threading.Event(), threading.Event()

        async def search(self, queries, *, k):
            self.entered.set()
            await asyncio.to_thread(self.let_go.wait, 20)
            return [[] for _ in queries]

        async def aclose(self):
            pass

    slow, answers = Slow(), []
    with serving(slow, at_once=1) as (at, _):
        first = threading.Thread(target=lambda: answers.append(post(at, "retrieve", {"query": "a"})))
        first.start()
        assert slow.entered.wait(20)
        refused = httpx.post(f"{at}/retrieve", json={"query": "b"})
        slow.let_go.set()
        first.join(20)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert answers == [{"result": [[]]}]


@pytest.mark.parametrize("protocol", ["auto", "search_r1", "skyrl", "flashrag", "r1_searcher"])
def test_the_client_finds_over_http_what_is_found_here(url, protocol):
    async def search():
        client = HttpRetriever(url, protocol=protocol)
        try:
            return await client.search(QUERIES, k=2)
        finally:
            await client.aclose()

    here = Bm25Retriever.from_documents(CORPUS).find(QUERIES, k=2)
    found = asyncio.run(search())
    if protocol == "r1_searcher":  # it knows neither ids nor scores
        assert [[hit.document.contents for hit in hits] for hits in found] == [
            [hit.document.contents for hit in hits] for hits in here
        ]
        assert [[hit.score for hit in hits] for hits in found[:2]] == [[1.0, 0.5], [1.0]]
    else:
        assert found == here


def test_connections_stay_open_and_do_not_delay():
    delays = {"server": [], "client": []}

    async def search(at, server):
        client = HttpRetriever(at, cache=0)
        for _ in range(5):
            await client.search(["Spree"], k=1)
        for name, stream in (
            ("client", await client_socket(client, at)),
            *(("server", each.transport.get_extra_info("socket")) for each in server.server_state.connections),
        ):
            delays[name].append(stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        await client.aclose()

    async def client_socket(client, at):
        async with client._here().client.stream("GET", f"{at}/health") as response:
            await response.aread()
            return response.extensions["network_stream"].get_extra_info("socket")

    with serving(Bm25Retriever.from_documents(CORPUS)) as (at, server):
        asyncio.run(search(at, server))
    # One connection for six requests, and Nagle's delay off at both ends.
    assert [len(found) for found in delays.values()] == [1, 1]
    assert all(delays["server"])
    assert all(delays["client"])


def test_requests_that_arrive_together_are_searched_together():
    batches = []

    class Counted(Bm25Retriever):
        async def search(self, queries, *, k):
            batches.append(sorted(queries))
            await asyncio.sleep(0.05)
            return await super().search(queries, k=k)

    async def crowd(at):
        client = HttpRetriever(at, protocol="skyrl")
        found = await client.search([f"Spree {n}" for n in range(30)], k=1)
        await client.aclose()
        return found

    retriever = Counted.from_documents(CORPUS)
    with serving(retriever) as (at, _):
        found = asyncio.run(crowd(at))
    assert found == retriever.find([f"Spree {n}" for n in range(30)], k=1)
    assert sum(map(len, batches)) == 30
    assert len(batches) < 15
