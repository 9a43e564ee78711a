"""Selectors and pairings: each paper's choice on a worked group, and what must hold for any rollouts."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laconic.data_gen import pairs, select
from laconic.data_gen.pairs import PAIRINGS
from laconic.data_gen.select import SELECTORS
from laconic.rewards.records import Problem, Rollout


@pytest.fixture
def group(rollout):
    """Five correct samples (one truncated, two of one text), four wrong ones (one truncated), one unverifiable."""
    return [
        rollout(sample=0, tokens=30, text="r30"),
        rollout(sample=1, tokens=9, correct=False, text="w9"),
        rollout(sample=2, tokens=10, text="r10"),
        rollout(sample=3, tokens=5, finished=False, text="cut5"),
        rollout(sample=4, tokens=14, text="r14"),
        rollout(sample=5, tokens=12, correct=False, text="w12"),
        rollout(sample=6, tokens=10, text="r10"),
        rollout(sample=7, tokens=40, correct=False, finished=False, text="cut40"),
        rollout(sample=8, tokens=2, correct=None, text="?2"),
        rollout(sample=9, tokens=15, text="r15"),
    ]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("all", ["r30", "w9", "r10", "r14", "w12", "r10", "?2", "r15"]),
        ("correct", ["r30", "r10", "r14", "r15"]),
        ("shortest", ["r10"]),
        ("first_correct", ["r30"]),
    ],
)
def test_selectors(group, problem, name, expected):
    rows = SELECTORS[name](group, {"p": problem()})
    assert [row["completion"] for row in rows] == expected
    assert all(row.keys() == {"problem_id", "prompt", "completion"} for row in rows)
    assert {(row["problem_id"], row["prompt"]) for row in rows} == {("p", "question p")}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("shortest_vs_longest", [("r10", "r30")]),
        ("silc", [("r10", "r30"), ("r30", "w9")]),
        ("correct_vs_wrong", [("r30", "w9"), ("r10", "w12"), ("r14", "cut40")]),
        # w9 is shorter than the chosen one, r14 less than 1.5 times as long.
        ("kimi", [("r10", "r30"), ("r10", "w12"), ("r10", "cut40"), ("r10", "r15")]),
    ],
)
def test_pairings(group, problem, name, expected):
    rows = PAIRINGS[name](group, {"p": problem()})
    assert [(row["chosen"], row["rejected"]) for row in rows] == expected
    assert all(row.keys() == {"problem_id", "prompt", "chosen", "rejected"} for row in rows)


def test_no_length_pair_without_two_lengths(rollout, problem):
    same = [rollout(sample=0, tokens=5), rollout(sample=1, tokens=5), rollout(sample=2, tokens=9, correct=False)]
    assert PAIRINGS["shortest_vs_longest"](same, {"p": problem()}) == []
    assert PAIRINGS["shortest_vs_longest"](same[:1], {"p": problem()}) == []
    assert PAIRINGS["silc"](same[1:], {"p": problem()}) == []


def test_rows_come_in_the_order_of_the_problems(rollout, problem):
    problems = {name: problem(name) for name in ("b", "a", "none")}
    rows = SELECTORS["shortest"]([rollout("a"), rollout("b"), rollout("other")], problems)
    assert [row["problem_id"] for row in rows] == ["b", "a"]


def test_every_rule_says_what_it_needs_and_where_it_is_from():
    assert select.NEEDS.keys() == SELECTORS.keys()
    assert pairs.NEEDS.keys() == PAIRINGS.keys()
    assert not SELECTORS.keys() & PAIRINGS.keys()
    assert all(rule.__doc__ for rule in [*SELECTORS.values(), *PAIRINGS.values()])


@st.composite
def any_rollouts(draw):
    """Up to three problems with up to eight samples; equal lengths and equal texts are common."""
    sizes = draw(st.lists(st.integers(1, 8), min_size=1, max_size=3))
    found = []
    for name, size in zip("abc", sizes, strict=False):
        for sample in range(size):
            text = draw(st.integers(0, 5))
            # Equal texts are equally long and equally right, as in real life.
            correct = [True, True, False, True, False, None][text]
            finished = draw(st.booleans()) or text < 2
            tokens = [3, 3, 2, 7, 9, 4][text]
            found.append(Rollout(name, sample, "exact", f"t{text}", "7", correct, finished, tokens, tokens - 1, 1))
    return found


PROBLEMS = {name: Problem(name, f"question {name}", "7", "exact") for name in "abc"}


@given(any_rollouts(), st.randoms(use_true_random=False))
@settings(max_examples=60)
def test_rules_hold_for_any_rollouts(rollouts, rng):
    shuffled = random.Random(rng.random()).sample(rollouts, len(rollouts))
    for rule in [*SELECTORS.values(), *PAIRINGS.values()]:
        rows = rule(rollouts, PROBLEMS)
        assert rule(shuffled, PROBLEMS) == rows
        used = {(row["problem_id"], text) for row in rows for text in list(row.values())[2:]}
        again = rule([r for r in rollouts if (r.problem_id, r.text) in used], PROBLEMS)
        assert again == rows
    good = {(r.problem_id, r.text) for r in rollouts if r.correct and r.finished}
    for name, rule in PAIRINGS.items():
        for row in rule(rollouts, PROBLEMS):
            assert (row["problem_id"], row["chosen"]) in good, name
            assert row["chosen"] != row["rejected"], name
    for name, rule in SELECTORS.items():
        for row in rule(rollouts, PROBLEMS):
            assert name == "all" or (row["problem_id"], row["completion"]) in good
