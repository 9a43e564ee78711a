"""Rewards that follow difficulty against the authors' own numbers, and at the edges those leave out."""

import json
from pathlib import Path

import numpy as np
import pytest

from laconic.rewards import REWARDS, Batch, Group, check
from laconic.rewards.errors import DataError, RecipeError
from laconic.rewards.length.laser import LaserD, LaserDe, choose_targets

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "length_rewards.json").read_text())


def cases(entry):
    return pytest.mark.parametrize("case", GOLDEN[entry], ids=[str(i) for i in range(len(GOLDEN[entry]))])


def group_of(rows, **columns):
    return Group.of([row["correct"] for row in rows], [row["length"] for row in rows], **columns)


def close(rewards, expected, atol=1e-6):
    np.testing.assert_allclose(rewards, expected, atol=atol)


@cases("alp")
def test_alp(case):
    rewards = REWARDS["alp"](group_of(case["inputs"]["group"]), beta_over_n=case["params"]["beta_over_N"])
    close(rewards, case["expected"])


@cases("dr_saf")
def test_dr_saf(case):
    rows = case["inputs"]["group"]
    group = group_of(rows, label=[row["label"] for row in rows])
    close(REWARDS["dr_saf"](group), case["expected"]["rewards"])
    if not any(row["label"] for row in rows):
        close(REWARDS["dr_saf"](group_of(rows)), case["expected"]["rewards"])


def test_dr_saf_pays_for_labels_by_the_groups_accuracy():
    labels = ["easy", "CFRB", "hard", "PFRB", "Easy", None]
    bonus = [0.03, 0.03, 0.01, 0.01, 0.03, 0]
    easy = Group.of([True] * 6, [1, 2, 3, 4, 5, 6], label=labels)
    close(REWARDS["dr_saf"](easy), np.add([1.05, 1.05, 1.05, 1, 1, 1], bonus))
    medium = Group.of([True] * 3 + [False] * 3, [1, 2, 3, 4, 5, 6], label=labels)
    close(REWARDS["dr_saf"](medium), np.add([1, 1, 1, 0, 0, 0], [0.01, 0.01, 0.03, 0.03, 0.01, 0]))


def test_dr_saf_refuses_a_word_that_is_no_label():
    with pytest.raises(DataError, match=r"unsure.*\n.*easy, hard or null"):
        REWARDS["dr_saf"](Group.of([True, True], [1, 2], label=["easy", "unsure"]))


@pytest.mark.parametrize(("size", "easy"), [(20, False), (21, True)])
def test_dr_saf_needs_more_than_twenty_rollouts_for_an_easy_problem_with_a_wrong_one(size, easy):
    group = Group.of([True] * (size - 1) + [False], [10] * size)
    assert REWARDS["dr_saf"](group)[0] == (1.05 if easy else 1.0)


def test_dr_saf_takes_the_median_of_all_when_none_is_correct():
    close(REWARDS["dr_saf"](Group.of([False] * 4, [1, 2, 3, 4])), [0, 0, 0.05, 0.05])
    close(REWARDS["dr_saf"](Group.of([False], [9])), [0.05])


@cases("grpo_lambda")
def test_grpo_lambda(case):
    groups = case["inputs"]["groups"]
    batch = Batch.of(*map(group_of, groups.values()))
    rewards = REWARDS["grpo_lambda"](batch, top_share=case["params"]["lambda"], alpha=case["params"]["alpha"])
    close(rewards, np.concatenate([case["expected"][name] for name in groups]))


def test_grpo_lambda_takes_the_share_of_groups_rounded_up():
    groups = [Group.of([True] * right + [False] * (4 - right), [10, 20, 30, 40]) for right in (1, 4, 2, 0, 3)]
    for share, penalised in ((0.0, []), (0.1, [1]), (0.4, [1, 4]), (0.41, [1, 2, 4]), (1.0, [0, 1, 2, 4])):
        batch = Batch.of(*groups)
        rewards = batch.split(REWARDS["grpo_lambda"](batch, top_share=share))
        touched = [
            i for i, (group, got) in enumerate(zip(groups, rewards, strict=True)) if (got != group.correct).any()
        ]
        assert touched == penalised
    many = Batch.of(*[Group.of([True], [10])] * 100)
    assert (REWARDS["grpo_lambda"](many, top_share=0.07) < 1).sum() == 7


