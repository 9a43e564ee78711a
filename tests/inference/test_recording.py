"""Recordings: what a threshold would have done, and the files they are kept in."""

import asyncio
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from laconic.inference.calibrate import candidates
from laconic.inference.engine import Sampling, Token
from laconic.inference.engines.scripted import EOS, ScriptedEngine
from laconic.inference.ledger import Ledger
from laconic.inference.policies import Ask, run_policy
from laconic.inference.policies.confidence_probe import ConfidenceProbe
from laconic.inference.policies.entropy import AdaptiveThinkEntropy
from laconic.inference.policies.risk import RiskControlledStop
from laconic.inference.record import record, recordable, recorded
from laconic.inference.recording import (
    Checkpoint,
    Recording,
    digest,
    exit_times,
    read_recordings,
    replay,
    write_recordings,
)
from laconic.rewards.errors import DataError, RecipeError

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "inference.json").read_text())


def recording(name, points, *, loss=0.0, tokens=100, probes=30, sample=0):
    """`points`: (signal, loss, tokens) of each checkpoint."""
    return Recording(name, loss, tokens, probes, tuple(Checkpoint(*point) for point in points), sample)


TWO = [
    recording("a", [(0.3, 1.0, 40), (0.8, 0.0, 60), (0.7, 1.0, 80)]),
    recording("b", [(0.8, 0.0, 50)], loss=1.0, tokens=200, probes=10),
]


@pytest.mark.parametrize(("direction", "name"), [("above", "geq"), ("below", "leq")])
def test_exit_times_are_the_authors_except_that_never_is_told_apart(direction, name):
    golden = GOLDEN["risk.exit_times"]
    signal, thresholds = golden["input"]["signal"], golden["input"]["thresholds"]
    ours = exit_times(signal, thresholds, direction=direction)
    assert np.minimum(ours, len(signal) - 1).tolist() == golden["output"][name]
    crossed = [max(signal) >= t if direction == "above" else min(signal) <= t for t in thresholds]
    assert (ours < len(signal)).tolist() == crossed


def test_reaching_the_threshold_is_crossing_it():
    just_above, just_below = math.nextafter(0.5, 1), math.nextafter(0.5, 0)
    assert exit_times([0.5], [just_below, 0.5, just_above]).tolist() == [0, 0, 1]
    assert exit_times([0.5], [just_below, 0.5, just_above], direction="below").tolist() == [1, 0, 0]
    assert exit_times([], [0.5]).tolist() == [0]


@pytest.mark.parametrize("place", [0, 1])
def test_smoothing_is_the_authors(place):
    golden = GOLDEN["risk.ema"]
    points = [(signal, 0.0, 1) for signal in golden["input"]["x"]]
    smoothed = recording("a", points).smoothed(golden["input"]["alpha"][place])
    signals = [point.signal for point in smoothed.checkpoints]
    np.testing.assert_allclose(signals, golden["output"][place], atol=1e-6)


def test_a_replayed_threshold_costs_and_errs_as_the_run_would_have():
    seen = replay(TWO, [math.inf, 0.8, 0.5, -math.inf])
    assert seen.questions == ("a", "b")
    assert seen.tokens.tolist() == [[130, 60, 60, 40], [210, 50, 50, 50]]  # never stopping pays for every probe
    assert seen.loss.tolist() == [[0, 0, 0, 1], [1, 0, 0, 0]]
    assert seen.harm.tolist() == [[0, 0, 0, 1], [0, 0, 0, 0]]
    assert seen.drop.tolist() == [[0, 0, 0, 1], [0, -1, -1, -1]]
    assert seen.stopped.tolist() == [[0, 1, 1, 1], [0, 1, 1, 1]]
    assert seen.full_tokens.tolist() == [100, 200]  # the plain policy probes nothing
    np.testing.assert_allclose(seen.saving, [1 - 340 / 300, 1 - 110 / 300, 1 - 110 / 300, 1 - 90 / 300])


