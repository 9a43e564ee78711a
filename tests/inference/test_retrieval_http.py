"""The HTTP client: a server that dies, errs or lies; its memory; its connections."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from laconic.inference.retrieval.batching import BatchingRetriever
from laconic.inference.retrieval.bm25 import Bm25Retriever
from laconic.inference.retrieval.documents import Document
from laconic.inference.retrieval.http import HttpRetriever
from laconic.inference.retrieval.identity import Identity
from laconic.inference.sockets import bind
from laconic.rewards.errors import LaunchError, RecipeError

QUICK = {"back_off": 0.001, "patience": 20.0}


def right(body):
    """A good answer to Search-R1's request: every query finds itself."""
    items = [{"document": {"id": query, "contents": f"about {query}"}, "score": 2.5} for query in body["queries"]]
    return 200, {"result": [[item] for item in items]}


@dataclass
class Scripted:
    """A server that answers requests with `answers` in turn, then with `usual`."""

    answers: list = field(default_factory=list)
    usual: object = right
    bodies: list = field(default_factory=list)
    connections: int = 0

    def answer(self, path, body):
        self.bodies.append((path, body))
        turn = self.answers.pop(0) if self.answers else self.usual
        return turn(body) if callable(turn) else turn


@pytest.fixture
def server():
    script = Scripted()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self):
            script.connections += 1
            super().setup()

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            status, answer, *headers = script.answer(self.path, body)
            if status is None:  # cut the connection, in the middle of an answer if there is one
                self.wfile.write(answer)
                self.close_connection = True
                return
            raw = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            self.send_header("content-length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *arguments):
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listening.serve_forever, args=[0.01], daemon=True).start()
    script.url = f"http://127.0.0.1:{listening.server_port}"
    yield script
    listening.shutdown()
    listening.server_close()


def search(url, queries, *, k=3, **options):
    """One search, and the client that made it."""

    async def run():
        client = HttpRetriever(url, **QUICK | options)
        try:
            return await client.search(queries, k=k), client
        finally:
            await client.aclose()

    return asyncio.run(run())


def found_ids(found):
    return [[hit.document.id for hit in hits] for hits in found]


TORN = (None, b'HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{"result": [')
PASSING = {
    "cut": (None, b""),
    "torn": TORN,
    "429": (429, {"detail": "slow down"}, ("retry-after", "0")),
    "500": (500, {"detail": "oops"}),
    "502": (502, b"<html>bad gateway</html>"),
    "503": (503, {"detail": "starting"}),
    "no gzip": (200, b"not packed", ("content-encoding", "gzip")),
    "no json": (200, b"<html>welcome</html>"),
    "half json": (200, b'{"result": [['),
    "no result": (200, {"results": []}),
    "no object": (200, None),
    "fewer lists": lambda body: (200, {"result": right(body)[1]["result"][:-1]}),
    "more lists": lambda body: (200, {"result": right(body)[1]["result"] * 2}),
    "no lists": (200, {"result": [None, None]}),
    "no document": (200, {"result": [[{"document": None, "score": 1.0}], []]}),
    "no text": (200, {"result": [[{"document": {"id": "a"}, "score": 1.0}], []]}),
    "blank text": (200, {"result": [[{"document": {"id": "a", "contents": " "}, "score": 1.0}], []]}),
    "bad score": (200, {"result": [[{"document": {"id": "a", "contents": "x"}, "score": "high"}], []]}),
    "infinite score": (200, b'{"result": [[{"document": {"id": "a", "contents": "x"}, "score": Infinity}], []]}'),
}


@pytest.mark.parametrize("name", PASSING)
def test_a_fault_that_passes_is_tried_again(server, name):
    server.answers = [PASSING[name]] * 2
    found, client = search(server.url, ["a", "b"], protocol="search_r1")
    assert found_ids(found) == [["a"], ["b"]]
    assert (client.requests, client.retried) == (1, 2)
    assert server.bodies == [("/retrieve", {"queries": ["a", "b"], "topk": 3, "return_scores": True})] * 3


@pytest.mark.parametrize("name", PASSING)
def test_a_fault_that_stays_is_an_error_and_no_empty_result(server, name):
    server.usual = PASSING[name]
    with pytest.raises(LaunchError) as caught:
        search(server.url, ["a", "b"], protocol="search_r1", retries=2, patience=0.02)
    assert server.url in caught.value.message
    assert caught.value.cure
    if name in ("fewer lists", "more lists"):
        assert "lists of results for 2 queries" in caught.value.message
    if name == "500":
        assert len(server.bodies) == 3
        assert "oops" in caught.value.message