def test_grpo_lambda_with_nothing_to_reward():
    assert REWARDS["grpo_lambda"](Batch.of()).shape == (0,)
    assert REWARDS["grpo_lambda"](Group.of([False, False], [10, 20])).tolist() == [0, 0]


def targets_of(case, **more):
    given, params = case["inputs"], case["params"]
    rules = {"expected_correct": params["expected_n_correct"], "rounding": params["round_method"]}
    return choose_targets(given["thresholds"], given["coverage"], params["n_rollout"], **rules, **more)


@cases("laser_d_choose_target")
def test_choose_targets(case):
    assert targets_of(case, longest=case["inputs"]["max_response_length_in_batch"]) == case["expected"]


def test_choose_targets_knows_the_middle_difficulty_by_two_names():
    shares = {"low": [0.1, 1.0], "high": [0.2, 0.9]}
    chosen = [choose_targets([1024, 2048], shares | {name: [0.3, 0.5]}) for name in ("med", "medium")]
    assert chosen == [{"low": 2048, "medium": 2048, "high": 1024}] * 2


def test_choose_targets_when_nothing_is_covered_enough():
    coverage = {"low": [0.0, 0.9], "medium": [0.1, 0.3], "high": [0.0, 0.15]}
    chosen = choose_targets([1024, 2048], coverage, longest=9000)
    assert chosen == {"low": 9000, "medium": 9000, "high": 9000}
    # 6 of 8 for high: 0.17 * 6 is one right answer, and with 5 it is not.
    enough = {"low": [1.0], "medium": [1.0], "high": [0.17]}
    assert choose_targets([1024], enough, rounding="ceil")["high"] == 1024
    assert choose_targets([1024], enough, rounding="floor")["high"] == np.inf


@pytest.mark.parametrize(("n", "floor", "ceil"), [(8, (2, 5), (3, 6)), (9, (3, 6), (3, 6)), (16, (5, 10), (6, 11))])
def test_smallest_number_of_right_answers_by_group_size(n, floor, ceil):
    for rounding, fewest in (("floor", floor), ("ceil", ceil)):
        for band, right in zip(("medium", "high"), fewest, strict=True):
            for share, chosen in ((1 / right + 1e-9, 1024), (1 / right - 1e-6, np.inf)):
                coverage = {"low": [1.0], "medium": [0.0], "high": [0.0]} | {band: [share]}
                assert choose_targets([1024], coverage, n, rounding=rounding)[band] == chosen


def labelled(rows, **columns):
    return Group.of(
        [row["label"] == "correct" for row in rows],
        [row["length"] for row in rows],
        well_formed=[row["label"] != "format_error" for row in rows],
        **columns,
    )


LASERS = [(name, case) for name in ("laser_d", "laser_de") for case in GOLDEN[name]]


@pytest.mark.parametrize(("name", "case"), LASERS)
def test_laser_d_and_de(name, case):
    rows, bonus = case["inputs"]["responses"], case["params"]["length_reward_scalar"]
    prompts = list(dict.fromkeys(row["prompt"] for row in rows))
    batch = Batch.of(*(labelled([row for row in rows if row["prompt"] == prompt]) for prompt in prompts))
    targets = targets_of(case, longest=max(row["length"] for row in rows))
    assert targets == case["expected"]["target_lengths"]
    fixed = {f"target_{band}": target for band, target in targets.items()}
    close(REWARDS[name](batch, bonus=bonus, **fixed), case["expected"]["rewards"])


# One problem solved 8 of 8 times, one 4 of 8, one never.
LENGTHS = [1000, 1100, 2100, 2200, 3100, 3200, 4100, 9000]
EASY = Group.of([True] * 8, LENGTHS)
MEDIUM = Group.of([True, False] * 4, LENGTHS)
HARD = Group.of([False] * 8, LENGTHS)
SMALL_TARGETS = {"shortest_target": 1024, "longest_target": 16384}


