"""The engine over HTTP, against a server on loopback: every token is in the ledger, whatever the server can do."""

import asyncio

import pytest

from laconic.inference.engine import Capability, Sampling, Token, check_capabilities
from laconic.inference.engines.openai_branch import kept_ids
from laconic.inference.ledger import Ledger
from laconic.inference.policies import POLICIES, Ask, run_policy
from laconic.rewards.errors import LaunchError

TRACE = "<think>a b </think>7"


# --- Counting ---


@pytest.mark.parametrize("usage", ["each", "last"])
def test_reported_usage_is_exact_and_holds_the_end_of_sequence(fault_server, usage):
    fault_server.usage = usage
    chunk, ledger, branch, _ = fault_server.one(fault_server.raw())
    assert (chunk.text, chunk.reason, len(chunk.tokens)) == (TRACE, "eos", 6)
    assert branch.text == TRACE
    assert ledger.by_role_and_fate()["think"] == {"kept": 6, "voted": 0, "discarded": 0}
    assert ledger.generated == fault_server.sent == 6
    assert (ledger.exact, ledger.prompt, ledger.cached, ledger.prompt_exact) == (True, 11, 4, True)


def test_without_usage_events_are_counted_as_a_lower_bound(fault_server):
    fault_server.usage = "none"
    chunk, ledger, _, _ = fault_server.one(fault_server.raw(without=[Capability.LOGPROBS]))
    assert (chunk.text, chunk.reason) == (TRACE, "eos")
    assert (ledger.generated, ledger.exact, ledger.prompt_exact) == (5, False, False)


@pytest.mark.parametrize("usage", ["each", "last"])
def test_several_tokens_in_one_event_are_told_apart_by_usage(fault_server, usage):
    fault_server.usage, fault_server.grouped = usage, 2
    chunk, ledger, _, _ = fault_server.one(fault_server.raw(without=[Capability.LOGPROBS]))
    assert (len(chunk.tokens), ledger.generated, ledger.exact) == (6, 6, True)
    assert "".join(token.text for token in chunk.tokens) == TRACE


@pytest.mark.parametrize(("knows", "posts", "exact"), [("include_usage", 2, True), ("nothing", 3, False)])
def test_refused_stream_options_are_left_out_once_and_for_all(fault_server, knows, posts, exact):
    fault_server.knows = knows

    async def go():
        async with fault_server.raw(without=[Capability.LOGPROBS]) as engine:
            first, second = await fault_server.once(engine), await fault_server.once(engine)
            return first, second, engine.retried

    first, second, retried = asyncio.run(go())
    assert [done[1].exact for done in (first, second)] == [exact, exact]
    assert first[0].text == second[0].text == TRACE
    assert len(fault_server.requests) == posts + 1
    assert retried == 0


def test_a_budget_that_the_server_ignores_is_kept_here_and_the_rest_is_counted(fault_server):
    fault_server.ignores_budget, fault_server.hang_after = True, 4
    chunk, ledger, branch, _ = fault_server.one(fault_server.raw(), max_tokens=2)
    assert (chunk.text, chunk.reason, len(chunk.tokens)) == ("<think>a ", "length", 2)
    assert branch.text == "<think>a "
    assert 3 <= ledger.generated <= fault_server.sent == 4
    fault_server.wait_for(lambda server: server.aborts == 1)


@pytest.mark.parametrize(("budget", "reason", "tokens"), [(5, "length", 5), (6, "eos", 6), (4, "length", 4)])
def test_the_server_says_why_it_ended(fault_server, budget, reason, tokens):
    chunk, ledger, _, _ = fault_server.one(fault_server.raw(), max_tokens=budget)
    assert (chunk.reason, len(chunk.tokens), ledger.generated) == (reason, tokens, tokens)


# --- Stop strings, forks, forced text ---


def test_where_the_server_keeps_stop_strings_it_stops_by_itself(fault_server):
    chunk, ledger, branch, _ = fault_server.one(fault_server.raw(), stop=["</think>"])
    assert (chunk.text, chunk.reason, chunk.stop) == ("<think>a b ", "stop", "</think>")
    assert branch.text == "<think>a b "
    assert (ledger.generated, ledger.exact, fault_server.sent, fault_server.aborts) == (4, True, 4, 0)
    assert fault_server.requests[0]["include_stop_str_in_output"] is True


