"""What one request can cost: its tokens, its branches, the text of its policy, the time in which others wait for it."""

from __future__ import annotations

import asyncio
import json
import threading
from itertools import count

import httpx
import pytest

from laconic.inference.engine import Sampling
from laconic.inference.engines.encoded import Encoded
from laconic.inference.engines.scripted import ScriptedEngine
from laconic.inference.ledger import Ledger
from laconic.inference.opening import Opened
from laconic.inference.policies.candidates import race, together
from laconic.inference.policies.choose import parse_choice
from laconic.inference.server.app import create_app
from laconic.inference.server.counted import CountedEngine
from laconic.inference.server.refusals import Refused
from laconic.inference.server.service import Service
from laconic.inference.server.settings import Settings
from laconic.rewards.errors import LaunchError, RecipeError

CHAT = "/v1/chat/completions"
ASKED = {"model": "tiny", "messages": [{"role": "user", "content": "3 + 4 ="}], "seed": 1}


def endless(context):
    return (f" {number}" for number in count())


def thinks_long(context):
    return [" 7"] if "</think>" in context.text else ["<think>", *[" x"] * 300]


def error_of(reply):
    assert reply.status_code == 400, reply.text
    return reply.json()["error"]


def answers(service, *bodies):
    """What the application says to each, at once; and what the event loop was told of that nobody looked at."""
    complaints = []

    async def go():
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context["message"]))
        transport = httpx.ASGITransport(app=create_app(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://server", timeout=60) as client:
            return await asyncio.gather(*(client.post(CHAT, json=ASKED | body) for body in bodies))

    found = asyncio.run(asyncio.wait_for(go(), 60))
    return found, complaints


# Tasks


@pytest.mark.parametrize("run_all", [together, race])
def test_what_was_begun_ends_where_the_next_cannot_be_made(run_all):
    ended = []

    async def job(number):
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append(number)

    async def jobs_begin():
        def jobs():
            yield job(0)
            yield job(1)
            raise LaunchError("no third one")

        complaints = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
        with pytest.raises(LaunchError, match="no third one"):
            await run_all(jobs())
        return len(asyncio.all_tasks()) - 1, complaints

    assert asyncio.run(jobs_begin()) == (0, [])
    # They were cancelled before their first step.
    assert ended == []


def test_a_refused_request_leaves_nothing_that_runs():
    """The branches before the one too many were opened, and what was to decode them ends with them."""
    service = Service(Opened(ScriptedEngine(endless), "tiny"), parse_choice("plain"), settings=Settings(max_tokens=500))
    (reply,), complaints = answers(service, {"policy": "self_consistency:samples=1000000"})
    assert error_of(reply)["code"] == "too_many_branches"
    assert complaints == []
    assert (service.opened.engine.emitted, service.opened.engine.open_branches) == (0, set())


# Branches


class Failing(ScriptedEngine):
    """Cannot open or fork while it is told not to."""

    fails = True

    def open(self, prompt, **given):
        if self.fails:
            raise RecipeError("top_p=7")
        return super().open(prompt, **given)


def test_a_branch_that_could_not_be_opened_is_not_counted():
    engine = Failing(endless)
    counted = CountedEngine(engine, max_branches=2, max_generated=10)

    async def go():
        for _ in range(5):
            with pytest.raises(RecipeError):
                counted.open("?", ledger=Ledger())
        engine.fails = False
        one = counted.open("?", ledger=Ledger())
        for _ in range(5):
            with pytest.raises(RecipeError, match="back=3"):
                await one.fork(back=3)
        two = await one.fork()
        with pytest.raises(Refused, match="more than 2 branches"):
            await one.fork()
        await two.close("discarded")
        await two.close("discarded")
        assert counted.open_branches == 1
        await (await one.fork()).close("discarded")

    asyncio.run(go())


# Tokens


@pytest.mark.parametrize("stream", [False, True])
def test_more_tokens_than_a_request_may_cause(serving, stream):
    """A probe after every token. What was not begun is refused; a stream ends with the error."""
    engine = ScriptedEngine(thinks_long)
    server = serving(engine, max_tokens=100, max_request_tokens=120)
    policy = {"name": "answer_consistency", "every": 1, "suffix": "", "threshold": 1000}
    reply = server.http.post(CHAT, json=ASKED | {"policy": policy, "stream": stream})
    if stream:
        assert reply.status_code == 200
        *pieces, last = [json.loads(line[6:]) for line in reply.text.split("\n\n") if line]
        assert len(pieces) > 5
        error = last["error"]
    else:
        error = error_of(reply)
    assert (error["code"], error["param"]) == ("too_many_tokens", "policy")
    assert "more than 120 tokens" in error["message"]
    assert 120 <= engine.emitted <= 120 + 2  # at most a token more of each branch that decodes then
    assert not engine.open_branches
    page = server.http.get("/metrics").text
    tokens = sum(float(line.split()[1]) for line in page.splitlines() if line.startswith("laconic_tokens_total"))
    assert tokens == engine.emitted


def test_samples_at_once_and_one_after_the_other(serving):
    """Ten of 30 tokens are 300, however they come."""
    engine = ScriptedEngine(lambda context: [*[" x"] * 28, f" {context.seed}"])
    server = serving(engine, max_tokens=50, max_request_tokens=299)
    for policy in ("self_consistency:samples=10", "self_consistency:samples=10,batch=1"):
        before = engine.emitted
        assert error_of(server.http.post(CHAT, json=ASKED | {"policy": policy}))["code"] == "too_many_tokens"
        assert 299 < engine.emitted - before <= 309
    enough = serving(ScriptedEngine(engine.script), max_tokens=50, max_request_tokens=300)
    reply = enough.http.post(CHAT, json=ASKED | {"policy": "self_consistency:samples=10"})
    assert reply.json()["usage"]["completion_tokens"] == 300


def test_each_of_n_has_as_many(serving):
    server = serving(ScriptedEngine(lambda context: [" x"] * 19), max_tokens=50, max_request_tokens=20)
    reply = server.http.post(CHAT, json=ASKED | {"n": 4})
    assert reply.json()["usage"]["completion_tokens"] == 80
    # It is the most of `max_tokens`, too, which a plain completion therefore never exceeds.
    assert error_of(server.http.post(CHAT, json=ASKED | {"max_tokens": 21}))["param"] == "max_tokens"
    endless_one = serving(ScriptedEngine(endless), max_tokens=50, max_request_tokens=20)
    (choice,) = endless_one.http.post(CHAT, json=ASKED).json()["choices"]
    assert (choice["finish_reason"], choice["laconic"]["ledger"]["generated"]) == ("length", 20)


def test_the_default_is_as_many_as_all_branches_together(serving):
    server = serving(ScriptedEngine(lambda context: [" x"] * 9), max_tokens=10, max_branches=4)
    fits = server.http.post(CHAT, json=ASKED | {"policy": "self_consistency:samples=4"})
    assert fits.json()["usage"]["completion_tokens"] == 40
    more = server.http.post(CHAT, json=ASKED | {"policy": "self_consistency:samples=5,batch=1"})
    assert error_of(more)["code"] in ("too_many_tokens", "too_many_branches")
    with pytest.raises(RecipeError, match="max_request_tokens=0"):
        serving(ScriptedEngine(endless), max_request_tokens=0)


def test_the_hook_of_a_policy_still_decides():
    """The count has a hook of its own; what a policy's hook sees and does is as without it."""

    async def go(engine):
        seen = []
        branch = engine.open("?", ledger=Ledger(), sampling=Sampling())
        chunk = await branch.generate(max_tokens=50, hook=lambda token: seen.append(token.text) or len(seen) == 7)
        return seen, chunk.text, chunk.reason

    bare = asyncio.run(go(ScriptedEngine(endless)))
    counted = asyncio.run(go(CountedEngine(ScriptedEngine(endless), max_branches=1, max_generated=7)))
    assert counted == bare
    assert bare[2] == "hook"


# Text


@pytest.mark.parametrize(
    "wish",
    [
        "selective:parameters=[&a [q,q,q],&b [*a,*a,*a],*b]",
        "selective:parameters=["
        + ",".join(f"&a{n} [{','.join([f'*a{n - 1}' if n else 'q'] * 9)}]" for n in range(30))
        + "]",
        "plain:x=&a [*a]",
        "plain:x=" + "[" * 900,
        "plain:x=" + "- " * 900 + "1",
        "plain:x=2026-99-99",
        "plain:x=!!bool maybe",
        "plain:x=!!timestamp x",
        "plain:x={[1]: 2}",
    ],
    ids=range(9),
)
def test_policies_that_yaml_makes_large_or_strange(serving, wish):
    """Values that are named and used again: 2000 characters would come to more than anyone can walk through."""
    server = serving(ScriptedEngine(endless), max_tokens=50)
    assert error_of(server.http.post(CHAT, json=ASKED | {"policy": wish}))["type"] == "invalid_request_error"


@pytest.mark.parametrize(("threshold", "text"), [(".inf", "inf"), ("-.inf", "-inf")])
@pytest.mark.parametrize("stream", [False, True])
def test_numbers_that_json_has_not(serving, stream, threshold, text):
    def strict(raw):
        return json.loads(raw, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))

    server = serving(ScriptedEngine(lambda context: ["<think>", " x", "</think>", " 7"][3 * bool(context.text) :]))
    body = ASKED | {"policy": f"confidence_probe:threshold={threshold}", "stream": stream}
    reply = server.http.post(CHAT, json=body)
    assert reply.status_code == 200, reply.text
    bodies = [line[6:] for line in reply.text.split("\n\n") if line[6:].startswith("{")] if stream else [reply.text]
    (choice,) = strict(bodies[-1])["choices"]
    assert choice["laconic"]["parameters"] == {"threshold": text}


# Time


class Letters:
    """A tokenizer of letters, for prompts that are long in no time. While it is held, whoever encodes waits."""

    eos_token_id, pad_token_id, chat_template = 0, 0, None

    def __init__(self):
        self.free, self.threads = threading.Event(), []
        self.free.set()

    def apply_chat_template(self, messages, **given):
        self.threads.append(threading.current_thread())
        assert self.free.wait(20)
        return "".join(message["content"] for message in messages)


class Model:
    """What a server asks a model: how many positions it has."""

    max_position_embeddings = 100

    @property
    def config(self):
        return self

    def get_text_config(self, **given):
        return self


class Encoding(ScriptedEngine):
    """Encodes as the real engines do."""

    def __init__(self, script, tokenizer):
        super().__init__(script)
        self.model, self.encoded, self.known = Model(), 0, Encoded(self.encode)
        self.tokenizer = tokenizer

    def encode(self, prompt):
        self.encoded += 1
        text = self.tokenizer.apply_chat_template([{"content": prompt}])
        return text, tuple(map(ord, text))

    async def encode_ahead(self, prompt):
        return len((await self.known.ahead(prompt))[1])

    def open(self, prompt, **given):
        self.known.of(prompt)
        return super().open(prompt, **given)


def asked(prompt, **fields):
    return ASKED | {"messages": [{"role": "user", "content": prompt}]} | fields


def test_nobody_waits_while_a_prompt_is_encoded(serving):
    """One prompt is being encoded for as long as another one is answered, and inside its place in the queue."""
    tokenizer = Letters()
    engine = Encoding(lambda context: [" 7"], tokenizer)
    server = serving(engine, tokenizer=tokenizer, at_once=2)
    assert server.http.post(CHAT, json=asked("b")).status_code == 200
    tokenizer.free.clear()
    found = []
    waits = threading.Thread(target=lambda: found.append(server.http.post(CHAT, json=asked("a", n=3))))
    waits.start()
    while engine.encoded < 2:
        pass
    assert "laconic_requests_in_flight 1.0" in server.http.get("/metrics").text
    assert server.http.post(CHAT, json=asked("b")).json()["choices"][0]["message"]["content"] == " 7"
    assert not found
    tokenizer.free.set()
    waits.join(20)
    assert len(found[0].json()["choices"]) == 3
    assert engine.encoded == 2  # three branches began with it
    assert server._thread not in tokenizer.threads


def test_prompts_that_are_too_long(serving):
    """One that cannot fit is not even looked at."""
    tokenizer = Letters()
    engine = Encoding(lambda context: [" 7"], tokenizer)
    server = serving(engine, tokenizer=tokenizer)
    for length, encodings in ((3201, 0), (3200, 1), (100, 2)):
        error = error_of(server.http.post(CHAT, json=asked("x" * length)))
        assert (error["code"], engine.encoded) == ("context_length_exceeded", encodings)
    reply = server.http.post(CHAT, json=asked("x" * 40, max_tokens=61))
    assert "room for 60 tokens" in error_of(reply)["message"]
    assert server.http.post(CHAT, json=asked("x" * 40, max_tokens=60)).status_code == 200


def test_encodings_are_remembered_up_to_a_size():
    calls = []
    encoded = Encoded(lambda prompt: (calls.append(prompt) or "", (1,)), most=12)
    for prompt in ("aaa", "bbb", "ccc"):
        encoded.of(prompt)
    assert encoded.characters == 12
    encoded.of("aaa")
    assert len(calls) == 3
    encoded.of("ddd")
    encoded.of("aaa")  # was forgotten
    assert calls == ["aaa", "bbb", "ccc", "ddd", "aaa"]

    async def twice():
        await asyncio.gather(encoded.ahead("eee"), encoded.ahead("eee"))

    asyncio.run(twice())
    assert encoded.characters == 12
    encoded.of([{"role": "user", "content": "x" * 50}])
    assert encoded.characters == 51


def test_the_engine_in_this_process_encodes_ahead_what_it_opens(on_tiny_model):
    prompts = ["1 + 2 =", [{"role": "user", "content": "1 + 2 ="}, {"role": "assistant", "content": "3"}]]

    async def go(engine):
        encodings, encode = [], engine._encoded.encode
        engine._encoded.encode = lambda prompt: encodings.append(threading.current_thread()) or encode(prompt)
        for prompt in prompts:
            ledger, ahead = Ledger(), await engine.encode_ahead(prompt)
            for seed in range(3):
                engine.open(prompt, ledger=ledger, seed=seed)
            assert ledger.prompt == 3 * ahead > 0
        return encodings

    encodings = on_tiny_model(go)
    assert len(encodings) == 2
    assert threading.main_thread() not in encodings


def test_the_engine_over_a_server_encodes_ahead_what_it_opens(fault_server):
    async def go():
        async with fault_server.raw(tokenizer=fault_server.tokenizer) as engine:
            ledger, ahead = Ledger(), await engine.encode_ahead("1 + 2 =")
            engine.open("1 + 2 =", ledger=ledger)
            assert ledger.prompt == ahead == len(fault_server.render([{"role": "user", "content": "1 + 2 ="}]))

    asyncio.run(go())
