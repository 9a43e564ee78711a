"""Latent-trajectory selection: signals in closed form, and traces chosen by states that are computed by hand."""

import asyncio
import math

import numpy as np
import pytest
import torch

from laconic.inference.engine import Capability, Sampling
from laconic.inference.engines.scripted import ScriptedBranch, ScriptedEngine
from laconic.inference.ledger import Account, Ledger
from laconic.inference.policies import Ask, run_policy
from laconic.inference.policies.latent_trajectory import (
    LatentTrajectory,
    aligned_change,
    cumulative_change,
    net_change,
    trajectory_score,
)
from laconic.inference.policies.plain import Plain
from laconic.rewards.errors import RecipeError

STRAIGHT = np.array([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
DETOUR = np.array([[0.0, 0.0], [0.0, 3.0], [4.0, 3.0], [4.0, 0.0]])
CIRCLE = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 0.0]])


def test_signals_of_simple_paths():
    assert [net_change(path) for path in (STRAIGHT, DETOUR, CIRCLE)] == [2.0, 4.0, 0.0]
    assert [cumulative_change(path) for path in (STRAIGHT, DETOUR, CIRCLE)] == [1.0, pytest.approx(10 / 3), 2.0]
    assert [aligned_change(path) for path in (STRAIGHT, DETOUR, CIRCLE)] == [1.0, pytest.approx(1 / 3), 0.0]
    assert aligned_change(np.array([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0]])) == 0.5  # standing still is no progress


def test_projections_that_are_not_normalised_are_the_net_change():
    means = np.random.default_rng(0).normal(size=(7, 5))
    whole = means[-1] - means[0]
    projections = np.diff(means, axis=0) @ whole / np.linalg.norm(whole)
    assert projections.sum() == pytest.approx(net_change(means))
    cosines = projections / np.linalg.norm(np.diff(means, axis=0), axis=1)
    assert aligned_change(means) == pytest.approx(cosines.mean())


def test_scores_are_better_when_higher():
    assert trajectory_score(DETOUR, "net") > trajectory_score(STRAIGHT, "net")
    assert trajectory_score(STRAIGHT, "cumulative") > trajectory_score(DETOUR, "cumulative")
    assert trajectory_score(STRAIGHT, "aligned") > trajectory_score(DETOUR, "aligned")
    for signal in ("net", "cumulative", "aligned"):
        assert trajectory_score(STRAIGHT[:1], signal) == trajectory_score(np.empty(0), signal) == -math.inf


# --- the policy on states that a script gives


class StateBranch(ScriptedBranch):
    """Each word of the text is its own state: a number on a line."""

    async def hidden(self, layer=-1, *, last=1):
        self.engine.asked.append((self.number, layer, last))
        words = [word for word in self.text.split() if word.lstrip("-").isdigit()]
        return np.array([[float(word)] for word in words[-last:]], dtype=np.float32)


class StateEngine(ScriptedEngine):
    def __init__(self, texts):
        super().__init__(lambda context: [f" {word}" for word in texts[context.branch].split()[self.done(context) :]])
        self.capabilities = frozenset(Capability)
        self.asked = []

    @staticmethod
    def done(context):
        return len(context.text.split())

    def open(self, prompt, *, ledger, sampling=None, seed=0):
        return StateBranch(self, prompt, seed, Account(ledger, prompt=1))


def play(policy, texts, max_tokens=40, **fields):
    engine = StateEngine(texts)
    ask = Ask(engine, "q", Ledger(), sampling=Sampling(max_tokens=max_tokens), opens_thinking=True, **fields)
    answer = asyncio.run(run_policy(policy, ask))
    assert answer.ledger.generated == engine.emitted
    assert not engine.open_branches
    return answer, engine


TEXTS = [
    "1 1 2 2 1 1 2 2 </think> 7",  # means 1, 2, 1, 2
    "1 1 2 2 3 3 4 4 </think> 8",  # 1, 2, 3, 4: all steps one way
    "1 1 9 9 1 1 9 9 </think> 9",  # 1, 9, 1, 9: far, and back
]


