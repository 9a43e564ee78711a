"""Where a generation ends, and what may be streamed before it is known."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from laconic.inference.engine import Token
from laconic.inference.generation import Generation
from laconic.rewards.errors import RecipeError


def run(pieces, **given):
    generation = Generation(**({"max_tokens": 50} | given))
    for piece in pieces:
        if generation.push(Token(piece)):
            break
    return generation


@pytest.mark.parametrize(
    ("pieces", "given", "text", "reason", "tokens"),
    [
        (["a ", "</th", "ink> b"], {"stop": ["</think>"]}, "a ", "stop", 3),
        (["a ", "</th", "ink> b"], {"stop": ["</think>"], "keep_stop": True}, "a </think>", "stop", 3),
        (["ab", "ab"], {"max_tokens": 2, "stop": ["c"]}, "abab", "length", 2),
        (["x", "stop", "y", "stop"], {"stop": ["stop"], "min_tokens": 3}, "xstopy", "stop", 4),
        (["x", "st", "op", "y", "z"], {"stop": ["stop"], "min_tokens": 3}, "x", "stop", 3),
        (["one\n\n", "two"], {"stop": ["two", "\n\n"]}, "one", "stop", 1),
        (["a", "b", "c"], {"hook": lambda token: token.text == "b"}, "ab", "hook", 2),
    ],
)
def test_ends(pieces, given, text, reason, tokens):
    generation = run(pieces, **given)
    assert (generation.text, generation.reason, len(generation.tokens)) == (text, reason, tokens)


def test_end_of_sequence_wins_over_the_limit():
    generation = Generation(max_tokens=1)
    assert generation.push(Token(""), eos=True)
    assert generation.chunk().ended


@given(text=st.text("ab", max_size=12), stop=st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3))
def test_what_was_streamed_stays_true(text, stop):
    """Pieces only grow, and the last is the text that a search in the whole finds."""
    generation, shown = Generation(max_tokens=50, stop=stop), ""
    for letter in text:
        done = generation.push(Token(letter))
        assert generation.streamable().startswith(shown)
        shown = generation.streamable()
        if done:
            break
    ends = [end for end in range(len(text) + 1) if any(text[:end].endswith(item) for item in stop)]
    if not ends:
        assert generation.text == text
    else:
        first = text[: ends[0]]
        assert generation.text == min((first[: first.find(item)] for item in stop if item in first), key=len)


@pytest.mark.parametrize("given", [{"max_tokens": 0}, {"min_tokens": 51}, {"stop": "text"}, {"stop": [""]}])
def test_impossible_requests_are_refused(given):
    with pytest.raises(RecipeError):
        Generation(**({"max_tokens": 50} | given))
