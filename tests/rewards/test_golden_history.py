"""Rewards with memory against the authors' own numbers and traces, and their state."""

import json
from pathlib import Path

import numpy as np
import pytest

from laconic.rewards import Batch, Group, build

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "length_rewards.json").read_text())


def cases(entry):
    return pytest.mark.parametrize("case", GOLDEN[entry], ids=[str(i) for i in range(len(GOLDEN[entry]))])


def group_of(rows, problem="p"):
    return Group.of([row["correct"] for row in rows], [row["length"] for row in rows], problem_id=problem)


def labelled(rows):
    """A group from the labels correct, wrong and format_error."""
    labels = [row["label"] for row in rows]
    return Group.of(
        [label == "correct" for label in labels],
        [row["length"] for row in rows],
        well_formed=[label != "format_error" for label in labels],
    )


def close(rewards, expected):
    np.testing.assert_allclose(rewards, expected, atol=1e-6)


def right(*lengths, problem="p"):
    return Group.of([True] * len(lengths), lengths, problem_id=problem)


@cases("hapo_length_term")
def test_hapo_length_term(case):
    params = case["params"]
    hapo = build(
        "hapo", {"shape": params["type_lr"], "tolerance": params["tolerance_ratio"], "length_weight": params["w_lr"]}
    )
    if case["inputs"]["history_len"] is not None:
        hapo(right(case["inputs"]["history_len"]))
    group = group_of(case["inputs"]["responses"])
    close(hapo(group) - group.correct, case["expected"])


@cases("hapo_sequence")
def test_hapo_sequence(case):
    hapo = build("hapo", {"mode": case["params"]["mode"], "length_weight": case["params"]["w_lr"]})
    for rows, step in zip(case["inputs"]["steps"], case["expected"], strict=True):
        before = hapo.state_dict()["history"]
        assert ([before["p"][0]] if before else [None]) == [step["history_before"]]
        close(hapo(group_of(rows)), step["rewards"])
        assert hapo.state_dict()["history"]["p"][0] == step["history_after"]


@pytest.mark.parametrize(
    ("correct", "length", "expected"),
    [
        # h = 1000; shorter is 1 - L/h, up to 1100 it is 0, then -(L - 1100) / 1000 down to the floor.
        (True, 400, 1.6),
        (True, 1000, 1.0),
        (True, 1099, 1.0),
        (True, 1400, 0.7),
        (True, 9000, 0.3),
        (False, 400, 0.0),
        (False, 1099, 0.0),
        (False, 1400, -0.3),
        (False, 9000, -1.0),
    ],
)
def test_hapo_linear_shape(correct, length, expected):
    hapo = build("hapo", {"shape": "linear"})
    hapo(right(1000))
    close(hapo(Group.of([correct], [length], problem_id="p")), [expected])


def test_hapo_mean_is_over_every_correct_rollout_there_was():
    hapo = build("hapo", {"mode": "mean"})
    lengths = []
    for batch in ([300], [100, 200], [900, 50, 50]):
        hapo(right(*batch))
        lengths += batch
        assert hapo.state_dict()["history"]["p"] == [pytest.approx(np.mean(lengths)), len(lengths)]
    hapo(Group.of([False], [1], problem_id="p"))
    assert hapo.state_dict()["history"]["p"][1] == len(lengths)


def test_hapo_keeps_problems_apart_and_scores_a_batch_before_it_remembers():
    hapo = build("hapo")
    # The same problem twice in one batch: neither group sees the other.
    close(hapo(Batch.of(right(100), right(1000), right(50, problem="other"))), [1.0, 1.0, 1.0])
    close(hapo(Batch.of(right(100), right(100, problem="other"))), [1.0, 0.3])


def test_hapo_does_not_mix_problems_without_an_id():
    hapo = build("hapo")
    hapo(Group.of([True], [10]))
    close(hapo(Group.of([True], [1000])), [1.0])
    assert hapo.state_dict() == {"history": {}}


