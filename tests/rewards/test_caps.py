"""A reward's limit: beyond it nothing about a rollout matters, so that rollouts may stop there."""

import dataclasses

import numpy as np
import pytest

from laconic.rewards import REWARDS, Batch, reward
from laconic.rewards.caps import length_cap
from laconic.rewards.compose import compose
from laconic.rewards.errors import RecipeError
from laconic.rewards.example import random_group
from laconic.rewards.group import Progress

CAPPED = sorted(name for name, item in REWARDS.items() if item.cap is not None)
WAYS = {
    "think_prune": {"length_limit": 300},
    "soft_overlong": {"max_length": 300, "cache": 100},
    "soft_overlong, a step": {"max_length": 300, "cache": 0},
    "cosine": {"max_length": 300, "margin": 10, "repetition_penalty": -1.0},
    "cosine, no margin": {"max_length": 300, "margin": 0},
}
AROUND = [
    {},
    {"weight": 0.5, "warmup": {"steps": 100, "shape": "linear"}},
    {"schedule": {"steps": [[0, 1.0], [100, 0.2]]}, "tasks": ["math"]},
]


def entry(way, **more):
    return {"name": way.partition(",")[0], **WAYS[way], **more}


def test_these_have_one():
    assert {way.partition(",")[0] for way in WAYS} == {*CAPPED}


@pytest.mark.parametrize("more", AROUND, ids=lambda more: "-".join(more) or "plain")
@pytest.mark.parametrize("way", WAYS)
def test_beyond_it_all_earn_the_same_and_below_it_they_do_not(way, more):
    given = entry(way, **more)
    cap = length_cap(given)
    assert cap == 300
    score, seen = compose(given), set()
    for seed in range(20):
        group = dataclasses.replace(random_group(8, seed=seed), task="math", progress=Progress(30, 100))
        beyond = dataclasses.replace(group, length=cap + 1 + group.length)
        stopped = dataclasses.replace(
            group, length=np.full(8, cap + 1), finished=~group.finished, correct=~group.correct
        )
        rewards = score(Batch.of(beyond))
        np.testing.assert_array_equal(rewards, score(Batch.of(stopped)))
        below = dataclasses.replace(group, length=np.linspace(1, cap, 8).round())
        seen |= {*rewards} | {*score(Batch.of(below))}
    assert len(seen) > 1


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"name": "accuracy"}, r"reward accuracy tells rollouts apart at any length\n.*think_prune"),
        ({"name": "laser", "target_length": 300}, "reward laser tells"),
        ({"name": "cosine", "exceed": None}, "reward cosine has no limit while exceed is null"),
        ({"name": "think_prune", "gate": {"kind": "running_best"}}, "reward think_prune: the gate follows"),
        ({"name": "soft_overlong", "times_correct": True}, "reward soft_overlong: times_correct"),
    ],
)
def test_refused(given, words):
    with pytest.raises(RecipeError, match=words):
        length_cap(given)


def test_a_gate_does_look_beyond():
    """Why gates are refused: of two batches that earn the same beyond the limit, one moves the gate."""
    given = entry("think_prune", gate={"kind": "adaptive", "start": 1.0, "rate": 1.0, "target": 0.5})
    group = dataclasses.replace(random_group(8, seed=0), length=np.full(8, 301.0))
    ends = dataclasses.replace(group, length=np.full(8, 10.0), correct=np.ones(8, dtype=bool))
    after = []
    for correct in (True, False):
        score = compose(given)
        score(Batch.of(dataclasses.replace(group, correct=np.full(8, correct))))
        after.append(score(Batch.of(ends))[0])
    assert after[0] > after[1]


def test_a_limit_is_a_parameter():
    with pytest.raises(AssertionError, match="limit or None is no parameter"):

        @reward(paper="-", cap="limit")
        def mine(group, *, longest: float = 1.0): ...
