"""The server's answers, read by the official OpenAI client: text, usage, reasons, streams, choices, stops."""

from __future__ import annotations

import asyncio
import threading
from itertools import count

import openai
import pytest

from laconic.inference.engines.openai import OpenAIEngine
from laconic.inference.engines.scripted import ScriptedEngine
from laconic.inference.ledger import Ledger
from laconic.inference.policies.base import Ask, run_policy
from laconic.inference.server.counted import CountedEngine

TEXT = ["<think>", " so", " 3", " + 4", "</thi", "nk>", " It", " is", " 7", "."]
"""Nine words and a tag in two pieces; end-of-sequence is one token more."""
ASKED = {"model": "tiny", "messages": [{"role": "user", "content": "3 + 4 ="}]}


def goes_on(context):
    """The rest of the text, as a model would give it."""
    said, rest = context.text, list(TEXT)
    while rest and said:
        said, rest = said.removeprefix(rest[0]), rest[1:]
    return rest


def by_seed(context):
    return ["<think>", f" s{context.seed}", "</think>", f" a{context.seed % 3}"][bool(context.text) * 3 :]


def streamed(client, **fields):
    """The deltas of every choice, its end, and the usage."""
    deltas, ends, usage = {}, {}, None
    stream = client.chat.completions.create(**ASKED | {"stream": True} | fields)
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            given = choice.delta.model_dump(exclude_unset=True)
            deltas.setdefault(choice.index, []).append(given)
            if choice.finish_reason:
                assert choice.index not in ends
                ends[choice.index] = choice
    return deltas, ends, usage


def text_of(deltas, name):
    return "".join(delta.get(name) or "" for delta in deltas)


@pytest.fixture(scope="module")
def client(serving):
    return serving(ScriptedEngine(goes_on)).client()


def test_an_answer_and_its_account(client):
    reply = client.chat.completions.create(**ASKED, seed=5)
    (choice,) = reply.choices
    assert (choice.message.content, choice.message.reasoning_content) == (" It is 7.", " so 3 + 4")
    assert (choice.finish_reason, reply.model, reply.object) == ("stop", "tiny", "chat.completion")
    ledger = choice.laconic["ledger"]
    assert reply.usage.completion_tokens == ledger["generated"] == len(TEXT) + 1
    assert reply.usage.completion_tokens_details.reasoning_tokens == ledger["by_role"]["think"]["kept"] == 6
    assert ledger["by_role"]["answer"] == {"kept": 5, "voted": 0, "discarded": 0}
    assert (reply.usage.prompt_tokens, reply.usage.total_tokens) == (4, 15)  # words of the prompt
    said = {"policy": "plain", "parameters": {}, "finish": "stop", "answer": "It is 7.", "confidence": None, "seed": 5}
    assert {key: choice.laconic[key] for key in said} == said


def test_a_stream_says_the_same_piece_by_piece(client):
    deltas, ends, usage = streamed(client, seed=5, stream_options={"include_usage": True})
    assert deltas[0][0] == {"role": "assistant", "content": ""}
    thinking = [delta["reasoning_content"] for delta in deltas[0] if "reasoning_content" in delta]
    answer = [delta["content"] for delta in deltas[0][1:] if "content" in delta]
    assert "".join(thinking) == " so 3 + 4"
    assert "".join(answer) == " It is 7."
    assert len(thinking) > 2  # it came while it was said
    assert len(answer) > 2
    whole = client.chat.completions.create(**ASKED, seed=5)
    assert usage.model_dump() == whole.usage.model_dump()
    ignore = {"ledger": {"seconds"}}
    assert {**ends[0].laconic, **ignore} == {**whole.choices[0].laconic, **ignore}
    assert ends[0].laconic["ledger"] | {"seconds": 0} == whole.choices[0].laconic["ledger"] | {"seconds": 0}


def test_usage_comes_in_a_stream_only_if_asked_for(client):
    assert streamed(client)[2] is None


def test_pieces_arrive_while_the_model_is_still_speaking(serving):
    engine = ScriptedEngine(lambda context: (f" {number}" for number in count()))
    client = serving(engine, max_tokens=10**9).client()
    stream = client.chat.completions.create(**ASKED, stream=True)
    said = ""
    for chunk in stream:
        said += chunk.choices[0].delta.content or ""
        if len(said) > 200:
            break
    stream.close()
    assert said.startswith(" 0 1 2 3 4 5")


