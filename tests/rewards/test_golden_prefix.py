"""Rewards of methods that cut the thinking short, against the authors' own numbers."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from laconic.rewards import REWARDS, Batch, Group
from laconic.rewards.errors import DataError
from laconic.rewards.length.prefix import compression_bonus

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "length_rewards.json").read_text())


def cases(entry):
    return pytest.mark.parametrize("case", GOLDEN[entry], ids=[str(i) for i in range(len(GOLDEN[entry]))])


def close(rewards, expected, atol=1e-6):
    np.testing.assert_allclose(rewards, expected, atol=atol)


def lc_r1_group(rows):
    columns = {}
    if "original_think_len" in rows[0]:
        columns["prefix_length"] = [row["compressed_think_len"] or None for row in rows]
        columns["think_length"] = [row["original_think_len"] for row in rows]
    return Group.of(
        [row["accuracy"] == 1 for row in rows],
        [row["compressed_length"] for row in rows],
        well_formed=[row["format"] == 1 for row in rows],
        **columns,
    )


@cases("lc_r1_advantage")
def test_lc_r1_advantage(case):
    group = lc_r1_group(case["inputs"]["group"])
    rewards = REWARDS["lc_r1"](group, length_weight=case["params"]["len_penalty_coef"], as_released=True)
    close(rewards - rewards.mean(), case["expected"], atol=2e-6)


@cases("lc_r1_compress_bonus")
def test_lc_r1_compression_bonus(case):
    group, expected = lc_r1_group(case["inputs"]["group"]), case["expected"]
    rewards = REWARDS["lc_r1"](group, as_released=True)
    close(rewards - rewards.mean(), expected["sequence_advantage"], atol=2e-6)
    bonus = compression_bonus(group, as_released=True)
    close(bonus, expected["think_end_token_bonus"])
    weight = case["params"]["add_adv"]
    at_think_end = rewards - rewards.mean() + weight * bonus
    close(at_think_end, expected["advantage_at_think_end_token"], atol=2e-6)
    close(REWARDS["lc_r1"](group, as_released=True, bonus_weight=weight), rewards + weight * bonus)


def test_lc_r1_a_prefix_of_no_tokens_is_none_found():
    columns = {"think_length": [400, 400]}
    close(compression_bonus(Group.of([True, True], [9, 9], prefix_length=[0, None], **columns)), [-1.0, -1.0])


def test_lc_r1_of_the_paper_has_no_length_term_for_wrong_rollouts():
    group = Group.of([True, True, False, False], [100, 200, 800, 50], well_formed=[True, True, True, False])
    close(REWARDS["lc_r1"](group), [2.5, 2.0, 1.0, 0.0])
    close(REWARDS["lc_r1"](group, as_released=True), [2.5, 2.0, -2.0, 0.75], atol=1e-5)


def test_lc_r1_right_means_correct_in_the_paper_and_well_formed_too_as_released():
    group = Group.of([True, True], [200, 100], well_formed=[False, True])
    close(REWARDS["lc_r1"](group), [1.0, 2.5])
    # The longest right one is then the second; the first is wrong, and longer than it.
    close(REWARDS["lc_r1"](group, as_released=True), [0.0, 2.0], atol=1e-5)
    group = Group.of([True, True], [9, 9], well_formed=[False, True], prefix_length=[5, 5], think_length=[20, 20])
    close(compression_bonus(group), [0.75, 0.75], atol=1e-5)
    close(compression_bonus(group, as_released=True), [0.0, 0.75], atol=1e-5)


def test_lc_r1_asks_for_the_columns_of_a_bonus_that_is_wanted():
    group = Group.of([True], [100], think_length=[50])
    close(REWARDS["lc_r1"](group), [2.0])
    with pytest.raises(DataError, match="prefix_length"):
        REWARDS["lc_r1"](group, bonus_weight=1.0)


@cases("s_grpo_early_exit")
def test_s_grpo_early_exit(case):
    right = case["inputs"]["correct_in_order_short_to_long"]
    rewards = REWARDS["s_grpo_early_exit"](Group.of(right, np.arange(len(right)) + 1))
    close(rewards, case["expected"]["rewards"])
    close(rewards - rewards.mean(), case["expected"]["advantages"])


def test_s_grpo_early_exit_goes_by_length_not_by_place():
    group = Group.of([True, True, False, True, True], [90, 10, 5, 40, 40])
    assert REWARDS["s_grpo_early_exit"](group).tolist() == [0.125, 1.0, 0.0, 0.5, 0.5]


JET = [("scaled", case) for case in GOLDEN["jet"]] + [("linear", case) for case in GOLDEN["jet_linear"]]


@pytest.mark.parametrize("as_released", [False, True])
@pytest.mark.parametrize(("shape", "case"), JET, ids=[f"{shape}-{case['params']['case']}" for shape, case in JET])
def test_jet(shape, case, as_released):
    rows = case["inputs"]["batch"]
    group = Group.of([row["correct"] for row in rows], [row["length"] for row in rows])
    parameters = {key: value for key, value in case["params"].items() if key != "case"}
    close(REWARDS["jet"](group, shape=shape, as_released=as_released, **parameters), case["expected"])


def test_jet_compares_within_the_problem_and_as_released_within_the_batch():
    easy, hard = Group.of([True, True], [100, 200]), Group.of([True, False], [1100, 5])
    most, least = 1.0 + 1.2 * 0.95 + 0.05, 1.0 + 0.05
    close(REWARDS["jet"](Batch.of(easy, hard)), [most, least, least, 0.1])
    # Over the batch the right lengths go from 100 to 1100.
    close(REWARDS["jet"](Batch.of(easy, hard), as_released=True), [most, least + 0.9 * 1.2 * 0.95, least, 0.1])


def test_jet_at_equal_lengths():
    alike = Group.of([True, True, False], [70, 70, 70])
    close(REWARDS["jet"](alike), [1.05, 1.05, 0.1])
    close(REWARDS["jet"](alike, shape="linear"), [2.0, 2.0, 0.1])


def test_jet_takes_the_form_from_its_column():
    group = Group.of([True, False, False], [10, 10, 10], well_formed=[False, True, False])
    close(REWARDS["jet"](group), [0.95, 0.1, 0.0])


@cases("recut_step_reward")
def test_recut_step(case):
    inputs, params = case["inputs"], case["params"]
    texts = [text for text in inputs["texts"] if " + space + " not in text]
    expected = [value for text, value in zip(inputs["texts"], case["expected"], strict=True) if text in texts]
    assert len(texts) == 3
    group = Group.of([f"{{{inputs['answer']}}}" in text for text in texts], [1] * len(texts), text=texts)
    rewards = REWARDS["recut_step"](group, alpha=params["alpha"], beta=params["beta"])
    close(rewards, [math.nan if value is None else value for value in expected])


def test_recut_step_of_long_texts():
    # The golden file names two more texts by how they are made: n times "x", one space, and the box.
    texts = ["x" * 100 + " \\boxed{42}", "x" * 200 + " \\boxed{41}"]
    [case] = GOLDEN["recut_step_reward"]
    close(REWARDS["recut_step"](Group.of([True, False], [1, 1], text=texts)), [case["expected"][i] for i in (1, 3)])
