"""The engine over HTTP when requests are cancelled or fail: tokens are counted, retries too, the key is never shown."""

import asyncio

import pytest

from laconic.inference.engines.openai import OpenAIEngine
from laconic.inference.ledger import Ledger
from laconic.rewards.errors import LaunchError, RecipeError

TRACE = "<think>a b </think>7"
KEY = "sk-very-secret-1234"


# --- Cancelling ---


async def cancelled_after(tokens, branch):
    """Cancel a task that generates once so many tokens came."""
    seen = asyncio.Event()

    async def watch():
        async for piece in branch.stream(max_tokens=50):
            if len(piece.tokens) == tokens:
                seen.set()

    task = asyncio.create_task(watch())
    await seen.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_a_cancelled_generation_is_aborted_at_the_server_and_counted(fault_server):
    fault_server.hang_after = 3

    async def go():
        async with fault_server.raw() as engine:
            ledger = Ledger()
            branch = engine.open("q", ledger=ledger)
            await cancelled_after(3, branch)
            await branch.close("discarded")
            return ledger, branch

    ledger, branch = asyncio.run(go())
    fault_server.wait_for(lambda server: server.aborts == 1 and server.active == 0)
    assert (ledger.tokens("think", "discarded"), ledger.generated, ledger.exact) == (3, 3, True)
    assert branch.text == "<think>a b "


def test_a_cancelled_stream_without_usage_is_a_lower_bound(fault_server):
    fault_server.hang_after, fault_server.usage = 3, "last"

    async def go():
        async with fault_server.engine() as engine:
            ledger = Ledger()
            await cancelled_after(3, engine.open("q", ledger=ledger))
            return ledger

    ledger = asyncio.run(go())
    assert (ledger.generated, ledger.exact) == (3, False)


def test_a_hook_ends_the_text_and_what_came_after_is_counted(fault_server):
    fault_server.hang_after = 4
    seen = []

    def hook(token):
        seen.append(token.text)
        return token.text == "a "

    chunk, ledger, branch, _ = fault_server.one(fault_server.raw(), hook=hook)
    assert (chunk.reason, branch.text, seen) == ("hook", "<think>a ", ["<think>", "a "])
    assert len(chunk.tokens) == 2 <= ledger.generated <= 4
    fault_server.wait_for(lambda server: server.aborts == 1)


def test_closing_the_engine_closes_every_stream(fault_server):
    fault_server.hang_after = 1

    async def go():
        async with fault_server.raw() as engine:
            tasks = [asyncio.create_task(fault_server.once(engine)) for _ in range(3)]
            await asyncio.to_thread(fault_server.wait_for, lambda server: server.sent == 3)
        return await asyncio.gather(*tasks)

    assert all(isinstance(chunk, LaunchError) for chunk, _, _ in asyncio.run(go()))
    fault_server.wait_for(lambda server: server.aborts == 3 and server.active == 0)


def test_no_more_requests_at_once_than_allowed(fault_server):
    fault_server.pause = 0.01

    async def go():
        async with fault_server.raw(concurrency=3) as engine:
            return await asyncio.gather(*(fault_server.once(engine) for _ in range(12)))

    done = asyncio.run(go())
    assert [chunk.text for chunk, _, _ in done] == [TRACE] * 12
    assert fault_server.most_active == 3


def test_paused_streams_hold_no_request_slot_for_ever(fault_server):
    """More branches than slots, each paused between thinking and answer: all come to their end."""

    async def go():
        async with fault_server.engine(concurrency=2) as engine:
            branches = [engine.open("q", ledger=Ledger()) for _ in range(6)]
            stop = {"stop": ["</think>"], "keep_stop": True}
            await asyncio.gather(*(branch.generate(max_tokens=50, **stop) for branch in branches))
            await asyncio.gather(*(branch.generate(max_tokens=40, role="answer") for branch in branches))
            return [branch.text for branch in branches]

    assert asyncio.run(go()) == [TRACE] * 6


# --- Failures ---


@pytest.mark.parametrize("failures", [[429], [500], [503, 429]])
def test_passing_failures_are_tried_again(fault_server, failures):
    fault_server.failures = [(status, {"Retry-After": "0"}, "busy") for status in failures]
    chunk, ledger, _, engine = fault_server.one(fault_server.raw())
    assert (chunk.text, engine.retried) == (TRACE, len(failures))
    assert (ledger.generated, ledger.exact) == (6, True)


def test_a_connection_broken_before_the_first_token_is_tried_again(fault_server):
    fault_server.drop = 2
    chunk, ledger, _, engine = fault_server.one(fault_server.raw())
    assert (chunk.text, engine.retried, ledger.generated) == (TRACE, 2, 6)
    assert not ledger.exact  # what the lost attempts generated is not known