def test_laser_d_chooses_targets_from_the_first_batch_and_then_every_refresh():
    scorer = LaserD(**SMALL_TARGETS, refresh_steps=2)
    batch = Batch.of(EASY, MEDIUM)
    no_targets = np.where(batch.correct, 1.5, -0.5)
    np.testing.assert_array_equal(scorer(batch), no_targets)
    # 1, 2, 4, 6 of 8 are within 1024, 2048, 3072, 4096 tokens. High wants one in six, medium one in three.
    targets = np.repeat([2048, 3072], 8)
    expected = no_targets - 0.5 * (batch.correct & (batch.length > targets))
    np.testing.assert_array_equal(scorer(batch), expected)
    # The second batch after the choice is the last before the next; from then on it is these two that count.
    longer = Batch.of(Group.of([True] * 8, [6000] * 7 + [7000]))
    assert scorer(longer).tolist() == [1.0] * 8
    # Now 1, 2, 4, 6 of 16 rollouts of solved problems are within those lengths: one in six is reached at 3072.
    assert scorer(Batch.of(EASY)).tolist() == [1.5] * 4 + [1.0] * 4


@pytest.mark.parametrize(("as_released", "rewards"), [(False, [1.5, 1.0]), (True, [1.5, 1.5])])
def test_laser_d_as_released_asks_for_more_coverage(as_released, rewards):
    scorer = LaserD(**SMALL_TARGETS, as_released=as_released)
    # 3 of 16 are within 2048 tokens, which is more than one in six and less than one in five.
    solved = [True] * 8
    scorer(Batch.of(Group.of(solved, [1500] + [5000] * 7), Group.of(solved, [1500] * 2 + [5000] * 6)))
    assert scorer(Batch.of(Group.of(solved, [2000, 2500] * 4))).tolist() == rewards * 4


def test_observe_puts_the_targets_of_a_monitor_set_in_force():
    scorer = LaserD(**SMALL_TARGETS)
    scorer.observe(Batch.of(Group.of([True] * 8, [900] * 8)))
    assert scorer(Batch.of(EASY)).tolist() == [1.5] + [1.0] * 7


def test_a_malformed_right_answer_counts_as_wrong_for_difficulty():
    group = Group.of([True, True, True], [10, 10, 10], well_formed=[True, False, True])
    solved_less = Group.of([True, True, True], [10, 10, 10], well_formed=[True, False, False])
    fixed = {"target_high": 100, "target_medium": 5, "target_low": 100}
    assert LaserD(**fixed)(Batch.of(group)).tolist() == [1.5, -1.0, 1.5]
    assert LaserD(**fixed)(Batch.of(solved_less)).tolist() == [1.0, -1.0, -1.0]


def test_laser_de_does_not_pay_for_loops():
    loop, ramble = [*range(100, 400), *[5, 6, 7, 8] * 50], list(range(500))
    group = Group.of([False] * 4, [500, 500, 10, 500], ids=[loop, ramble, loop, loop], well_formed=[True] * 3 + [False])
    assert LaserDe(target_low=100)(Batch.of(group)).tolist() == [-0.5, 0.0, -0.5, -1.0]
    assert LaserDe(target_low=100, as_released=True)(Batch.of(group)).tolist() == [0.0, 0.0, -0.5, -1.0]


def test_laser_de_without_targets_pays_no_wrong_answer():
    assert LaserDe()(Batch.of(HARD)).tolist() == [-0.5] * 8


@pytest.mark.parametrize("kind", [LaserD, LaserDe])
@pytest.mark.parametrize("seen", range(4))
def test_state_survives_json_at_every_step(kind, seen):
    batches = [Batch.of(EASY, MEDIUM), Batch.of(HARD), Batch.of(MEDIUM), Batch.of(EASY, HARD), Batch.of(MEDIUM, EASY)]
    whole, before, after = (kind(**SMALL_TARGETS, refresh_steps=2) for _ in range(3))
    wanted = [whole(batch).tolist() for batch in batches]
    got = [before(batch).tolist() for batch in batches[:seen]]
    after.load_state_dict(json.loads(json.dumps(before.state_dict())))
    got += [after(batch).tolist() for batch in batches[seen:]]
    assert got == wanted
    assert after.state_dict() == whole.state_dict()


def test_candidates_must_not_be_upside_down():
    with pytest.raises(RecipeError, match="shortest_target 20000 is above longest_target 16384"):
        check("laser_d", {"shortest_target": 20000})
