"""What the server refuses: one clean error in OpenAI's shape, nothing generated, and the next request is answered."""

from __future__ import annotations

import json
import random
import socket
import threading

import openai
import pytest

from laconic.inference.engine import Capability
from laconic.inference.engines.scripted import ScriptedEngine
from laconic.rewards.errors import LaunchError, RecipeError

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "3 + 4 ="}]
ASKED = {"model": "tiny", "messages": MESSAGES}
KEY = "a key of some length"


def say(context):
    return ["<think>", " so", "</think>", " 7"][3 * bool(context.text) :]


def error_of(reply):
    """The one error of a refused request, if it is a clean one."""
    assert 400 <= reply.status_code < 500 or reply.status_code == 503, reply.text
    body = reply.json()
    assert list(body) == ["error"]
    assert sorted(body["error"]) == ["code", "message", "param", "type"]
    assert isinstance(body["error"]["message"], str)
    assert body["error"]["message"]
    assert body["error"]["code"]
    assert "Traceback" not in reply.text
    return body["error"]


@pytest.fixture(scope="module")
def server(serving):
    """Says seven in five tokens."""
    return serving(ScriptedEngine(say), max_tokens=64)


@pytest.fixture(scope="module")
def guarded(serving):
    """Asks for a key."""
    return serving(ScriptedEngine(say), key=KEY)


def refused(server, body, *, status=400, path=CHAT, headers=None):
    """The error that a request gets; nothing was generated for it."""
    before = server.engine.emitted
    content = body if isinstance(body, bytes | str) else json.dumps(body)
    reply = server.http.post(path, content=content, headers={"Content-Type": "application/json"} | (headers or {}))
    assert reply.status_code == status, reply.text
    assert (server.engine.emitted, server.engine.open_branches) == (before, set())
    return error_of(reply)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 65}, "max_tokens"),
        ({"max_completion_tokens": 1.5}, "max_completion_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"),
        ({"n": 17}, "n"),
        ({"n": True}, "n"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"seed": 1 << 70}, "seed"),
        ({"stop": ""}, "stop"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"what": 1}}, "what"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages[0].role"),
        ({"messages": [*MESSAGES, {"role": "assistant", "content": "It"}]}, "messages[1].role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"logprobs": True}, "logprobs"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"reasoning_effort": "low"}, "reasoning_effort"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"policy": "shortmk"}, "policy"),
        ({"policy": "short_mk:k=2,m=3"}, "policy"),
        ({"policy": "short_mk:q=2"}, "policy"),
        ({"policy": {"name": "short_mk", "k": "four"}}, "policy"),
        ({"policy": {"k": 4}}, "policy"),
        ({"policy": 4}, "policy"),
        ({"policy": "best_of_n"}, "policy"),  # there is no scorer
        ({"policy": "calibrated:/etc/passwd"}, "policy"),
        ({"policy": {"name": "steered", "direction": "/etc/passwd"}}, "policy"),
        (
            {"policy": {"name": "selective", "policy": "calibrated", "parameters": {"artefact": "/etc/passwd"}}},
            "policy",
        ),
    ],
    ids=str,
)
def test_what_is_wrong_is_named(server, fields, param):
    error = refused(server, ASKED | fields)
    assert (error["param"], error["type"]) == (param, "invalid_request_error")


@pytest.mark.parametrize(
    "fields",
    [
        {"user": "me"},
        {"metadata": {"a": "b"}},
        {"tools": []},
        {"logprobs": False},
        {"presence_penalty": 0},
        {"n": None},
    ],
    ids=str,
)
def test_what_changes_nothing_is_taken(server, fields):
    assert server.http.post(CHAT, json=ASKED | fields).status_code == 200


def test_too_many_prompts(serving):
    body = {"model": "tiny", "prompt": ["a", "b"], "n": 2}
    assert refused(serving(ScriptedEngine(say), max_n=3), body, path="/v1/completions")["param"] == "n"


def test_unknown_model(server):
    assert refused(server, ASKED | {"model": "gpt"}, status=404)["code"] == "model_not_found"


def test_policies_that_the_server_does_not_allow(serving):
    server = serving(ScriptedEngine(say), allowed=("plain", "selective"))
    error = refused(server, ASKED | {"policy": "self_consistency"})
    assert (error["code"], "plain, selective" in error["message"]) == ("policy_not_allowed", True)
    inside = {"name": "selective", "policy": "self_consistency"}
    assert refused(server, ASKED | {"policy": inside})["code"] == "policy_not_allowed"