def test_after_the_last_retry_the_server_s_message_is_shown(fault_server):
    fault_server.failures = [(429, {}, "slow down, please")] * 3
    error, ledger, _, engine = fault_server.one(fault_server.raw(retries=2))
    assert "429: slow down, please" in str(error)
    assert "concurrency" in error.cure
    assert (engine.retried, len(fault_server.requests), ledger.generated) == (2, 3, 0)


def test_waiting_longer_than_allowed_is_not_waited_for(fault_server):
    fault_server.failures = [(429, {"Retry-After": "3600"}, "tomorrow")]
    error, _, _, engine = fault_server.one(fault_server.raw())
    assert "tomorrow" in str(error)
    assert engine.retried == 0


@pytest.mark.parametrize(("status", "cure"), [(401, "OPENAI_API_KEY"), (404, "/completions"), (413, "without=")])
def test_refusals_are_not_tried_again_and_say_what_to_do(fault_server, status, cure):
    fault_server.failures = [(status, {}, "the server's own words")]
    error, _, _, engine = fault_server.one(fault_server.raw())
    assert f"{status}: the server's own words" in str(error)
    assert cure in error.cure
    assert engine.retried == 0


def test_a_400_that_is_not_about_stream_options_is_reported(fault_server):
    fault_server.failures = [(400, {}, "too long a prompt")] * 3
    error, _, _, _ = fault_server.one(fault_server.raw())
    assert "too long a prompt" in str(error)
    assert len(fault_server.requests) == 3


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"malformed_after": 2}, "malformed event"),
        ({"cut_after": 2}, "broke after 2 tokens"),
        ({"mute_after": 2}, "without a reason after 2 tokens"),
        ({"finish": "content_filter"}, "content_filter"),
    ],
)
def test_a_stream_that_fails_is_not_repeated_and_its_tokens_are_counted(fault_server, fault, words):
    for name, value in fault.items():
        setattr(fault_server, name, value)
    error, ledger, branch, engine = fault_server.one(fault_server.raw(), fate="discarded")
    assert words in str(error)
    assert (engine.retried, len(fault_server.requests)) == (0, 1)
    assert ledger.tokens("think", "discarded") == fault_server.sent
    assert TRACE.startswith(branch.text)
    assert branch.text


def test_a_missing_done_and_a_slow_first_byte_do_no_harm(fault_server):
    fault_server.done, fault_server.first_byte = False, 0.2
    chunk, ledger, _, _ = fault_server.one(fault_server.raw())
    assert (chunk.text, ledger.exact) == (TRACE, True)


def test_silence_longer_than_the_read_timeout(fault_server):
    fault_server.hang_after = 2
    error, ledger, _, _ = fault_server.one(fault_server.raw(read_timeout=1.0))
    assert "ReadTimeout" in str(error)
    assert "read_timeout" in error.cure
    assert ledger.generated == 2


def test_a_server_that_is_not_there(fault_server):
    fault_server.port = 1
    error, _, _, engine = fault_server.one(fault_server.raw(retries=1))
    assert "cannot reach http://127.0.0.1:1/v1" in str(error)
    assert engine.retried == 1


# --- The key ---


def test_the_key_is_sent_and_never_shown(fault_server, monkeypatch, caplog):
    caplog.set_level("DEBUG")
    monkeypatch.setenv("MY_KEY", KEY + "\n")
    fault_server.failures = [(401, {}, f"Incorrect API key provided: {KEY}")]
    error, _, _, engine = fault_server.one(fault_server.raw(key_env="MY_KEY"))
    assert f"Authorization: Bearer {KEY}".lower() in fault_server.headers[0].lower()
    assert "provided: ***" in str(error)
    assert "MY_KEY" in error.cure
    for shown in (str(error), repr(error), caplog.text, repr(engine), repr(vars(engine))):
        assert KEY not in shown


def test_a_key_that_is_none_is_refused_without_showing_it(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY + "\nX-Evil: 1")
    with pytest.raises(LaunchError, match="OPENAI_API_KEY") as caught:
        OpenAIEngine("http://127.0.0.1:1/v1", "m")
    assert KEY not in str(caught.value)


def test_without_a_key_none_is_sent(fault_server, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    fault_server.one(fault_server.raw())
    assert "authorization" not in fault_server.headers[0].lower()


@pytest.mark.parametrize("url", ["127.0.0.1:8000", f"http://u:{KEY}@h/v1", f"http://h/v1?key={KEY}"])
def test_urls_are_places_only(url):
    with pytest.raises(RecipeError) as caught:
        OpenAIEngine(url, "m")
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"server": "vlm"},
        {"route": "completions"},
        {"token_ids": True, "server": "vllm"},
        {"token_ids": True, "server": "llama.cpp", "tokenizer": object()},
        {"concurrency": 0},
    ],
)
def test_settings_that_do_not_go_together(settings):
    with pytest.raises(RecipeError):
        OpenAIEngine("http://127.0.0.1:1/v1", "m", **settings)
