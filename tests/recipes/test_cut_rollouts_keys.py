"""`rollouts: {name: early_exits}` and `{name: budgets}`: what fits a group, and what is refused with the cure."""

import pytest
from pydantic import ValidationError

from laconic.recipes.grpo_rollouts import Budgets, EarlyExits
from laconic.recipes.stages import GrpoStage

CUE = "That will do.</think>"


def stage(rollouts, size, limit=100, *, trainer=None, **further):
    settings = {"num_generations": size, "max_completion_length": limit} | (trainer or {})
    given = {"kind": "grpo", "rewards": [{"name": "accuracy"}], "rollouts": rollouts, "trainer": settings}
    return GrpoStage.model_validate(given | further)


def mistakes(*given, **further):
    with pytest.raises(ValidationError) as raised:
        stage(*given, **further)
    return {".".join(map(str, error["loc"])): error["msg"] for error in raised.value.errors()}


def exits(**given):
    return {"name": "early_exits", "cue": CUE} | given


def budgets(**given):
    return {"name": "budgets", "budgets": [20, 40]} | given


@pytest.mark.parametrize(
    ("rollouts", "size", "each"),
    [
        (exits(cuts="random"), 9, 8),
        (exits(cuts="random", free=3), 9, 2),
        (exits(cuts=[0.25, 0.5, 0.75], free=3), 12, 3),
        (exits(cuts=[0.1, 0.3, 0.5, 0.7, 0.9], free=2), 12, 5),
    ],
)
def test_a_group_is_free_rollouts_and_their_exits(rollouts, size, each):
    found = stage(rollouts, size)
    assert found.rollouts.exits(size) == each
    assert GrpoStage.model_validate(found.model_dump(mode="json")) == found


def test_a_chain_of_thought_is_as_many_rollouts_as_it_has_answers():
    found = stage(budgets(answers=3, answer_tokens=5), 12)
    assert found.rollouts.rows == 6
    assert GrpoStage.model_validate(found.model_dump(mode="json")) == found
    priors = {prior: Budgets(**budgets(prior=prior)).weights for prior in ("uniform", "linear", "base")}
    assert priors == {"uniform": (1 / 2, 1 / 2), "linear": (1 / 3, 2 / 3), "base": (0.0, 1.0)}


@pytest.mark.parametrize(
    ("rollouts", "size", "further", "place", "message"),
    [
        (
            exits(cuts=[0.5], free=2),
            6,
            {},
            "trainer.num_generations",
            "found 6; free rollouts: 2, cuts of each: 1, together 4",
        ),
        (exits(cuts="random", free=4), 6, {}, "trainer.num_generations", "together 8; set it to that"),
        (exits(cuts="random", answer_tokens=100), 4, {}, "rollouts.answer_tokens", "max_completion_length 100"),
        (exits(cuts=[0.5, 0.25]), 3, {}, "rollouts.early_exits.cuts", "ascending: [0.25, 0.5]"),
        (
            exits(cuts="random", cue="Stop."),
            4,
            {},
            "rollouts.early_exits.cue",
            "does not end the thinking; put </think>",
        ),
        (
            budgets(),
            12,
            {},
            "trainer.num_generations",
            "is 8 rollouts (2 budgets with 4 answers each), so set it to 8 or 16",
        ),
        (budgets(), 8, {}, "trainer.max_completion_length", "thinking takes 40 and an answer 118 tokens"),
        (budgets(budgets=[4, 4]), 8, {}, "rollouts.budgets.budgets", "list every budget once, ascending: [4]"),
        (budgets(answer_tokens=9), 8, {"advantages": {"name": "rloo"}}, "advantages", "bring their own (BRPO's)"),
        (budgets(answer_tokens=9), 8, {"fast": False}, "rollouts", "set fast: true"),
        (exits(cuts="random"), 4, {"budgets": {}}, "budgets", "{name: early_exits} end where that says"),
    ],
)
def test_what_does_not_fit_is_named_with_its_cure(rollouts, size, further, place, message):
    found = mistakes(rollouts, size, **further)
    assert message in found.get(place, ""), found


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("importance_sampling_level", "sequence", "one ratio per rollout, and rollouts: {name: budgets} sets thinking"),
        ("scale_rewards", "none", "rollouts: {name: budgets} has its own scale; leave it out"),
        ("multi_objective_aggregation", "normalize_then_sum", "takes the weighted sum of rewards; leave it out"),
        ("loss_type", "vespo", "weighs whole rollouts, and rollouts: {name: budgets} sets thinking and answers apart"),
        ("top_entropy_quantile", 0.2, "found 0.2; one threshold over all tokens would choose between the thinking"),
        ("mask_truncated_completions", True, "the thinking of all answers with it, which is in the loss once"),
    ],
)
def test_what_would_undo_brpo_is_refused(key, value, message):
    found = mistakes(budgets(answer_tokens=9), 8, trainer={key: value})
    assert found.keys() == {f"trainer.{key}"}
    assert message in found[f"trainer.{key}"]
    assert stage(exits(cuts="random"), 4, trainer={key: value})


@pytest.mark.parametrize(("rollouts", "size"), [(exits(cuts="random"), 4), (budgets(answer_tokens=9), 8)])
def test_of_cut_rollouts_no_probabilities_are_measured(rollouts, size):
    found = mistakes(rollouts, size, rewards=[{"name": "accuracy"}, {"name": "rational_metareasoning"}])
    assert found.keys() == {"rewards.1"}
    assert f"of rollouts: {{name: {rollouts['name']}}} no probabilities are measured" in found["rewards.1"]


def test_one_chain_of_thought_is_not_drawn_again():
    assert (
        "set it to 16 or leave this out"
        in mistakes(budgets(answer_tokens=9), 8, dynamic_sampling={})["dynamic_sampling"]
    )
    assert stage(budgets(answer_tokens=9), 16, dynamic_sampling={})


def test_cuts_are_shares():
    for cuts in ([0.0, 0.5], [1.5], []):
        with pytest.raises(ValidationError):
            EarlyExits(**exits(cuts=cuts))