@pytest.mark.parametrize(("signal", "best"), [("aligned", 1), ("net", 2), ("cumulative", 0)])
def test_the_trace_with_the_best_signal_is_returned(signal, best):
    policy = LatentTrajectory(traces=3, signal=signal, block=2, layer=5)
    answer, engine = play(policy, TEXTS)
    # The closing tag is a block of its own here, and its state is the number before it.
    paths = [[1, 2, 1, 2, 2], [1, 2, 3, 4, 4], [1, 9, 1, 9, 9]]
    wanted = [trajectory_score(np.array(path, dtype=float)[:, None], signal) for path in paths]
    assert answer.notes["scores"] == pytest.approx(wanted)
    assert (answer.answer, answer.notes["ended"]) == (TEXTS[best].split()[-1], [])
    assert answer.notes["blocks"] == [5, 5, 5]
    assert set(engine.asked) == {(branch, 5, last) for branch in range(3) for last in (1, 2)}
    assert [answer.ledger.tokens("think", fate) for fate in ("kept", "voted", "discarded")] == [9, 18, 0]
    assert answer.ledger.critical_path == 11


def test_traces_that_fall_behind_are_ended_after_so_many_blocks():
    answer, _ = play(LatentTrajectory(traces=3, block=2, after=3, keep=1), TEXTS)
    # After three blocks: 1 2 1 and 1 9 1 came back to where they were, 1 2 3 did not.
    assert (answer.answer, answer.notes["ended"], answer.finish) == ("8", [0, 2], "stop")
    assert [answer.ledger.tokens("think", fate) for fate in ("kept", "voted", "discarded")] == [9, 0, 12]
    assert answer.ledger.tokens("answer") == 2
    answer, _ = play(LatentTrajectory(traces=3, block=2, after=3, keep=2), TEXTS)
    assert answer.notes["ended"] == [2]  # of two as bad the first goes on


def test_what_ended_its_thinking_is_not_ended():
    texts = ["1 1 </think> 5", TEXTS[0], TEXTS[1]]
    answer, _ = play(LatentTrajectory(traces=3, block=2, after=3), texts)
    assert answer.notes["ended"] == [1]
    # 1 1 and the tag: no way was gone at all, which is not aligned with anything.
    assert answer.notes["answers"] == ["5", None, "8"]
    assert answer.answer == "8"


def test_the_majority_decides_among_traces_without_a_signal():
    answer, _ = play(LatentTrajectory(traces=3, block=20), ["1 </think> 5", "2 2 </think> 6", "3 </think> 6"])
    assert (answer.answer, answer.confidence) == ("6", pytest.approx(2 / 3))
    assert answer.notes["scores"] == [None] * 3


def test_the_end_of_a_sequence_has_no_state():
    answer, _ = play(LatentTrajectory(traces=1, block=2, signal="net"), ["1 1 2 2 3 3 4"])
    # The last block is 4 and the end: 4 alone is its mean.
    assert answer.notes["scores"] == [3.0]


def test_traces_cut_by_the_budget_do_not_win():
    texts = ["1 1 2 2 3 3 4 4 5 5 6 6 7 7 8 8 </think> 1", "1 1 9 9 1 1 </think> 2"]
    answer, _ = play(LatentTrajectory(traces=2, block=2), texts, max_tokens=12)
    assert (answer.answer, answer.finish) == ("2", "stop")
    assert answer.notes["scores"][0] > answer.notes["scores"][1]


# --- on a model


def test_block_means_of_a_model_by_hand(on_tiny_model):
    async def work(engine):
        def ask():
            return Ask(engine, "3 + 4 =", Ledger(), sampling=Sampling(max_tokens=20), opens_thinking=True, seed=2)

        one = await run_policy(LatentTrajectory(traces=1, block=6, layer=1, signal="net"), ask())
        plain_ask = ask()
        branch = plain_ask.open()
        chunk = await branch.generate(max_tokens=20, stop=["</think>"], keep_stop=True)
        prompt = list(branch.strand.prompt)
        await branch.close("kept")
        return one, (await run_policy(Plain(), ask())).text, prompt, [token.id for token in chunk.tokens], engine.model

    answer, plain, prompt, ids, model = on_tiny_model(work)
    assert answer.text == plain
    with torch.no_grad():
        states = model(torch.tensor([prompt + ids]), output_hidden_states=True).hidden_states[1][0, len(prompt) :]
    ended = answer.finish == "stop"
    blocks = [states[start : start + 6] for start in range(0, len(ids) - ended, 6)]
    means = [block[: len(ids) - ended - 6 * place].mean(0) for place, block in enumerate(blocks)]
    assert answer.notes["blocks"] == [len(means)]
    assert len(means) > 2
    assert answer.notes["scores"] == [pytest.approx((means[-1] - means[0]).norm().item(), rel=1e-5)]


def test_wrong_parameters_are_refused():
    for wrong in ({"traces": 0}, {"block": 0}, {"keep": 0}, {"after": 1}, {"signal": "curved"}):
        with pytest.raises(RecipeError):
            LatentTrajectory(**wrong)
