"""Many users of one model: nothing lost, nothing mixed up, and who goes takes everything along."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import threading
from itertools import count

import httpx
import openai
import pytest

from laconic.inference.engine import Sampling
from laconic.inference.engines.loading import load_model
from laconic.inference.engines.scripted import ScriptedEngine
from laconic.inference.engines.transformers import TransformersEngine
from laconic.inference.ledger import Ledger
from laconic.inference.opening import Opened
from laconic.inference.policies import POLICIES
from laconic.inference.policies.choose import parse_choice
from laconic.inference.server.app import create_app
from laconic.inference.server.service import Service
from laconic.inference.server.settings import Settings
from laconic.recipes.model_spec import ScratchModel
from laconic.training.scratch import build, symbolic_tokenizer

CHAT = "/v1/chat/completions"
SYMBOLS = [*map(str, range(30)), *"+-*/=;"]
PROMPTS = [f"{number % 30} + {number % 7} =" for number in range(64)]


def endless(context):
    return (f" {number}" for number in count())


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A small random decoder in double precision, so that what is batched in another way says the same."""
    folder = tmp_path_factory.mktemp("model")
    spec = ScratchModel(hidden_size=32, layers=2, heads=2, max_length=256)
    build(spec, symbolic_tokenizer(SYMBOLS), seed=0, folder=folder)
    return load_model(folder, device="cpu", dtype="float64")


@pytest.fixture
def crowded(model, serving):
    """A server over it."""
    return lambda **settings: serving(TransformersEngine(*model, batch_size=64), tokenizer=model[1], **settings)


def says(model, prompts, *, max_tokens):
    """What the engine itself says to each prompt, its place being the seed."""

    async def one(engine, seed):
        async with engine.open(prompts[seed], ledger=Ledger(), sampling=Sampling(), seed=seed) as branch:
            await branch.generate(max_tokens=max_tokens)
            return branch.text

    async def all_of_them():
        engine = TransformersEngine(*model, batch_size=64)
        texts = await asyncio.gather(*(one(engine, seed) for seed in range(len(prompts))))
        await engine.aclose()
        return texts

    return asyncio.run(all_of_them())


def test_64_clients_at_once_lose_nothing(model, crowded):
    """Every one of them streams what the engine says to its prompt and seed, all in one batch."""
    server = crowded()

    async def one(client, seed):
        asked = [{"role": "user", "content": PROMPTS[seed]}]
        options = {"seed": seed, "max_tokens": 40, "stream": True, "extra_body": {"separate_reasoning": False}}
        stream = await client.chat.completions.create(model="tiny", messages=asked, **options)
        chunks = [chunk async for chunk in stream]
        ledger = chunks[-1].choices[0].laconic["ledger"]
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks), ledger["generated"]

    async def crowd():
        async with openai.AsyncOpenAI(**server.options()) as client:
            return await asyncio.gather(*(one(client, seed) for seed in range(64)))

    found = asyncio.run(crowd())
    assert [text for text, _ in found] == says(model, PROMPTS, max_tokens=40)
    assert len({text for text, _ in found}) > 60
    tokens = sum(generated for _, generated in found)
    page = server.http.get("/metrics").text
    counted = [line.split() for line in page.splitlines() if line.startswith("laconic_tokens_total")]
    assert sum(float(number) for _, number in counted) == tokens
    # In one batch, or it would have taken as many ticks as there are tokens.
    assert server.engine.ticks < tokens / 8


def test_what_the_model_has_no_room_for(crowded):
    """256 positions, of which the prompt's tokens and two of the template are taken."""
    server = crowded(max_tokens=250)

    def ask(words, **fields):
        body = {"messages": [{"role": "user", "content": " ".join(["7"] * words)}], "seed": 1}
        return server.http.post(CHAT, json=body | fields)

    assert ask(206, max_tokens=48).json()["usage"]["prompt_tokens"] == 208
    for reply in (ask(206, max_tokens=49), ask(300), ask(254)):
        assert (reply.status_code, reply.json()["error"]["code"]) == (400, "context_length_exceeded")
    # Who names no number gets what fits.
    assert 0 < ask(206).json()["usage"]["completion_tokens"] <= 36


def test_messages_that_the_chat_template_refuses(crowded):
    messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "3 + 4 ="}]
    reply = crowded().http.post(CHAT, json={"messages": messages})
    assert reply.status_code == 400
    assert "only user and assistant messages" in reply.json()["error"]["message"]


