"""Entries of a recipe's `rewards:` list: what they mean, and what is refused."""

import numpy as np
import pytest

from laconic.rewards import REWARDS, Batch, Group, Progress
from laconic.rewards.compose import RESERVED, check_entry, compose, judge_of, weighted
from laconic.rewards.errors import RecipeError


def group(correct, length, step=0, total=100, task="math", problem_id="p"):
    return Group.of(correct, length, task=task, problem_id=problem_id, progress=Progress(step, total))


async def generous(row):
    return 10


JUDGED = next(name for name, item in REWARDS.items() if item.judged is not None)


def test_no_reward_has_a_reserved_parameter():
    clashes = {name: RESERVED & item.parameters.keys() for name, item in REWARDS.items()}
    assert {name: clash for name, clash in clashes.items() if clash} == {}


def test_without_wrappers_it_is_the_reward():
    given = group([True, True, False], [100, 300, 50])
    entry = {"name": "shorter_better", "weight": 3.0, "length_weight": 0.01}
    np.testing.assert_array_equal(compose(entry)(given), REWARDS["shorter_better"](given, length_weight=0.01))


def test_wrappers_go_round_in_the_documented_order():
    entry = {
        "name": "shorter_better",
        "times_correct": True,
        "gate": {"kind": "running_best", "tolerance": 0.0},
        "warmup": {"steps": 10},
        "schedule": {"share": [[0.0, 2.0], [1.0, 0.0]]},
        "tasks": ["math"],
    }
    scorer = compose(entry)
    # Another task is not seen by the gate; the warm-up hides the reward from the model, not from the gate.
    scorer(group([True, True], [1, 1], task="search"))
    assert scorer(group([True, False], [100, 50], step=5)).tolist() == [0.0, 0.0]
    assert scorer.state_dict() == {"best": 0.5, "inner": {}}
    # Half the weight left at step 50; the wrong rollout has 0 instead of a length penalty.
    assert scorer(group([True, False], [100, 50], step=50)).tolist() == [2.0, 0.0]
    assert scorer(group([False, False], [100, 50], step=60)).tolist() == [0.0, 0.0]
    assert np.isnan(scorer(group([True], [9], step=60, task="search"))).all()


@pytest.mark.parametrize(
    ("gate", "expected"),
    [
        ({"kind": "running_best"}, [[1, 0], [0, 0], [1, 1]]),
        ({"kind": "adaptive", "start": 0.5, "rate": 1.0, "target": 0.5}, [[0.5, 0], [0, 0], [0, 0]]),
        ({"kind": "top_share", "share": 1.0}, [[1, 0], [0, 0], [1, 1]]),
    ],
)
def test_gates_by_name(gate, expected):
    scorer = compose({"name": "accuracy", "gate": gate})
    given = [group(correct, [5, 5]) for correct in ([True, False], [False, False], [True, True])]
    assert [scorer(item).tolist() for item in given] == expected


def test_weighted_sum_of_entries():
    scorer = weighted([{"name": "accuracy"}, {"name": "kimi_length", "weight": 0.4, "warmup": {"steps": 1}}])
    given = [group([True, False], [100, 200], step=step) for step in (0, 1)]
    assert scorer(given[0]).tolist() == [1.0, 0.0]
    assert scorer(given[1]).tolist() == pytest.approx([1.2, -0.2])