def test_runs_of_one_question_are_one_observation():
    runs = [recording("a", [(0.9, loss, 10 * (k + 1))], sample=k) for k, loss in enumerate([1.0, 0.0, 0.0])]
    seen = replay([*runs, recording("b", [(0.1, 1.0, 7)])], [0.5])
    np.testing.assert_allclose(seen.harm, [[1 / 3], [0.0]])
    np.testing.assert_allclose(seen.tokens, [[20.0], [130.0]])
    assert len(seen.full_loss) == 2


def test_harm_of_one_run_is_not_paid_with_the_gain_of_another():
    runs = [recording("a", [(1.0, 1.0, 1)], loss=0.0), recording("a", [(1.0, 0.0, 1)], loss=1.0, sample=1)]
    seen = replay(runs, [0.5])
    assert (seen.harm.tolist(), seen.drop.tolist()) == ([[0.5]], [[0.0]])


def test_files_give_back_what_was_written(tmp_path):
    path = tmp_path / "recordings.jsonl"
    assert write_recordings(path, TWO) == 2
    assert read_recordings(path) == TWO
    assert digest(read_recordings(path)) == digest(TWO[::-1])
    changed = [TWO[0], recording("b", [(0.8, 0.0, 51)], loss=1.0, tokens=200, probes=10)]
    assert digest(changed) != digest(TWO)


@pytest.mark.parametrize(
    "line",
    [
        '{"id": "a", "loss": 0, "tokens": 1}',
        '{"id": "a", "loss": 0, "tokens": 1, "probes": 0, "checkpoint": []}',
        '{"id": "a", "loss": 0, "tokens": 1, "probes": 0, "checkpoints": [{"signal": 1}]}',
        '{"id": "a", "loss": "0", "tokens": 1, "probes": 0}',
        '{"id": "a", "loss": 1.5, "tokens": 1, "probes": 0}',
        '{"id": "a", "loss": 1, "tokens": -1, "probes": 0}',
        '{"id": "a", "loss": 1, "tokens": 1, "probes": 0, "checkpoints": [{"signal": NaN, "loss": 0, "tokens": 1}]}',
    ],
)
def test_a_line_that_is_not_a_recording_is_refused(tmp_path, line):
    path = tmp_path / "recordings.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(DataError):
        read_recordings(path)


def test_the_same_run_twice_is_refused(tmp_path):
    path = tmp_path / "recordings.jsonl"
    write_recordings(path, [TWO[0], TWO[0]])
    with pytest.raises(DataError, match="twice"):
        read_recordings(path)
    with pytest.raises(DataError, match="twice"):
        replay([TWO[0], TWO[0]], [0.5])
    with pytest.raises(DataError, match="no recordings"):
        replay([], [0.5])


THINKING = ["<think>", "a", "Wait", "b", "b", "Wait", "c", "Wait", "d", "</think>", "5"]
GUESSES = {1: ("4", 0.5), 2: (None, 0.0), 3: ("5", 0.9)}
"""After so many "Wait": the probe's answer, and its probability."""


def script(context):
    if context.role != "probe":
        return [*THINKING[sum(context.generated.values()) :], EOS]
    guess, p = GUESSES[context.text.count("Wait")]
    if guess is None:
        return ["no"] * 20
    return [Token(text, logprob=math.log(q)) for text, q in [("{", 1.0), (guess, p), ("}", p)]]


def asked():
    return Ask(ScriptedEngine(script), "q", Ledger(), Sampling(max_tokens=40))


def right(answer):
    return float(answer == "5")


def test_a_replay_is_what_a_live_run_with_that_threshold_does():
    rule = ConfidenceProbe(answer_by="probe", probe_tokens=4, probe_stop=("}",))
    found = asyncio.run(record(rule, asked(), question="q", right=right))
    assert [point.signal for point in found.checkpoints] == pytest.approx([0.5, 0.9])  # the second said nothing
    assert [(point.loss, point.answer) for point in found.checkpoints] == [(1.0, "4"), (0.0, "5")]
    assert [point.tokens for point in found.checkpoints] == [3 + 3, 8 + 3 + 4 + 3]
    assert (found.tokens, found.probes, found.loss, found.answer) == (12, 10, 0.0, "5")

    tried = candidates([found])
    seen = replay([found], tried)
    for threshold, tokens, loss in zip(tried, seen.tokens[0], seen.loss[0], strict=True):
        live = asyncio.run(run_policy(replace(rule, threshold=threshold), asked()))
        assert (live.ledger.generated, 1 - right(live.answer)) == (tokens, loss)


