"""Pay-per-search: the authors' own numbers, what must hold for any of them, and its memory."""

import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laconic.rewards import Batch, Group, Progress
from laconic.rewards.errors import DataError
from laconic.rewards.search.minimum import Mash, exponential_penalty, linear_penalty, otc_penalty

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


def test_mash_pays_for_form_in_exactly_the_authors_first_five_steps():
    def paid(step):
        group = group_of([False], [0], well_formed=[True], progress=Progress(step))
        return Mash(format="multiply")(Batch.of(group)).tolist()

    assert [paid(step) for step in range(7)] == [[0.1]] * 5 + [[0.0]] * 2


@pytest.mark.parametrize("variant", ["exponential", "exp", "otc", "otc_strict"])
def test_mash_multiply_asks_only_answers_that_earn_how_many_searches_are_needed(variant):
    group = group_of([True, True], [0, 2], well_formed=[False, True], problem_id="p", progress=Progress(10))
    multiply = Mash(variant=variant, format="multiply")
    assert multiply(Batch.of(group)).tolist() == [0.0, 1.0]
    assert multiply.state_dict() == {"fewest": {"p": 2.0}}
    # In the other ways a malformed right answer earns something, and counts.
    for other in ("none", "add"):
        mash = Mash(variant=variant, format=other)
        mash(Batch.of(group))
        assert mash.state_dict() == {"fewest": {"p": 0.0}}


def test_mash_multiply_with_no_answer_that_earns_leaves_the_memory():
    mash = Mash(format="multiply")
    group = group_of([True, False], [0, 0], well_formed=[False, True], problem_id="p", progress=Progress(10))
    assert mash(Batch.of(group)).tolist() == [0.0, 0.0]
    assert mash.state_dict() == {"fewest": {}}


def test_mash_knows_exponential_by_the_authors_name_too():
    group = group_of([True] * 3, [1, 2, 4])
    assert Mash(variant="exp", decay=0.8)(Batch.of(group)).tolist() == Mash(decay=0.8)(Batch.of(group)).tolist()


def test_mash_refuses_unknown_searches_of_a_right_rollout_before_it_remembers_anything():
    good = group_of([True], [1], problem_id="good")
    bad = group_of([True, True], [None, 2], problem_id="bad")
    mash = Mash()
    with pytest.raises(DataError, match="'bad' has null for 'searches'"):
        mash(Batch.of(good, bad))
    assert mash.state_dict() == {"fewest": {}}


@pytest.mark.parametrize("variant", ["exponential", "linear", "otc", "otc_strict"])
def test_mash_gives_wrong_rollouts_nothing_whatever_their_searches(variant):
    group = group_of([True, False, False], [1, None, 0], problem_id="p")
    mash = Mash(variant=variant)
    rewards = mash(Batch.of(group))
    assert rewards[0] > 0
    assert rewards[1:].tolist() == [0.0, 0.0]
    assert mash.state_dict() == {"fewest": {"p": 1.0}}


def test_mash_memory_goes_by_problem_id_alone():
    mash = Mash()
    mash(Batch.of(group_of([True], [0], problem_id="p", task="nq")))
    assert mash(Batch.of(group_of([True], [1], problem_id="p", task="hotpot"))).tolist() == [0.5]


def test_mash_adds_its_format():
    group = group_of([True, True, False, False], [1, 2, 0, 0], well_formed=[True, False, True, False])
    np.testing.assert_allclose(Mash(format="add")(Batch.of(group)), [1.1, 0.5, 0.1, 0.0])


def test_mash_reads_the_form_from_text():
    text = ["<think>a</think><answer>b</answer>", "<answer>b</answer>"]
    group = group_of([True, True], [0, 0], text=text)
    assert Mash(format="multiply")(Batch.of(group)).tolist() == [1.0, 0.0]
    assert Mash(format="multiply", form="relaxed")(Batch.of(group)).tolist() == [1.0, 1.0]


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