def test_memory_of_an_entry_is_the_rewards():
    scorer, plain = compose({"name": "hapo", "warmup": {"share": 0.5}}), REWARDS["hapo"].build()
    for one in (scorer, plain):
        one(Batch.of(group([True, False], [100, 20])))
    assert scorer.state_dict() == plain.state_dict() != compose({"name": "hapo"}).state_dict()


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({}, ["name is None"]),
        ({"name": "shorter_beter"}, ["shorter_beter", "did you mean shorter_better?"]),
        ({"name": "shorter_better", "lenght_weight": 1}, ["'lenght_weight'", "did you mean length_weight?"]),
        ({"name": "shorter_better", "length_weight": -1}, ["length_weight is -1", "at least 0"]),
        ({"name": "accuracy", "warm_up": {"steps": 1}}, ["'warm_up'", "did you mean warmup?"]),
        ({"name": "accuracy", "weight": "2"}, ["weight is '2'", "number"]),
        ({"name": "accuracy", "weight": float("nan")}, ["weight is nan"]),
        ({"name": "accuracy", "times_correct": 1}, ["times_correct is 1", "true or false"]),
        ({"name": "accuracy", "tasks": "math"}, ["tasks is 'math'", "list"]),
        ({"name": "accuracy", "tasks": []}, ["tasks is []"]),
        ({"name": "accuracy", "warmup": 100}, ["warmup is 100", "{steps: 100}"]),
        ({"name": "accuracy", "warmup": {}}, ["exactly one of warmup.steps and warmup.share"]),
        ({"name": "accuracy", "warmup": {"steps": 5, "share": 0.1}}, ["exactly one of"]),
        ({"name": "accuracy", "warmup": {"steps": 0}}, ["warmup.steps is 0", "at least 1"]),
        ({"name": "accuracy", "warmup": {"share": 1.5}}, ["warmup.share is 1.5", "between 0 and 1"]),
        ({"name": "accuracy", "warmup": {"steps": 5, "shape": "cosine"}}, ["warmup.shape is 'cosine'", "step, linear"]),
        ({"name": "accuracy", "warmup": {"step": 5}}, ["exactly one of warmup.steps"]),
        ({"name": "accuracy", "warmup": {"steps": 5, "shap": "step"}}, ["'warmup.shap'", "did you mean warmup.shape?"]),
        ({"name": "accuracy", "schedule": {"share": [[0, 1], [2, 0]]}}, ["schedule.share is", "between 0 and 1"]),
        ({"name": "accuracy", "schedule": {"steps": [[5, 1], [5, 0]]}}, ["schedule.steps is", "increasing"]),
        ({"name": "accuracy", "schedule": {"steps": [[5, "1"]]}}, ["schedule.steps is", "[position, weight]"]),
        ({"name": "accuracy", "schedule": {"steps": []}}, ["schedule.steps is []"]),
        ({"name": "accuracy", "schedule": {"step": [[0, 1]]}}, ["did you mean schedule.steps?"]),
        ({"name": "accuracy", "gate": {"kind": "adaptiv"}}, ["gate.kind is 'adaptiv'", "did you mean adaptive?"]),
        ({"name": "accuracy", "gate": {"tolerance": 0.1}}, ["gate.kind is None", "running_best, adaptive, top_share"]),
        ({"name": "accuracy", "gate": {"kind": ["adaptive"]}}, ["gate.kind is ['adaptive']"]),
        ({"name": "accuracy", "gate": {"kind": "adaptive", "rat": 1}}, ["'gate.rat'", "did you mean gate.rate?"]),
        ({"name": "accuracy", "gate": {"kind": "top_share", "share": 2}}, ["gate.share is 2", "between 0 and 1"]),
        ({"name": "accuracy", "judge": "a:b"}, ["judge is 'a:b'", "asks no judge"]),
        ({"name": JUDGED}, ["needs a judge", "package.module:function"]),
        ({"name": JUDGED, "judge": "nowhere"}, ["judge is 'nowhere'", "package.module:function"]),
    ],
)
def test_mistakes_are_named_with_their_cure(entry, said):
    for use in (check_entry, compose, lambda item: weighted([item])):
        with pytest.raises(RecipeError) as caught:
            use(entry)
        for part in said:
            assert part in str(caught.value)


def test_a_check_does_not_import_the_judge():
    check_entry({"name": JUDGED, "judge": "no.such.module:judge"})
    with pytest.raises(RecipeError, match=r"no\.such\.module"):
        judge_of({"name": JUDGED, "judge": "no.such.module:judge"})


def test_judges_by_place_and_as_functions():
    assert judge_of({"name": "accuracy"}) is None
    assert judge_of({"name": JUDGED, "judge": generous}) == (generous, REWARDS[JUDGED].judged)
    found, judged = judge_of({"name": JUDGED, "judge": "asyncio:sleep"})
    assert found.__name__ == "sleep"
    assert judged is REWARDS[JUDGED].judged