@pytest.mark.parametrize("status", [400, 401, 404, 413, 301])
def test_a_refusal_is_not_repeated(server, status):
    server.usual = (status, {"detail": "never"})
    with pytest.raises(LaunchError, match=f"answered {status}: .*never"):
        search(server.url, ["a"], protocol="search_r1")
    assert len(server.bodies) == 1


def singular(body):
    """SkyRL's server: FastAPI refuses a body without `query`."""
    if "query" not in body:
        return 422, {"detail": [{"loc": ["body", "query"], "msg": "Field required"}]}
    return 200, {"result": [[{"document": {"id": body["query"], "contents": "x"}, "score": 1.0}]]}


def only(path, answer):
    """A server with one path."""
    return lambda asked, body: answer(body) if asked == path else (404, {"detail": "Not Found"})


def flashrag(body):
    documents = [[{"id": query, "contents": "x"}] for query in body["query"]]
    return 200, [documents, [[0.5]] * len(documents)] if body["return_score"] else documents


def flashrag_without_scores(body):
    return 200, [[{"id": query, "contents": "x"}, {"id": "more", "contents": "y"}] for query in body["query"]]


def r1_searcher(body):
    return 200, {"answers": [[f"about {query}"] for query in body["queries"]]}


@pytest.mark.parametrize(
    ("path", "answer", "tries", "scores"),
    [
        ("/retrieve", singular, 2, [1.0]),
        ("/batch_search", flashrag, 3, [0.5]),
        ("/batch_search", flashrag_without_scores, 3, [1.0, 0.5]),
        ("/queries", r1_searcher, 4, [1.0]),
    ],
    ids=["skyrl", "flashrag", "no scores", "r1_searcher"],
)
@pytest.mark.parametrize("number", [1, 2, 3])
def test_the_protocol_of_a_server_is_found_once(server, monkeypatch, path, answer, tries, scores, number):
    handler = only(path, answer)
    monkeypatch.setattr(server, "answer", lambda asked, body: server.bodies.append(asked) or handler(asked, body))
    queries = ["a", "b", "c"][:number]

    async def run():
        client = HttpRetriever(server.url, **QUICK)
        first = await client.search(queries, k=3)
        tried = len(server.bodies)
        again = await client.search(["d", *queries], k=2)
        await client.aclose()
        return first, again, tried

    first, again, tried = asyncio.run(run())
    assert [hits[0].document.text for hits in first] == [hits[0].document.text for hits in again[1:]]
    if path != "/queries":
        assert [hits[0].document.id for hits in first] == queries
    assert [hit.score for hit in first[0]] == scores
    # It is tried with one query; then a search is one request, or one for every query where the server takes no more.
    single = answer is singular
    assert tried == tries + (number if single else 1)
    assert len(server.bodies) - tried == (1 + number if single else 1)


def test_a_server_of_no_known_protocol_is_an_error(server):
    server.usual = (404, {"detail": "Not Found"})
    with pytest.raises(LaunchError, match=r"speaks no protocol that is known .*/queries as r1_searcher: 404"):
        search(server.url, ["a"])


def test_documents_without_ids_have_the_same_id_every_time(server):
    server.usual = (200, {"result": [[{"document": {"contents": "x"}, "score": 1}, {"document": "x", "score": 1}]]})
    found, _ = search(server.url, ["a"])
    first, second = found[0]
    assert first.document == second.document
    assert len(first.document.id) == 16


def test_more_hits_than_asked_are_left_out(server):
    server.usual = (200, {"result": [[{"document": {"id": str(n), "contents": "x"}, "score": -n} for n in range(9)]]})
    found, _ = search(server.url, ["a"], k=2)
    assert found_ids(found) == [["0", "1"]]


def test_what_was_asked_is_not_asked_again(server):
    async def run():
        client = HttpRetriever(server.url, protocol="search_r1", cache=2)
        await client.search(["a", "b", "a", " "], k=3)
        await client.search(["b", "a"], k=3)  # both known; b is now the older
        await client.search(["c", "a"], k=3)
        await client.search(["a", "b"], k=3)  # b was forgotten for c
        await client.search(["a"], k=5)  # another number of hits is another search
        await client.aclose()

    asyncio.run(run())
    assert [body["queries"] for _, body in server.bodies] == [["a", "b"], ["c"], ["b"], ["a"]]


def test_hits_that_a_caller_changes_stay_as_they_were(server):
    async def run():
        client = HttpRetriever(server.url)
        (hits,) = await client.search(["a"], k=3)
        hits.clear()
        return await client.search(["a"], k=3)

    assert found_ids(asyncio.run(run())) == [["a"]]


