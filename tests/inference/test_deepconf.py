"""DeepConf: golden vectors of its confidences, and exact accounts of the traces that it ends."""

import asyncio
import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laconic.inference.engine import Capability, Sampling, Token
from laconic.inference.engines.scripted import ScriptedEngine
from laconic.inference.ledger import Ledger
from laconic.inference.policies import Ask, run_policy
from laconic.inference.policies.base import find, read_answer, sample_seed
from laconic.inference.policies.deepconf import DeepconfOffline, DeepconfOnline
from laconic.inference.policies.group_confidence import (
    LowConfidence,
    confidence_bar,
    group_confidences,
    lowest_group,
    most_confident,
    token_confidence,
    trace_confidence,
)
from laconic.inference.policies.voting import agreeing, weighted_majority
from laconic.rewards.errors import LaunchError, RecipeError

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "inference.json").read_text())
SAMPLE = {sample_seed(0, number): number for number in range(600)}
"""Seeds of a question with seed 0, by the number of the sample."""
GROUPS = [entry for name, entry in GOLDEN.items() if name.startswith("deepconf.group_conf")]
CONFIDENCES = GOLDEN["deepconf.token_conf"]["output"]


def traces(*wanted, **options):
    """Sample i says its answer after thinking, and is as confident of each token: (answer, confidences).

    The last three confidences are of the closing tag, the answer and the end.
    """

    def script(context):
        answer, confidences = wanted[SAMPLE[context.seed]]
        texts = ["<think>", *["t"] * (len(confidences) - 4), "</think>", rf"\boxed{{{answer}}}", ""]
        tokens = [Token(text, top=(0.0, -2 * confidence)) for text, confidence in zip(texts, confidences, strict=True)]
        return tokens[-2:] if "</think>" in context.text else tokens

    return Ends(script, **options)


class Ends(ScriptedEngine):
    """Takes the script's token without a text for end-of-sequence, although it carries log-probabilities."""

    def _start(self, live):
        push = live.generation.push
        live.generation.push = lambda token, *, eos: push(token, eos=eos or not token.text)
        super()._start(live)


def ask(policy, engine, **given):
    ledger = Ledger()
    answer = asyncio.run(run_policy(policy, Ask(engine, "Q", ledger, **given)))
    assert engine.emitted == ledger.generated
    assert not engine.open_branches
    return answer, ledger


def fates(ledger):
    return [ledger.tokens(fate=fate) for fate in ("kept", "voted", "discarded")]


def test_token_confidence_is_the_authors():
    entry = GOLDEN["deepconf.token_conf"]
    assert [token_confidence(top) for top in entry["input"]["logprobs_per_token"]] == entry["output"]


def test_the_entry_beyond_the_most_likely_is_dropped():
    entry = GOLDEN["deepconf.token_conf_extra_entry"]
    tops = entry["input"]["logprobs_per_token"]
    assert [token_confidence(top, top_k=None) for top in tops] == entry["output"]
    assert [token_confidence(top, top_k=3) for top in tops] == [entry["output"][0], 1.633]
    # Also where the sampled token comes first.
    assert token_confidence([-9.0, -0.7, -0.9, -3.3], top_k=3) == 1.633


def test_token_confidence_of_tokens_that_cannot_come_and_of_none():
    assert token_confidence([-1.0, -2.0, -math.inf]) == 1.5
    assert math.copysign(1, token_confidence([0.0])) == 1
    with pytest.raises(LaunchError):
        token_confidence([])


@pytest.mark.parametrize("entry", GROUPS, ids=lambda entry: entry["id"])
def test_group_confidences_are_the_authors(entry):
    confidences, window, output = entry["input"]["confs"], entry["input"]["group_size"], entry["output"]
    groups = output if isinstance(output, list) else output["group"]
    assert group_confidences(confidences, window=window) == groups
    assert lowest_group(confidences, window=window) == min(groups)


