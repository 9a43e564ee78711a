"""Server-sent events read into tokens, and what errors and headers say."""

import asyncio

import pytest

from laconic.inference.engines.openai_events import Reader, data_lines, spread
from laconic.inference.engines.openai_http import message_of, seconds_to_wait, wait_before


def lines(*chunks):
    async def read():
        async def feed():
            for chunk in chunks:
                yield chunk

        return [line async for line in data_lines(feed())]

    return asyncio.run(read())


def test_events_are_split_at_line_feeds_alone():
    text = 'data: {"a": "one\u2028two\x85"}\r\n\r\n: ping\nevent: x\ndata:{}\n\ndata: [DONE]'.encode()
    expected = ['{"a": "one\u2028two\x85"}', "{}", "[DONE]"]
    assert lines(text) == expected
    assert lines(*(text[place : place + 1] for place in range(len(text)))) == expected


def test_spread_keeps_the_text_whatever_the_names():
    assert spread("abc", ["a", "b", "c"]) == ["a", "b", "c"]
    assert spread("ab", ["a", "b", "<eos>"]) == ["a", "b", ""]
    assert spread("xyz", ["?", "z"]) == ["", "xyz"]


def chat(**delta):
    return {"choices": [{"delta": delta}]}


def test_a_reasoning_parser_s_fields_become_tags():
    reader = Reader(tags=("<t>", "</t>"))
    events = [chat(reasoning="a"), chat(reasoning_content="b"), chat(content="c"), chat(content="d")]
    texts = [[token.text for token in reader.read(event)] for event in events]
    # The closing tag is a token that the model wrote; the opening one may be the template's.
    assert texts == [["<t>a"], ["b"], ["</t>", "c"], ["d"]]
    both = Reader(tags=("<t>", "</t>")).read(chat(reasoning="a", content="c"))
    assert [token.text for token in both] == ["<t>a</t>c"]
    closed = Reader(tags=("<t>", "</t>"), prefix="<t>x</t>")
    assert [token.text for token in closed.read(chat(reasoning="c"))] == ["c"]


def test_tokens_that_the_server_kept_back_carry_the_tags():
    def told(count, **delta):
        return chat(**delta) | {"usage": {"completion_tokens": count}}

    reader = Reader(tags=("<t>", "</t>"))
    events = [told(1), told(2, reasoning="a"), told(3), told(4, content="c")]
    texts = [[token.text for token in reader.read(event)] for event in events]
    assert texts == [[], ["<t>", "a"], [], ["</t>", "c"]]
    assert (reader.count, reader.exact) == (4, True)


def test_waiting_times():
    assert [wait_before(n, None, back_off=1, draw=lambda low, high: low) for n in (0, 1, 9)] == [0.5, 1.0, 30.0]
    assert wait_before(0, 9.0, back_off=1) == 9.0
    assert (seconds_to_wait("1.5"), seconds_to_wait(None), seconds_to_wait("later")) == (1.5, None, None)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error": {"message": "m"}}', "m"),
        (b'{"error": "m"}', "m"),
        (b'{"message": "m"}', "m"),
        (b'{"detail": [{"msg": "m"}]}', '[{"msg": "m"}]'),
        (b"<html>", "<html>"),
        (b"", "(no message)"),
    ],
)
def test_messages_of_errors(body, message):
    assert message_of(body) == message
