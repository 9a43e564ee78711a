"""What searches were good for, on cases made by hand."""

from __future__ import annotations

import pytest

from laconic.data_gen.world.audit import Audit, audit, rates
from laconic.inference.episode_record import Search

TWO_PAGES = {"needed_documents": [["a0", "a1"], ["b0", "b1"]], "least_searches": 2, "answerable": True}
NOTHING = {"needed_documents": [], "least_searches": 0, "answerable": True}
NOWHERE = {"needed_documents": [["c0"]], "least_searches": 1, "answerable": False}


def search(query, *ids, **more):
    return {"query": query, "ids": list(ids), "turn": 0, **more}


def counts(meta, *searches, answer="somebody"):
    found = audit(meta, searches, answer)
    return found.searches, found.useful, found.redundant, found.over_searches, found.under_searches


@pytest.mark.parametrize(
    ("meta", "searches", "expected"),
    [
        # searches, useful, redundant, over, under
        (NOTHING, [], (0, 0, 0, 0, 0)),
        (NOTHING, [search("q", "x")], (1, 0, 0, 1, 0)),
        (NOTHING, [search("q", "x"), search("Q !", "y")], (2, 0, 1, 2, 0)),
        (TWO_PAGES, [], (0, 0, 0, 0, 2)),
        (TWO_PAGES, [search("p", "a0"), search("q", "b1")], (2, 2, 0, 0, 0)),
        # One search that brings in both pages does the work of two.
        (TWO_PAGES, [search("p", "x", "a1", "b0")], (1, 1, 0, 0, 0)),
        # The other wording of a page that was read is a new document, but of no use; one page is missing still.
        (TWO_PAGES, [search("p", "a0"), search("q", "a1")], (2, 1, 0, 0, 1)),
        # The same query again, and another one that finds the same documents.
        (TWO_PAGES, [search("p", "a0"), search("the p", "a0"), search("r", "a0")], (3, 1, 2, 0, 1)),
        # A failed search is neither over-search nor redundant while something is missing.
        (TWO_PAGES, [search("p", "x"), search("q", "a0"), search("r", "b0")], (3, 2, 0, 0, 0)),
        # Nothing was found at all: nothing new.
        (TWO_PAGES, [search("p")], (1, 0, 1, 0, 2)),
        (TWO_PAGES, [search("p", "a0", "b0"), search("q", "x"), search("r", "y")], (3, 1, 0, 2, 0)),
        # A document that did not fit into the observation was not read.
        (TWO_PAGES, [search("p", "a0", "b0", shown=1)], (1, 1, 0, 0, 1)),
        (TWO_PAGES, [Search("p", ("a0", "b0"), 0, (2.0, 1.0), shown=1)], (1, 1, 0, 0, 1)),
        (TWO_PAGES, [Search("p", ("a0", "b0"), 0, (2.0, 1.0), shown=2)], (1, 1, 0, 0, 0)),
        (NOWHERE, [search("p", "c0")], (1, 1, 0, 0, 0)),
    ],
)
def test_counts(meta, searches, expected):
    assert counts(meta, *searches) == expected


@pytest.mark.parametrize(
    ("meta", "searches", "answer", "expected"),
    [
        # abstained, right, founded
        (NOWHERE, [search("p", "c0")], "unknown", (True, True, True)),
        (NOWHERE, [], "Unknown.", (True, True, False)),
        (NOWHERE, [search("p", "c0")], "somebody", (False, False, False)),
        (NOWHERE, [search("p", "c0")], None, (False, False, False)),
        (TWO_PAGES, [], "I don't know", (True, False, False)),
        (NOTHING, [], "somebody", (False, False, False)),
    ],
)
def test_abstention(meta, searches, answer, expected):
    found = audit(meta, searches, answer)
    assert (found.abstained, found.right_abstention, found.founded_abstention) == expected


def one(**more):
    plain = {"searches": 0, "least": 0, "useful": 0, "redundant": 0, "over_searches": 0, "under_searches": 0}
    return Audit(**{**plain, "answerable": True, "abstained": False, **more})


def test_rates():
    held = [
        one(),
        one(searches=2, redundant=1, over_searches=2),
        one(searches=1, useful=1, least=1),
        one(least=2, under_searches=2, abstained=True),
        one(searches=1, useful=1, least=1, answerable=False, abstained=True),
        one(least=1, under_searches=1, answerable=False, abstained=True),
        one(searches=1, useful=1, least=1, answerable=False),
    ]
    assert rates(held) == {
        "over_search": 1 / 7,
        "under_search": 2 / 7,
        "searched_though_known": 1 / 2,
        "searched_where_missing": 3 / 5,
        "useful": 3 / 5,
        "redundant": 1 / 5,
        "abstention_precision": 2 / 3,
        "abstention_recall": 2 / 3,
        "founded_abstention": 1 / 2,
    }


def test_rates_of_nothing_are_not_numbers():
    assert set(rates([]).values()) == {None}
    assert rates([one()])["useful"] is None
    assert rates([one()])["over_search"] == 0.0