@cases("short_rl")
def test_short_rl(case):
    params, expected = case["params"], case["expected"]
    short_rl = build(
        "short_rl",
        {
            "length_tolerance": params["length_tolerance"],
            "acc_tolerance": params["acc_tolerance"],
            "best_accuracy": case["inputs"]["max_acc_before"],
        },
    )
    close(short_rl(labelled(case["inputs"]["group"])), expected["rewards"])
    assert short_rl.state_dict() == {"best_accuracy": pytest.approx(expected["max_acc_after"])}


def test_short_rl_gate_closes_below_the_best_batch_and_opens_within_the_tolerance():
    short_rl = build("short_rl")
    all_right = right(100, 900)
    half_right = Group.of([True, True, False, False], [100, 900, 5, 5])
    most_right = Group.of([True] * 19 + [False], [100] * 18 + [900, 5])
    close(short_rl(all_right), [3.5, 2.5])
    close(short_rl(half_right), [3.0, 3.0, -0.5, -0.5])
    # 0.95 is exactly the tolerance below the best accuracy of 1.
    close(short_rl(most_right), [3.5] * 18 + [2.5, -0.5])


def test_short_rl_accuracy_is_that_of_the_whole_batch():
    short_rl = build("short_rl", {"best_accuracy": 0.6})
    bad = Group.of([False, False], [5, 5])
    close(short_rl(Batch.of(right(100, 900), bad)), [3.0, 3.0, -0.5, -0.5])


def test_short_rl_a_right_answer_in_the_wrong_form_is_not_right():
    rows = [{"label": "correct", "length": 200}, {"label": "correct", "length": 500}]
    group = labelled(rows)
    ill_formed = Group.of([True, *group.correct], [50, *group.length], well_formed=[False, True, True])
    close(build("short_rl")(ill_formed), [-3.0, *build("short_rl")(group)])


@cases("a_dlp")
def test_a_dlp(case):
    a_dlp = build("a_dlp", {"initial_lambda": case["params"]["lambda_len"]})
    close(a_dlp(group_of(case["inputs"]["batch"])), case["expected"])


@cases("a_dlp_lambda")
def test_a_dlp_lambda(case):
    params = case["params"]
    a_dlp = build(
        "a_dlp",
        {
            "initial_lambda": params["lambda_init"],
            "learning_rate": params["lr"],
            "reference_accuracy": params["acc_ref"],
        },
    )
    price = params["lambda_init"]
    for accuracy, after in zip(case["inputs"]["batch_accuracy_per_step"], case["expected"], strict=True):
        correct = np.arange(100) < round(100 * accuracy)
        # The step itself is still scored with the price before it.
        close(a_dlp(Group.of(correct, [10.0] * 100)), correct - 10 * price)
        price = a_dlp.state_dict()["lambda"]
        assert price == pytest.approx(after, abs=1e-9)


@pytest.mark.parametrize(
    ("name", "parameters"), [("hapo", {}), ("hapo", {"mode": "mean"}), ("short_rl", {}), ("a_dlp", {})]
)
def test_a_run_that_was_resumed_gives_the_same_rewards(name, parameters):
    rng = np.random.default_rng(3)
    batches = [
        Batch.of(*(Group.of(rng.random(4) < 0.5, rng.integers(1, 900, 4), problem_id=str(p)) for p in range(3)))
        for _ in range(6)
    ]
    whole = build(name, parameters)
    expected = [whole(batch) for batch in batches]
    first = build(name, parameters)
    for batch in batches[:3]:
        first(batch)
    resumed = build(name, parameters)
    resumed.load_state_dict(json.loads(json.dumps(first.state_dict())))
    # What the first run does after it was saved is no concern of the one that resumed.
    first(batches[5])
    for batch, rewards in zip(batches[3:], expected[3:], strict=True):
        np.testing.assert_array_equal(resumed(batch), rewards)
    assert resumed.state_dict() == whole.state_dict()
