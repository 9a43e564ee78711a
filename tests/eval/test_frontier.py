"""Pareto front and hypervolume against pairwise comparison and integration."""

import numpy as np
import pytest

from laconic.eval.frontier import hypervolume, pareto


def test_front_by_hand():
    tokens, accuracy = [10, 20, 30, 20, 40], [0.5, 0.7, 0.6, 0.4, 0.9]
    assert pareto(tokens, accuracy).tolist() == [True, True, False, False, True]


def test_equal_models_do_not_beat_each_other_but_a_tie_in_one_number_does():
    assert pareto([10, 10], [0.5, 0.5]).tolist() == [True, True]
    assert pareto([10, 12], [0.5, 0.5]).tolist() == [True, False]
    assert pareto([10, 10], [0.5, 0.4]).tolist() == [True, False]


def test_replicates_are_independent():
    rng = np.random.default_rng(0)
    tokens, accuracy = rng.integers(1, 6, size=(50, 4)), rng.integers(1, 6, size=(50, 4)) / 5
    together = pareto(tokens, accuracy)
    for row, (t, a) in zip(together, zip(tokens, accuracy, strict=True), strict=True):
        better = [
            any(t[j] <= t[i] and a[j] >= a[i] and (t[j], a[j]) != (t[i], a[i]) for j in range(4)) for i in range(4)
        ]
        assert row.tolist() == [not beaten for beaten in better]


def test_hypervolume_by_hand():
    # From 20 to 50 tokens at 0.5, from 50 to 100 at 0.8.
    assert hypervolume([50, 20], [0.8, 0.5], 100) == pytest.approx((30 * 0.5 + 50 * 0.8) / 100)


def test_hypervolume_is_the_mean_best_accuracy_over_budgets():
    rng = np.random.default_rng(0)
    for _ in range(20):
        tokens, accuracy = rng.integers(1, 140, size=6), rng.random(6)
        best = [max([a for t, a in zip(tokens, accuracy, strict=True) if t <= b], default=0.0) for b in range(100)]
        assert hypervolume(tokens, accuracy, 100) == pytest.approx(np.mean(best))
