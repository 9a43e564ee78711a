"""The effort switch over servers: what goes out in each dialect, and when a share of the budget is kept to instead."""

import asyncio
from dataclasses import replace

import pytest

from laconic.inference.effort import EFFORT_DIALECTS, EFFORTS, effort_fields
from laconic.inference.engine import Capability, Sampling
from laconic.inference.engines.dialects import DIALECTS
from laconic.inference.engines.openai import OpenAIEngine
from laconic.inference.engines.scripted import ScriptedEngine
from laconic.inference.ledger import Ledger
from laconic.inference.policies import Ask, run_policy
from laconic.inference.policies.effort import EffortSwitch
from laconic.rewards.errors import LaunchError, RecipeError


def answer_over(server, policy, make):
    async def go():
        async with make as engine:
            return await run_policy(policy, Ask(engine, "q", Ledger(), sampling=Sampling(max_tokens=100)))

    return asyncio.run(asyncio.wait_for(go(), 60))


@pytest.mark.parametrize("effort", ["low", "high"])
@pytest.mark.parametrize("dialect", EFFORT_DIALECTS)
def test_a_chat_carries_the_effort_in_the_servers_dialect(fault_server, dialect, effort):
    answer = answer_over(fault_server, EffortSwitch(effort=effort), fault_server.engine(effort=dialect))
    (body,) = fault_server.requests
    wanted = effort_fields(dialect, effort)
    assert {key: body[key] for key in wanted} == wanted
    assert "effort" not in body
    assert answer.text == "".join(fault_server.tokens)
    assert (answer.answer, answer.finish) == ("7", "stop")
    assert answer.notes == {"effort": effort, "native": True}
    assert answer.ledger.forced == 0


def test_hosted_servers_take_it_at_once_and_others_have_to_be_told_how(fault_server):
    answer_over(fault_server, EffortSwitch(effort="xhigh"), fault_server.engine(server="openai"))
    assert fault_server.requests[-1]["reasoning_effort"] == "xhigh"
    with pytest.raises(LaunchError, match=f"effort_switch needs .*{Capability.EFFORT.value}"):
        answer_over(fault_server, EffortSwitch(), fault_server.engine())
    assert len(fault_server.requests) == 1


def test_the_switch_joins_the_template_fields_that_are_always_sent(fault_server):
    extra = {"chat_template_kwargs": {"tools_in_user_message": False}, "user": "me"}
    engine = fault_server.engine(
        server=replace(DIALECTS["sglang"], prefill=None), effort="enable_thinking", extra=extra
    )
    answer_over(fault_server, EffortSwitch(effort="none"), engine)
    (body,) = fault_server.requests
    assert body["chat_template_kwargs"] == {"tools_in_user_message": False, "enable_thinking": False}
    assert body["user"] == "me"


def test_where_a_prefix_can_be_continued_the_share_is_kept_to_unless_told_otherwise(fault_server):
    policy = EffortSwitch(effort="none")
    answer = answer_over(fault_server, policy, fault_server.engine(server="vllm", effort="enable_thinking"))
    assert answer.notes["native"] is False
    assert answer.ledger.tokens("think") == 0
    assert not any("chat_template_kwargs" in body for body in fault_server.requests)
    before = len(fault_server.requests)
    answer = answer_over(
        fault_server, replace(policy, native=True), fault_server.engine(server="vllm", effort="enable_thinking")
    )
    assert answer.notes["native"] is True
    # The thinking and the answer are a request each.
    assert [body["chat_template_kwargs"] for body in fault_server.requests[before:]] == [{"enable_thinking": False}] * 2


def test_raw_completions_render_the_template_here_and_have_no_switch(fault_server):
    with pytest.raises(LaunchError, match=Capability.EFFORT.value):
        answer_over(fault_server, EffortSwitch(native=True), fault_server.raw(effort="enable_thinking"))
    assert fault_server.requests == []


def test_an_engine_without_either_is_refused_by_name():
    engine = ScriptedEngine(lambda context: [], capabilities=set(Capability) - {Capability.PREFIX, Capability.EFFORT})
    with pytest.raises(LaunchError, match="policy effort_switch"):
        asyncio.run(run_policy(EffortSwitch(), Ask(engine, "q", Ledger())))
    assert engine.emitted == 0


def test_unknown_dialects_and_efforts_are_refused(fault_server):
    with pytest.raises(RecipeError, match="dialect 'latin'"):
        OpenAIEngine(fault_server.url, "tiny", effort="latin")
    assert set(EFFORTS) == {"none", "minimal", "low", "medium", "high", "xhigh"}
    with pytest.raises(RecipeError, match="gpt-oss cannot"):
        answer_over(fault_server, EffortSwitch(effort="minimal"), fault_server.engine(effort="gpt-oss"))
    assert fault_server.requests == []
