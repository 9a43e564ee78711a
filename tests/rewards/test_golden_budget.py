"""Budget, limit and repetition rewards against the authors' own numbers, and at the edges those leave out."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from laconic.rewards import REWARDS, Group
from laconic.rewards.errors import DataError, RecipeError
from laconic.rewards.length.repetition import loop_start, repeated_share
from laconic.rewards.registry import build

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "length_rewards.json").read_text())


def cases(entry):
    return pytest.mark.parametrize("case", GOLDEN[entry], ids=[str(i) for i in range(len(GOLDEN[entry]))])


def group_of(rows, **columns):
    finished = [row.get("finished", True) for row in rows]
    return Group.of([row["correct"] for row in rows], [row["length"] for row in rows], finished, **columns)


def close(rewards, expected):
    np.testing.assert_allclose(rewards, expected, atol=1e-6)


def asked(case):
    """A group whose prompts asked for the case's length, marked as the authors mark it."""
    rows = case["inputs"]["responses"]
    return group_of(rows, budget=[case["inputs"]["num_tokens"]] * len(rows))


@cases("l1_exact")
def test_l1_exact(case):
    close(REWARDS["l1_exact"](asked(case), alpha=case["params"]["alpha"]), case["expected"])


@cases("l1_max")
def test_l1_max_as_released(case):
    close(REWARDS["l1_max"](asked(case), alpha=case["params"]["alpha"], as_released=True), case["expected"])


@cases("l1_max_sigmoid")
def test_l1_max_sigmoid(case):
    close(REWARDS["l1_max"](asked(case), alpha=case["params"]["alpha"], shape="sigmoid"), case["expected"])


@cases("l1_max_paper")
def test_l1_max_of_the_paper_with_the_budget_as_a_parameter(case):
    group = group_of(case["inputs"]["responses"])
    close(REWARDS["l1_max"](group, budget=case["inputs"]["budget"], **case["params"]), case["expected"])


def test_l1_max_added_is_correctness_plus_the_same_term():
    lengths = [100, 1000, 4000]
    right, wrong = Group.of([True] * 3, lengths), Group.of([False] * 3, lengths)
    for shape in ("linear", "sigmoid"):
        term = REWARDS["l1_max"](right, budget=1000, shape=shape)
        close(REWARDS["l1_max"](right, budget=1000, shape=shape, combine="add"), 1 + term)
        close(REWARDS["l1_max"](wrong, budget=1000, shape=shape, combine="add"), term)


def test_a_missing_budget_is_the_parameter_and_a_negative_one_its_absolute_value():
    group = Group.of([True] * 3, [700, 700, 700], budget=[None, -1000, 500])
    close(REWARDS["l1_exact"](group, budget=600, alpha=1e-3), [0.9, 0.7, 0.8])


@cases("thinkprune")
def test_think_prune(case):
    group = group_of(case["inputs"]["group"])
    close(REWARDS["think_prune"](group, length_limit=case["params"]["length_limit"]), case["expected"])


SOFT_OVERLONG = [
    (case["inputs"]["lengths"], case["params"].get(longest), case["params"].get(cache), case["expected"])
    for entry, longest, cache in (
        ("dapo_soft_overlong_trl", "max_completion_len", "soft_punish_cache"),
        ("dapo_overlong_verl", "max_resp_len", "buffer_len"),
    )
    for case in GOLDEN[entry]
]


@pytest.mark.parametrize(("lengths", "max_length", "cache", "expected"), SOFT_OVERLONG)
def test_soft_overlong(lengths, max_length, cache, expected):
    for correct in (True, False):
        group = Group.of([correct] * len(lengths), lengths)
        close(REWARDS["soft_overlong"](group, max_length=max_length, cache=cache), expected)


def test_soft_overlong_without_a_cache_is_a_step():
    group = Group.of([True] * 3, [99, 100, 101])
    assert REWARDS["soft_overlong"](group, max_length=100, cache=0).tolist() == [0, 0, -1]


COSINE_VALUES = ("min_value_wrong", "max_value_wrong", "min_value_correct", "max_value_correct")


def cosine_values(case):
    return {name: case["params"][name] for name in COSINE_VALUES} | {"max_length": case["params"]["max_len"]}


@cases("cosine_demystify")
def test_cosine(case):
    values = cosine_values(case) | {"exceed": case["params"]["exceed_length"]}
    close(REWARDS["cosine"](group_of(case["inputs"]["responses"]), **values), case["expected"])


def test_the_defaults_of_cosine_are_those_of_section_4_2():
    (case,) = [case for case in GOLDEN["cosine_demystify"] if case["params"]["preset"] == "section 4.2 script"]
    close(REWARDS["cosine"](group_of(case["inputs"]["responses"])), case["expected"])


