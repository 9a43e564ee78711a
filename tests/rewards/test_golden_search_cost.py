"""Rewards that make a search cost something: the authors' own numbers, and what must hold for any of them."""

import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laconic.rewards import REWARDS, Batch, Group, Progress
from laconic.rewards.search.minimum import Mash, exponential_penalty, linear_penalty, otc_penalty
from laconic.rewards.search.qa import exact_match, last_answer

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "search_rewards.json").read_text())
VARIANTS = {"exp": "exponential", "otc": "otc"}


def group_of(correct, searches, **columns):
    return Group.of(correct, [1] * len(correct), searches=searches, **columns)


@pytest.mark.parametrize("case", GOLDEN["otc_grpo_penalty"])
def test_otc_penalty(case):
    given_case = case["inputs"]
    ours = otc_penalty([given_case["searches"]], given_case["estimated_min"], case["params"]["max_searches"])
    np.testing.assert_allclose(ours, case["expected"], atol=1e-9)


@pytest.mark.parametrize("case", GOLDEN["mash_exponential_penalty"])
def test_exponential_penalty(case):
    given_case = case["inputs"]
    ours = exponential_penalty(
        given_case["searches"], given_case["estimated_min"], case["params"]["exponential_lambda"]
    )
    np.testing.assert_allclose(ours, case["expected"])


@pytest.mark.parametrize("case", GOLDEN["mash_linear_penalty"])
def test_linear_penalty(case):
    ours = linear_penalty(case["inputs"]["searches"], case["params"]["max_searches"])
    np.testing.assert_allclose(ours, case["expected"], atol=1e-9)


@pytest.mark.parametrize("case", GOLDEN["mash_group_reward"])
def test_mash_group(case):
    given_case, parameters = case["inputs"], case["params"]
    mash = Mash(
        variant=VARIANTS[parameters["retrieval_penalty_type"]],
        decay=parameters["exponential_lambda"],
        max_searches=parameters["max_searches"],
    )
    if given_case["historic_min"] is not None:
        mash.load_state_dict({"fewest": {"p": given_case["historic_min"]}})
    group = group_of(given_case["correctness"], given_case["num_searches"], problem_id="p")
    np.testing.assert_allclose(mash(Batch.of(group)), case["expected"]["rewards"], atol=1e-9)
    assert mash.state_dict() == {"fewest": {"p": case["expected"]["tracked_min_after"]}}


@pytest.mark.parametrize("case", GOLDEN["mash_combine_format"])
def test_mash_format(case):
    given_case, parameters = case["inputs"], case["params"]
    mash = Mash(
        format=parameters["format_combination_strategy"],
        format_weight=parameters["format_reward_coeff"],
        format_steps=parameters["formatting_reward_cutoff"],
    )
    # The authors number steps from 1, we count the steps done.
    progress = Progress(given_case["global_step"] - 1)
    group = group_of([given_case["em"]], [0], well_formed=[given_case["format"]], progress=progress)
    np.testing.assert_allclose(mash(Batch.of(group)), [case["expected"]])


def test_mash_adds_its_format():
    group = group_of([True, True, False, False], [1, 2, 0, 0], well_formed=[True, False, True, False])
    np.testing.assert_allclose(Mash(format="add")(Batch.of(group)), [1.1, 0.5, 0.1, 0.0])


def test_mash_reads_the_form_from_text():
    text = ["<think>a</think><answer>b</answer>", "<answer>b</answer>"]
    group = group_of([True, True], [0, 0], text=text)
    assert Mash(format="multiply")(Batch.of(group)).tolist() == [1.0, 0.0]
    assert Mash(format="multiply", form="relaxed")(Batch.of(group)).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("case", GOLDEN["ikea_knowledge_boundary"])
def test_ikea(case):
    response = case["inputs"]["response"]
    correct = exact_match(last_answer(response), case["inputs"]["golden_answers"]) == 1
    group = group_of([correct], [response.count("<information>")])
    np.testing.assert_allclose(REWARDS["ikea"](group), [case["expected"]])


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


def test_saas_duplicate_query_costs_a_wrong_answer_too():
    queries = [["a", "b"], ["a", "a"], ["a", "a"]]
    group = group_of([True, True, False], [2] * 3, answer=["Seine", "Seine", "Rhine"], golds=["Seine"], queries=queries)
    np.testing.assert_allclose(REWARDS["saas"](group), [1.0, 0.9, 0.0], atol=1e-12)


