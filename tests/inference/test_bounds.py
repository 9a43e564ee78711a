"""Bounds against closed forms, exact sums and each other."""

import math
from fractions import Fraction

import numpy as np
import pytest

from laconic.inference.bounds import (
    P_VALUES,
    adjusted_risk,
    betting,
    binomial_cdf,
    clopper_pearson,
    find_bound,
    hoeffding_bentkus,
    hoeffding_margin,
    lower_bound,
    questions_needed,
    upper_bound,
)
from laconic.rewards.errors import DataError, RecipeError


def zero_one(events, n):
    return np.repeat([1.0, 0.0], [events, n - events])


@pytest.mark.parametrize(("n", "p"), [(1, Fraction(1, 3)), (7, Fraction(1, 10)), (40, Fraction(2, 3))])
def test_binomial_tails_are_the_exact_sums(n, p):
    exact = [sum(math.comb(n, j) * p**j * (1 - p) ** (n - j) for j in range(k + 1)) for k in range(n + 1)]
    np.testing.assert_allclose(binomial_cdf(n, float(p)), [float(value) for value in exact], rtol=1e-12)


def test_binomial_tails_hold_for_many_questions():
    n, p, total, chance = 10_000, 0.01, 0.0, 0.99**10_000
    cdf = binomial_cdf(n, p)
    for k in range(150):
        total += chance
        assert cdf[k] == pytest.approx(total, rel=1e-8)
        chance *= (n - k) / (k + 1) * p / (1 - p)
    assert cdf[-1] == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize(("n", "confidence"), [(10, 0.95), (299, 0.9)])
def test_clopper_pearson_has_its_closed_forms(n, confidence):
    delta = 1 - confidence

    def upper(events):
        return upper_bound(zero_one(events, n), confidence=confidence, bound="clopper_pearson")

    assert upper(0) == pytest.approx(1 - delta ** (1 / n), abs=1e-8)
    assert upper(n - 1) == pytest.approx((1 - delta) ** (1 / n), abs=1e-8)
    assert upper(n) == 1.0


def test_clopper_pearson_is_the_published_table():
    # Two-sided 95 % limits of 3 in 10 are the classic (0.0667, 0.6525).
    three = zero_one(3, 10)
    assert upper_bound(three, confidence=0.975, bound="clopper_pearson") == pytest.approx(0.6525, abs=5e-5)
    assert lower_bound(three, confidence=0.975, bound="clopper_pearson") == pytest.approx(0.0667, abs=5e-5)


def test_hoeffding_bentkus_is_its_formula():
    losses = np.array([[0.2, 0.0], [0.4, 0.0], [0.9, 0.0], [0.0, 0.0]])
    mean, limit, n = 0.375, 0.5, 4
    kl = mean * math.log(mean / limit) + (1 - mean) * math.log((1 - mean) / (1 - limit))
    bentkus = math.e * sum(math.comb(n, j) for j in range(3)) / 2**n  # ceil(1.5) = 2
    expected = [min(math.exp(-n * kl), bentkus), min(0.5**4, math.e * 0.5**4)]
    np.testing.assert_allclose(hoeffding_bentkus(losses, limit), expected, rtol=1e-12)
    assert hoeffding_bentkus(np.ones((3, 1)), 0.5).tolist() == [1.0]


def test_thirds_do_not_round_up_to_another_event():
    thirds = np.full((3, 1), 1 / 3)
    expected = math.e * binomial_cdf(300, 0.9)[100]
    assert hoeffding_bentkus(thirds, 0.9, n=300)[0] <= expected * (1 + 1e-9)
    ninth = np.repeat([1 / 3, 0.0], [3, 6])[:, None]  # sums to one event, give or take a rounding error
    assert hoeffding_bentkus(ninth, 0.15)[0] == min(
        math.exp(-9 * (math.log(1 / 9 / 0.15) / 9 + 8 / 9 * math.log(8 / 9 / 0.85))),
        math.e * binomial_cdf(9, 0.15)[1],
    )


@pytest.mark.parametrize("bound", list(P_VALUES))
@pytest.mark.parametrize(("rate", "n"), [(0.1, 40), (0.3, 25), (0.02, 200)])
def test_p_values_are_valid_at_the_limit(bound, rate, n):
    # Exact: over all outcomes of n coins whose mean is the limit, P(p <= u) must not exceed u.
    outcomes = np.array([zero_one(events, n) for events in range(n + 1)]).T
    p_values = P_VALUES[bound](outcomes, rate)
    chances = np.diff(binomial_cdf(n, rate), prepend=0.0)
    for level in (0.01, 0.05, 0.1, 0.5):
        assert chances[p_values <= level].sum() <= level + 1e-12
    assert (p_values <= 0.3).any()  # and they are not trivially 1


@pytest.mark.parametrize("bound", list(P_VALUES))
def test_fewer_losses_and_more_questions_speak_more_for_the_limit(bound):
    outcomes = np.array([zero_one(events, 50) for events in range(51)]).T
    p_values = P_VALUES[bound](outcomes, 0.3)
    assert (np.diff(p_values) >= -1e-12).all()
    assert P_VALUES[bound](outcomes[:, :10], 0.3, n=500).max() < p_values[9]


def test_betting_is_the_strongest_for_paired_differences():
    # 400 questions of which 4 lost and 2 gained; "the net drop is at most 4 points", differences scaled to [0, 1].
    scaled = (np.repeat([1.0, -1.0, 0.0], [4, 2, 394])[:, None] + 1) / 2
    assert betting(scaled, 0.52)[0] < 0.05 < hoeffding_bentkus(scaled, 0.52)[0]


def test_betting_does_not_depend_on_the_order():
    losses = np.random.default_rng(0).random((30, 1))
    assert betting(losses, 0.7)[0] == pytest.approx(betting(losses[::-1], 0.7)[0], rel=1e-12)


def test_clopper_pearson_refuses_what_it_is_not_for():
    with pytest.raises(DataError, match="0 and 1"):
        clopper_pearson(np.array([[0.5]]), 0.1)
    with pytest.raises(RecipeError, match="gauss"):
        find_bound("gauss")


@pytest.mark.parametrize(("limit", "confidence", "needed"), [(0.01, 0.95, 299), (0.05, 0.95, 59), (0.1, 0.9, 22)])
def test_questions_needed_without_a_loss_are_the_rule_of_three(limit, confidence, needed):
    for bound in ("hoeffding_bentkus", "clopper_pearson"):
        assert questions_needed(np.zeros(5), limit, confidence=confidence, bound=bound) == needed
    assert needed == math.ceil(math.log(1 - confidence) / math.log(1 - limit))


@pytest.mark.parametrize("bound", list(P_VALUES))
def test_questions_needed_are_enough_and_not_too_many(bound):
    losses = zero_one(2, 100)
    needed = questions_needed(losses, 0.05, bound=bound)
    test = P_VALUES[bound]
    assert test(losses[:, None], 0.05, n=needed)[0] <= 0.05 < test(losses[:, None], 0.05, n=needed * 3 // 4)[0]
    assert questions_needed(losses, 0.02, bound=bound) is None


def test_the_correction_takes_the_number_of_questions():
    # 20 questions: 0.24 is due. The released code takes the number of thresholds, here 5,000.
    assert hoeffding_margin(20) == pytest.approx(0.24, abs=5e-4)
    assert hoeffding_margin(5000) == pytest.approx(0.015, abs=5e-4)
    means = np.zeros(5000)
    np.testing.assert_allclose(adjusted_risk(means, 20), hoeffding_margin(20))
