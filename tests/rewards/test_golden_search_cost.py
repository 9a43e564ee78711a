"""Rewards that make a search cost something: the authors' own numbers, and what must hold for any of them."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from laconic.rewards import REWARDS, Group
from laconic.rewards.errors import DataError
from laconic.rewards.search.qa import exact_match, last_answer

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "search_rewards.json").read_text())


def group_of(correct, searches, **columns):
    return Group.of(correct, [1] * len(correct), searches=searches, **columns)


@pytest.mark.parametrize("case", GOLDEN["ikea_knowledge_boundary"])
def test_ikea(case):
    response = case["inputs"]["response"]
    correct = exact_match(last_answer(response), case["inputs"]["golden_answers"]) == 1
    group = group_of([correct], [response.count("<information>")])
    np.testing.assert_allclose(REWARDS["ikea"](group), [case["expected"]])


@pytest.mark.parametrize("case", GOLDEN["ikea_knowledge_boundary"])
def test_ikea_from_text(case):
    response = case["inputs"]["response"]
    correct = exact_match(last_answer(response), case["inputs"]["golden_answers"]) == 1
    group = group_of([correct], [response.count("<information>")], text=[response])
    np.testing.assert_allclose(REWARDS["ikea"](group), [case["expected"]])


@pytest.mark.parametrize(
    "text",
    [
        "<answer>Seine</answer>",
        "t</think><answer>Seine</answer>",
        "<think>t<answer>Seine</answer>",
        "<think>t</think>(search q<answer>Seine</answer>",
        "<think>t</think>[answer]Seine[/answer]",
        "<think>t</think><answer>Seine</answer> (I think)",
        "<think>t</think> search] <answer>Seine</answer>",
        "<think>t</think>\nMy previous action is invalid. Let me see.\n<think>t</think><answer>Seine</answer>",
    ],
)
def test_ikea_reads_invalid_actions_from_text(text):
    assert REWARDS["ikea"](group_of([True], [0], text=[text])).tolist() == [-1.0]
    # What was recorded is believed before the text.
    assert REWARDS["ikea"](group_of([True], [0], text=[text], well_formed=[True])).tolist() == [1.6]
    assert REWARDS["ikea"](group_of([True], [0], text=[text], invalid_actions=[0])).tolist() == [1.6]


def test_ikea_without_form_or_text_is_valid():
    assert REWARDS["ikea"](group_of([True, False], [0, 0], answer=["a", None])).tolist() == [1.6, 0.0]


def test_ikea_invalid():
    group = group_of([True, True, False], [0, 0, 2], invalid_actions=[1, 0, 0], well_formed=[True, False, False])
    assert REWARDS["ikea"](group).tolist() == [-1.0, -1.0, -1.0]


@pytest.mark.parametrize("case", GOLDEN["saas_search_penalty"])
def test_saas_penalty_of_a_question_that_needs_no_search(case):
    searches, score = case["inputs"]["query_num"], case["inputs"]["score"]
    # Two search-disabled siblings are right; an answer of three words, one of them the gold, has an F1 of 0.5.
    answer = {1: "Seine", 0.5: "Seine river bank"}[score]
    group = group_of(
        [True] * 3,
        [0, 0, searches],
        answer=["Seine", "Seine", answer],
        golds=["Seine"],
        search_enabled=[False, False, True],
    )
    np.testing.assert_allclose(REWARDS["saas"](group, search_cost=case["params"]["beta"])[2], case["expected"])


@pytest.mark.parametrize("case", GOLDEN["saas_group_reward"] + GOLDEN["saas_group_reward_middle_only"])
def test_saas_group(case):
    rollouts = case["inputs"]["rollouts(answer,query_num,duplicate_query)"]
    disabled = case["params"].get("disable_search_first_n", 0)
    group = Group.of(
        [False] * len(rollouts),
        [1] * len(rollouts),
        answer=[row[0] for row in rollouts],
        searches=[row[1] for row in rollouts],
        queries=[[f"q{i}" for i in range(row[1])] for row in rollouts],
        golds=case["inputs"]["golden_answers"],
        # Their second function treats all rollouts alike, which is a group without this column.
        search_enabled=[i >= disabled for i in range(len(rollouts))] if disabled else None,
    )
    np.testing.assert_allclose(REWARDS["saas"](group), case["expected"], atol=1e-9)


def test_saas_by_the_verdict_alone():
    group = group_of([True, True, True, False], [0, 0, 3, 2], search_enabled=[False, False, True, True])
    np.testing.assert_allclose(REWARDS["saas"](group), [1.0, 1.0, 0.85, 0.1])


def test_saas_without_an_answer_earns_nothing_for_its_form():
    assert REWARDS["saas"](group_of([False, False], [0, 0], answer=[None, "Rhine"], golds=["Seine"])).tolist() == [
        0,
        0.1,
    ]


def test_saas_labels_by_exact_match_and_charges_by_score():
    """Words in another order have an F1 of 1: they pay, but do not show that fewer searches would have done."""
    answers = ["Shakespeare William", "William Shakespeare", "Shakespeare William"]
    group = group_of([True] * 3, [0, 2, 3], answer=answers, golds=["William Shakespeare"])
    np.testing.assert_allclose(REWARDS["saas"](group), [1.0, 1.0, 0.95])


def test_saas_duplicate_query_costs_a_wrong_answer_too():
    queries = [["a", "b"], ["a", "a"], ["a", "a"]]
    group = group_of([True, True, False], [2] * 3, answer=["Seine", "Seine", "Rhine"], golds=["Seine"], queries=queries)
    np.testing.assert_allclose(REWARDS["saas"](group), [1.0, 0.9, 0.0], atol=1e-12)


@pytest.mark.parametrize("case", GOLDEN["inforage_search_gain_and_efficiency"])
def test_inforage_gain_and_decay(case):
    given_case, expected = case["inputs"], case["expected"]
    asked = [turn[8:-9] for turn in given_case["turns"] if turn.startswith("<search>")]
    retrieved = [[given_case["retrieved_urls_per_query"][query] for query in asked]]
    assert len(retrieved[0]) == len(asked)
    group = group_of([True], [len(asked)], retrieved=retrieved, gold_ids=given_case["gold_source_urls"])
    ours = REWARDS["inforage"](group, coverage="best_search")
    np.testing.assert_allclose(ours, [(1.0 + expected["step_reward"]) * expected["length_penalty"]])


@pytest.mark.parametrize("case", GOLDEN["inforage_total"])
def test_inforage_total(case):
    # An answer, gold passages found (of four) and searches that have the outcome, the gain and the decay of the case.
    answer = {1.0: "Seine", 0.5: "Seine river bank"}[case["inputs"]["outcome"]]
    found = {0.2: 4, 0.1: 2}[case["inputs"]["step_reward"]]
    searches = {1.0: 2, 0.9025: 3}[case["inputs"]["length_penalty"]]
    ids = ["u1", "u2", "u3", "u4"]
    retrieved = [[ids[:found], *[[]] * (searches - 1)]]
    group = group_of([True], [searches], retrieved=retrieved, gold_ids=ids, answer=[answer], golds=["Seine"])
    np.testing.assert_allclose(REWARDS["inforage"](group, outcome="f1"), [case["expected"]])


def test_inforage_covers_by_all_searches_together():
    retrieved = [[["u1", "u2"], ["u3"], ["u2", "u9"]], []]
    group = group_of([False, False], [3, 0], retrieved=retrieved, gold_ids=["u1", "u2", "u3", "u4"])
    np.testing.assert_allclose(REWARDS["inforage"](group), [0.2 * 0.75 * 0.95**2, 0.0])


def test_inforage_compares_ids_as_texts():
    group = group_of([False, False], [1, 1], retrieved=[[[1, 2]], [["1"]]], gold_ids=["1", 3])
    np.testing.assert_allclose(REWARDS["inforage"](group), [0.1, 0.1])


@pytest.mark.parametrize("searches", [7, 0, None])
def test_inforage_refuses_counts_that_disagree(searches):
    group = group_of([True], [searches], retrieved=[[["a"]]], gold_ids=["a"])
    with pytest.raises(DataError, match="1 searches in 'retrieved' and"):
        REWARDS["inforage"](group)


def test_inforage_f1_wants_golds():
    group = group_of([True], [0], retrieved=[[]], gold_ids=["a"], answer=["Seine"])
    assert REWARDS["inforage"](group).tolist() == [1.0]
    with pytest.raises(DataError, match="'golds'"):
        REWARDS["inforage"](group, outcome="f1")


@pytest.mark.parametrize("impossible", [{"over_searches": [3]}, {"under_searches": [2]}])
def test_hiprag_refuses_impossible_counts(impossible):
    steps = {"over_searches": [0], "reasoning_steps": [1], "under_searches": [0]} | impossible
    with pytest.raises(DataError, match=next(iter(impossible))):
        REWARDS["hiprag"](group_of([True], [1], **steps))


def test_hiprag_without_an_answer_is_malformed():
    steps = {"over_searches": [0, 0], "reasoning_steps": [1, 1], "under_searches": [0, 0]}
    group = group_of([False, False], [0, 0], answer=[None, "Rhine"], golds=["Seine"], **steps)
    np.testing.assert_allclose(REWARDS["hiprag"](group), [0.0, 0.2])


@pytest.mark.parametrize("case", GOLDEN["hiprag_total"])
def test_hiprag_total(case):
    given_case = case["inputs"]
    judge, direct = given_case["judge_says"], given_case["direct_answers_cache"]
    conclusions = [step.split("<conclusion>")[1].split("<")[0] for step in given_case["steps"]]
    searched = ["<search>" in step for step in given_case["steps"]]
    over = [judge.get(f"Statement 1: {c}") == "True" for c, s in zip(conclusions, searched, strict=True) if s]
    under = [judge[c] == "False" for c, s in zip(conclusions, searched, strict=True) if not s]
    assert len(direct) == len(over)
    group = group_of(
        [True],
        [len(over)],
        over_searches=[sum(over)],
        reasoning_steps=[len(under)],
        under_searches=[sum(under)],
        answer=[given_case["answer"]],
        golds=given_case["golden_answers"],
        text=[f"<think>{''.join(given_case['steps'])}</think><answer>{given_case['answer']}</answer>"],
    )
    parameters = {"format_weight": case["params"]["structure_format_score"]}
    parameters |= {"process_bonus": case["params"]["process_bonus"]}
    np.testing.assert_allclose(REWARDS["hiprag"](group, as_released=True, **parameters), [case["expected"]])
    # The paper's denominator is all steps.
    share = (len(over) - sum(over) + len(under) - sum(under)) / len(given_case["steps"])
    np.testing.assert_allclose(REWARDS["hiprag"](group, **parameters), [1.0 + 0.4 * share])


def test_hiprag_without_any_search():
    steps = {"over_searches": [0, 0], "reasoning_steps": [2, 0], "under_searches": [2, 0]}
    group = group_of([True, True], [0, 0], **steps)
    np.testing.assert_allclose(REWARDS["hiprag"](group), [1.0, 1.4])
    np.testing.assert_allclose(REWARDS["hiprag"](group, as_released=True), [1.4, 1.4])


# What an answer earns: right with 0, 1 and 3 searches, wrong with 0 and 1, in a group where no search was needed.
DIRECT = {
    "search_r1": ({}, [1, 1, 1, 0, 0]),
    "search_r1 format": ({"variant": "format", "retrieval_score": 0.1}, [1, 1, 1, 0.2, 0.3]),
    "mash": ({"decay": 0.5}, [1, 0.5, 0.125, 0, 0]),
    "mash otc": ({"variant": "otc", "max_searches": 5}, [1, math.cos(math.pi / 7), math.cos(3 * math.pi / 11), 0, 0]),
    "mash otc_strict": ({"variant": "otc_strict"}, [1, 0, 0, 0, 0]),
    "mash linear": ({"variant": "linear", "max_searches": 5}, [1, 5 / 6, 0.5, 0, 0]),
    "ikea": ({}, [1.6, 1.4, 1.0, 0, 0.05]),
    "saas": ({"solved_without": 1}, [1, 0.95, 0.85, 0.1, 0.1]),
    "inforage": ({}, [1, 1.2, 1.2 * 0.9025, 0, 0.2]),
    "hiprag": ({}, [1.4, 1.4, 1.4, 0.2, 0.2]),
}


@pytest.mark.parametrize("entry", DIRECT)
def test_what_a_direct_answer_earns(entry):
    parameters, expected = DIRECT[entry]
    searches = [0, 1, 3, 0, 1]
    group = group_of(
        [True, True, True, False, False],
        searches,
        answer=["Seine", "Seine", "Seine", "Rhine", "Rhine"],
        golds=["Seine"],
        well_formed=[True] * 5,
        search_enabled=[False, True, True, True, True],
        passages=[[["the Seine"]] * count for count in searches],
        retrieved=[[["g"]] * count for count in searches],
        gold_ids=["g"],
        over_searches=[0] * 5,
        reasoning_steps=[0] * 5,
        under_searches=[0] * 5,
    )
    np.testing.assert_allclose(REWARDS[entry.split()[0]](group, **parameters), expected, atol=1e-9)


@pytest.mark.parametrize("name", ["mash", "ikea"])
def test_searches_written_in_the_text_do_not_count(name):
    think, ask = "<think>t</think>", "<search>x</search>"
    quiet = group_of([True, False], [1, 0], text=[think, think])
    loud = group_of([True, False], [1, 0], text=[think + ask * 9, think + ask])
    assert REWARDS[name](quiet)[0] > 0
    np.testing.assert_array_equal(REWARDS[name](quiet), REWARDS[name](loud))


@pytest.mark.parametrize("name", ["search_r1", "mash", "ikea", "saas", "inforage"])
@given(searches=st.integers(1, 9))
def test_giving_up_never_beats_searching_in_vain(name, searches):
    columns = {"answer": ["Rhine", "Rhine"], "golds": ["Seine"], "retrieved": [[], [["x"]] * searches]}
    group = group_of([False, False], [0, searches], gold_ids=["g"], **columns)
    rewards = REWARDS[name](group)
    assert rewards[0] <= rewards[1] + 1e-12
