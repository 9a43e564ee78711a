"""Cleaning: what shares words with the test, what repeats, and what is answered too often or too seldom."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from laconic.data_gen.clean import decontaminate, deduplicate, pass_rate_filter, unique_problems
from laconic.rewards.records import Problem

TEST = "how many of the nine red apples did Ada give to her brother"


@pytest.mark.parametrize(
    ("prompt", "dropped"),
    [
        ("Today: HOW many of the  nine red\napples did Bo eat", True),
        ("how many of the nine red apples are left", False),
        ("how many of the nine ripe red apples did Ada give to her", False),
        ("many", False),
        ("short one ?", True),
        ("SHORT one ?", True),
        ("a short one ?", False),
    ],
)
def test_eight_shared_words_are_too_many(problem, prompt, dropped):
    tests = [problem("t", TEST), problem("short", "short one ?")]
    cleaned = decontaminate([problem("x", prompt)], tests)
    assert [len(cleaned.kept), len(cleaned.dropped)] == [not dropped, dropped]
    assert cleaned.counts == ({"shares 8 consecutive words with a test prompt": 1} if dropped else {})


def test_the_words_of_a_prompt_template_do_not_count(problem):
    def asked(name, question):
        return problem(
            name, f"{question} Think step by step and give the answer in a box .", meta={"question": question}
        )

    cleaned = decontaminate([asked("a", "What is 2 + 2 ?"), asked("b", TEST)], [asked("t", TEST)])
    assert [kept.id for kept in cleaned.kept] == ["a"]


@given(st.lists(st.text("ab ", min_size=1, max_size=14), max_size=6), st.text("ab ", min_size=1, max_size=14))
def test_decontamination_agrees_with_a_plain_search(tests, prompt):
    def shared(one, other, n=3):
        one, other = one.split(), other.split()
        if min(len(one), len(other)) < n:
            return one == other
        return any(
            one[i : i + n] == other[j : j + n] for i in range(len(one) - n + 1) for j in range(len(other) - n + 1)
        )

    problems = [Problem(str(i), text, "1", "exact") for i, text in enumerate(tests)]
    cleaned = decontaminate([Problem("x", prompt, "1", "exact")], problems, n=3)
    assert bool(cleaned.dropped) == any(shared(prompt, text) for text in tests)


def test_repeats_keep_the_first(problem):
    cleaned = unique_problems([problem("a", "x  y"), problem("b", "x y"), problem("c", "x")])
    assert [kept.id for kept in cleaned.kept] == ["a", "c"]
    assert [(gone.id, why) for gone, why in cleaned.dropped] == [("b", "repeats a prompt")]
    rows = [{"problem_id": i, "prompt": "q", "completion": c} for i, c in [("a", "x"), ("b", "x"), ("a", "y")]]
    cleaned = deduplicate(rows)
    assert cleaned.kept == [rows[0], rows[2]]
    assert cleaned.counts == {"repeats a row": 1}


def test_pass_rate_keeps_both_ends(problem, rollout):
    rates = {"never": 0, "seldom": 1, "often": 3, "always": 4}
    problems = [problem(name) for name in (*rates, "unknown")]
    rollouts = [rollout(name, i, correct=i < right) for name, right in rates.items() for i in range(4)]
    rollouts += [rollout("unknown", 0, correct=None)]
    cleaned = pass_rate_filter(problems, rollouts, low=0.25, high=0.75)
    assert [kept.id for kept in cleaned.kept] == ["seldom", "often"]
    assert cleaned.counts == {"pass rate below 0.25": 1, "pass rate above 0.75": 1, "pass rate unknown": 1}
