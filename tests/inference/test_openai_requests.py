"""What the engine over HTTP offers and sends, and policies over it."""

import asyncio
from dataclasses import replace

import pytest

from laconic.inference.engine import Capability, Sampling
from laconic.inference.engines.dialects import DIALECTS
from laconic.inference.engines.openai import OpenAIEngine
from laconic.inference.ledger import Ledger
from laconic.inference.policies import POLICIES, Ask, run_policy

TRACE = "<think>a b </think>7"


# --- Capabilities, and what is sent ---


@pytest.mark.parametrize(
    ("settings", "has", "lacks"),
    [
        ({}, "STOP ABORT", "PREFIX FORK LOGPROBS SEED TOKEN_HOOK TOKEN_IDS LOGIT_BIAS"),
        ({"render": str}, "STOP ABORT PREFIX FORK", "LOGPROBS SEED"),
        ({"server": "openai"}, "LOGPROBS TOP_LOGPROBS LOGIT_BIAS", "PREFIX FORK SEED TOKEN_IDS"),
        ({"server": "vllm"}, "PREFIX FORK SEED LOGPROBS", "TOKEN_IDS ENTROPY HIDDEN_STATES"),
        ({"server": "vllm", "tokenizer": object(), "token_ids": True}, "TOKEN_IDS PREFIX", "ENTROPY"),
        ({"server": "vllm", "without": [Capability.SEED]}, "PREFIX", "SEED"),
    ],
)
def test_capabilities_are_those_of_the_server_and_the_route(settings, has, lacks):
    engine = OpenAIEngine("http://127.0.0.1:1/v1", "m", **settings)
    assert {Capability[name] for name in has.split()} <= engine.capabilities
    assert not {Capability[name] for name in lacks.split()} & engine.capabilities


def test_what_is_sent(fault_server):
    async def go():
        async with fault_server.raw(extra={"priority": 2}) as engine:
            sampling = Sampling(temperature=0.6, top_p=0.95, top_k=20)
            branch = engine.open("q", ledger=Ledger(), sampling=sampling)
            await branch.generate(max_tokens=7, min_tokens=2, top_logprobs=4, bias={12: -5.0})

    asyncio.run(go())
    body = fault_server.requests[0]
    assert isinstance(body.pop("seed"), int)
    assert body == {
        "model": "tiny",
        "prompt": "Q:qA:",
        "temperature": 0.6,
        "top_p": 0.95,
        "top_k": 20,
        "max_tokens": 7,
        "min_tokens": 2,
        "logprobs": 4,
        "logit_bias": {"12": -5.0},
        "add_special_tokens": False,
        "priority": 2,
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }


def test_equal_seeds_send_equal_numbers(fault_server):
    async def go():
        async with fault_server.raw() as engine:
            for seed in (1, 1, 2):
                await engine.open("q", ledger=Ledger(), seed=seed).generate(max_tokens=3)

    asyncio.run(go())
    first, second, other = (body["seed"] for body in fault_server.requests)
    assert first == second != other


def test_hosted_chats_name_the_limit_otherwise_and_dialects_can_be_changed(fault_server):
    async def go():
        for server in ("openai", replace(DIALECTS["compatible"], chat_limit="n_predict")):
            async with fault_server.engine(server=server, without=[Capability.LOGPROBS]) as engine:
                await fault_server.once(engine, max_tokens=9)

    fault_server.text_for = lambda body: (["7"], "stop", False)
    asyncio.run(go())
    assert [next(k for k in body if k.startswith(("max", "n_"))) for body in fault_server.requests] == [
        "max_completion_tokens",
        "n_predict",
    ]


# --- Policies over it ---


@pytest.mark.parametrize("route", ["completions", "chat"])
@pytest.mark.parametrize("server", ["compatible", "vllm"])
def test_self_consistency_votes_over_http(fault_server, route, server):
    answers = iter("7787777")
    said = {}

    def say(body):
        # A continued trace goes on as it began: its thinking names its answer.
        text = body["prompt"] if "prompt" in body else body["messages"][-1]["content"]
        chosen = next((number for number in said if f"say {number} " in text), None) or next(answers)
        said[chosen] = True
        return ("<think>", f"say {chosen} ", "</think>", chosen)

    fault_server.say = say

    async def go():
        async with fault_server.engine(render=fault_server.render, route=route, server=server) as engine:
            ask = Ask(engine, "q", Ledger(), sampling=Sampling(max_tokens=50))
            policy = POLICIES["self_consistency"].build({"samples": 5})
            return await run_policy(policy, ask)

    answer = asyncio.run(go())
    assert (answer.answer, answer.finish, answer.confidence) == ("7", "stop", 0.8)
    ledger = answer.ledger
    assert ledger.tokens(fate="kept") + ledger.tokens(fate="voted") == ledger.generated
    assert (ledger.generated >= 25, ledger.exact) == (True, True)
    # Elsewhere a stream is closed at the stop string, and what was on its way then is seen by nobody.
    if (server, route) in {("vllm", "completions"), ("compatible", "chat")}:
        assert ledger.generated == fault_server.sent
    else:
        assert ledger.generated <= fault_server.sent


def test_plain_over_completions_thinks_and_answers_in_two_requests(fault_server):
    async def go():
        async with fault_server.raw() as engine:
            return await run_policy(POLICIES["plain"].build(), Ask(engine, "q", Ledger()))

    answer = asyncio.run(go())
    assert (answer.text, answer.answer, answer.finish) == (TRACE, "7", "stop")
    table = answer.ledger.by_role_and_fate()
    assert (table["think"]["kept"], table["answer"]["kept"], answer.ledger.exact) == (4, 2, True)
    assert [body["max_tokens"] for body in fault_server.requests] == [256, 252]


def test_first_finish_cancels_the_losers_at_the_server(fault_server):
    asked = []

    def say(body):
        asked.append(body)
        return ("7",) if len(asked) == 1 else ("slow ",) * 1000

    fault_server.say, fault_server.pause = say, 0.01

    async def go():
        async with fault_server.engine() as engine:
            ask = Ask(engine, "q", Ledger(), sampling=Sampling(max_tokens=2000))
            return await run_policy(POLICIES["first_finish"].build({"k": 3}), ask)

    answer = asyncio.run(go())
    assert answer.answer == "7"
    fault_server.wait_for(lambda server: server.aborts == 2 and server.active == 0)
    assert answer.ledger.tokens(fate="kept") == 2
    assert answer.ledger.generated < 1000