@pytest.mark.parametrize("case", GOLDEN["inforage_search_gain_and_efficiency"])
def test_inforage_gain_and_decay(case):
    given_case, expected = case["inputs"], case["expected"]
    asked = [turn[8:-9] for turn in given_case["turns"] if turn.startswith("<search>")]
    retrieved = [[given_case["retrieved_urls_per_query"][query] for query in asked]]
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


ROWS = st.lists(st.tuples(st.booleans(), st.integers(0, 8)), min_size=1, max_size=10)
MASH = st.builds(Mash, variant=st.sampled_from(["exponential", "linear", "otc"]), decay=st.floats(0.1, 1.0))


def group_from(rows):
    return group_of([row[0] for row in rows], [row[1] for row in rows], problem_id="p")


@settings(max_examples=150, deadline=None)
@given(mash=MASH, before=ROWS, rows=ROWS)
def test_mash_composes(mash, before, rows):
    """Right above wrong, searches never pay, the fewest cost nothing, all wrong gives no signal."""
    mash(Batch.of(group_from(before)))
    group = group_from(rows)
    rewards = mash(Batch.of(group))
    right, wrong = rewards[group.correct], rewards[~group.correct]
    assert (wrong == 0).all()
    order = np.argsort(group.searches[group.correct], kind="stable")
    assert (np.diff(right[order]) <= 1e-12).all()
    fewest = min([m for c, m in before + rows if c], default=None)
    if mash.variant == "linear":
        assert (right >= 0).all()
        return
    assert (right > 0).all()
    if fewest is not None:
        np.testing.assert_allclose(right[group.searches[group.correct] == fewest], 1.0)


@settings(max_examples=60, deadline=None)
@given(batches=st.lists(ROWS, min_size=2, max_size=6))
def test_mash_memory_never_rises_and_survives_resume(batches):
    steady, resumed, seen = Mash(), Mash(), []
    for rows in batches:
        batch = Batch.of(group_from(rows))
        rewards = steady(batch)
        fresh = Mash()
        fresh.load_state_dict(json.loads(json.dumps(resumed.state_dict())))
        np.testing.assert_array_equal(fresh(batch), rewards)
        resumed = fresh
        seen.append(steady.state_dict()["fewest"].get("p", math.inf))
    assert all(later <= earlier for earlier, later in pairwise(seen))
    assert seen[-1] == min([m for rows in batches for c, m in rows if c], default=math.inf)


def test_mash_is_blind_to_the_order_of_groups_and_to_problems_without_an_id():
    first, second = group_from([(True, 3), (False, 0)]), group_from([(True, 1), (True, 2)])
    one, other = Mash()(Batch.of(first, second)), Mash()(Batch.of(second, first))
    np.testing.assert_array_equal(one, np.concatenate([other[2:], other[:2]]))
    np.testing.assert_allclose(one, [0.25, 0.0, 1.0, 0.5])
    nameless = Mash()
    nameless(Batch.of(group_of([True], [0])))
    assert nameless(Batch.of(group_of([True, True], [1, 2]))).tolist() == [1.0, 0.5]
    assert nameless.state_dict() == {"fewest": {}}


@pytest.mark.parametrize("name", ["mash", "ikea"])
def test_searches_written_in_the_text_do_not_count(name):
    quiet = group_of([True, False], [1, 1], text=["<answer>a</answer>", "b"])
    loud = group_of([True, False], [1, 1], text=["<search>x</search>" * 9, "<search>y</search>"])
    np.testing.assert_array_equal(REWARDS[name](quiet), REWARDS[name](loud))


@pytest.mark.parametrize("name", ["search_r1", "mash", "ikea", "saas", "inforage"])
@given(searches=st.integers(1, 9))
def test_giving_up_never_beats_searching_in_vain(name, searches):
    columns = {"answer": ["Rhine", "Rhine"], "golds": ["Seine"], "retrieved": [[], [["x"]] * searches]}
    group = group_of([False, False], [0, searches], gold_ids=["g"], **columns)
    rewards = REWARDS[name](group)
    assert rewards[0] <= rewards[1] + 1e-12
