"""How short answers are read and scored."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from laconic.rewards import Group
from laconic.rewards.errors import DataError
from laconic.rewards.search.qa import (
    answer_scores,
    cover_match,
    cover_scores,
    em_scores,
    exact_match,
    f1_scores,
    last_answer,
    normalize_answer,
    predictions,
    token_f1,
)

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "search_rewards.json").read_text())
WORDS = st.sampled_from(["red", "blue", "river", "Red", "the", "a", "yes", "no", "x-ray", "!"])
TEXTS = st.lists(WORDS, max_size=6).map(" ".join)


@pytest.mark.parametrize("case", GOLDEN["normalize_answer"])
def test_normaliser_golden(case):
    assert normalize_answer(case["inputs"]["text"]) == case["expected"]


@pytest.mark.parametrize("case", GOLDEN["qa_f1"])
def test_f1_golden(case):
    assert token_f1(case["inputs"]["prediction"], case["inputs"]["golden_answers"]) == pytest.approx(case["expected"])


@pytest.mark.parametrize(
    ("text", "normal"),
    [("the", ""), ("New-York", "newyork"), ("  A  B  ", "b"), ("Theatre", "theatre"), ("1,000", "1000"), ("a.n", "")],
)
def test_punctuation_goes_before_articles_and_leaves_no_space(text, normal):
    assert normalize_answer(text) == normal


@given(prediction=TEXTS, gold=TEXTS)
def test_f1_is_the_harmonic_mean_of_precision_and_recall(prediction, gold):
    mine, theirs = normalize_answer(prediction).split(), normalize_answer(gold).split()
    rest, shared = list(theirs), 0
    for word in mine:
        if word in rest:
            rest.remove(word)
            shared += 1
    expected = 0.0
    if shared:
        precision, recall = shared / len(mine), shared / len(theirs)
        expected = 2 * precision * recall / (precision + recall)
    assert token_f1(prediction, [gold], yes_no="off") == pytest.approx(expected)
    one_sided = {"yes", "no"} & {" ".join(mine), " ".join(theirs)} and mine != theirs
    assert token_f1(prediction, [gold]) == pytest.approx(0.0 if one_sided else expected)


@given(prediction=TEXTS, golds=st.lists(TEXTS, min_size=1, max_size=3))
def test_scores_are_ordered_and_take_the_best_gold(prediction, golds):
    exact, cover = exact_match(prediction, golds), cover_match(prediction, golds)
    assert exact <= cover
    assert exact == max(exact_match(prediction, [gold]) for gold in golds)
    assert token_f1(prediction, golds) == max(token_f1(prediction, [gold]) for gold in golds)


def test_yes_no_rule_on_one_side():
    assert token_f1("yes indeed", ["yes"]) == 0.0
    assert token_f1("yes", ["yes indeed"], yes_no="prediction") == 0.0
    assert token_f1("yes indeed", ["yes"], yes_no="prediction") == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<answer>a</answer> and <answer> b\nc </answer>", "b\nc"),
        ("<answer></answer>", ""),
        ("<answer>never closed", None),
        ("", None),
        (None, None),
    ],
)
def test_last_answer(text, answer):
    assert last_answer(text) == answer


def test_the_answer_column_wins_over_the_text():
    read = Group.of([True, True], [1, 1], text=["<answer>Rhine</answer>", "none"])
    assert predictions(read) == ("Rhine", None)
    text = ["<answer>Rhine</answer>", "<answer>Rhine</answer>", None, "none"]
    told = Group.of([True] * 4, [1] * 4, text=text, answer=[None, "Seine", "Seine", None])
    assert predictions(told) == ("Rhine", "Seine", "Seine", None)
    with pytest.raises(DataError, match="'answer' nor 'text'"):
        predictions(Group.of([True], [1]))


def test_scores_of_a_group():
    answers = ["the Seine", "river Seine", None, "Rhine", "the Seine"]
    group = Group.of([False] * 5, [1] * 5, answer=answers, golds=["Seine"])
    np.testing.assert_array_equal(em_scores(group), [1, 0, 0, 0, 1])
    np.testing.assert_allclose(f1_scores(group), [1, 2 / 3, 0, 0, 1])
    np.testing.assert_array_equal(cover_scores(group), [1, 1, 0, 0, 1])


def test_each_answer_of_a_group_is_scored_once():
    asked = []

    def score(prediction, golds):
        asked.append(prediction)
        return 0.5

    group = Group.of([True] * 4, [1] * 4, answer=["a", "b", None, "a"], golds=["c"])
    np.testing.assert_array_equal(answer_scores(group, score), [0.5, 0.5, 0.0, 0.5])
    assert sorted(asked) == ["a", "b"]


def test_verdict_stands_in_where_nothing_can_be_compared():
    bare, unread = Group.of([True, False], [1, 1]), Group.of([True, False], [1, 1], golds=["x"])
    for scores in (em_scores, cover_scores, f1_scores):
        np.testing.assert_array_equal(scores(bare), [1, 0])
        np.testing.assert_array_equal(scores(unread), [1, 0])
    for column in ({"answer": ["x", "y"]}, {"text": ["<answer>x</answer>", "y"]}):
        said = Group.of([True, False], [1, 1], **column)
        np.testing.assert_array_equal(em_scores(said), [1, 0])
        np.testing.assert_array_equal(cover_scores(said), [1, 0])
        with pytest.raises(DataError, match="no 'golds'"):
            f1_scores(said)
