"""Standard errors, intervals and tests against textbook forms, published numbers and simulation."""

import numpy as np
import pytest

from laconic.eval.stats import (
    bootstrap_means,
    bounded_interval,
    clustered_se,
    difference_p,
    holm,
    interval,
    non_inferiority,
    two_sided_p,
)


def test_singleton_clusters_give_the_plain_standard_error():
    values = np.random.default_rng(0).random(57)
    plain = values.std(ddof=1) / np.sqrt(57)
    assert clustered_se(values) == pytest.approx(plain)
    assert clustered_se(values, np.random.default_rng(1).permutation(57)) == pytest.approx(plain)


def test_clusters_of_copies_count_once():
    values = np.random.default_rng(0).random(40)
    assert clustered_se(np.repeat(values, 3), np.repeat(np.arange(40), 3)) == pytest.approx(clustered_se(values))


def test_clustered_error_matches_the_double_sum_over_pairs():
    rng = np.random.default_rng(2)
    values, clusters = rng.random(60), rng.integers(7, size=60)
    d = values - values.mean()
    total = sum(d[i] * d[j] for i in range(60) for j in range(60) if clusters[i] == clusters[j])
    assert clustered_se(values, clusters) == pytest.approx(np.sqrt(total * 7 / 6) / 60)


@pytest.mark.parametrize(
    ("values", "clusters"),
    [([0.2, 0.9], [3, 3]), ([-5.0], None), ([1.0] * 10, None), ([0.1, 0.3, 0.1, 0.3], [0, 0, 1, 1])],
    ids=["one cluster", "one question", "no spread", "no spread between clusters"],
)
def test_an_error_that_cannot_be_known_is_none(values, clusters):
    assert clustered_se(np.array(values), None if clusters is None else np.array(clusters)) is None


def test_bootstrap_is_seeded_and_keeps_columns_paired():
    columns = np.random.default_rng(0).random((80, 1)) * [1.0, 2.0]
    first, again = (bootstrap_means(columns, seed=3, repetitions=1200) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_allclose(first[:, 1], 2 * first[:, 0])
    assert first.shape == (1200, 2)
    assert not np.array_equal(first, bootstrap_means(columns, seed=4, repetitions=1200))


def test_bootstrap_spread_is_the_standard_error():
    values = np.random.default_rng(0).normal(size=300)
    drawn = bootstrap_means(values[:, None], seed=0, repetitions=6000)[:, 0]
    assert drawn.std() == pytest.approx(clustered_se(values), rel=0.04)


def test_bootstrap_of_clusters_draws_whole_clusters():
    values = np.repeat(np.random.default_rng(0).normal(size=60), 4)
    clusters = np.repeat(np.arange(60), 4)
    drawn = bootstrap_means(values[:, None], seed=0, repetitions=6000, clusters=clusters)[:, 0]
    assert drawn.std() == pytest.approx(clustered_se(values, clusters), rel=0.04)


def test_paired_intervals_cover_the_truth_95_percent_of_the_time():
    """Two models, K = 4 answers to each of 200 questions whose difficulty they share; ratio and difference."""
    rng = np.random.default_rng(0)
    trials, questions, samples = 1000, 200, 4
    hits = np.zeros(2)
    for _ in range(trials):
        p = rng.random(questions)
        base = rng.binomial(samples, p) / samples
        new = rng.binomial(samples, np.clip(0.9 * p + 0.08, 0, 1)) / samples
        size = 50 * np.exp(0.5 * rng.normal(size=questions))
        base_tokens = (size[:, None] * rng.exponential(size=(questions, samples))).mean(axis=1)
        new_tokens = (0.6 * size[:, None] * rng.exponential(size=(questions, samples))).mean(axis=1)
        columns = np.stack([base, new, base_tokens, new_tokens], axis=1)
        a, b, t, u = bootstrap_means(columns, seed=int(rng.integers(2**31)), repetitions=600).T
        for place, (low, high), truth in ((0, interval(b - a), 0.03), (1, interval(u / t), 0.6)):
            hits[place] += low <= truth <= high
    assert ((hits / trials >= 0.93) & (hits / trials <= 0.97)).all(), hits / trials


def test_undefined_replicates_have_no_interval():
    assert interval(np.array([0.1, np.nan, 0.3])) is None


def differences(plus, minus, zero):
    return np.repeat([1.0, -1.0, 0.0], [plus, minus, zero])


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (differences(0, 0, 20), False),  # no loss among few
        (differences(0, 0, 299), False),
        (differences(0, 0, 700), True),
        (differences(90, 0, 410), True),
        (differences(30, 30, 440), False),  # as many lost as gained, so few that a loss is not ruled out
        (differences(0, 20, 480), False),
        (differences(1, 0, 0), False),
    ],
    ids=str,
)
def test_non_inferiority_decisions(given, shown):
    test = non_inferiority(given, margin=0.01)
    assert test.shown is shown is (test.bound > -0.01) is (test.p_value < 0.05)
    assert test.bound < given.mean()


