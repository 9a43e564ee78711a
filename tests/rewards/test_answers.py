"""Verification of answers."""

import pytest

from laconic.rewards.answers import Verdict, judge, verify
from laconic.rewards.records import Problem


def problem(answer: str, task: str) -> Problem:
    return Problem(id="p", prompt="?", answer=answer, task=task)


@pytest.mark.parametrize(
    ("text", "gold", "right"),
    [
        ("The answer is \\boxed{\\frac{1}{2}}.", "0.5", True),
        ("\\boxed{1/2}", "\\frac{1}{2}", True),
        ("So it is 72.", "72", True),
        ("\\boxed{\\$14.50}", "\\$14.50", True),
        ("\\boxed{14.5}", "\\$14.50", True),
        ("\\boxed{73}", "72", False),
        ("I do not know", "72", False),
        (None, "72", False),
        ("\\boxed{\\left( 3, \\frac{\\pi}{2} \\right)}", "\\left( 3, \\frac{\\pi}{2} \\right)", True),
    ],
)
def test_math(text, gold, right):
    assert verify(text, problem(gold, "math")) is right


def test_gold_that_cannot_be_read_is_nobodys_fault():
    assert verify("\\boxed{3}", problem("", "math")) is None


@pytest.mark.parametrize(
    ("text", "right"), [("12", True), (" 12 \n", True), ("112", False), ("12 0", False), ("", False), (None, False)]
)
def test_exact(text, right):
    assert verify(text, problem("12", "chain_sum")) is right


def test_equal_answers_vote_together():
    gold = problem("0.5", "math")
    assert judge("\\boxed{\\frac{1}{2}}", gold).answer == judge("so \\boxed{1/2}", gold).answer
    assert judge("  3   4 ", problem("3 4", "number_sorting")).answer == "3 4"
    assert judge(None, gold).answer is None


@pytest.mark.parametrize(
    ("text", "answer", "correct"),
    [(r"It is \boxed{ 7 }.", "7", True), (r"7, or \boxed{8}", "8", False), (r"\boxed{}", None, False)],
    ids=["boxed", "the box counts", "empty box"],
)
def test_a_box_is_opened_in_any_task(text, answer, correct):
    problem = Problem("p", "3 + 4 =", "7", "chain_sum")
    assert judge(text, problem) == Verdict(answer, correct)