@cases("cosine_trl")
def test_cosine_of_trl(case):
    group = group_of(case["inputs"]["responses"])
    close(REWARDS["cosine"](group, **cosine_values(case), exceed=None), case["expected"])


def test_cosine_penalises_repeated_words_of_wrong_answers_only():
    # Lower-cased, two of the five bigrams of the second text are repeats; the third has no bigram.
    group = Group.of([True, False, False], [100, 100, 100], text=["a A a a", "so A b a B a", "x"])
    plain = REWARDS["cosine"](group)
    penalised = REWARDS["cosine"](group, repetition_penalty=-2.0, repetition_ngram=2)
    close(penalised - plain, [0, -2.0 * (1 - 3 / 5), 0])
    with pytest.raises(DataError, match="text"):
        REWARDS["cosine"](Group.of([True], [1]), repetition_penalty=-1.0)


def test_cosine_finds_no_repetition_in_a_missing_text():
    group = Group.of([False, False], [100, 100], text=[None, "a a a"])
    plain = REWARDS["cosine"](group)
    penalised = REWARDS["cosine"](group, repetition_penalty=-3.0, repetition_ngram=1)
    close(penalised - plain, [0.0, -2.0])


@cases("dler")
def test_dler(case):
    rows = case["inputs"]["batch"]
    close(REWARDS["dler"](group_of(rows), as_released=True), case["expected"]["rewards"])
    of_the_paper = [float(row["correct"] and row["finished"]) for row in rows]
    close(REWARDS["dler"](group_of(rows)), of_the_paper)


@cases("laser")
def test_laser(case):
    rows, params = case["inputs"]["responses"], case["params"]
    group = Group.of(
        [row["label"] == "correct" for row in rows],
        [row["length"] for row in rows],
        well_formed=[row["label"] != "format_error" for row in rows],
    )
    shape, bonus = params["length_reward_type"], params["length_reward_scalar"]
    close(REWARDS["laser"](group, target_length=params["target_length"], bonus=bonus, shape=shape), case["expected"])


def test_laser_hybrid_rewards_what_fits_and_punishes_what_does_not():
    group = Group.of([True, True, False, True], [10, 11, 10, 10], well_formed=[True, True, True, False])
    assert REWARDS["laser"](group, target_length=10, shape="hybrid").tolist() == [1.5, 0.5, -0.5, -1.0]


@cases("repetition_trl")
def test_repetition(case):
    ids = case["inputs"]["completion_ids"]
    group = Group.of([True] * len(ids), [len(item) for item in ids], ids=ids)
    close(REWARDS["repetition"](group, **case["params"]), case["expected"])


def test_repetition_counts_by_hand():
    assert repeated_share([1, 2, 3], 4) == 0.0
    assert repeated_share([1, 2, 3], 3) == 0.0
    assert repeated_share([7] * 10, 3) == pytest.approx(7 / 8)
    assert repeated_share([1, 2, 3, 1, 2, 3], 3) == pytest.approx(1 / 4)
    assert repeated_share([1, 1, 2], 1) == pytest.approx(1 / 3)


# What the golden file describes by the expression that built it.
CONSTRUCTIONS = {
    "list(range(100,400))+[5,6,7,8]*50": [*range(100, 400), *[5, 6, 7, 8] * 50],
    "list(range(600))": list(range(600)),
}


@cases("laser_de_repetition_detector")
def test_loop_start(case):
    assert loop_start(CONSTRUCTIONS[case["inputs"]["construction"]]) == case["expected"]["python_list"]


@pytest.mark.parametrize(
    ("ids", "start"),
    [
        ([1, 2] * 4, 8),  # too short to tell
        ([1, 2] * 5, 6),  # twice the bigram (1, 2), two apart
        ([*range(20), 1, 2], 22),  # a bigram again, but far away
        ([9] * 300, 291),  # one token over and over: no 4-gram counts, but 8-grams do
        ([*range(250), *range(8), *range(500, 600)], 0),  # an 8-gram again, far away
        ([*range(250), *range(7), *range(500, 600)], 357),  # only a 7-gram
        ([*range(300), 1, 2, 3, 4, *range(600, 610), 1, 2, 3, 4], 1),  # thrice a 4-gram, twice close together
    ],
)
def test_loop_start_by_hand(ids, start):
    assert loop_start(ids) == start


@pytest.mark.parametrize(
    ("name", "parameters", "said"),
    [
        ("l1_max", {"shape": "exact"}, "shape"),
        ("soft_overlong", {"max_length": 0}, "max_length"),
        ("repetition", {"max_penalty": 0.5}, "max_penalty"),
        ("laser", {"target": 4096}, "target_length"),
        ("cosine", {"exceed": math.inf}, "exceed"),
    ],
)
def test_wrong_parameters_are_refused(name, parameters, said):
    with pytest.raises(RecipeError, match=said):
        build(name, parameters)
