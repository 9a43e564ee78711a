"""short-m@k and First Finish Search: golden vectors, and exact accounts of what was cancelled."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laconic.inference.engine import Capability, Sampling
from laconic.inference.engines.scripted import EOS, ScriptedEngine
from laconic.inference.ledger import Ledger
from laconic.inference.policies import Ask, run_policy
from laconic.inference.policies.base import find, sample_seed
from laconic.inference.policies.short import (
    FirstFinish,
    ShortMK,
    short_m_at_k,
    short_majority,
    shortest,
    thinking_tokens,
)
from laconic.inference.policies.voting import SelfConsistency
from laconic.rewards.errors import LaunchError, RecipeError

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "inference.json").read_text())
SAMPLE = {sample_seed(0, number): number for number in range(100)}
"""Seeds of a question with seed 0, by the number of the sample."""
SHORT = [entry for name, entry in GOLDEN.items() if name.startswith("shortmk.")]
FIVE = [(120, 10, "A"), (80, 10, "B"), (200, 10, "A"), (90, 10, "A"), (150, 10, "C")]
short_golden = pytest.mark.parametrize("entry", SHORT, ids=lambda entry: entry["id"])


def traces(*wanted, **options):
    """Sample i thinks, answers in as many tokens, and says this: (thinking, answer tokens, answer)."""

    def script(context):
        thinking, size, answer = wanted[SAMPLE[context.seed]]
        if "</think>" not in context.text and thinking:
            return ["<think>", *["t"] * (thinking - 2), "</think>"]
        return [rf"\boxed{{{answer}}}", *["."] * (size - 2), EOS]

    return ScriptedEngine(script, **options)


def ask(policy, engine, *, max_tokens=1000):
    ledger = Ledger()
    answer = asyncio.run(run_policy(policy, Ask(engine, "Q", ledger, sampling=Sampling(max_tokens=max_tokens))))
    assert engine.emitted == ledger.generated
    assert not engine.open_branches
    return answer, ledger


def samples(entry):
    return zip(*entry["input"]["samples [thinking_len, answer]"], strict=True)


@short_golden
def test_the_rule_is_the_golden_one(entry):
    lengths, answers = samples(entry)
    m, output = entry["input"]["m"], entry["output"]
    assert answers[short_m_at_k(lengths, answers, m)] == output["answer"]
    assert lengths[shortest(lengths, m)[-1]] == output["halt_time_in_decode_steps"]
    tokens = output["thinking_tokens_generated"], output["of_which_discarded"]
    assert thinking_tokens(lengths, m) == tokens


@pytest.mark.parametrize("compare", ["time", "length", "auto"])
@short_golden
def test_the_policy_is_the_golden_one(entry, compare):
    lengths, answers = samples(entry)
    engine = traces(*zip(lengths, [10] * len(lengths), answers, strict=True))
    output = entry["output"]
    answer, ledger = ask(ShortMK(k=entry["input"]["k"], m=entry["input"]["m"], compare=compare), engine)
    assert (answer.answer, answer.finish) == (output["answer"], "stop")
    assert ledger.tokens("think") == output["thinking_tokens_generated"]
    assert ledger.tokens("think", "discarded") == output["of_which_discarded"]
    assert ledger.tokens("answer") == output["answer_tokens_if_10_each"]
    assert ledger.critical_path == engine.now == output["halt_time_in_decode_steps"] + 10


def test_three_of_five_outvote_the_shortest():
    answer, ledger = ask(ShortMK(), traces(*FIVE))
    assert (answer.answer, answer.confidence) == ("A", pytest.approx(2 / 3))
    assert answer.notes["lengths"] == [80, 90, 120]
    assert ledger.by_role_and_fate()["think"] == {"kept": 90, "voted": 200, "discarded": 240}
    assert ledger.by_role_and_fate()["answer"] == {"kept": 10, "voted": 20, "discarded": 0}


def test_ties_go_to_the_shortest_thinking():
    assert short_majority([90, 80], ["A", "B"]) == [1]
    assert short_majority([90, 80, 70, 60], ["A", "B", "A", "B"]) == [3, 1]
    assert short_majority([80, 80], ["A", "B"]) == [0]
    assert short_majority([50, 90, 80], [None, "A", "B"]) == [2]
    assert short_majority([50], [None]) == []
    assert shortest([3, 1, 1], 2) == [1, 2]


def test_all_of_them_are_self_consistency_token_for_token():
    short, short_ledger = ask(ShortMK(k=5, m=5), traces(*FIVE))
    vote, vote_ledger = ask(SelfConsistency(samples=5), traces(*FIVE))
    assert (short.answer, short.confidence) == (vote.answer, vote.confidence) == ("A", 0.6)
    assert short_ledger.tokens("think") == vote_ledger.tokens("think") == 640
    assert short_ledger.tokens("answer") == vote_ledger.tokens("answer") == 50
    assert short_ledger.tokens(fate="discarded") == 0


def test_with_few_slots_time_favours_those_that_started_and_lengths_do_not():
    by_time, _ = ask(ShortMK(k=5, m=1, compare="time"), traces(*FIVE, slots=1))
    by_length, ledger = ask(ShortMK(k=5, m=1), traces(*FIVE, slots=1))
    assert (by_time.answer, by_time.notes["compared"]) == ("A", "time")
    assert (by_length.answer, by_length.notes["compared"]) == ("B", "length")
    # One after the other: 120 whole, 80 whole, and the rest as long as the shortest so far.
    assert ledger.tokens("think", "discarded") == 120 + 80 + 80 + 80
    assert ledger.tokens("think", "kept") == 80


@pytest.mark.parametrize("policy", [ShortMK(k=5, m=1), ShortMK(k=5, m=3), FirstFinish(k=5)])
def test_in_step_comparing_lengths_and_times_are_the_same_to_the_token(policy):
    by_length, ledger = ask(policy, traces(*FIVE))
    by_time, timed = ask(replace(policy, compare="time"), traces(*FIVE))
    assert (by_length.notes["compared"], by_time.notes["compared"]) == ("length", "time")
    assert (by_length.text, by_length.answer) == (by_time.text, by_time.answer)
    assert ledger.by_role_and_fate() == timed.by_role_and_fate()


def test_an_engine_without_hooks_compares_times():
    engine = traces(*FIVE, capabilities=set(Capability) - {Capability.TOKEN_HOOK})
    assert ask(ShortMK(k=5, m=1), engine)[0].notes["compared"] == "time"


def test_time_takes_the_first_that_is_there_and_lengths_the_shortest():
    def slow(branch):
        return 3 if branch == 1 else 1

    by_time, _ = ask(ShortMK(k=5, m=1, compare="time"), traces(*FIVE, ticks_per_token=slow))
    by_length, ledger = ask(ShortMK(k=5, m=1, compare="length"), traces(*FIVE, ticks_per_token=slow))
    assert (by_time.answer, by_length.answer) == ("A", "B")
    # Sample 3 is there first, at 90; the slow one is not as long as that yet, and goes on.
    assert ledger.by_role_and_fate()["think"] == {"kept": 80, "voted": 0, "discarded": 90 * 4}


def test_of_equal_lengths_the_lower_sample_wins_although_it_is_there_later():
    wanted = [(20, 5, "A"), (20, 5, "B")]
    engine = traces(*wanted, ticks_per_token=lambda branch: 2 - branch)
    answer, ledger = ask(ShortMK(k=2, m=1, compare="length"), engine)
    assert answer.answer == "A"
    assert ledger.by_role_and_fate()["think"] == {"kept": 20, "voted": 0, "discarded": 20}


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(2, 9), st.integers(2, 4), st.sampled_from("AB")), min_size=1, max_size=6),
    st.data(),
)
def test_comparing_lengths_gives_the_rule_s_answer_whatever_the_slots(wanted, data):
    m, slots = data.draw(st.integers(1, len(wanted))), data.draw(st.integers(1, len(wanted)))
    answer, ledger = ask(ShortMK(k=len(wanted), m=m, compare="length"), traces(*wanted, slots=slots))
    lengths, _, answers = zip(*wanted, strict=True)
    place = short_m_at_k(lengths, answers, m)
    assert answer.answer == answers[place]
    assert ledger.tokens("think", "kept") == lengths[place]
    if slots == len(wanted):
        assert (ledger.tokens("think"), ledger.tokens("think", "discarded")) == thinking_tokens(lengths, m)
    else:
        assert thinking_tokens(lengths, m)[0] <= ledger.tokens("think") <= sum(lengths)


def test_cut_traces_are_not_among_the_m():
    answer, ledger = ask(ShortMK(k=3, m=2), traces((9, 4, "A"), (3, 4, "B"), (30, 4, "C")), max_tokens=12)
    # Of the second to close its thinking, the answer is cut: it does not vote.
    assert (answer.answer, answer.finish, answer.confidence) == ("B", "stop", 1.0)
    assert ledger.by_role_and_fate()["think"] == {"kept": 3, "voted": 0, "discarded": 18}
    assert ledger.by_role_and_fate()["answer"] == {"kept": 4, "voted": 0, "discarded": 3}


def test_nothing_closed_within_the_budget():
    answer, ledger = ask(ShortMK(k=2, m=1), traces((9, 4, "A"), (9, 4, "B")), max_tokens=5)
    assert (answer.answer, answer.finish, answer.confidence) == (None, "length", None)
    assert [ledger.tokens(fate=fate) for fate in ("kept", "voted", "discarded")] == [5, 0, 5]


def test_an_answer_without_thinking_is_there_when_it_ends():
    answer, ledger = ask(ShortMK(k=2, m=1), traces((9, 4, "A"), (0, 5, "B")))
    assert (answer.answer, answer.notes["lengths"]) == ("B", [5])
    assert ledger.tokens("answer", "kept") == 5
    assert ledger.tokens("think", "discarded") == 5


def test_a_trace_that_ends_while_thinking_is_not_among_the_m():
    def script(context):
        if SAMPLE[context.seed] == 0:
            return ["<think>", "t", EOS]
        return [r"\boxed{B}", EOS] if "</think>" in context.text else ["<think>", *["t"] * 7, "</think>"]

    answer, ledger = ask(ShortMK(k=2, m=1), ScriptedEngine(script))
    assert (answer.answer, answer.notes["lengths"]) == ("B", [9])
    assert [ledger.tokens(fate=fate) for fate in ("kept", "voted", "discarded")] == [11, 0, 3]


@pytest.mark.parametrize("compare", ["time", "length"])
def test_first_finish_is_the_golden_one(compare):
    entry = GOLDEN["ffs.basic"]
    wanted = entry["input"]["samples [thinking_len, answer_len, answer]"]
    engine = traces(*wanted)
    answer, ledger = ask(FirstFinish(k=3, compare=compare), engine)
    assert f"{answer.answer} (sample {answer.notes['winner']})" == entry["output"]["winner"]
    assert ledger.critical_path == engine.now == entry["output"]["halt_time"]
    assert ledger.generated == entry["output"]["tokens_generated"]
    assert ledger.by_role_and_fate()["think"] == {"kept": 120, "voted": 0, "discarded": 210}
    assert ledger.by_role_and_fate()["answer"] == {"kept": 12, "voted": 0, "discarded": 54}


def test_first_finish_compares_whole_lengths_on_an_engine_with_one_slot():
    wanted = GOLDEN["ffs.basic"]["input"]["samples [thinking_len, answer_len, answer]"]
    short, _ = ask(ShortMK(k=3, m=1, compare="length"), traces(*wanted, slots=1))
    first, ledger = ask(FirstFinish(k=3), traces(*wanted, slots=1))
    assert (short.answer, first.answer, first.notes["compared"]) == ("B", "A", "length")
    # 132 whole, then 132 of 140 and of 135.
    assert [ledger.tokens(fate=fate) for fate in ("kept", "voted", "discarded")] == [132, 0, 264]


def test_first_finish_waits_for_one_that_is_complete():
    answer, ledger = ask(FirstFinish(k=2), traces((9, 4, "A"), (3, 7, "B")), max_tokens=10)
    assert (answer.answer, answer.finish) == ("B", "stop")
    assert [ledger.tokens(fate=fate) for fate in ("kept", "voted", "discarded")] == [10, 0, 10]


def test_first_finish_gives_what_it_has_when_none_is_complete():
    answer, _ = ask(FirstFinish(k=2), traces((9, 4, "A"), (9, 4, "B")), max_tokens=11)
    assert (answer.answer, answer.finish, answer.notes["winner"]) == ("A", "length", None)


@pytest.mark.parametrize("policy", [ShortMK(compare="length"), FirstFinish(compare="length")])
def test_lengths_need_a_hook_and_say_so_before_the_first_token(policy):
    engine = traces(*FIVE, capabilities=set(Capability) - {Capability.TOKEN_HOOK})
    with pytest.raises(LaunchError, match="comparing lengths"):
        ask(policy, engine)
    assert engine.emitted == 0


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("short_mk", {"m": 0}),
        ("short_mk", {"k": 2}),
        ("short_mk", {"compare": "luck"}),
        ("first_finish", {"k": 0}),
        ("first_finish", {"compare": "luck"}),
    ],
)
def test_wrong_parameters_are_refused(name, wrong):
    with pytest.raises(RecipeError, match=name):
        find(name).build(wrong)
