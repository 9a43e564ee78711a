"""Wrappers against closed forms, and against the authors' numbers where a wrapper is a paper's rule."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from laconic.rewards import REWARDS, Batch, Group, Progress
from laconic.rewards.errors import DataError
from laconic.rewards.schedule import (
    AdaptiveWeight,
    ForTasks,
    RunningBestGate,
    Schedule,
    TimesCorrect,
    TopShare,
    Warmup,
    WeightedSum,
)

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "length_rewards.json").read_text())


class Remembers:
    """A reward of 1, 2, 3, ... by call, and NaN for unfinished rollouts."""

    def __init__(self):
        self.calls = 0

    def __call__(self, given):
        self.calls += 1
        return np.where(given.finished, float(self.calls), np.nan)

    def state_dict(self):
        return {"calls": self.calls}

    def load_state_dict(self, state):
        self.calls = state["calls"]


def batch(*accuracies, step=0, total=None, size=4):
    progress = Progress(step=step, total=total)
    correct = [[i < accuracy * size for i in range(size)] for accuracy in accuracies]
    groups = [Group.of(row, [10.0] * size, problem_id=str(i), progress=progress) for i, row in enumerate(correct)]
    return Batch(tuple(groups))


def test_times_correct_keeps_abstentions():
    group = Group.of([True, False, True], [1, 2, 3], [True, True, False])
    np.testing.assert_array_equal(TimesCorrect(Remembers())(group), [1.0, 0.0, np.nan])


@pytest.mark.parametrize(("step", "expected"), [(0, 0.0), (99, 0.0), (100, 1.0), (101, 1.0)])
def test_warm_up_in_one_step(step, expected):
    assert Warmup(REWARDS["accuracy"].build(), steps=100)(batch(1.0, step=step)).tolist() == [expected] * 4


@pytest.mark.parametrize(("step", "expected"), [(0, 0.0), (5, 0.25), (10, 0.5), (20, 1.0), (90, 1.0)])
def test_linear_warm_up_over_a_share_of_training(step, expected):
    warm = Warmup(REWARDS["accuracy"].build(), share=0.2, shape="linear")
    assert warm(batch(1.0, step=step, total=100))[0] == pytest.approx(expected)


def test_a_share_of_a_training_of_unknown_length_is_refused():
    with pytest.raises(DataError, match="how many steps"):
        Warmup(REWARDS["accuracy"].build(), share=0.2)(batch(1.0, step=3))


def test_memory_grows_during_the_warm_up():
    warm = Warmup(Remembers(), steps=2)
    assert [warm(batch(1.0, step=step))[0] for step in range(4)] == [0.0, 0.0, 3.0, 4.0]


@pytest.mark.parametrize(("step", "expected"), [(0, 1.0), (10, 1.0), (20, 0.75), (50, 0.0), (70, 2.0), (99, 2.0)])
def test_schedule_is_piecewise_linear(step, expected):
    schedule = Schedule(REWARDS["accuracy"].build(), share=[[0.1, 1.0], [0.5, 0.0], [0.7, 2.0]])
    assert schedule(batch(1.0, step=step, total=100))[0] == pytest.approx(expected)


def test_schedule_in_steps():
    schedule = Schedule(REWARDS["accuracy"].build(), steps=[[0, 0.0], [100, 1.0]])
    assert schedule(batch(1.0, step=25))[0] == 0.25


def test_running_best_gate():
    gate = RunningBestGate(REWARDS["accuracy"].build(), tolerance=0.25)
    # Accuracy 0.5 is the best; 0.25 is within tolerance; 1.0 is a new best; 0.5 then is not, 0.75 is.
    assert [gate(batch(accuracy)).sum() for accuracy in (0.5, 0.25, 1.0, 0.5, 0.75)] == [2, 1, 4, 0, 3]
    assert gate.state_dict() == {"best": 1.0, "inner": {}}


@pytest.mark.parametrize("case", [case for case in GOLDEN["short_rl"] if "max_acc_after" in case["expected"]])
def test_running_best_is_the_authors(case):
    gate = RunningBestGate(REWARDS["accuracy"].build(), tolerance=case["params"]["acc_tolerance"])
    gate.best = case["inputs"]["max_acc_before"]
    labels = [row["label"] for row in case["inputs"]["group"]]
    well_formed = [label != "format_error" for label in labels]
    gate(Group.of([label == "correct" for label in labels], [1] * len(labels), well_formed=well_formed))
    assert gate.best == pytest.approx(case["expected"]["max_acc_after"])


def test_running_best_gate_counts_a_malformed_answer_as_wrong():
    gate = RunningBestGate(REWARDS["accuracy"].build(), tolerance=0.25)
    gate(Group.of([True] * 4, [10] * 4, well_formed=[True, True, False, False]))
    assert gate.best == 0.5
    # All correct, one well formed: 0.25 is the tolerance below the best; with none it is closed.
    for well_formed, total in (([True, False, False, False], 4), ([False] * 4, 0)):
        assert gate(Group.of([True] * 4, [10] * 4, well_formed=well_formed)).sum() == total


@pytest.mark.parametrize("case", GOLDEN["a_dlp_lambda"])
def test_adaptive_weight_is_the_authors(case):
    params, accuracies = case["params"], case["inputs"]["batch_accuracy_per_step"]
    adaptive = AdaptiveWeight(Remembers(), start=params["lambda_init"], rate=params["lr"], target=params["acc_ref"])
    before = [params["lambda_init"], *case["expected"][:-1]]
    for call, (accuracy, weight, after) in enumerate(zip(accuracies, before, case["expected"], strict=True), start=1):
        assert adaptive(batch(accuracy, size=100))[0] == pytest.approx(call * weight)
        assert adaptive.state_dict()["weight"] == pytest.approx(after)


@pytest.mark.parametrize("case", GOLDEN["grpo_lambda"])
def test_top_share_chooses_the_groups_of_grpo_lambda(case):
    groups = case["inputs"]["groups"].values()
    given = Batch(tuple(Group.of([r["correct"] for r in rows], [r["length"] for r in rows]) for rows in groups))
    alpha, share = case["params"]["alpha"], case["params"]["lambda"]
    shaped = REWARDS["efficient_reasoning"].build({"alpha": alpha})
    chosen = TopShare(shaped, share=share)
    mask = chosen.factor(given)
    expected = np.concatenate(list(case["expected"].values()))
    np.testing.assert_allclose(chosen(given) + (1 - mask) * given.correct, expected, atol=1e-9)


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.01, 1), (0.55, 11), (0.56, 12), (1.0, 20)])
def test_top_share_rounds_up_exact_shares_excepted(share, count):
    top = TopShare(REWARDS["accuracy"].build(), share=share)
    assert top.factor(batch(*[1.0] * 20)).tolist() == [1.0] * 4 * count + [0.0] * 4 * (20 - count)


def test_a_reward_for_tasks_sees_only_those():
    def group(task, correct):
        return Group.of(correct, [1] * len(correct), task=task)

    given = Batch.of(group("math", [True, False]), group("search", [False] * 3), group("math", [True]))
    gate = RunningBestGate(REWARDS["accuracy"].build())
    rewards = ForTasks(gate, ["math"])(given)
    np.testing.assert_array_equal(rewards, [1.0, 0.0, np.nan, np.nan, np.nan, 1.0])
    assert gate.best == pytest.approx(2 / 3)


def test_a_batch_without_the_task_leaves_the_memory_alone():
    weight = AdaptiveWeight(REWARDS["accuracy"].build(), start=1.0, rate=1.0)
    assert np.isnan(ForTasks(weight, ["math"])(batch(0.0))).all()
    assert ForTasks(weight, ["math"])(Batch(())).shape == (0,)
    assert weight(Batch(())).shape == (0,)
    assert weight.weight == 1.0


def test_weighted_sum_ignores_abstentions_unless_all_abstain():
    group = Group.of([True, False], [10, 20], [True, False], task="math")
    total = WeightedSum(
        [(2.0, REWARDS["accuracy"].build()), (0.5, Remembers()), (1.0, ForTasks(Remembers(), ["search"]))]
    )
    assert total(group).tolist() == [2.5, 0.0]
    only = WeightedSum([(0.5, Remembers()), (1.0, ForTasks(Remembers(), ["search"]))])
    np.testing.assert_array_equal(only(group), [0.5, np.nan])


def test_states_nest_and_restore():
    def build():
        gated = RunningBestGate(AdaptiveWeight(Remembers(), start=1.0, rate=0.5, target=0.5), tolerance=0.5)
        return WeightedSum([(1.0, Warmup(gated, steps=1)), (1.0, REWARDS["accuracy"].build())])

    given = [batch(accuracy, step=step) for step, accuracy in enumerate((0.5, 1.0, 0.75, 0.25, 1.0))]
    one = build()
    expected = [one(item).tolist() for item in given]
    first, second = build(), build()
    for item in given[:3]:
        first(item)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert [second(item).tolist() for item in given[3:]] == expected[3:]
    assert second.state_dict() == one.state_dict()
    assert not math.isclose(build()(given[3])[0], expected[3][0])


def test_without_memory_the_state_is_empty():
    plain = REWARDS["accuracy"].build()
    total = WeightedSum([(1.0, Warmup(plain, steps=1)), (1.0, TopShare(ForTasks(plain, ["math"])))])
    assert total.state_dict() == {}
    total.load_state_dict({})