def test_non_inferiority_is_the_average_bet_against_a_loss_beyond_the_margin():
    given = differences(40, 3, 57)
    # A bet on "the mean is above -margin" pays 1 + b (d + margin) / (1 - margin) for each d, and loses all at worst.
    bets = np.geomspace(0.01, 0.99, 24)
    capital = np.mean([np.prod(1 + bet * (given + 0.01) / (1 - 0.01)) for bet in bets])
    assert non_inferiority(given, margin=0.01).p_value == pytest.approx(1 / capital)


@pytest.mark.parametrize(("n", "loss", "samples"), [(20, 0.05, 1), (100, 0.02, 1), (200, 0.015, 1), (60, 0.02, 4)])
def test_rare_losses_beyond_the_margin_are_not_overlooked(n, loss, samples):
    """Few questions mostly hold none; where there is no spread a normal test is sure (36 % of the first case)."""
    rng = np.random.default_rng(0)
    drawn = -(rng.binomial(samples, loss, size=(400, n)) / samples)
    assert np.mean([non_inferiority(row, margin=0.01).shown for row in drawn]) <= 0.05


def test_non_inferiority_is_found_where_it_is():
    """Differences as the quickstart has them: 500 problems, 4 answers each, 18 points more often right."""
    rng = np.random.default_rng(0)
    base, new = (rng.binomial(4, p, size=(40, 500)) / 4 for p in (0.77, 0.95))
    tests = [non_inferiority(row, margin=0.01) for row in new - base]
    assert all(test.shown and 0.1 < test.bound < 0.18 for test in tests)


def test_clusters_are_the_observations():
    rng = np.random.default_rng(1)
    values = rng.choice([1.0, 0.0, -1.0], p=[0.4, 0.5, 0.1], size=60)
    copies, labels = np.repeat(values, 5), np.repeat(np.arange(60), 5)
    single, clustered = non_inferiority(values, margin=0.02), non_inferiority(copies, margin=0.02, clusters=labels)
    assert (clustered.bound, clustered.p_value) == pytest.approx((single.bound, single.p_value))
    assert not non_inferiority(np.ones(900), margin=0.01, clusters=np.zeros(900, int)).shown
    # Of unequal size: a cluster with half of all questions weighs as much as that.
    unequal = np.repeat(np.arange(31), [30] + [1] * 30)
    assert (
        non_inferiority(np.ones(60), margin=0.01, clusters=unequal).bound
        < non_inferiority(np.ones(31), margin=0.01).bound
    )


def test_bounded_intervals_hold_for_few_questions():
    rng = np.random.default_rng(0)
    for n, chances in [(3, (0.5, 0.4, 0.1)), (8, (0.05, 0.9, 0.05)), (30, (0.0, 0.96, 0.04))]:
        truth = chances[0] - chances[2]
        drawn = rng.choice([1.0, 0.0, -1.0], p=chances, size=(200, n))
        held = [low <= truth <= high for low, high in map(bounded_interval, drawn)]
        assert np.mean(held) >= 0.95
    low, high = bounded_interval(np.zeros(2000))
    assert -0.005 < low < 0 < high < 0.005


def test_nothing_is_significant_from_few_questions():
    assert [difference_p(np.full(n, -5.0)) for n in (1, 2, 9)] == [1.0] * 3
    assert difference_p(np.arange(9.0) + 100) == 1.0
    assert difference_p(np.full(900, -5.0), clusters=np.zeros(900, int)) == 1.0
    # All ten fell, by as much: the sign test.
    assert difference_p(np.full(10, -5.0)) == 2 * 0.5**10
    assert difference_p(np.zeros(50)) == 1.0
    values = np.random.default_rng(0).normal(0.1, size=100)
    assert difference_p(values) == pytest.approx(two_sided_p(values.mean(), values.std(ddof=1) / 10))


def test_two_sided_p_of_196_standard_errors():
    assert two_sided_p(-1.959964, 1.0) == pytest.approx(0.05, abs=1e-6)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []
