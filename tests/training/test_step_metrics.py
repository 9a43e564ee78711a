"""Metrics of an optimiser step from those of its micro-batches, by hand."""

import math
from types import SimpleNamespace

import pytest
from accelerate import Accelerator

from laconic.training.segments import MicroBatch, Row
from laconic.training.step_metrics import of_step


@pytest.fixture(scope="module")
def step():
    """What a step says, of micro-batches (rollouts, tokens, share of the loss) and what was noted of each."""
    accelerator = Accelerator(cpu=True)

    def said(*parts, skipped=0, sequence_level=False):
        made = [
            (_micro_batch(rows, tokens, weight), {name: [value] for name, value in noted.items()})
            for rows, tokens, weight, noted in parts
        ]
        table = [
            Row((1, 1), tokens // rows, signal=True, prompt=0) for rows, tokens, _, _ in parts for _ in range(rows)
        ]
        table += [Row((1, 1), 1, signal=False, prompt=0)] * skipped
        segments = [SimpleNamespace(table=table, skipped=skipped)]
        return of_step(made, segments, accelerator, sequence_level=sequence_level)

    return said


def _micro_batch(rows, tokens, weight):
    fields = {"prompt_ids": _places(rows), "completion_ids": _places(rows)}
    return MicroBatch(fields, weight=weight, bonus_weight=weight, held=tokens, rows=rows, tokens=tokens)


def _places(rows):
    return SimpleNamespace(numel=lambda: 10 * max(rows, 1))


def test_means_are_weighted(step):
    first = {"entropy": 1.0, "clip_ratio/low_mean": 0.5, "vespo/phi_seq_mean": 3.0, "policy_loss": 2.0}
    second = {"entropy": 4.0, "clip_ratio/low_mean": 0.0, "vespo/phi_seq_mean": 6.0, "policy_loss": 4.0}
    found = step((1, 20, 0.25, first), (2, 10, 0.5, second), skipped=10)
    assert found["entropy"] == [pytest.approx((20 * 1.0 + 10 * 4.0) / 30)]
    assert found["clip_ratio/low_mean"] == [pytest.approx(20 * 0.5 / (30 + 10))]
    assert found["vespo/phi_seq_mean"] == [pytest.approx((1 * 3.0 + 2 * 6.0) / 3)]
    assert found["policy_loss"] == [pytest.approx(0.25 * 2.0 + 0.5 * 4.0)]
    assert found["rollouts/skipped"] == [10.0]
    by_rollout = step((1, 20, 0.25, first), (2, 10, 0.5, second), skipped=10, sequence_level=True)
    assert by_rollout["clip_ratio/low_mean"] == [pytest.approx(1 * 0.5 / 13)]


def test_stand_ins_say_nothing(step):
    silent = {"entropy": 0.0, "clip_ratio/low_min": 0.0, "clip_ratio/high_max": 0.0}
    told = {"entropy": 2.0, "clip_ratio/low_min": 0.5, "clip_ratio/high_max": 0.75}
    found = step((2, 10, 1.0, told), (0, 0, 0.0, silent))
    assert [found[name] for name in told] == [[2.0], [0.5], [0.75]]
    # Of those that were left out nothing is clipped.
    assert step((2, 10, 1.0, told), skipped=1)["clip_ratio/low_min"] == [0.0]
    assert not {*silent} & {*step((0, 0, 0.0, silent), skipped=4)}


def test_a_loss_that_is_no_number_is_not_logged_as_one(step):
    found = step(
        (1, 5, 0.5, {"policy_loss": math.nan, "entropy": 1.0}), (1, 5, 0.5, {"policy_loss": 1.0, "entropy": 1.0})
    )
    assert math.isnan(found["policy_loss"][0])
    assert found["entropy"] == [1.0]
