"""StepSearch and AutoSearch against numbers that the authors' own code produced, and at their edges."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from laconic.rewards import REWARDS, Group
from laconic.rewards.search.qa import exact_match
from laconic.rewards.search.retrieval_gain import information_gains, key_score, redundancies
from laconic.rewards.search.tfidf import similarities
from laconic.rewards.search.turns import is_repeated, turn_rewards

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "search_rewards.json").read_text())
CLOSE = {"atol": 1e-6, "rtol": 0}


@pytest.mark.parametrize("case", GOLDEN["stepsearch_information_gain"])
def test_step_search_gain(case):
    passages, golds = case["inputs"]["informations_per_step"], case["inputs"]["golden_paragraphs"]
    np.testing.assert_allclose(information_gains(passages, golds), case["expected"]["gains"], **CLOSE)
    np.testing.assert_allclose(redundancies(passages), case["expected"]["redundancy"], **CLOSE)


@pytest.mark.parametrize("case", GOLDEN["stepsearch_search_key"])
def test_step_search_key(case):
    assert key_score(case["inputs"]["searches"], case["inputs"]["gold_key_groups"]) == case["expected"]


def step_group(text, **columns):
    """Rollouts of the golden question that made the two searches of its first sub-questions."""
    golden = GOLDEN["stepsearch_total"][0]["inputs"]
    size = len(text)
    given = {
        "golds": golden["ground_truth"]["target"],
        "queries": [["hamlet author", "shakespeare birthplace"]] * size,
        "gold_queries": golden["ground_truth"]["search_keys"],
        "passages": [[[paragraph] for paragraph in golden["support_docs"]]] * size,
        "gold_passages": golden["support_docs"],
    }
    return Group.of([True] * size, [50] * size, text=text, **(given | columns))


@pytest.mark.parametrize("case", GOLDEN["stepsearch_total"])
def test_step_search_total(case):
    group = step_group([case["inputs"]["response"]])
    weight, expected = case["params"]["search_keys_score"], case["expected"]
    outcome = REWARDS["step_search"](group, key_weight=weight, step_weight=0.0)
    np.testing.assert_allclose(outcome, [expected["score"]], **CLOSE)
    assert key_score(group.queries[0], group.gold_queries) == expected["search_key_score"]
    np.testing.assert_allclose(
        np.array(information_gains(group.passages[0], group.gold_passages)) - redundancies(group.passages[0]),
        expected["step_scores"],
        **CLOSE,
    )
    with_steps = REWARDS["step_search"](group, key_weight=weight)
    np.testing.assert_allclose(with_steps, outcome + 0.6 * sum(expected["step_scores"]), **CLOSE)


def test_step_search_without_an_answer_or_with_text_after_it():
    texts = ["no answer", "<answer>Stratford upon Avon</answer> and more", "<answer>Stratford upon Avon</answer>\n"]
    rewards = REWARDS["step_search"](step_group(texts))
    assert rewards[:2].tolist() == [-1.0, -1.0]
    assert rewards[2] > 1.618


def test_step_search_takes_the_recorded_form_before_the_text():
    texts = ["<answer>Stratford upon Avon</answer> and more", "<answer>Stratford upon Avon</answer>"]
    rewards = REWARDS["step_search"](step_group(texts, well_formed=[True, False]))
    assert rewards[0] > 1.618
    assert rewards[1] == -1.0


def test_step_search_keeps_the_best_match_of_a_sub_question():
    # A weaker query for the same sub-question comes later, and one that fits none.
    assert key_score(["hamlet author", "hamlet", "zebra"], [["hamlet author"], ["birthplace"]]) == 0.5
    assert key_score([], [["hamlet author"]]) == key_score(["hamlet author"], []) == 0.0


def test_step_search_pays_nothing_twice():
    gold = ["red apple pie", "green pear tart"]
    gains = information_gains([["red apple"], ["red apple pie"], ["red apple pie"], []], gold)
    assert gains[0] > 0
    assert gains[1] > 0
    assert gains[2:] == [0.0, 0.0]
    assert sum(gains) == pytest.approx(0.5)
    assert redundancies([["a", "a", "b", "c"], ["a", "d"], []]) == [0.25, 0.5, 0.0]


def test_redundancy_goes_by_ids_where_there_are_ids():
    same_text = [[["x y"], ["x y"]]]
    group = {"passages": same_text, "gold_passages": ["unrelated words"], "queries": [["q", "q"]]}
    text = ["<answer>Stratford upon Avon</answer>"]
    by_text, by_id = step_group(text, **group), step_group(text, **group, retrieved=[[["p1"], ["p2"]]])
    lost = REWARDS["step_search"](by_id) - REWARDS["step_search"](by_text)
    assert lost == pytest.approx(0.6)


def test_step_search_compares_ids_as_texts():
    group = {"passages": [[["x y"], ["z"]]], "gold_passages": ["unrelated words"], "queries": [["q", "q"]]}
    text = ["<answer>Stratford upon Avon</answer>"]
    mixed = REWARDS["step_search"](step_group(text, **group, retrieved=[[[1], ["1"]]]))
    plain = REWARDS["step_search"](step_group(text, **group, retrieved=[[["1"], ["1"]]]))
    other = REWARDS["step_search"](step_group(text, **group, retrieved=[[["1"], ["2"]]]))
    assert mixed == plain == pytest.approx(other - 0.6)


def test_step_search_by_the_verdict():
    golden = step_group(["<answer>Stratford upon Avon</answer>"])
    bare = replace(golden, text=None, golds=None)
    np.testing.assert_allclose(REWARDS["step_search"](bare), REWARDS["step_search"](golden))


def test_tfidf_by_hand():
    # Three texts; "red" is in two of them, "apple" and "pear" in one: ln(4/3) + 1 and ln(4/2) + 1.
    often, seldom = np.log(4 / 3) + 1, np.log(4 / 2) + 1
    norm = np.sqrt(often**2 + seldom**2)
    assert similarities("Red apple", ("red pear", "plum")) == pytest.approx((often**2 / norm**2, 0.0))
    assert similarities("", ("red pear",)) == similarities("a b", ("a b",)) == (0.0,)


def turn_case(case):
    given = case["inputs"]
    queries = [turn.split("<search>")[1].split("</search>")[0] for turn in given["model_turns"] if "<search>" in turn]
    answer = given["model_turns"][-1].split("<answer>")[1].split("</answer>")[0]
    return queries, given["self_answers_after_each_search"], answer, given["golden_answers"]


@pytest.mark.parametrize("case", GOLDEN["autosearch_turn_rewards"], ids=lambda case: case["inputs"]["case"])
def test_auto_search(case):
    queries, self_answers, answer, golds = turn_case(case)
    expected = case["expected"]
    np.testing.assert_allclose(
        turn_rewards(queries, self_answers, golds, correct=exact_match(answer, golds) == 1.0),
        expected["reward_at_end_of_each_turn"],
        **CLOSE,
    )
    columns = {"queries": [queries], "self_answers": [self_answers], "answer": [answer], "golds": golds}
    rewards = REWARDS["auto_search"](
        Group.of([True], [9], **columns),
        structure_score=case["params"]["structure_format_score"],
        final_score=case["params"]["final_format_score"],
    )
    np.testing.assert_allclose(rewards, [expected["total"]], **CLOSE)


def test_auto_search_totals_of_the_evidence():
    # Three searches, known after the first; and a wrong answer after two new queries that led nowhere.
    three = turn_rewards(["alpha", "beta", "gamma"], ["Paris"] * 3, ["Paris"], correct=True)
    assert sum(three) == pytest.approx(1.05)
    wrong = turn_rewards(["alpha", "beta"], ["Rome", "Rome"], ["Paris"], correct=False)
    assert sum(wrong) == pytest.approx(0.1875)


def test_auto_search_malformed_repeated_and_invalid():
    repeated = turn_rewards(["capital of France", "France capital of"], ["Rome", "Rome"], ["Paris"], correct=False)
    assert repeated == pytest.approx([0.0375, -0.025, 0.1125])
    bad = {"correct": False, "well_formed": False}
    invalid = turn_rewards(["capital of France"], ["Rome"], ["Paris"], invalid_actions=2, **bad)
    assert invalid == pytest.approx([0.0375, -0.025, -0.025, -0.5])
    assert turn_rewards([], [], ["Paris"], **bad) == [-0.5]


def test_auto_search_pays_the_valid_turns_around_a_repeated_one():
    """Known after the third of four searches, the second repeats the first: 0.5 (0.4 / 3 - 0.05) for the other two."""
    queries = ["alpha one", "alpha one", "gamma two", "delta three"]
    parts = turn_rewards(queries, ["x", "x", "Paris", "Paris"], ["Paris"], correct=True)
    bonus = 0.5 * (0.4 / 3 - 0.05)
    assert parts == pytest.approx([0.025 + bonus, -0.025, 1.025 + bonus, -0.05, -0.05])


def test_auto_search_reads_every_accepted_answer():
    columns = {"queries": [["hamlet author"]], "self_answers": [["Shakespeare"]], "answer": ["Shakespeare"]}
    group = Group.of([True], [9], golds=["William Shakespeare", "Shakespeare"], **columns)
    assert REWARDS["auto_search"](group) == pytest.approx([2.475])


def test_auto_search_without_an_answer_ends_malformed():
    columns = {"queries": [[], []], "self_answers": [[], []], "golds": ["Paris"]}
    group = Group.of([True, True], [9, 9], answer=[None, "Paris"], well_formed=[True, False], **columns)
    assert REWARDS["auto_search"](group).tolist() == [-0.5, 0.5]


def test_repeated_queries():
    assert is_repeated(" ", [])
    assert is_repeated("The Hamlet author?", ["hamlet author"])
    assert not is_repeated("hamlet author", [])
    assert not is_repeated("hamlet author", ["macbeth author"])
