"""Scores that choose and weigh samples, against the authors' own numbers and against their definitions."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest

from laconic.rewards import REWARDS, Batch, Group, check
from laconic.rewards.errors import DataError, RecipeError
from laconic.rewards.length.offline import standardised

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "length_rewards.json").read_text())


def cases(entry):
    return pytest.mark.parametrize("case", GOLDEN[entry], ids=[str(i) for i in range(len(GOLDEN[entry]))])


def group_of(rows):
    return Group.of([row["correct"] for row in rows], [row["length"] for row in rows])


def close(rewards, expected, atol=1e-6):
    np.testing.assert_allclose(rewards, expected, atol=atol)


@cases("gfpo")
def test_gfpo(case):
    inputs, params = case["inputs"], case["params"]
    group = Group.of(np.array(inputs["rewards"]) > 0, inputs["lengths"])
    rewards = REWARDS["gfpo"](group, k=params["k"], metric=params["metric"])
    kept = ~np.isnan(rewards)
    assert np.flatnonzero(kept).tolist() == case["expected"]["kept_indices"]
    close(rewards[kept], np.array(inputs["rewards"])[kept])
    # What a trainer does with rows that have no reward: left out of the statistics, advantage 0.
    centred = rewards - np.nanmean(rewards)
    advantages = np.where(kept, centred / (np.nanstd(rewards, ddof=1) + params["eps"]), 0.0)
    close(advantages, case["expected"]["advantages"], atol=1e-5)


def test_gfpo_ties_go_to_the_shorter_and_equal_rollouts_stay_together():
    efficient = {"k": 3, "metric": "token_efficiency"}
    # Two right; the wrong are all worth 0 per token, and the shortest of them fills up.
    one = REWARDS["gfpo"](Group.of([True, False, True, False, False], [500, 30, 900, 10, 20]), **efficient)
    np.testing.assert_array_equal(one, [1.0, np.nan, 1.0, 0.0, np.nan])
    equal = REWARDS["gfpo"](Group.of([True, False, False, True], [50, 50, 60, 50]), k=2)
    np.testing.assert_array_equal(equal, [1.0, 0.0, np.nan, 1.0])


def test_gfpo_keeps_a_small_group_whole():
    group = Group.of([True, False, True], [1, 2, 3])
    assert REWARDS["gfpo"](group).tolist() == [1.0, 0.0, 1.0]


@cases("dast")
def test_dast(case):
    group = group_of(case["inputs"]["group"])
    close(REWARDS["dast"](group, max_length=case["params"]["L_max"]), case["expected"])


def test_dast_bounds_keep_right_and_wrong_apart():
    far = Group.of([True, True, False, False], [1, 40000, 1, 40000])
    rewards = REWARDS["dast"](far, max_length=40000)
    # The budget is 0.5 * 20000.5 + 0.5 * 40000.
    budget = 30000.25
    close(
        rewards, [0.5 - 0.5 * (1 - budget) / budget, 0.5 - 0.5 * (40000 - budget) / budget, -1.0 + 0.9 / budget, -0.1]
    )
    assert REWARDS["dast"](Group.of([True, True, True], [1, 1, 100]))[2] == pytest.approx(0.1)


@cases("o1_pruner")
def test_o1_pruner(case):
    params, expected = case["params"], case["expected"]
    batch = Batch.of(*map(group_of, case["inputs"]["problems"]))
    limits = {key: params[key] for key in ("alpha", "lower", "upper")}
    weights = batch.split(REWARDS["o1_pruner"](batch, **limits))
    picked = np.concatenate([problem[case["inputs"]["picked_indices"]] for problem in weights])
    close(picked, expected["clipped_weights"])
    close([picked.mean(), picked.std()], [expected["dataset_mean"], expected["dataset_std"]])
    close(standardised(picked), expected["final_weights"])
    assert case["inputs"]["picked_indices"] == [0, 1]
    final = np.array(batch.split(REWARDS["o1_pruner"](batch, standardise=True, used=2, **limits)))
    close(final[:, :2].ravel(), expected["final_weights"])
    assert np.isnan(final[:, 2:]).all()


def test_o1_pruner_uses_what_there_is_and_the_rest_still_counts_in_the_means():
    batch = Batch.of(Group.of([True], [100]), Group.of([True, False, False], [100, 300, 200]))
    plain = REWARDS["o1_pruner"](batch)
    some = REWARDS["o1_pruner"](batch, used=2)
    np.testing.assert_array_equal(some, [*plain[:3], np.nan])


def test_o1_pruner_refuses_limits_that_are_swapped():
    with pytest.raises(RecipeError, match="lower 4 is above upper -2"):
        check("o1_pruner", {"lower": 4.0, "upper": -2.0})


def test_o1_pruner_of_the_paper_is_neither_clipped_nor_standardised():
    group = Group.of([False, False, True, True], [50, 1000, 500, 500])
    close(REWARDS["o1_pruner"](group), [512.5 / 50 - 2, 512.5 / 1000 - 2, 512.5 / 500, 512.5 / 500])


def test_o1_pruner_standardises_over_the_batch():
    batch = Batch.of(Group.of([True, False], [100, 300]), Group.of([False, False], [10, 500]))
    plain = REWARDS["o1_pruner"](batch, lower=-2.0, upper=4.0)
    weights = REWARDS["o1_pruner"](batch, lower=-2.0, upper=4.0, standardise=True)
    close([weights.mean(), weights.std()], [0.0, 1.0])
    close(np.corrcoef(plain, weights)[0, 1], 1.0)
    assert REWARDS["o1_pruner"](Group.of([True, True], [7, 7]), standardise=True).tolist() == [0.0, 0.0]


@cases("rational_metareasoning")
def test_rational_metareasoning(case):
    inputs, params = case["inputs"], case["params"]
    thoughts = inputs["thought_tokens"]
    group = Group.of(
        [True] * len(thoughts),
        [tokens + 20 for tokens in thoughts],
        think_length=thoughts,
        answer_prob=inputs["answer_probs"],
    )
    rewards = REWARDS["rational_metareasoning"](group, gamma=params["gamma"], epsilon=params["epsilon"])
    close(rewards, case["expected"], atol=1e-5)


def test_rational_metareasoning_direct_answers_may_be_several_or_marked_by_their_mode():
    columns = {"think_length": [100, 4, 4], "mode": ["think", "no_think", "no_think"]}
    group = Group.of([True, True, False], [120, 20, 20], answer_prob=[0.8, 0.1, 0.3], **columns)
    close(
        REWARDS["rational_metareasoning"](group, gamma=0.1, epsilon=1e-12),
        [math.log(0.8 / 0.2) - 0.1 * math.log(101), math.log(0.5), math.log(1.5)],
    )


def test_rational_metareasoning_reads_modes_by_any_of_their_names():
    probabilities, reward = [0.8, 0.1, 0.3], REWARDS["rational_metareasoning"]
    columns = {"think_length": [100, 4, 4], "answer_prob": probabilities}
    verdicts = [True, True, False]
    expected = reward(Group.of(verdicts, [120, 20, 20], mode=["think", "no_think", "no_think"], **columns))
    for word in ("short", "direct", "No-Think"):
        close(reward(Group.of(verdicts, [120, 20, 20], mode=[None, word, word], **columns)), expected)
    with pytest.raises(DataError, match="quick"):
        reward(Group.of(verdicts, [120, 20, 20], mode=["think", "quick", "quick"], **columns))


def test_rational_metareasoning_from_verdicts():
    reward = REWARDS["rational_metareasoning"]
    think = [99, 99, 0, 0]
    group = Group.of([True, False, True, False], [120] * 4, think_length=think)
    cost = 0.1 * math.log(100)
    close(reward(group, epsilon=0.01), np.log(np.array([1.01, 0.01, 1.01, 0.01]) / 0.51) - [cost, cost, 0, 0])
    # No direct answer: three of four are right over the whole group.
    group = Group.of([True, False, True, True], [120] * 4, think_length=[99] * 4)
    close(reward(group, epsilon=0.01), np.log(np.array([1.01, 0.01, 1.01, 1.01]) / 0.76) - cost)


def test_rational_metareasoning_abstains_where_the_probability_is_unknown():
    group = Group.of([True] * 3, [50] * 3, think_length=[10, 10, 0], answer_prob=[0.6, None, 0.3])
    rewards = REWARDS["rational_metareasoning"](group)
    assert np.isnan(rewards).tolist() == [False, True, False]
    assert rewards[2] == 0.0
    unknown = Group.of([True], [50], think_length=[10], answer_prob=[None])
    assert np.isnan(REWARDS["rational_metareasoning"](unknown)).all()


@pytest.mark.parametrize(("size", "n"), [(1, 1), (3, 1), (4, 2), (5, 4), (6, 6)])
@pytest.mark.parametrize("wrong", [0.05, 0.5, 0.9])
def test_bon_aware_estimates_the_gradient_of_best_of_n_without_bias(size, n, wrong):
    """Over all groups that a policy with one parameter, its share of right rollouts, can draw."""
    estimate = 0.0
    for verdicts in itertools.product([True, False], repeat=size):
        correct = np.array(verdicts)
        probability = np.prod(np.where(correct, 1 - wrong, wrong))
        # d log pi / d (share right) of a right and of a wrong rollout.
        score = np.where(correct, 1 / (1 - wrong), -1 / wrong)
        rewards = REWARDS["bon_aware"](Group.of(correct, [5] * size), n=n)
        estimate += probability * (rewards * score).mean()
    # d/ds of 1 - (1 - s)^n.
    assert estimate == pytest.approx(n * wrong ** (n - 1))


def test_bon_aware_beyond_the_size_of_the_group_uses_the_siblings_share():
    group = Group.of([True, True, False, False, False], [5] * 5)
    close(REWARDS["bon_aware"](group, n=8), [8 * 0.75**7] * 2 + [0.0] * 3)
    assert REWARDS["bon_aware"](Group.of([True], [5]), n=8).tolist() == [8.0]


def test_bon_aware_of_one_sample_is_accuracy():
    assert REWARDS["bon_aware"](Group.of([True, True, False], [5] * 3), n=1).tolist() == [1.0, 1.0, 0.0]


def test_self_rewarded_efficiency_measures_by_the_shortest_right_rollout():
    group = Group.of([True, True, True, False], [200, 400, 200, 100])
    rewards = REWARDS["self_rewarded_efficiency"](group, brevity_weight=0.4)
    close(rewards, [1.4, 1.2, 1.4, 0.0])
    assert REWARDS["self_rewarded_efficiency"](Group.of([False, False], [1, 2])).tolist() == [0.0, 0.0]
