"""What clients see while a completion comes: the same however its text is cut into pieces."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from laconic.inference.server.visible import Splitter, Until, Visible

TAGS = ("<think>", "</think>")
# Texts that are full of tags, halves of tags and stop strings.
TEXT = st.lists(st.sampled_from(["<think>", "</think>", "<thi", "nk>", "</", "<", ">", "ab", "b", " ", "7"])).map(
    "".join
)
CUTS = st.lists(st.integers(0, 60))


def pieces(text, cuts):
    places = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    return [text[start:end] for start, end in pairwise(places)]


def shown(visible, texts):
    fields = {"reasoning_content": "", "content": ""}
    for text in texts:
        for name, part in visible.add(text):
            fields[name] += part
    for name, part in visible.end():
        fields[name] += part
    return fields["reasoning_content"], fields["content"]


def apart(text, *, thinks):
    """Thinking and answer, from the whole text."""
    begins = text.lstrip().startswith(TAGS[0])
    if not thinks and not begins:
        return "", text
    inside = text if thinks else text.partition(TAGS[0])[2]
    thinking, _, answer = inside.partition(TAGS[1])
    return thinking, answer


def until(text, stops):
    """A text before the stop string that ends first, by looking at every beginning of it."""
    for size in range(len(text) + 1):
        ends = [text[: size - len(stop)] for stop in stops if text[:size].endswith(stop)]
        if ends:
            return min(ends, key=len)
    return text


@given(TEXT, CUTS, st.booleans())
def test_thinking_and_answer_are_told_apart_wherever_the_text_is_cut(text, cuts, thinks):
    assert shown(Visible(TAGS, thinks=thinks), pieces(text, cuts)) == apart(text, thinks=thinks)


@given(TEXT, CUTS, st.booleans())
def test_every_character_is_in_one_part(text, cuts, thinks):
    splitter = Splitter(TAGS, thinks=thinks)
    parts = [part for piece in pieces(text, cuts) for part in splitter.add(piece)]
    assert "".join(part for _, part in [*parts, *splitter.end()]) == text


@given(TEXT, CUTS, st.lists(st.sampled_from(["ab", "b7", "7", "bab", "> ", "<"]), max_size=3))
def test_nothing_is_shown_from_a_stop_string_on(text, cuts, stops):
    found = Until(stops)
    assert "".join([*map(found.add, pieces(text, cuts)), found.end()]) == until(text, stops)
    assert found.stopped == (until(text, stops) != text)


@given(TEXT, CUTS)
def test_a_stop_string_ends_the_answer_and_never_the_thinking(text, cuts):
    thinking, answer = apart(text, thinks=False)
    assert shown(Visible(TAGS, thinks=False, stops=["b"]), pieces(text, cuts)) == (thinking, until(answer, ["b"]))


@given(TEXT, CUTS, st.booleans())
def test_all_is_content_where_thinking_is_not_separated(text, cuts, thinks):
    assert shown(Visible(TAGS, thinks=thinks, separate=False), pieces(text, cuts)) == ("", text)


@given(TEXT, CUTS)
def test_text_is_shown_as_soon_as_it_is_certain(text, cuts):
    """What is held back is never longer than the beginning of a tag, with the spaces before it."""
    visible, said = Visible(TAGS, thinks=False, separate=False), ""
    out = ""
    for piece in pieces(text, cuts):
        said += piece
        out += "".join(part for _, part in visible.add(piece))
        held = said[len(out) :]
        assert any(tag.startswith(held.lstrip()) and held.lstrip() != tag for tag in TAGS)