def live(rule, threshold):
    return asyncio.run(run_policy(replace(rule, threshold=threshold), asked()))


@pytest.mark.parametrize("alpha", [1.0, 0.6, 0.3])
def test_a_replay_of_a_smoothed_signal_is_what_a_live_run_does(alpha):
    # The second of the three checkpoints has no answer and repeats the first one's signal and answer.
    parameters = {"answer_by": "probe", "probe_tokens": 4, "probe_stop": ["}"]}
    rule = RiskControlledStop(parameters=parameters, alpha=alpha)
    found = asyncio.run(record(rule, asked(), question="q", right=right))
    first = [0.5, 0.5, 0.5 + alpha * 0.4]
    assert [point.signal for point in found.checkpoints] == pytest.approx(first)
    assert [point.answer for point in found.checkpoints] == ["4", "4", "5"]
    tried = candidates([found])
    seen = replay([found], tried)
    for threshold, tokens, loss in zip(tried, seen.tokens[0], seen.loss[0], strict=True):
        answer = live(rule, threshold)
        assert (answer.ledger.generated, 1 - right(answer.answer)) == (tokens, loss)


def several(context):
    """Three guesses at each checkpoint: more agree from one to the next; forks come after the trace, which is 0."""
    if context.role != "probe":
        return [*THINKING[sum(context.generated.values()) :], EOS]
    guess = ("467", "556", "555")[context.text.count("Wait") - 1][(context.branch - 1) % 3]
    return [Token(guess, logprob=math.log(0.6 if guess in "45" else 0.2)), Token("}", logprob=0.0)]


def test_a_policy_with_several_guesses_is_recorded_with_the_one_it_would_return():
    def ask():
        return Ask(ScriptedEngine(several), "q", Ledger(), Sampling(max_tokens=40))

    rule = AdaptiveThinkEntropy(
        threshold=1, at=["Wait"], samples=3, answer_by="probe", probe_tokens=4, probe_stop=["}"]
    )
    found = asyncio.run(record(rule, ask(), question="q", right=right))
    assert [point.answer for point in found.checkpoints] == ["4", "5", "5"]
    assert [point.tokens for point in found.checkpoints] == [3 + 6, 6 + 12, 8 + 18]
    tried = candidates([found])
    played = replay([found], tried)
    assert len(tried) == 4
    for threshold, tokens, loss in zip(tried, played.tokens[0], played.loss[0], strict=True):
        answer = asyncio.run(run_policy(replace(rule, threshold=threshold), ask()))
        assert (answer.ledger.generated, 1 - right(answer.answer)) == (tokens, loss)


def test_what_can_be_recorded_is_made_so():
    assert recordable("certaindex", {"every": 32}) == {"answer_by": "probe", "concurrent": False, "every": 32}
    nested = recordable("risk_controlled_stop", {"threshold": 0.7, "parameters": {"at": ["Wait"]}})
    assert nested == {"parameters": {"answer_by": "probe", "concurrent": False, "at": ["Wait"]}}
    with pytest.raises(RecipeError, match="no threshold"):
        recordable("self_consistency", {})
    with pytest.raises(RecipeError, match="lower bar"):
        recordable("risk_controlled_stop", {"slope": 0.1})
    with pytest.raises(RecipeError, match="did you mean"):
        recordable("certainindex", {})


def test_runs_that_would_not_end_as_their_probes_are_not_recorded():
    for rule in (ConfidenceProbe(), ConfidenceProbe(answer_by="probe", concurrent=True)):
        with pytest.raises(RecipeError, match="cannot be recorded"):
            asyncio.run(record(rule, asked(), question="q", right=right))
    stopped = asyncio.run(run_policy(ConfidenceProbe(threshold=0.5, answer_by="probe"), asked()))
    with pytest.raises(DataError, match="was stopped"):
        recorded(stopped, question="q", right=right)