def test_where_it_does_not_they_are_looked_for_here_and_the_stream_is_closed(fault_server):
    fault_server.hang_after = 4
    chunk, ledger, _, _ = fault_server.one(fault_server.raw(server="llama.cpp"), stop=["</think>"], keep_stop=True)
    assert (chunk.text, chunk.reason) == ("<think>a b </think>", "stop")
    assert "stop" not in fault_server.requests[0]
    fault_server.wait_for(lambda server: server.aborts == 1)
    assert (ledger.generated, ledger.exact) == (4, True)


def test_forks_and_forced_text_go_on_from_the_prefix(fault_server):
    async def go():
        async with fault_server.raw(tokenizer=fault_server.tokenizer) as engine:
            ledger = Ledger()
            branch = engine.open("q", ledger=ledger, seed=3)
            await branch.generate(max_tokens=3)
            fork = await branch.fork()
            await fork.extend("</think>")
            probe = await fork.generate(max_tokens=9, role="probe")
            await fork.close("discarded")
            rest = await branch.generate(max_tokens=9, role="answer")
            await branch.close("kept")
            return ledger, probe, rest, branch, fork

    ledger, probe, rest, branch, fork = asyncio.run(go())
    assert (probe.text, rest.text) == ("7", "</think>7")
    assert (fork.text, branch.text) == (TRACE, TRACE)
    assert [body["prompt"] for body in fault_server.requests] == [
        "Q:qA:",
        "Q:qA:<think>a b </think>",
        "Q:qA:<think>a b ",
    ]
    table = ledger.by_role_and_fate()
    assert (table["think"]["kept"], table["probe"]["discarded"], table["answer"]["kept"]) == (3, 2, 3)
    # The prompt is counted once, by the tokenizer; the forced tag has eight characters.
    assert (ledger.prompt, ledger.forced, ledger.generated, fault_server.sent) == (5, 8, 8, 8)
    assert (ledger.exact, ledger.prompt_exact) == (True, True)
    assert len({body["seed"] for body in fault_server.requests}) == 3


def test_token_ids_are_used_again_as_they_came(fault_server):
    fault_server.tokens, fault_server.usage = tuple("12;34;5"), "none"

    async def go():
        async with fault_server.raw(tokenizer=fault_server.tokenizer, token_ids=True) as engine:
            ledger = Ledger()
            branch = engine.open("q", ledger=ledger)
            await branch.generate(max_tokens=9, stop=[";"])
            await branch.extend(";")
            last = await branch.generate(max_tokens=9, stop=["x"])
            await branch.close("kept")
            return ledger, branch, last

    ledger, branch, last = asyncio.run(go())
    assert branch.text == "12;34;5"
    assert [token.id for token in last.tokens] == [*map(ord, "34;5"), 0]
    prompts = [body["prompt"] for body in fault_server.requests]
    assert prompts == [[*map(ord, "Q:qA:")], [*map(ord, "Q:qA:12;")]]
    # Ids were seen, though no usage was reported: 3 with the stop string, then 4 and end-of-sequence.
    assert (ledger.generated, ledger.exact, ledger.forced) == (8, True, 1)


def test_kept_ids_encode_only_what_a_cut_went_through():
    tokens = [Token("ab", 1), Token("", 2), Token("é", 3), Token("cd", 4), Token("", 9)]

    def kept(text):
        return kept_ids(tokens, text, lambda rest: [ord(character) for character in rest], frozenset([9]))

    assert kept("abécd") == [1, 2, 3, 4]
    assert kept("abéc") == [1, 2, 3, ord("c")]
    assert kept("ab") == [1]
    assert kept("a") == [ord("a")]


# --- Log-probabilities ---


@pytest.mark.parametrize("how", ["as asked", "one more"])
@pytest.mark.parametrize("route", ["completions", "chat"])
def test_the_sampled_token_s_extra_entry_is_dropped(fault_server, how, route):
    fault_server.logprobs = how
    chunk, _, _, _ = fault_server.one(fault_server.raw(route=route), top_logprobs=3, max_tokens=4)
    assert chunk.logprobs == (-0.5,) * 4
    assert {token.top for token in chunk.tokens} == {(-0.5, -1.5, -2.5)}


def test_missing_log_probabilities_are_an_error(fault_server):
    fault_server.logprobs = "missing"
    error, ledger, _, _ = fault_server.one(fault_server.raw())
    assert "no log-probabilities" in str(error)
    assert "without=" in error.cure
    assert ledger.generated >= 1


# --- Chat ---


@pytest.mark.parametrize("thinking", ["inline", "field"])
@pytest.mark.parametrize("usage", ["each", "last", "none"])
def test_thinking_is_put_between_its_tags_and_a_branch_makes_one_request(fault_server, thinking, usage):
    fault_server.thinking, fault_server.usage = thinking, usage

    async def go():
        async with fault_server.engine() as engine:
            ask = Ask(engine, "q", Ledger(), sampling=Sampling(max_tokens=50))
            return await run_policy(POLICIES["plain"].build(), ask)

    answer = asyncio.run(go())
    assert (answer.text, answer.answer, answer.finish) == (TRACE, "7", "stop")
    assert len(fault_server.requests) == 1
    assert fault_server.requests[0]["messages"] == [{"role": "user", "content": "q"}]
    table = answer.ledger.by_role_and_fate()
    assert answer.ledger.exact is (usage != "none")
    if usage != "none":
        assert answer.ledger.generated == fault_server.sent == 6
        assert table["answer"]["kept"] >= 1
    if usage == "each":
        assert (table["think"]["kept"], table["answer"]["kept"]) == (4, 2)


def test_hidden_thinking_is_counted_as_thinking(fault_server):
    fault_server.thinking, fault_server.usage = "hidden", "last"

    async def go():
        async with fault_server.engine() as engine:
            return await run_policy(POLICIES["plain"].build(), Ask(engine, "q", Ledger()))

    answer = asyncio.run(go())
    table = answer.ledger.by_role_and_fate()
    assert (answer.text, answer.answer) == ("7", "7")
    assert (table["think"]["kept"], table["answer"]["kept"], answer.ledger.exact) == (4, 2, True)


def test_a_chat_without_prefill_refuses_what_it_cannot_do(fault_server):
    async def go():
        async with fault_server.engine() as engine:
            with pytest.raises(LaunchError, match="continue a raw prefix"):
                check_capabilities(engine, [Capability.PREFIX, Capability.STOP], who="it")
            branch = engine.open("q", ledger=Ledger())
            for refused in (branch.extend("x"), branch.fork(), branch.generate(max_tokens=5, min_tokens=1)):
                with pytest.raises(LaunchError):
                    await refused
            with pytest.raises(LaunchError, match="most likely"):
                await branch.generate(max_tokens=5, top_logprobs=2)
            await branch.generate(max_tokens=50)
            with pytest.raises(LaunchError, match="generates once"):
                await branch.generate(max_tokens=5)

    asyncio.run(go())
    assert len(fault_server.requests) == 1


def test_what_an_open_stream_brought_is_counted_when_the_branch_closes(fault_server):
    fault_server.tokens, fault_server.hang_after = (*fault_server.tokens, "8"), 5

    async def go():
        async with fault_server.engine() as engine:
            ledger = Ledger()
            branch = engine.open("q", ledger=ledger)
            await branch.generate(max_tokens=50, stop=["</think>"], keep_stop=True)
            assert (ledger.generated, ledger.exact) == (4, False)
            await asyncio.to_thread(fault_server.wait_for, lambda server: server.sent == 5)
            while branch._call.count < 5:
                await asyncio.sleep(0.001)
            await branch.close("discarded")
            return ledger

    ledger = asyncio.run(go())
    assert (ledger.tokens(fate="discarded"), ledger.exact) == (5, True)
    fault_server.wait_for(lambda server: server.aborts == 1)


def test_chat_with_prefill_goes_on_with_the_last_message(fault_server):
    async def go():
        async with fault_server.engine(server="vllm") as engine:
            branch = engine.open("q", ledger=Ledger())
            await branch.generate(max_tokens=3)
            await branch.extend("</think>")
            await branch.generate(max_tokens=5, role="answer")
            return branch.text

    assert asyncio.run(go()) == TRACE
    first, second = fault_server.requests
    assert "continue_final_message" not in first
    assert second["messages"][-1] == {"role": "assistant", "content": "<think>a b </think>"}
    assert (second["continue_final_message"], second["add_generation_prompt"]) == (True, False)
