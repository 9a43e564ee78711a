"""WebThinker's preference criteria: each one alone, their order, and what is left unpaired."""

from __future__ import annotations

from dataclasses import replace

import pytest

from laconic.data_gen.pairs import PAIRINGS, WEB_THINKER_RATIO, prefers


@pytest.fixture
def searching(rollout):
    """Make a rollout with executed searches and thinking tokens."""

    def make(sample=0, *, searches, think, **more):
        made = rollout(sample=sample, tokens=think + 1, text=more.pop("text", f"s{searches} t{think}"), **more)
        return replace(made, meta={"searches": searches})

    return make


def test_correct_beats_wrong_whatever_it_cost(searching):
    costly, cheap = searching(searches=9, think=900), searching(searches=0, think=1, correct=False)
    assert prefers(costly, cheap)
    assert not prefers(cheap, costly)


def test_fewer_searches_beat_shorter_thinking(searching):
    few, brief = searching(searches=1, think=500), searching(searches=2, think=10)
    assert prefers(few, brief)
    assert not prefers(brief, few)


def test_thinking_decides_only_beyond_the_ratio(searching):
    short = searching(searches=2, think=100)
    at_ratio = searching(searches=2, think=int(100 * WEB_THINKER_RATIO))
    beyond = searching(searches=2, think=int(100 * WEB_THINKER_RATIO) + 1)
    assert not prefers(short, at_ratio)
    assert prefers(short, beyond)
    assert not prefers(beyond, short)


def test_two_wrong_ones_and_unverifiable_ones_are_not_compared(searching):
    wrong, costly_wrong = searching(searches=0, think=1, correct=False), searching(searches=5, think=9, correct=False)
    unknown, right = searching(searches=0, think=1, correct=None), searching(searches=3, think=50)
    assert not prefers(wrong, costly_wrong)
    assert not prefers(unknown, wrong)
    assert not prefers(right, unknown)


def test_a_rollout_that_says_nothing_about_searches_made_none(rollout, searching):
    silent, one = rollout(tokens=51), searching(searches=1, think=50)
    assert prefers(silent, one)
    assert not prefers(one, silent)


@pytest.fixture
def recorded(rollout):
    """Make a rollout with just this on record about its searches."""
    return lambda text="t", think=50, **meta: replace(rollout(tokens=think + 1, text=text), meta=meta)


def test_searches_are_counted_by_what_is_there(recorded):
    none = recorded(queries=[])
    assert prefers(none, recorded(queries=["a", "b"]))
    assert prefers(recorded(retrieved=[["p"]]), recorded(searches=2))
    # The count comes before the lists.
    assert not prefers(none, recorded(searches=0, queries=["a"]))


@pytest.mark.parametrize("unknown", [{"searches": None}, {"queries": None}, {"searches": None, "queries": ["a"]}])
def test_unknown_searches_are_not_compared(recorded, searching, unknown):
    unclear, clear = recorded(think=1, **unknown), recorded(think=900, searches=2)
    assert not prefers(unclear, clear)
    assert not prefers(clear, unclear)
    assert prefers(unclear, searching(searches=0, think=1, correct=False))


def test_no_thinking_has_no_ratio(recorded):
    silent, brief = recorded(think=0, searches=1), recorded(think=1, searches=1)
    assert not prefers(silent, brief)
    assert not prefers(brief, silent)


def test_equal_texts_are_no_pair(searching, problem):
    group = [searching(0, searches=0, think=9, text="same"), searching(1, searches=2, think=9, text="same")]
    assert PAIRINGS["web_thinker"](group, {"p": problem()}) == []


def test_pairs_of_a_group(searching, problem):
    group = [
        searching(0, searches=2, think=100, text="two"),
        searching(1, searches=1, think=300, text="one, long"),
        searching(2, searches=1, think=100, text="one, short"),
        searching(3, searches=0, think=5, correct=False, text="wrong"),
        searching(4, searches=0, think=5, finished=False, text="right, but cut"),
    ]
    rows = PAIRINGS["web_thinker"](group, {"p": problem()})
    assert [(row["chosen"], row["rejected"]) for row in rows] == [
        ("two", "wrong"),
        ("one, long", "two"),
        ("one, long", "wrong"),
        ("one, short", "two"),
        ("one, short", "one, long"),
        ("one, short", "wrong"),
    ]