def test_the_asynchronous_client(serving):
    server = serving(ScriptedEngine(by_seed))

    async def one(client, seed):
        stream = await client.chat.completions.create(**ASKED, seed=seed, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def many():
        async with openai.AsyncOpenAI(**server.options()) as client:
            return await asyncio.gather(*(one(client, seed) for seed in range(8)))

    assert asyncio.run(many()) == [f" a{seed % 3}" for seed in range(8)]


def test_each_of_n_completions_has_the_next_seed(serving):
    client = serving(ScriptedEngine(by_seed)).client()
    reply = client.chat.completions.create(**ASKED, n=4, seed=10)
    assert [choice.index for choice in reply.choices] == [0, 1, 2, 3]
    assert [choice.message.reasoning_content for choice in reply.choices] == [" s10", " s11", " s12", " s13"]
    assert reply.usage.completion_tokens == sum(choice.laconic["ledger"]["generated"] for choice in reply.choices) == 20
    deltas, ends, _ = streamed(client, n=4, seed=10)
    assert {index: text_of(deltas[index], "reasoning_content") for index in range(4)} == {
        index: f" s{10 + index}" for index in range(4)
    }
    assert sorted(ends) == [0, 1, 2, 3]


def test_without_a_seed_the_answer_names_one_that_repeats_it(serving):
    client = serving(ScriptedEngine(by_seed)).client()
    first, second = (client.chat.completions.create(**ASKED).choices[0] for _ in range(2))
    assert first.laconic["seed"] != second.laconic["seed"]
    again = client.chat.completions.create(**ASKED, seed=first.laconic["seed"])
    assert again.choices[0].message == first.message


@pytest.mark.parametrize("stop", ["is", "s 7", ["zz", "t is"]])
@pytest.mark.parametrize("stream", [False, True])
def test_stop_strings_end_the_answer_and_the_run(serving, stop, stream):
    engine = ScriptedEngine(lambda context: [*goes_on(context), *[" and so on"] * 5000])
    client = serving(engine, max_tokens=9000).client()
    if stream:
        deltas, ends, _ = streamed(client, stop=stop)
        text, end = text_of(deltas[0], "content"), ends[0]
    else:
        (end,) = client.chat.completions.create(**ASKED, stop=stop).choices
        text = end.message.content
    first = stop if isinstance(stop, str) else stop[1]
    assert text == " It is 7.".partition(first)[0]
    assert (end.finish_reason, end.laconic["finish"]) == ("stop", "stop_string")
    assert engine.emitted == end.laconic["ledger"]["generated"] < 100
    assert not engine.open_branches


def fates(choice):
    """Roles and fates that have tokens."""
    by_role = choice.laconic["ledger"]["by_role"]
    return {(role, fate): number for role, row in by_role.items() for fate, number in row.items() if number}


@pytest.mark.parametrize("stream", [False, True])
def test_what_was_returned_up_to_a_stop_string_is_kept(serving, stream):
    """The trace that streamed, thinking and answer; of several, what lost is discarded as ever."""

    def script(context):
        if context.prompt == "say":
            return [" It", " is", " 7", " and so on"]  # without thinking
        return [*goes_on(context), " and so on"]

    client = serving(ScriptedEngine(script)).client()

    def stopped(**fields):
        if stream:
            return streamed(client, stop="is", **fields)[1][0]
        return client.chat.completions.create(**ASKED | {"stop": "is"} | fields).choices[0]

    assert fates(stopped()) == {("think", "kept"): 6, ("answer", "kept"): 2}
    assert fates(stopped(messages=[{"role": "user", "content": "say"}])) == {("answer", "kept"): 2}
    best = stopped(extra_body={"policy": "short_mk:k=3,m=1"})
    assert fates(best) == {("think", "kept"): 6, ("think", "discarded"): 12, ("answer", "kept"): 2}
    assert best.laconic["ledger"]["seconds"] is not None


def test_a_branch_that_was_returned_is_kept_whoever_closes_it():
    """Also a policy that opens it as a context, which is left by an error when the run is ended."""

    async def left(ledger, thought):
        engine = CountedEngine(ScriptedEngine(goes_on), max_branches=1, max_generated=50)
        async with engine.open("?", ledger=ledger) as branch:
            await branch.generate(max_tokens=5)
            branch.keep(thought=thought)
            raise RuntimeError("something else")

    for thought, role in ((True, "think"), (False, "answer")):
        ledger = Ledger()
        with pytest.raises(RuntimeError):
            asyncio.run(left(ledger, thought))
        assert ledger.tokens(role, "kept") == 5


def test_a_run_that_is_cancelled_while_it_closes_is_settled_first():
    ledger, waits = Ledger(), []

    class Leaves:
        async def run(self, ask):
            async def slowly():
                await asyncio.sleep(0.01)
                waits.append("closed")

            ask.stack.push_async_callback(slowly)

    async def go():
        running = asyncio.create_task(run_policy(Leaves(), Ask(ScriptedEngine(goes_on), "?", ledger)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        return list(waits)

    assert asyncio.run(go()) == ["closed"]
    assert ledger.seconds is not None


def test_a_stop_string_in_the_thinking_is_no_stop(client):
    reply = client.chat.completions.create(**ASKED, stop=["3 + 4"])
    assert reply.choices[0].message.content == " It is 7."


@pytest.mark.parametrize("limit", [3, 8])
def test_what_the_token_limit_cut_says_length(client, limit):
    reply = client.chat.completions.create(**ASKED, max_completion_tokens=limit)
    (choice,) = reply.choices
    assert (choice.finish_reason, reply.usage.completion_tokens) == ("length", limit)
    whole = "".join(TEXT[:limit])
    said = (choice.message.reasoning_content or "", choice.message.content)
    assert said == ((" so 3", "") if limit == 3 else (" so 3 + 4", " It is")), whole


def test_thinking_stays_in_the_text_if_asked_for(client):
    (choice,) = client.chat.completions.create(**ASKED, extra_body={"separate_reasoning": False}).choices
    assert choice.message.content == "".join(TEXT)
    assert not hasattr(choice.message, "reasoning_content")


def test_a_prompt_that_opens_the_thinking(serving):
    engine = ScriptedEngine(lambda context: [" so", "</think>", " 7"][2 * bool(context.text) :])
    (choice,) = serving(engine, opens_thinking=True).client().chat.completions.create(**ASKED).choices
    assert (choice.message.reasoning_content, choice.message.content) == (" so", " 7")


@pytest.mark.parametrize("policy", ["short_mk:k=4,m=1", {"name": "short_mk", "k": 4, "m": 1}])
@pytest.mark.parametrize("stream", [False, True])
def test_a_policy_by_request(serving, policy, stream):
    """Of four traces the shortest is returned; what the others generated is in the usage."""
    lengths = {}

    def script(context):
        if context.seed not in lengths:
            lengths[context.seed] = (3, 9, 7, 8)[len(lengths)]
        if "</think>" in context.text:
            return [f" {lengths[context.seed]}"]
        return ["<think>", *[" x"] * lengths[context.seed], "</think>"]

    client = serving(ScriptedEngine(script)).client()
    asked = {"extra_body": {"policy": policy}, "seed": 1}
    if stream:
        deltas, ends, usage = streamed(client, stream_options={"include_usage": True}, **asked)
        end, text = ends[0], text_of(deltas[0], "content")
    else:
        reply = client.chat.completions.create(**ASKED, **asked)
        (end,), usage = reply.choices, reply.usage
        text = end.message.content
    assert text == " 3"
    assert (end.laconic["policy"], end.laconic["parameters"]) == ("short_mk", {"k": 4, "m": 1})
    by_role = end.laconic["ledger"]["by_role"]
    # Five steps of all four, then the answer with its end.
    assert by_role["think"]["kept"] == 5
    assert by_role["think"]["discarded"] >= 15
    assert usage.completion_tokens == sum(sum(fates.values()) for fates in by_role.values())


def test_a_stop_by_the_policy_is_told_in_the_extension(serving):
    """A policy that ends the thinking after three tokens; the protocol has no word for it."""
    engine = ScriptedEngine(lambda context: [" 7"] if "</think>" in context.text else ["<think>", *[" x"] * 50])
    client = serving(engine, policy="think_budget:maximum=3").client()
    (choice,) = client.chat.completions.create(**ASKED).choices
    assert (choice.message.reasoning_content, choice.message.content.strip()) == (" x x", "7")
    assert (choice.finish_reason, choice.laconic["finish"]) == ("stop", "policy_stop")
    assert choice.laconic["ledger"]["by_role"]["think"]["kept"] == 3
    assert choice.laconic["ledger"]["forced"] > 0


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_is_withheld_is_a_refusal(serving, stream):
    """Four samples with four answers, and a policy that asks for more agreement."""
    engine = ScriptedEngine(lambda context: ["<think>", "</think>", f" {context.seed}"][2 * bool(context.text) :])
    policy = {"name": "selective", "policy": "self_consistency", "parameters": {"samples": 4}, "threshold": 0.9}
    client = serving(engine).client()
    if stream:
        deltas, ends, _ = streamed(client, extra_body={"policy": policy})
        end, refusal, content = ends[0], text_of(deltas[0], "refusal"), text_of(deltas[0], "content")
        assert content == ""
    else:
        (end,) = client.chat.completions.create(**ASKED, extra_body={"policy": policy}).choices
        refusal = end.message.refusal
        assert end.message.content is None
    assert "withheld" in refusal
    assert (end.finish_reason, end.laconic["finish"], end.laconic["answer"]) == ("stop", "abstained", None)
    assert end.laconic["ledger"]["generated"] > 0


def test_completions_are_questions_with_the_whole_text(client):
    reply = client.completions.create(model="tiny", prompt=["3 + 4 =", "and?"], n=2)
    assert [(choice.index, choice.text) for choice in reply.choices] == [(i, "".join(TEXT)) for i in range(4)]
    assert reply.usage.completion_tokens == 4 * 11
    assert reply.object == "text_completion"
    stream = client.completions.create(model="tiny", prompt="3 + 4 =", stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == "".join(TEXT)


def test_models(client):
    (model,) = client.models.list().data
    assert (model.id, model.owned_by) == ("tiny", "laconic")
    assert {"plain", "short_mk"} <= set(model.laconic["policies"])
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("another")


def test_metrics_are_the_ledgers(serving):
    server = serving(ScriptedEngine(goes_on))
    client = server.client()
    for _ in range(3):
        client.chat.completions.create(**ASKED)
    # A request is counted when its last byte was handed over, which the client may see before.
    whole, page = 'laconic_requests_total{route="/v1/chat/completions",status="200"} 3.0', ""
    while whole not in page:
        page = server.http.get("/metrics").text
    assert 'laconic_tokens_total{fate="kept",role="think"} 18.0' in page
    assert 'laconic_tokens_total{fate="kept",role="answer"} 15.0' in page
    assert 'laconic_first_token_seconds_count{route="/v1/chat/completions"} 3.0' in page
    assert "laconic_requests_in_flight 0.0" in page


def test_conversations_reach_the_engine_as_they_are(serving):
    asked = []
    engine = ScriptedEngine(lambda context: asked.append(context.prompt) or [" 7"])
    client = serving(engine).client()
    parts = [{"type": "text", "text": "3 +"}, {"type": "text", "text": " 4"}]
    talk = [{"role": "developer", "content": "Be short."}, {"role": "user", "content": parts}]
    client.chat.completions.create(model="tiny", messages=talk)
    client.chat.completions.create(**ASKED)
    system = {"role": "system", "content": "Be short."}
    assert asked == [[system, {"role": "user", "content": "3 + 4"}], "3 + 4 ="]


def test_an_error_inside_a_stream_is_told_in_it(serving):
    engine = ScriptedEngine(lambda context: ["<think>", " so", RuntimeError("the disk is on fire")])
    client = serving(engine).client()
    with pytest.raises(openai.APIError, match="this server failed"):
        streamed(client)
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(**ASKED)
    assert "fire" not in str(caught.value)
    assert not engine.open_branches


def test_a_run_is_what_the_engine_says_without_a_server(serving):
    """The account of a plain completion is that of the branch it is."""
    engine, ledger = ScriptedEngine(goes_on), Ledger()

    async def bare():
        async with engine.open("3 + 4 =", ledger=ledger, seed=5) as branch:
            await branch.generate(max_tokens=100)
            await branch.close("kept")

    asyncio.run(bare())
    reply = serving(ScriptedEngine(goes_on)).client().chat.completions.create(**ASKED, seed=5)
    assert (reply.usage.completion_tokens, reply.usage.prompt_tokens) == (ledger.generated, ledger.prompt)


def test_a_stream_in_which_nothing_can_be_said_yet_shows_that_it_lives(serving):
    """Comments, which clients skip, until the policy has decided."""
    goes = threading.Event()

    def script(context):
        while not goes.is_set():
            yield " x"
        yield "</think>"
        yield f" {context.seed % 2}"

    engine = ScriptedEngine(script)
    server = serving(engine, policy="self_consistency:samples=3", max_tokens=10**9, beat_seconds=0.01)
    with server.http.stream("POST", "/v1/chat/completions", json=ASKED | {"stream": True}) as reply:
        lines = (line for line in reply.iter_lines() if line)
        assert [next(lines) for _ in range(3)] == [": waiting"] * 3
        goes.set()
        rest = [line for line in lines if line != ": waiting"]
    assert (rest[0][:6], rest[-1]) == ("data: ", "data: [DONE]")


def test_a_policy_in_front_of_another_server(serving, fault_server):
    """Its answers and counts pass through; where it fails, that is said, and not as this server's failure."""
    engine = OpenAIEngine(fault_server.url, "tiny", retries=0)
    server = serving(engine, name=f"{fault_server.url}#tiny")
    asked = ASKED | {"model": f"{fault_server.url}#tiny"}
    reply = server.client().chat.completions.create(**asked)
    assert (reply.choices[0].message.reasoning_content, reply.choices[0].message.content) == ("a b ", "7")
    assert reply.usage.completion_tokens == len(fault_server.tokens) + 1
    fault_server.failures.append((503, {}, "out of memory"))
    with pytest.raises(openai.InternalServerError) as caught:
        server.client().chat.completions.create(**asked)
    assert (caught.value.status_code, caught.value.code) == (502, "engine_failed")
    assert "out of memory" in str(caught.value)