def test_policies_that_the_engine_cannot_run(serving):
    server = serving(ScriptedEngine(say, capabilities=[Capability.SEED]))
    assert refused(server, ASKED | {"policy": "short_mk"})["code"] == "engine_cannot"


def test_a_server_whose_own_policy_cannot_run_does_not_start(serving):
    with pytest.raises(LaunchError, match="continue a raw prefix"):
        serving(ScriptedEngine(say, capabilities=[]), policy="short_mk")
    with pytest.raises(LaunchError, match="needs a scorer"):
        serving(ScriptedEngine(say), policy="best_of_n")
    with pytest.raises(RecipeError, match="max_n=0"):
        serving(ScriptedEngine(say), max_n=0)


def test_more_branches_than_allowed(serving):
    engine = ScriptedEngine(say)
    server = serving(engine, max_branches=5)
    policy = {"name": "self_consistency", "samples": 10**9}
    reply = server.http.post(CHAT, json=ASKED | {"policy": policy})
    assert error_of(reply)["code"] == "too_many_branches"
    assert not engine.open_branches
    fits = server.http.post(CHAT, json=ASKED | {"policy": policy | {"samples": 5}})
    assert fits.status_code == 200


def test_too_large(serving):
    server = serving(ScriptedEngine(say), max_body=2000)
    body = ASKED | {"user": "x" * 3000}
    assert refused(server, body, status=413)["code"] == "body_too_large"
    # Without saying so beforehand.
    pieces = (b"x" * 500 for _ in range(50))
    reply = server.http.post(CHAT, content=pieces, headers={"Content-Type": "application/json"})
    assert reply.request.headers["transfer-encoding"] == "chunked"
    assert (reply.status_code, error_of(reply)["code"]) == (413, "body_too_large")


def test_a_body_that_does_not_arrive(serving):
    server = serving(ScriptedEngine(say), body_seconds=0.05)
    with socket.create_connection(server.place) as raw:
        raw.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n")
        raw.sendall(b"Content-Length: 100\r\n\r\n{")
        assert b" 408 " in raw.recv(10_000)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded"])
def test_what_a_web_page_could_send_from_elsewhere(server, kind):
    assert refused(server, ASKED, status=415, headers={"Content-Type": kind})["code"] == "unsupported_media_type"


@pytest.mark.parametrize("shown", [None, "Bearer wrong", f"Basic {KEY}", "Bearer", f"Bearer {KEY}x", "Bearer k\xe9y"])
def test_without_the_key(guarded, shown):
    headers = {} if shown is None else {"Authorization": shown.encode("latin-1")}
    for path in (CHAT, "/v1/models", "/metrics", "/nowhere"):
        reply = guarded.http.get(path, headers=headers)
        assert (reply.status_code, error_of(reply)["code"]) == (401, "invalid_api_key")
    assert guarded.http.get("/health").json() == {"status": "ok"}


def test_with_the_key(guarded):
    assert guarded.client().chat.completions.create(**ASKED).choices[0].message.content == " 7"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", CHAT, 405),
        ("PUT", "/v1/completions", 405),
        ("POST", "/v1/models", 405),
        ("GET", "/", 404),
        ("POST", "/v1/embeddings", 404),
        ("GET", "/v1/models/another/one", 404),
    ],
)
def test_no_such_place(server, method, path, status):
    reply = server.http.request(method, path)
    assert reply.status_code == status
    error_of(reply)
    assert ("allow" in reply.headers) == (status == 405)


def test_what_is_no_http(server):
    with socket.create_connection(server.place) as raw:
        raw.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        head, _, body = raw.makefile("rb").read().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert json.loads(body)["error"]["code"] == "invalid_http"


