"""Standard errors, intervals and tests against textbook forms, published numbers and simulation."""

import numpy as np
import pytest

from laconic.eval.stats import bootstrap_means, clustered_se, holm, interval, non_inferiority, two_sided_p


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


def test_one_cluster_has_no_error_to_show():
    assert clustered_se(np.array([0.2, 0.9]), np.array([3, 3])) == 0.0


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


@pytest.mark.parametrize(
    ("difference", "se", "shown", "p_value"),
    [
        (0.0, 0.005, True, 0.02275),  # 2 standard errors above the margin of one point
        (0.0, 0.01, False, 0.15866),  # 1 standard error
        (-0.01, 0.001, False, 0.5),  # exactly at the margin
        (0.02, 0.03, False, 0.15866),  # better, but so few data that a loss is not ruled out
        (-0.002, 0.004, True, 0.02275),  # a little worse, well within the margin
        (-0.05, 0.01, False, 0.99997),
    ],
)
def test_non_inferiority_decisions(difference, se, shown, p_value):
    test = non_inferiority(difference, se, margin=0.01)
    assert test.shown is shown
    assert test.p_value == pytest.approx(p_value, abs=1e-5)
    assert test.bound == pytest.approx(difference - 1.6448536 * se)
    assert test.shown == (test.p_value < 0.05)


def test_non_inferiority_keeps_its_level_at_the_margin():
    rng = np.random.default_rng(0)
    drawn = rng.normal(-0.01, 0.1, size=(4000, 100))
    shown = [non_inferiority(row.mean(), clustered_se(row), margin=0.01).shown for row in drawn]
    assert 0.04 < np.mean(shown) < 0.065


def test_without_spread_the_sign_decides():
    assert non_inferiority(0.0, 0.0, margin=0.01).shown
    assert not non_inferiority(-0.01, 0.0, margin=0.01).shown
    assert two_sided_p(0.0, 0.0) == 1.0
    assert two_sided_p(0.02, 0.0) == 0.0


def test_two_sided_p_of_196_standard_errors():
    assert two_sided_p(-1.959964, 1.0) == pytest.approx(0.05, abs=1e-6)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []
