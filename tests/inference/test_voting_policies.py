"""Self-consistency with its stopping rules: golden vectors, closed forms, exact accounts on the scripted engine."""

import asyncio
import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laconic.inference.engine import Sampling
from laconic.inference.engines.scripted import EOS, ScriptedEngine
from laconic.inference.ledger import Ledger
from laconic.inference.policies import Ask, run_policy
from laconic.inference.policies.base import find, sample_seed
from laconic.inference.policies.candidates import race
from laconic.inference.policies.voting import (
    SelfConsistency,
    agreeing,
    beta_probability,
    beta_stop,
    majority,
    unanimous_window,
    weighted_majority,
)
from laconic.rewards.errors import RecipeError

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "inference.json").read_text())
SAMPLE = {sample_seed(0, number): number for number in range(100)}
"""Seeds of a question with seed 0, by the number of the sample."""


def entries(family):
    chosen = [entry for name, entry in GOLDEN.items() if name.startswith(family)]
    assert chosen
    return pytest.mark.parametrize("entry", chosen, ids=lambda entry: entry["id"])


def answering(answers, *, thinking=3):
    """Sample i thinks `thinking` tokens and answers `answers[i]` in two: the answer and the end."""
    started = []

    def script(context):
        if "</think>" in context.text:
            return [rf"\boxed{{{answers[SAMPLE[context.seed]]}}}" if answers[SAMPLE[context.seed]] else "", EOS]
        started.append(SAMPLE[context.seed])
        return ["<think>", *["t"] * (thinking - 2), "</think>"]

    engine = ScriptedEngine(script)
    engine.started = started
    return engine


def ask(policy, engine, **given):
    ledger = Ledger()
    answer = asyncio.run(run_policy(policy, Ask(engine, "Q", ledger, **given)))
    assert engine.emitted == ledger.generated
    assert not engine.open_branches
    return answer, ledger


@entries("adaptive_consistency.")
def test_beta_stop_is_the_authors(entry):
    answers = entry["input"]["answers"]
    counts = [count for _, count in Counter(answers).most_common(2)]
    assert beta_probability(*[*counts, 0][:2]) == entry["output"]["prob"]
    assert beta_stop(answers, threshold=entry["input"]["conf_thresh"]) is entry["output"]["stop"]


@pytest.mark.parametrize(("most", "second"), [(0, 0), (1, 1), (3, 2), (11, 4), (25, 15)])
def test_beta_probability_is_the_integral_of_the_density(most, second):
    # Gauss-Legendre with 40 nodes is exact for polynomials of this degree.
    nodes, weights = np.polynomial.legendre.leggauss(40)
    p = 0.75 + nodes / 4  # from 1/2 to 1
    density = p**most * (1 - p) ** second * (most + second + 1) * math.comb(most + second, most)
    assert beta_probability(most, second) == pytest.approx(float(weights @ density) / 4, abs=1e-12)


def test_beta_stop_reaches_its_threshold():
    assert beta_stop("xxxx", threshold=0.96875)
    assert not beta_stop("xxxx", threshold=0.968751)
    assert not beta_stop([], threshold=0.95)
    assert not beta_stop([None] * 9)
    assert beta_stop(["x", None, "x", "x", "x"])


def test_beta_stop_compares_the_two_most_frequent_answers():
    assert beta_stop("xxxxxxxyz") is beta_stop("xxxxxxxy")
    assert not beta_stop("xxxxxyyz")


@entries("esc.")
def test_windows_are_the_authors(entry):
    answers = entry["input"]["answers"]
    decided = unanimous_window(answers, window=5)
    assert decided.stop == entry["output"]["samples_used"]
    assert (answers[decided.start] == entry["input"]["gold"]) is (entry["output"]["accuracy_pct"] == 100)


def test_windows_do_not_overlap_and_are_whole():
    assert unanimous_window("abbbbb", window=3) == range(3, 6)
    assert unanimous_window("abbba", window=3) is None
    assert unanimous_window("abcbb", window=3) is None
    assert unanimous_window(["a", None, "a"], window=3) is None
    assert unanimous_window("aaa", window=3) == range(3)


def test_majority_takes_what_was_seen_first_among_the_most_frequent():
    assert majority("baabc") == [0, 3]
    assert majority([None, "a", None]) == [1]
    assert majority([None]) == majority([]) == []
    assert agreeing(["1.0", "2", "1"], equal=lambda one, other: float(one) == float(other)) == [[0, 2], [1]]


def test_weighted_majority():
    assert weighted_majority("aab", [1.0, 1.0, 3.0]) == ([2], 0.6)
    assert weighted_majority("ab", [2.0, 2.0]) == ([0], 0.5)
    assert weighted_majority([None, "b"], [9.0, 1.0]) == ([1], 1.0)
    assert weighted_majority("ab", [0.0, 0.0]) == ([0], 0.0)
    assert weighted_majority([], []) == ([], 0.0)


def test_all_samples_at_once():
    engine = answering("7887" + "9")
    answer, ledger = ask(SelfConsistency(samples=5), engine)
    assert (answer.answer, answer.finish, answer.confidence) == ("7", "stop", 0.4)
    assert engine.started == [0, 1, 2, 3, 4]
    assert ledger.by_role_and_fate()["think"] == {"kept": 3, "voted": 12, "discarded": 0}
    assert ledger.by_role_and_fate()["answer"] == {"kept": 2, "voted": 8, "discarded": 0}
    assert ledger.critical_path == engine.now == 5


@pytest.mark.parametrize(("batch", "drawn", "ticks"), [(1, 4, 20), (3, 6, 10), (40, 40, 5)])
def test_beta_draws_batches_until_it_is_sure_and_overshoot_votes(batch, drawn, ticks):
    engine = answering("7" * 40)
    answer, ledger = ask(SelfConsistency(stopping="beta", batch=batch), engine)
    assert (answer.answer, answer.confidence) == ("7", 1.0)
    assert engine.started == list(range(drawn))
    assert ledger.tokens(fate="voted") == 5 * (drawn - 1)
    assert ledger.tokens(fate="kept") == 5
    assert ledger.critical_path == engine.now == ticks


def test_beta_draws_no_more_than_it_may():
    answer, ledger = ask(SelfConsistency(samples=5, stopping="beta", batch=2), answering("78787"))
    assert (answer.answer, answer.confidence) == ("7", 0.6)
    assert ledger.generated == 25


def test_a_beta_threshold_of_one_is_plain_self_consistency():
    answers = "7" * 30 + "8" * 10
    plain, plain_ledger = ask(SelfConsistency(), answering(answers))
    never, never_ledger = ask(SelfConsistency(stopping="beta", threshold=1.0, batch=7), answering(answers))
    assert (never.text, never.confidence) == (plain.text, plain.confidence)
    assert never_ledger.by_role_and_fate() == plain_ledger.by_role_and_fate()


def test_a_unanimous_window_decides_against_the_majority():
    engine = answering("8887" + "7777" + "8888")
    answer, ledger = ask(SelfConsistency(samples=12, stopping="window", window=4), engine)
    assert (answer.answer, answer.confidence) == ("7", 1.0)
    assert engine.started == list(range(8))
    assert [ledger.tokens(fate=fate) for fate in ("kept", "voted", "discarded")] == [5, 15, 20]
    assert ledger.critical_path == engine.now == 10


def test_without_a_unanimous_window_all_vote():
    answer, ledger = ask(SelfConsistency(samples=5, stopping="window", window=2), answering("87" + "87" + "8"))
    assert (answer.answer, answer.confidence) == ("8", 0.6)
    assert [ledger.tokens(fate=fate) for fate in ("kept", "voted", "discarded")] == [5, 20, 0]


def test_samples_without_an_answer_do_not_vote():
    answer, ledger = ask(SelfConsistency(samples=4), answering([None, "7", None, "7"]))
    assert (answer.answer, answer.confidence) == ("7", 1.0)
    assert [ledger.tokens(fate=fate) for fate in ("kept", "voted", "discarded")] == [5, 5, 10]


def test_cut_samples_do_not_vote_and_one_comes_back():
    engine = answering("12")
    answer, ledger = ask(SelfConsistency(samples=2), engine, sampling=Sampling(max_tokens=4))
    assert (answer.answer, answer.finish, answer.confidence) == ("1", "length", None)
    assert [ledger.tokens(fate=fate) for fate in ("kept", "voted", "discarded")] == [4, 0, 4]


def test_answers_are_compared_as_the_question_says():
    engine = answering(["1", "2", "2.0"])
    answer, _ = ask(SelfConsistency(samples=3), engine, equal=lambda one, other: float(one) == float(other))
    assert (answer.answer, answer.confidence) == ("2", pytest.approx(2 / 3))


@settings(deadline=None)
@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=12), st.sampled_from(["none", "beta", "window"]))
def test_the_answer_is_one_of_the_drawn_and_the_account_conserves(answers, stopping):
    policy = SelfConsistency(samples=len(answers), stopping=stopping, window=3, batch=2, threshold=0.8)
    answer, ledger = ask(policy, answering(answers))
    assert answer.answer in answers
    assert ledger.generated == 5 * len(answer.notes["answers"])


def test_an_error_ends_all_samples_and_comes_out_as_it_is():
    def script(context):
        return ["t", ConnectionError("gone")] if SAMPLE[context.seed] == 1 else ["t"] * 50

    engine, ledger = ScriptedEngine(script), Ledger()
    with pytest.raises(ConnectionError, match="gone"):
        asyncio.run(run_policy(SelfConsistency(samples=3), Ask(engine, "Q", ledger)))
    assert engine.emitted == ledger.tokens(fate="discarded") == 5
    assert not engine.open_branches


def test_race_ends_those_that_lost_and_lets_the_others_go_on():
    async def run():
        log = []

        async def runner(place, turns):
            try:
                for _ in range(turns):
                    await asyncio.sleep(0)
                log.append(place)
            except asyncio.CancelledError:
                log.append(-place)
                raise

        order = await race(
            [runner(place, turns) for place, turns in enumerate([40, 10, 90, 20, 40])],
            losers=lambda finished, running: {2} & running if 3 in finished else (),
        )
        return order, log

    assert asyncio.run(run()) == ([1, 3, 0, 4], [1, 3, -2, 0, 4])


@pytest.mark.parametrize(
    "wrong", [{"samples": 0}, {"batch": 0}, {"window": 0}, {"stopping": "soon"}, {"threshold": 0.4}, {"threshold": 1.1}]
)
def test_wrong_parameters_are_refused(wrong):
    with pytest.raises(RecipeError, match=next(iter(wrong))):
        find("self_consistency").build(wrong)
