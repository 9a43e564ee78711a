"""Answers of policies are read, compared and judged as the verifier of the problem does it."""

import asyncio

import pytest

from laconic.eval.asking import ask_about, extract, same, verdict_of
from laconic.inference.engine import Sampling
from laconic.inference.engines.scripted import ScriptedEngine
from laconic.inference.ledger import Ledger
from laconic.inference.opening import Opened
from laconic.inference.policies import POLICIES, Answer, run_policy
from laconic.rewards.records import Problem

MATH = Problem("m", "What is a half?", r"\frac{1}{2}", "math")
SUM = Problem("s", "3 + 4 =", "7", "chain_sum")


def asked(problem, said, policy="plain", **parameters):
    """A policy's answer where sample k says `said[k]`."""
    lines = iter(said)
    engine = ScriptedEngine(lambda context: next(lines).split("|"))
    opened = Opened(engine, "scripted")
    ask = ask_about(problem, opened, sampling=Sampling(max_tokens=50), seed=1)
    return ask, asyncio.run(run_policy(POLICIES[policy].build(parameters), ask))


@pytest.mark.parametrize(
    ("problem", "text", "found"),
    [
        (MATH, r"It is \boxed{1} or rather \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (MATH, "It is 12.", "12"),
        (MATH, "I cannot tell.", None),
        (SUM, "  7\n", "7"),
        (SUM, " ", None),
        (SUM, r"It is \boxed{7}.", "7"),
    ],
    ids=["last box", "no box", "nothing to read", "exact", "empty", "boxed in any task"],
)
def test_the_answer_is_read_as_the_verifier_reads_it(problem, text, found):
    assert extract(text, problem) == found


@pytest.mark.parametrize(
    ("problem", "one", "other", "equal"),
    [
        (MATH, "0.5", r"\frac{1}{2}", True),
        (MATH, "0.5", r"\frac{1}{3}", False),
        (SUM, " 7", "7 ", True),
        (SUM, "7", "7.0", False),
    ],
    ids=["symbolic", "not equal", "white space", "exact tasks are exact"],
)
def test_answers_vote_together_if_the_verifier_takes_them_for_one(problem, one, other, equal):
    assert same(one, other, problem) is equal
    assert same(other, one, problem) is equal


def test_votes_are_symbolic():
    said = [r"<think>|</think>|\boxed{0.5}", r"<think>|</think>|\boxed{3}", r"<think>|</think>|\boxed{\frac{1}{2}}"]
    ask, answer = asked(MATH, [part for line in said for part in (line.rpartition("|")[0], line.rpartition("|")[2])])
    assert verdict_of(answer, ask, MATH).correct
    # Thinking and answer are two generations, and samples take turns: first all think, then all answer.
    thought = ["<think>|</think>"] * 3
    ask, answer = asked(MATH, thought + [line.rpartition("|")[2] for line in said], "self_consistency", samples=3)
    assert answer.confidence == pytest.approx(2 / 3)
    assert verdict_of(answer, ask, MATH).correct


@pytest.mark.parametrize(
    ("text", "answer", "correct"),
    [
        ("<think> a </think> 7", "7", True),
        ("<think> a </think> 8", "8", False),
        ("<think> a </think> 7", None, False),
        ("<think> a", "7", False),
        ("<think> a </think>", "7", True),
        ("7", "7", True),
    ],
    ids=["right", "wrong", "withheld", "thinking only", "answer of a probe", "no thinking"],
)
def test_the_verdict_is_about_what_is_returned(text, answer, correct):
    opened = Opened(ScriptedEngine(lambda context: ()), "scripted")
    ask = ask_about(SUM, opened, sampling=Sampling(), seed=0)
    found = verdict_of(Answer(text, answer, "stop", Ledger()), ask, SUM)
    assert bool(found.correct) is correct