def test_waiting_is_said(server, caplog):
    server.answers = [PASSING["503"]] * 3
    search(server.url, ["a"])
    said = [record.getMessage() for record in caplog.records if record.name.startswith("laconic")]
    assert len(said) == 2
    assert said[0].startswith(f"{server.url}/retrieve answered 503: ")
    assert said[0].endswith("waiting up to 20 s for it")
    assert said[1].startswith(f"{server.url} is there again after ")


def test_large_batches_are_split_and_connections_kept(server):
    async def run():
        client = HttpRetriever(server.url, largest=10, concurrency=2, cache=0)
        found = [await client.search([f"q{n}" for n in range(25)], k=1) for _ in range(4)]
        await client.aclose()
        return found

    found = asyncio.run(run())
    assert all(found_ids(each) == [[f"q{n}"] for n in range(25)] for each in found)
    assert [len(body["queries"]) for _, body in server.bodies].count(10) == 8
    assert server.connections <= 2


def test_a_client_outlives_its_event_loop(server):
    client = HttpRetriever(server.url, cache=0)
    for name in ("a", "b"):
        assert found_ids(asyncio.run(client.search([name], k=1))) == [[name]]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://x", "not a server's URL"),
        ("http://", "not a server's URL"),
        ("http://me:secret@host:1", "holds more than a place"),
        ("http://host/retrieve?key=secret", "holds more than a place"),
    ],
)
def test_a_url_that_is_none_is_refused(url, message):
    with pytest.raises(RecipeError, match=message) as caught:
        HttpRetriever(url)
    assert "secret" not in str(caught.value)


def test_a_url_may_end_with_the_path_of_its_protocol(server):
    server.usual = r1_searcher
    found, _ = search(f"{server.url}/queries", ["a"])
    assert found[0][0].document.text == "about a"
    assert [path for path, _ in server.bodies] == ["/queries"]
    with pytest.raises(RecipeError, match="no retrieval protocol 'other'"):
        HttpRetriever(server.url, protocol="other")


def test_a_server_that_stays_away_is_an_error():
    listener = bind("127.0.0.1", 0)  # bound, but nobody listens
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(LaunchError, match=r"cannot reach http://.*after \d+ attempts"):
        asyncio.run(HttpRetriever(url, back_off=0.001, patience=0.05).identity())
    with pytest.raises(LaunchError, match=r"cannot reach http://.*after \d+ attempts") as caught:
        search(url, ["a"], patience=0.05)
    listener.close()
    assert "start the server" in caught.value.cure


def test_a_server_that_does_not_say_what_it_searches_is_believed(server):
    async def run():
        client = HttpRetriever(server.url, corpus="0123", **QUICK)
        said = await client.identity()  # it answers 501
        found = await client.search(["a"], k=1)
        await client.aclose()
        return said, found

    said, found = asyncio.run(run())
    assert (said, found_ids(found)) == (Identity(), [["a"]])
    for strange in (None, [], {"documents": "many", "corpus": 7}):
        assert Identity.from_json(strange) == Identity()


def test_nothing_is_lost_when_the_server_is_killed_and_started_again(tmp_path):
    """Sixteen tasks search; the process is killed in the middle, and nobody is there for a while."""
    documents = [Document(f"d{n}", f"word{n} word{n % 7} filler") for n in range(400)]
    Bm25Retriever.build(documents, tmp_path / "index")
    listener = bind("127.0.0.1", 0)
    port = str(listener.getsockname()[1])
    listener.close()
    command = [
        sys.executable,
        "-m",
        "laconic.launch.cli",
        "retriever",
        "serve",
        str(tmp_path / "index"),
        "--port",
        port,
    ]
    processes = []

    def start():
        processes.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))

    queries = [f"word{n}" for n in range(400)]
    found = {}

    async def one(searching, number):
        for query in queries[number::16]:
            found[query] = (await searching.search([query], k=3))[0]
            if len(found) == 150:
                os.kill(processes[0].pid, signal.SIGKILL)
                processes[0].wait()
                asyncio.get_running_loop().call_later(0.3, start)

    async def run():
        client = HttpRetriever(f"http://127.0.0.1:{port}", cache=0, back_off=0.02, longest_pause=0.2, patience=60)
        async with BatchingRetriever(client) as searching, asyncio.TaskGroup() as group:
            for number in range(16):
                group.create_task(one(searching, number))
        return client

    start()
    try:
        processes[0].stderr.readline()
        client = asyncio.run(run())
        health = json.loads(urllib.request.urlopen(f"http://127.0.0.1:{port}/health").read())
    finally:
        for process in processes:
            process.kill()
            process.wait()
            process.stderr.close()
    assert client.retried > 0
    assert health["documents"] == 400
    expected = Bm25Retriever.from_documents(documents).find(queries, k=3)
    assert [found[query] for query in queries] == expected