def test_a_full_queue_is_said_with_a_time(serving):
    """One runs, one waits, the third is told to come again; who waits is answered when the first one goes."""
    goes, began = threading.Event(), threading.Event()

    def script(context):
        began.set()
        while not goes.is_set():
            yield " x"
        yield " 7"

    server = serving(ScriptedEngine(script), at_once=1, queue=1, max_tokens=10**9)
    found = []
    asks = [threading.Thread(target=lambda: found.append(server.http.post(CHAT, json=ASKED)))]
    asks[0].start()
    assert began.wait(20)
    asks.append(threading.Thread(target=lambda: found.append(server.http.post(CHAT, json=ASKED))))
    asks[1].start()
    while "laconic_queue_length 1.0" not in server.http.get("/metrics").text:
        pass
    reply = server.http.post(CHAT, json=ASKED)
    assert (reply.status_code, reply.headers["retry-after"]) == (429, "1")
    assert error_of(reply)["type"] == "rate_limit_error"
    with pytest.raises(openai.RateLimitError):
        server.client().chat.completions.create(**ASKED)
    goes.set()
    for ask in asks:
        ask.join(20)
    assert [reply.status_code for reply in found] == [200, 200]


def malformed(rng):
    """One request that no server should take: method, path, headers, body."""
    headers, kind = {"Content-Type": "application/json"}, rng.randrange(9)
    good = ASKED | {"stream": rng.random() < 0.5}
    text = json.dumps(good)
    wrong = rng.choice([None, -1, 2.5, True, "x", [], {}, [[]], {"a": {}}, 1e300, "\u2028", [1, "a"], ["\x00"] * 40])
    field = rng.choice(["max_tokens", "temperature", "top_p", "n", "seed", "stream", "stop", "policy", "messages"])
    refused_here = {"max_tokens": ["x", [], {}, -1, 2.5], "temperature": ["x", -1, []], "top_p": [{}, 7, "1"]}
    refused_here |= {
        "n": [0, 1000, "1", 1.0],
        "seed": ["7", 1e3, []],
        "stream": [1, "true"],
        "stop": [5, [""], [5], {}],
    }
    refused_here |= {
        "policy": [7, [], {}, "nobody", "plain:x=1", ":", "=", {"name": {}}],
        "messages": [wrong or 0, "x"],
    }
    if kind == 0:
        return "POST", CHAT, headers, rng.randbytes(rng.randrange(200))
    if kind == 1:
        return "POST", CHAT, headers, text[: rng.randrange(len(text) - 1)].encode()
    if kind == 2:
        return "POST", CHAT, headers, json.dumps(good | {field: rng.choice(refused_here[field])}).encode()
    if kind == 3:
        name = "".join(rng.choices("abcxyz_\u00e9\n'", k=rng.randrange(1, 200)))
        return "POST", CHAT, headers, json.dumps(good | {name: 1}).encode()
    if kind == 4:
        depth = rng.choice([70, 1000, 100_000])
        return "POST", CHAT, headers, b'{"messages":' + b"[" * depth + b"]" * rng.choice([depth, 0]) + b"}"
    if kind == 5:
        return (
            "POST",
            CHAT,
            headers,
            rng.choice([b"[]", b"3", b'"x"', b"null", b"NaN", b'{"n":NaN}', b'{"n":' + b"9" * 5000]),
        )
    if kind == 6:
        content = rng.choice(['"\\ud800"', "5", "null", "[{}]", '{"a":1}', '[{"type":"text"}]', "true"])
        role = rng.choice(["user", "assistant", "system"])
        return "POST", CHAT, headers, f'{{"messages":[{{"role":"{role}","content":{content}}}]}}'.encode()
    if kind == 7:
        return rng.choice(["GET", "DELETE", "PATCH", "PUT"]), rng.choice([CHAT, "/v1/completions"]), headers, b"{}"
    path = rng.choice(["/v1", "/v1/chat", "/%00", "/v1/completions/x", "/..", "/v1/files?" + "q" * 500, "//"])
    return "POST", path, headers, text.encode()


def test_a_thousand_malformed_requests_are_a_thousand_clean_errors(serving):
    server, rng = serving(ScriptedEngine(say)), random.Random(20)
    statuses = []
    for _ in range(1000):
        method, path, headers, body = malformed(rng)
        reply = server.http.request(method, path, headers=headers, content=body)
        assert 400 <= reply.status_code < 500, (method, path, body[:300], reply.text)
        error_of(reply)
        statuses.append(reply.status_code)
    assert set(statuses) == {400, 404, 405}
    assert server.http.post(CHAT, json=ASKED).json()["choices"][0]["message"]["content"] == " 7"
    assert server.engine.emitted == 5  # of the last one
