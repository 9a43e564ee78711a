"""Seconds of a step, summed up by phase, with a clock that is set by hand."""

from collections import defaultdict
from types import SimpleNamespace

import pytest

from laconic.training import step_seconds
from laconic.training.step_seconds import OptimiserSeconds, seconds


@pytest.fixture
def clock(monkeypatch):
    """Moves on when told."""
    now = [0.0]
    monkeypatch.setattr(step_seconds.time, "perf_counter", lambda: now[0])

    def passes(spent):
        now[0] += spent

    return passes


def test_every_step_has_one_value_of_each_phase(clock):
    trainer = SimpleNamespace(model=SimpleNamespace(training=True), _metrics={"train": defaultdict(list), "eval": {}})
    optimiser = OptimiserSeconds(trainer)

    def step(*phases):
        for name, spent in phases:
            with seconds(trainer, name):
                clock(spent)
        optimiser.on_pre_optimizer_step()
        clock(0.25)
        optimiser.on_optimizer_step()

    # A generation with two passes for log-probabilities serves two steps, then two generations serve one.
    step(("decode", 8.0), ("logprobs", 1.0), ("logprobs", 2.0), ("train", 4.0))
    step(("train", 4.0))
    step(("decode", 8.0), ("decode", 2.0), ("reward", 1.0), ("train", 5.0))
    assert trainer._metrics["train"] == {
        "seconds/decode": [8.0, 0.0, 10.0],
        "seconds/logprobs": [3.0, 0.0, 0.0],
        "seconds/reward": [0.0, 0.0, 1.0],
        "seconds/train": [4.0, 4.0, 5.0],
        "seconds/optimiser": [0.25, 0.25, 0.25],
    }
    # Logged and emptied; what a reward asks the model for is not counted twice.
    trainer._metrics["train"].clear()
    with seconds(trainer, "reward"):
        clock(1.0)
        trainer.model.training = False
        with seconds(trainer, "logprobs"):
            clock(2.0)
        trainer.model.training = True
    step(("train", 4.0))
    assert trainer._metrics["train"] == {
        "seconds/decode": [0.0],
        "seconds/logprobs": [2.0],
        "seconds/reward": [1.0],
        "seconds/train": [4.0],
        "seconds/optimiser": [0.25],
    }
