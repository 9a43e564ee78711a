"""Accuracy of repeated samples against enumeration of every subset."""

from collections import Counter
from fractions import Fraction
from itertools import combinations, product

import numpy as np
import pytest

from laconic.eval.accuracy import accuracy, majority_at_k, pass_at_k
from laconic.eval.samples import INVALID, RIGHT


def enumerated_pass(row, k):
    subsets = list(combinations(row, k))
    return sum(any(subset) for subset in subsets) / len(subsets)


def enumerated_majority(row, k):
    """The vote counted subset by subset, as a person would."""
    total, subsets = Fraction(0), list(combinations(row, k))
    for subset in subsets:
        counts = Counter(vote for vote in subset if vote != INVALID)
        leaders = [vote for vote, count in counts.items() if count == max(counts.values())]
        total += Fraction(1, len(leaders)) if RIGHT in leaders else 0
    return float(total / len(subsets))


@pytest.mark.parametrize("samples", [1, 2, 5, 8])
def test_pass_at_k_equals_enumeration(samples):
    correct = np.array([[place < right for place in range(samples)] for right in range(samples + 1)])
    for k in range(1, samples + 1):
        expected = [enumerated_pass(row, k) for row in correct]
        np.testing.assert_allclose(pass_at_k(correct, k), expected, atol=1e-12)


def test_pass_at_k_is_exact_for_many_samples():
    correct = np.zeros((1, 400), dtype=bool)
    correct[0, :3] = True
    stable = 1 - np.prod([1 - 200 / m for m in range(398, 401)])
    np.testing.assert_allclose(pass_at_k(correct, 200), [stable], rtol=1e-12)


def test_majority_equals_enumeration_on_every_vote_of_five():
    votes = np.array(list(product([INVALID, RIGHT, 1, 2], repeat=5)))
    for k in (1, 2, 3, 4, 5):
        expected = [enumerated_majority(row, k) for row in votes.tolist()]
        np.testing.assert_allclose(majority_at_k(votes, k), expected, atol=1e-12)


def test_majority_equals_enumeration_on_random_votes_of_eight():
    votes = np.random.default_rng(0).integers(-1, 5, size=(60, 8))
    for k in (2, 3, 6, 8):
        expected = [enumerated_majority(row, k) for row in votes.tolist()]
        np.testing.assert_allclose(majority_at_k(votes, k), expected, atol=1e-12)


def test_majority_of_one_is_accuracy_and_invalid_answers_do_not_outvote():
    votes = np.array([[INVALID, INVALID, INVALID, RIGHT], [INVALID] * 4, [RIGHT, RIGHT, 1, 1]])
    np.testing.assert_allclose(majority_at_k(votes, 1), accuracy(votes == RIGHT))
    np.testing.assert_allclose(majority_at_k(votes, 4), [1.0, 0.0, 0.5])


def test_majority_of_64_samples_matches_simulation():
    votes = np.repeat([RIGHT, 1, 2, 3, INVALID], [24, 20, 10, 6, 4])[None]
    rng = np.random.default_rng(1)
    drawn = np.array([enumerated_majority(rng.permutation(votes[0])[:16].tolist(), 16) for _ in range(4000)])
    assert abs(majority_at_k(votes, 16)[0] - drawn.mean()) < 4 * drawn.std() / np.sqrt(len(drawn))