def test_every_policy_answers_or_is_refused_cleanly(crowded):
    """None of them, with its defaults, brings the server down or out; what the engine cannot do is the request's."""
    server = crowded(max_tokens=40)
    wanting = {}
    for name in sorted(POLICIES):
        body = {"messages": [{"role": "user", "content": "3 + 4 ="}], "policy": name, "seed": 3}
        reply = server.http.post(CHAT, json=body)
        if reply.status_code != 200:
            assert (reply.status_code, list(reply.json())) == (400, ["error"]), (name, reply.text)
            wanting[name] = reply.json()["error"]["message"]
    assert {"plain", "short_mk", "self_consistency", "think_budget", "first_finish"}.isdisjoint(wanting)
    assert {"best_of_n", "calibrated", "cascade"} <= set(wanting)
    assert not server.engine._live


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("policy", ["plain", "self_consistency:samples=8"])
def test_who_goes_frees_every_branch_within_a_tick(stream, policy):
    """The application itself, on an engine in virtual time: the tick in which the client goes is known."""
    engine = ScriptedEngine(endless)
    service = Service(Opened(engine, "tiny"), parse_choice(policy), settings=Settings(max_tokens=10**9))
    body = json.dumps({"messages": [{"role": "user", "content": "?"}], "stream": stream, "n": 2}).encode()

    async def go():
        gone, read = asyncio.Event(), False

        async def receive():
            nonlocal read
            if not read:
                read = True
                return {"type": "http.request", "body": body, "more_body": False}
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            pass

        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        scope = {"type": "http", "method": "POST", "path": CHAT, "headers": headers, "query_string": b""}
        answered = asyncio.create_task(create_app(service)(scope, receive, send))
        while engine.now < 50:
            await asyncio.sleep(0)
        before, branches = engine.now, len(engine.open_branches)
        gone.set()
        while engine.open_branches:
            await asyncio.sleep(0)
        after, emitted = engine.now, engine.emitted
        await answered
        for _ in range(200):
            await asyncio.sleep(0)
        return branches, after - before, engine.emitted - emitted

    branches, ticks, more = asyncio.run(asyncio.wait_for(go(), 60))
    assert branches == (2 if policy == "plain" else 16)
    assert (ticks <= 1, more) == (True, 0)
    assert service.gate.inside == 0
    page = service.meters.page().decode()
    assert "laconic_cancelled_total 1.0" in page
    # What it had said is counted; numbers without tags are an answer, of which the policy had not yet known it.
    assert f'laconic_tokens_total{{fate="discarded",role="think"}} {float(engine.emitted)}' in page


@pytest.mark.parametrize("policy", ["plain", "self_consistency:samples=6"])
def test_a_client_that_goes_away(serving, policy):
    """Over a real connection, in the middle of a stream or while it waits; others are not disturbed."""
    engine = ScriptedEngine(lambda context: endless(context) if context.prompt == "?" else [" 7"])
    server = serving(engine, policy=policy, max_tokens=10**9)
    body = json.dumps({"messages": [{"role": "user", "content": "?"}], "stream": True})
    head = f"POST {CHAT} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(server.place) as raw:
        raw.sendall((head + body).encode())
        if policy == "plain":
            assert raw.recv(1000).startswith(b"HTTP/1.1 200 ")
        while len(engine.open_branches) < (1 if policy == "plain" else 6):
            pass
    while engine.open_branches:
        pass
    ask = {"messages": [{"role": "user", "content": "!"}], "policy": "plain"}
    assert server.http.post(CHAT, json=ask).json()["choices"][0]["message"]["content"] == " 7"
    assert "laconic_cancelled_total 1.0" in server.http.get("/metrics").text


def test_who_is_still_being_answered_at_the_end_is_told(serving):
    """A server that is told to stop: what ends in time is sent whole, the rest is cut and says so."""
    goes = threading.Event()

    def script(context):
        while not goes.is_set():
            yield " x"
        if context.prompt == "?":
            yield from endless(context)
        yield " 7"

    engine = ScriptedEngine(script)
    server = serving(engine, max_tokens=10**9, close_seconds=0.5)
    found = {}

    def ask(prompt, stream):
        body = {"messages": [{"role": "user", "content": prompt}], "stream": stream}
        found[prompt, stream] = server.http.post(CHAT, json=body)

    asks = [threading.Thread(target=ask, args=[prompt, stream]) for prompt in "?!" for stream in (True, False)]
    for each in asks:
        each.start()
    while len(engine.open_branches) < 4:
        pass
    server.server.handle_exit(signal.SIGTERM, None)
    while not server.service.gate.closed:
        pass
    with pytest.raises(httpx.TransportError):
        httpx.post(server.url + CHAT, json={}, verify=False)
    goes.set()
    for each in asks:
        each.join(20)
    assert found["!", False].json()["choices"][0]["finish_reason"] == "stop"
    assert found["!", True].text.endswith("data: [DONE]\n\n")
    assert (found["?", False].status_code, found["?", False].json()["error"]["code"]) == (503, "shutting_down")
    assert json.loads(found["?", True].text.split("data: ")[-1])["error"]["code"] == "shutting_down"
    assert not engine.open_branches
