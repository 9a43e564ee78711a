"""`budgets` and `stop_early` of a grpo stage: what is legal, and what is refused before anything runs."""

import pytest
from pydantic import ValidationError

from laconic.launch.estimate import row_tokens
from laconic.recipes.early_stop import stop_length
from laconic.recipes.grpo_budgets import PromptBudgets
from laconic.recipes.model_spec import ModelSpec
from laconic.recipes.source import load_recipe
from laconic.recipes.stages import GrpoStage
from laconic.rewards.errors import RecipeError

PRUNE = {"name": "think_prune", "length_limit": 300}
BOTH = [{"name": "l1_exact", "own_prompts": True}, {"name": "l1_max", "own_prompts": True}]
RECIPE = """
name: needs
problems: {source: world, size: 40, train: 16, test: 8}
model: {path: some/model}
search: {max_searches: 2}
stages:
  - {kind: grpo, rewards: [{name: think_prune}], KEY}
"""


def stage(**given):
    return GrpoStage.model_validate({"kind": "grpo", "rewards": [PRUNE], **given})


def test_a_stage_stops_beyond_the_largest_limit():
    rewards = [PRUNE, {"name": "soft_overlong", "max_length": 400.5, "cache": 10, "warmup": {"steps": 3}}]
    assert stop_length(stage(rewards=rewards, stop_early=True).rewards) == 401
    assert stop_length(stage(stop_early=True).rewards) == 301


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"rewards": [PRUNE, {"name": "accuracy"}]}, r"rewards\.1\n.*reward accuracy tells rollouts apart"),
        ({"rewards": [PRUNE | {"times_correct": True}]}, "think_prune: times_correct"),
        ({"trainer": {"mask_truncated_completions": True}}, "mask_truncated_completions\n.*ever told"),
        (
            {"rollouts": {"name": "early_exits", "cuts": [0.5], "cue": "</think>"}, "trainer": {"num_generations": 2}},
            "stop_early\n.*with rollouts",
        ),
        ({"advantages": {"name": "dler"}}, "advantages\n.*as often as it has tokens"),
        ({"dynamic_sampling": {"by": "correct"}}, r"dynamic_sampling\.by\n.*another verdict.*set by: reward"),
    ],
    ids=["accuracy", "times_correct", "masked", "rollouts", "dler", "by_correct"],
)
def test_stop_early_is_refused(given, words):
    assert stage(stop_early=True, advantages={"name": "rloo"}, dynamic_sampling={"by": "reward"})
    stage(**given)
    with pytest.raises(ValidationError, match=words):
        stage(stop_early=True, **given)


@pytest.mark.parametrize(
    ("budgets", "words"),
    [
        ({"low": 200, "high": 100}, r"budgets\.high\n.*low 200 and high 100"),
        ({"exact": " Think."}, r"budgets\.exact\n.*as \{budget\}"),
        ({"at_most": " Think.", "at_most_share": 0.5}, "at_most\n"),
        ({"low": 10, "schedule": [[0.0, 1, 2]]}, r"budgets\.low\n.*schedule says it"),
        ({"schedule": [[0.5, 1, 2], [0.5, 1, 3]]}, "schedule\n.*comes after the one before"),
        ({"schedule": [[0.0, 1, 2], [0.5, 4, 3]]}, r"schedule\.1\n.*low 4 and high 3"),
        ({"schedule": [[50, 1, 2]]}, "less than or equal to 1"),
        ({"draws": 0}, "draws"),
    ],
)
def test_budgets_are_refused(budgets, words):
    with pytest.raises(ValidationError, match=words):
        stage(budgets=budgets)


def test_with_prompts_of_both_kinds_each_reward_keeps_to_its_own():
    half = {"at_most_share": 0.5, "high": 400}
    assert stage(rewards=BOTH, budgets=half).budgets.at_most_share == 0.5
    assert stage(rewards=[{"name": "l1_max"}], budgets={"at_most_share": 1.0}).budgets.draws == 1
    with pytest.raises(ValidationError, match=r"rewards\.1\.own_prompts\n.*prompts of both kinds.*own_prompts: true"):
        stage(rewards=[BOTH[0], {"name": "l1_max"}], budgets=half)


def test_no_prompt_asks_for_exactly_more_than_a_rollout_can_have():
    limit = {"trainer": {"max_completion_length": 400}}
    assert stage(budgets={"high": 400}, **limit)
    # An upper bound beyond the limit is one that every rollout keeps to.
    assert stage(budgets={"high": 4000, "at_most_share": 1.0}, **limit)
    with pytest.raises(ValidationError, match=r"budgets\.high\n.*up to 401 tokens.*max_completion_length is 400"):
        stage(budgets={"high": 401}, **limit)
    with pytest.raises(ValidationError, match=r"budgets\.schedule\.1\n.*up to 500 tokens"):
        stage(budgets={"schedule": [[0.0, 1, 400], [1.0, 1, 500]]}, **limit)


def test_probabilities_after_another_prompt_are_refused():
    rewards = [PRUNE, {"name": "rational_metareasoning"}]
    stage(rewards=rewards)
    with pytest.raises(ValidationError, match=r"rewards\.1\n.*without its budget"):
        stage(rewards=rewards, budgets={})


def test_episodes_have_no_budgets(tmp_path):
    for key in ("budgets: {high: 200}", "stop_early: true"):
        path = tmp_path / "needs.yaml"
        path.write_text(RECIPE.replace("KEY", key))
        with pytest.raises(RecipeError, match=rf"stages\[0\]\.{key.partition(':')[0]}: episodes with searches"):
            load_recipe(str(path))


def test_a_symbolic_tokenizer_has_no_words_for_budgets(tmp_path):
    path = tmp_path / "small.yaml"
    problems = "problems: {source: reasoning_gym, families: [chain_sum], train: 16, test: 8}"
    asking = "stages: [{kind: grpo, rewards: [{name: l1_max}], budgets: {at_most_share: 1.0}}]"
    for tokenizer in ("bpe", "symbolic"):
        path.write_text(f"name: small\n{problems}\nmodel: {{scratch: {{tokenizer: {tokenizer}}}}}\n{asking}\n")
        if tokenizer == "bpe":
            load_recipe(str(path))
    with pytest.raises(RecipeError, match=r"stages\[0\]\.budgets: a symbolic vocabulary.*bpe"):
        load_recipe(str(path))


def test_a_plan_says_what_is_asked_and_where_rollouts_stop():
    schedule = [[0.0, 100, 200], [1.0, 10, 20]]
    assert PromptBudgets(schedule=schedule).in_words() == (
        '100% " Think for {budget} tokens."; 100 to 200, then 10 to 20'
    )
    model = ModelSpec(path="some/model")
    lengths = [
        row_tokens(stage(stop_early=stop, trainer={"max_completion_length": 400}), model) for stop in (False, True)
    ]
    assert lengths == [400, 301]


def test_a_stage_without_them_is_what_it_was():
    assert {"budgets", "stop_early"}.isdisjoint(stage().model_dump())
    planned = stage(budgets={"at_most_share": 0.5, "schedule": [[0, 30, 40], [0.5, 10, 20]]}, stop_early=True)
    assert GrpoStage.model_validate(planned.model_dump(mode="json")) == planned, "what a stage file holds"
