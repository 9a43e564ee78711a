"""Token summaries, AES and accuracy under a budget against definitions spelled out."""

import numpy as np
import pytest

from laconic.eval.cost import (
    AesWeights,
    accuracy_at_budget,
    aes,
    budget_area,
    budget_grid,
    token_summary,
    tokens_per_correct,
)
from laconic.eval.samples import collect


@pytest.fixture
def drawn():
    rng = np.random.default_rng(0)
    return rng.random((40, 6)) < 0.6, rng.integers(1, 120, size=(40, 6))


def test_accuracy_at_budget_counts_what_fits(drawn):
    correct, tokens = drawn
    for budget in (0, 1, 17, 60.5, 119, 1000):
        expected = sum(s and t <= budget for s, t in zip(correct.ravel(), tokens.ravel(), strict=True)) / correct.size
        np.testing.assert_allclose(accuracy_at_budget(correct, tokens, [budget])[0], expected)


@pytest.mark.parametrize("limit", [10, 64, 500])
def test_budget_area_is_the_integral_of_accuracy_at_budget(drawn, limit):
    # Accuracy at budget is constant on [b, b + 1), so the sum over whole budgets is the integral.
    curve = accuracy_at_budget(*drawn, range(limit))
    np.testing.assert_allclose(budget_area(*drawn, limit).mean(), curve.mean())


def test_budget_area_is_the_optimal_thinking_bench_score():
    # s * max(0, 1000 - T) / 1000, one sample each: right after 0, 250 and 1200 tokens, wrong after 10.
    correct, tokens = np.array([[True], [True], [True], [False]]), np.array([[0], [250], [1200], [10]])
    np.testing.assert_allclose(budget_area(correct, tokens, 1000), [1.0, 0.75, 0.0, 0.0])


@pytest.mark.parametrize(
    ("tokens", "accuracy", "weights", "expected"),
    [
        (50, 0.8, (1, 3, 5), 0.5),  # half the length, same accuracy
        (50, 0.88, (1, 3, 5), 0.5 + 3 * 0.1),  # and more accurate
        (50, 0.72, (1, 3, 5), 0.5 - 5 * 0.1),  # and less accurate: the saving is gone
        (120, 0.8, (1, 3, 5), -0.2),  # longer
        (120, 0.88, (1, 3, 5), -0.2 + 0.3),
        (120, 0.72, (1, 3, 5), -0.2 - 0.5),
        (50, 0.72, (1, 5, 10), 0.5 - 1.0),  # another paper's coefficients
        (50, 0.88, (2, 5, 10), 1.0 + 0.5),
    ],
)
def test_aes_by_sign(tokens, accuracy, weights, expected):
    assert aes(tokens, accuracy, 100, 0.8, AesWeights(*weights)) == pytest.approx(expected)


def test_aes_takes_replicates_and_is_undefined_without_a_right_baseline():
    scores = aes(np.array([50, 50]), np.array([0.5, 0.5]), np.array([100, 100]), np.array([0.5, 0.0]), AesWeights())
    assert scores[0] == pytest.approx(0.5)
    assert np.isnan(scores[1])


def test_tokens_per_correct_charges_wrong_answers_and_has_no_infinite_price():
    correct, tokens = np.array([[True, False], [False, True]]), np.array([[10, 30], [50, 20]])
    assert tokens_per_correct(correct, tokens) == 55.0
    assert tokens_per_correct(np.zeros((2, 2), dtype=bool), tokens) is None


def test_token_summary(make):
    problems = make.problems(30)
    rows = make.rollouts(problems, limit=60)
    summary = token_summary(collect(rows, problems, samples=4, source="m"))
    lengths = sorted(row.tokens for row in rows)
    assert summary["tokens"] == pytest.approx(sum(lengths) / 120)
    assert summary["tokens_median"] == (lengths[59] + lengths[60]) / 2
    assert lengths[106] <= summary["tokens_p90"] <= lengths[108]
    assert summary["think_tokens"] + summary["answer_tokens"] == pytest.approx(summary["tokens"])
    right = [row.tokens for row in rows if row.correct]
    wrong = [row.tokens for row in rows if not row.correct]
    assert summary["tokens_correct"] == pytest.approx(sum(right) / len(right))
    assert summary["tokens_wrong"] == pytest.approx(sum(wrong) / len(wrong))


def test_budget_grid_halves_the_limit():
    assert budget_grid(256) == [4, 8, 16, 32, 64, 128, 256]
    assert budget_grid(16384)[0] == 128
    assert budget_grid(3) == [3]