@settings(deadline=None)
@given(st.lists(st.integers(0, 30_000).map(lambda thousandths: thousandths / 1000), min_size=1), st.integers(1, 9))
def test_sliding_means_are_those_of_every_window(confidences, window):
    size = min(window, len(confidences))
    slices = [confidences[start : start + size] for start in range(len(confidences) - size + 1)]
    means = [math.fsum(part) / size for part in slices]
    assert group_confidences(confidences, window=window) == pytest.approx(means, abs=0.00051)
    count = max(1, len(means) // 10)
    lowest = math.fsum(sorted(means)[:count]) / count
    assert trace_confidence(confidences, statistic="lowest", window=window) == pytest.approx(lowest)


def test_statistics_of_a_trace():
    confidences = [5.0, 1.0, 3.0, 7.0]
    assert trace_confidence(confidences, statistic="mean") == 4.0
    assert trace_confidence(confidences, statistic="tail", window=3) == pytest.approx(11 / 3)
    assert trace_confidence(confidences, statistic="tail", window=4) == 4.0
    assert trace_confidence(confidences, statistic="min", window=2) == 2.0
    # Windows: 3, 2, 5.
    assert trace_confidence(confidences, statistic="lowest", window=2) == 2.0
    assert trace_confidence(confidences, statistic="lowest", window=2, share=0.67) == 2.5
    assert trace_confidence(confidences, statistic="lowest", window=2, share=0.66) == 2.0
    assert trace_confidence(confidences, statistic="lowest", window=5) == 4.0
    assert [trace_confidence([], statistic=name) for name in ("mean", "tail", "lowest", "min")] == [0.0] * 4


def test_the_bar_is_an_interpolated_percentile_and_is_itself_high_enough():
    values = [float(value) for value in range(1, 12)]
    assert confidence_bar(values, keep=90) == 2.0
    assert confidence_bar(values, keep=10) == 10.0
    assert most_confident(values, keep=10) == [9, 10]
    assert most_confident(values, keep=100) == list(range(11))
    assert confidence_bar([1.0, 2.0], keep=75) == 1.25
    assert most_confident([], keep=10) == []


def test_one_confident_outlier_does_not_beat_nine_votes():
    answers, weights = ["42"] * 9 + ["7"], [3.0] * 9 + [3.6]
    winners, share = weighted_majority(answers, weights)
    assert (
        answers[winners[0]] == GOLDEN["optillm.deepconf_vote_counterexample"]["output"]["meta_weighted_majority_vote"]
    )
    assert share == pytest.approx(27 / 30.6)


def test_decimals_stay_different_answers():
    texts = GOLDEN["optillm.deepconf_answer_extraction"]["input"]["texts"]
    assert len(agreeing([read_answer(text) for text in texts])) == 3
    assert read_answer(r"\boxed{-2.5}") == "-2.5"


def feed(confidences, **options):
    watch = LowConfidence(top_k=2, **options)
    return [watch(Token("t", top=(0.0, -2 * confidence))) for confidence in confidences]


def test_the_hook_waits_for_a_full_window_below_the_bar():
    assert feed([0.0, 0.0], bar=1.0, window=3) == [False, False]
    assert feed([0.0, 0.0, 0.0], bar=1.0, window=3) == [False, False, True]
    assert feed([1.0, 1.0, 1.0], bar=1.0, window=3) == [False] * 3
    assert feed([9.0, 1.0, 1.0, 1.0, 0.997], bar=1.0, window=3) == [False] * 4 + [True]
    assert feed([3.0, 0.0, 3.0, 0.0, 0.0, 9.0], bar=1.5, window=2) == [False] * 4 + [True, True]


@settings(deadline=None)
@given(st.lists(st.integers(0, 3000).map(lambda thousandths: thousandths / 1000), min_size=3), st.integers(1, 3))
def test_the_hook_ends_a_trace_exactly_when_its_lowest_group_is_below(confidences, window):
    lowest = lowest_group(confidences, window=window)
    assert not any(feed(confidences, bar=lowest, window=window))
    assert feed(confidences, bar=lowest + 0.0005, window=window)[-1]


def flat(answer, confidence, size=6):
    return answer, [confidence] * size


def test_offline_keeps_the_most_confident_and_weighs_them():
    wanted = [flat("8", 1.0), flat("8", 1.0), flat("8", 1.0), flat("7", 2.0), flat("8", 1.25), flat("7", 3.0)]
    engine = traces(*wanted)
    answer, ledger = ask(DeepconfOffline(samples=6, keep=50, top_k=2), engine)
    # The bar lies between 1 and 1.25.
    assert (answer.answer, answer.finish) == ("7", "stop")
    assert answer.confidence == pytest.approx(5 / 6.25)
    assert answer.notes["voters"] == [3, 4, 5]
    assert fates(ledger) == [6, 12, 18]
    assert ledger.critical_path == engine.now == 6
    assert ledger.tokens("answer") == 12


def test_an_end_without_log_probabilities_is_left_out_and_a_token_without_them_is_an_error():
    def script(context):
        if "</think>" in context.text:
            return [Token("7", top=(0.0, -8.0))]  # the engine adds an end that has none
        return [
            Token("<think>", top=(0.0, -2.0)),
            Token("</think>", top=(0.0, -4.0)) if SAMPLE[context.seed] < 2 else "</think>",
        ]

    for policy in (DeepconfOffline(samples=2, window=1, top_k=2), DeepconfOnline(samples=2, warmup=1, top_k=2)):
        answer, ledger = ask(policy, ScriptedEngine(script))
        assert (answer.answer, answer.notes["confidences"]) == ("7", [4.0 if policy.window == 1 else 7 / 3] * 2)
        assert ledger.generated == 8
    with pytest.raises(LaunchError, match="without log-probabilities"):
        ask(DeepconfOffline(samples=3, top_k=2), ScriptedEngine(script))


def test_offline_weights_are_not_a_plain_majority():
    wanted = [flat("8", 1.0), flat("8", 1.0), flat("7", 2.5)]
    assert ask(DeepconfOffline(samples=3, keep=100, top_k=2), traces(*wanted))[0].answer == "7"
    tie = [flat("8", 1.0), flat("8", 1.5), flat("7", 2.5)]
    answer, _ = ask(DeepconfOffline(samples=3, keep=100, top_k=2), traces(*tie))
    assert (answer.answer, answer.confidence) == ("8", 0.5)


def test_the_most_confident_trace_with_the_answer_comes_back():
    wanted = [flat("7", 1.0), flat("7", 3.0, size=8), flat("7", 2.0, size=5)]
    answer, ledger = ask(DeepconfOffline(samples=3, keep=100, top_k=2), traces(*wanted))
    assert answer.text.count("t") == 4 + 2  # four tokens, and the tags
    assert fates(ledger) == [8, 11, 0]


def test_offline_statistics_count_every_token_of_thinking_and_answer():
    wanted = [("7", [5.0, 1.0, 3.0, 7.0, 2.0])]
    for statistic, expected in (("mean", 3.6), ("tail", 4.5), ("lowest", 2.0), ("min", 2.0)):
        answer, _ = ask(DeepconfOffline(samples=1, statistic=statistic, window=2, top_k=2), traces(*wanted))
        assert answer.notes["confidences"] == [expected]


def test_offline_cut_traces_do_not_vote_and_do_not_move_the_bar():
    wanted = [flat("8", 9.0, size=9), flat("7", 1.0), flat("7", 2.0)]
    policy = DeepconfOffline(samples=3, keep=10, top_k=2)
    answer, ledger = ask(policy, traces(*wanted), sampling=Sampling(max_tokens=7))
    assert (answer.answer, answer.notes["voters"]) == ("7", [2])
    assert fates(ledger) == [6, 0, 13]


WARM = [flat("7", 2.0), flat("7", 3.0), flat("8", 1.0)]
ONLINE = {"warmup": 3, "window": 2, "top_k": 2, "keep": 50.0}


def test_online_ends_traces_below_the_bar_and_counts_them():
    further = [("8", [9.0, 1.9, 2.0, 2.0, 9.0, 9.0, 9.0]), ("8", [9.0, 2.0, 2.0, 9.0, 9.0, 9.0]), flat("9", 2.5)]
    engine = traces(*WARM, *further)
    answer, ledger = ask(DeepconfOnline(samples=6, **ONLINE), engine)
    assert answer.notes["bar"] == 2.0
    assert answer.notes["below"] == [False, False, True, True, False, False]
    assert answer.notes["confidences"] == [2.0, 3.0, 1.0, 1.95, 2.0, 2.5]
    assert answer.notes["voters"] == [0, 1, 4, 5]
    assert (answer.answer, answer.confidence) == ("7", pytest.approx(5 / 9.5))
    # Kept: the more confident of the two; discarded: a warm-up trace, and one ended at its third token.
    assert fates(ledger) == [6, 18, 6 + 3]
    assert ledger.tokens("think", "discarded") == 4 + 3
    assert ledger.critical_path == engine.now == 6 + 6


@pytest.mark.parametrize(("low", "size"), [("thinking", 4), ("end", 6)])
def test_online_sees_the_tokens_that_end_a_generation(low, size):
    confidences = {"thinking": [9.0, 9.0, 2.0, 1.0, 9.0, 9.0], "end": [9.0, 9.0, 9.0, 9.0, 2.0, 1.0]}[low]
    answer, ledger = ask(DeepconfOnline(samples=4, **ONLINE), traces(*WARM, ("8", confidences)))
    assert answer.notes["below"][3]
    assert fates(ledger) == [6, 6, 6 + size]


def test_online_without_a_vote_never_returns_an_ended_trace():
    engine = traces(flat("7", 2.0, size=9), ("8", [9.0, 9.0, 9.0, 9.0, 2.0, 1.0]))
    policy = DeepconfOnline(samples=2, **ONLINE | {"warmup": 1})
    answer, ledger = ask(policy, engine, sampling=Sampling(max_tokens=7))
    assert (answer.answer, answer.finish, answer.confidence) == (None, "length", None)
    assert fates(ledger) == [7, 0, 6]


def test_online_lets_traces_shorter_than_a_window_vote():
    parameters = ONLINE | {"window": 7}
    answer, _ = ask(DeepconfOnline(samples=4, **parameters), traces(*WARM, flat("9", 0.5)))
    assert answer.notes["below"] == [False, False, True, False]
    assert answer.notes["voters"] == [0, 1, 3]


def test_online_traces_just_like_the_warm_up_are_never_ended():
    confidences = [2.0, 1.235, 1.2346, 3.0, 3.0, 3.0]
    answer, _ = ask(DeepconfOnline(samples=6, **ONLINE), traces(*[("7", confidences)] * 6))
    assert answer.notes["below"] == [False] * 6
    assert answer.confidence == 1.0


def test_online_warm_up_alone_is_a_weighted_vote():
    answer, ledger = ask(DeepconfOnline(samples=3, **ONLINE | {"keep": 100.0}), traces(*WARM))
    assert (answer.answer, answer.confidence) == ("7", pytest.approx(5 / 6))
    assert fates(ledger) == [6, 12, 0]


def test_online_consensus_before_and_during_the_further_traces():
    agreed = DeepconfOnline(samples=6, consensus=1.0, **ONLINE)
    further = [flat("7", 9.0)] * 3
    assert fates(ask(agreed, traces(*WARM, *further))[1]) == [6, 6, 6]
    # The two of the warm-up that vote disagree: 2 against 3. A further 9 makes it 12 of 14, while the others go on.
    mixed = [flat("8", 2.0), flat("7", 3.0), flat("8", 1.0)]
    further = [flat("7", 9.0, size=50), flat("7", 9.0, size=8), flat("8", 9.0, size=60)]
    answer, ledger = ask(DeepconfOnline(samples=6, consensus=12 / 14, **ONLINE), traces(*mixed, *further))
    assert (answer.answer, answer.confidence) == ("7", pytest.approx(12 / 14))
    assert fates(ledger) == [8, 12, 6 + 8 + 8]
    assert ledger.critical_path == 14
    never, _ = ask(DeepconfOnline(samples=6, consensus=0.95, **ONLINE), traces(*mixed, *further))
    assert len(never.notes["voters"]) == 5


@pytest.mark.parametrize(
    ("policy", "missing"),
    [
        (DeepconfOffline(samples=1), Capability.TOP_LOGPROBS),
        (DeepconfOnline(samples=1, warmup=1), Capability.TOKEN_HOOK),
    ],
)
def test_engines_that_cannot_are_refused_before_the_first_token(policy, missing):
    engine = traces(*WARM, capabilities=set(Capability) - {missing})
    with pytest.raises(LaunchError, match=missing.value):
        ask(policy, engine)
    assert engine.emitted == 0


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("deepconf_offline", {"samples": 0}),
        ("deepconf_offline", {"keep": 0}),
        ("deepconf_offline", {"statistic": "median"}),
        ("deepconf_online", {"window": 0}),
        ("deepconf_online", {"warmup": 300}),
        ("deepconf_online", {"keep": 101}),
        ("deepconf_online", {"consensus": 0}),
    ],
)
def test_wrong_parameters_are_refused(name, wrong):
    with pytest.raises(RecipeError, match=name):
        find(name).build(wrong)
