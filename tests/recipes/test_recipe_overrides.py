from __future__ import annotations

import pytest

from laconic.recipes.source import load_recipe
from laconic.rewards.errors import RecipeError


def test_values_are_read_as_yaml(chain):
    recipe = load_recipe(
        chain,
        overrides=["sft.trainer.learning_rate=1e-6", "grpo.rewards[0].alpha=0.4", "eval.models=[sft, grpo]", "seed=9"],
    )
    assert recipe.stage("sft").trainer["learning_rate"] == 1e-6
    assert recipe.stage("grpo").rewards[0].entry["alpha"] == 0.4
    assert recipe.stage("eval").models == ("sft", "grpo")
    assert recipe.seed == 9


@pytest.mark.parametrize("key", ["grpo.rewards.0.weight", "stages.4.rewards.0.weight", "stages[4].rewards[0].weight"])
def test_a_list_item_is_named_by_position(chain, key):
    assert load_recipe(chain, overrides=[f"{key}=2.0"]).stage("grpo").rewards[0].weight == 2.0


def test_mappings_on_the_way_are_made(chain):
    recipe = load_recipe(chain, overrides=["dpo.lora.r=4", "problems.options.chain_sum.min_terms=3"])
    assert recipe.stage("dpo").lora.r == 4
    assert recipe.problems.options["chain_sum"] == {"max_terms": 4, "min_terms": 3}


def test_the_model_is_replaced_as_a_whole(chain):
    recipe = load_recipe(chain, overrides=["model={path: org/model}"])
    assert (recipe.model.path, recipe.model.scratch) == ("org/model", None)


def test_the_last_override_wins(chain):
    assert load_recipe(chain, overrides=["seed=1", "seed=2"]).seed == 2


def test_stage_names_with_dots(edited):
    file = edited(("kind: dpo}", "kind: dpo, name: dpo.long}"))
    recipe = load_recipe(file, overrides=["dpo.long.trainer.beta=0.3"])
    assert recipe.stage("dpo.long").trainer["beta"] == 0.3


def test_overlay_changes_values_and_the_name(chain):
    recipe = load_recipe(chain, overlays=["tiny"])
    assert recipe.name == "chain-tiny"
    assert recipe.problems.train == 64
    assert recipe.stage("sft").trainer["max_steps"] == 2
    assert recipe.stage("grpo").rewards[0].entry["alpha"] == 0.5


def test_overrides_come_after_overlays(chain):
    recipe = load_recipe(chain, overlays=["tiny"], overrides=["sft.trainer.max_steps=7", "name=mine"])
    assert recipe.stage("sft").trainer["max_steps"] == 7
    assert recipe.name == "mine"


def test_an_alias_is_not_changed_with_its_twin(edited):
    file = edited(
        ("    trainer:\n      learning_rate: 2e-3", "    trainer: &same {learning_rate: 2e-3}"),
        ("{kind: dpo}", "{kind: dpo, trainer: *same}"),
    )
    recipe = load_recipe(file, overrides=["dpo.trainer.learning_rate=1e-7"])
    assert recipe.stage("sft").trainer["learning_rate"] == 2e-3
    assert recipe.stage("dpo").trainer["learning_rate"] == 1e-7


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("grp.samples=1", "--set grp.samples=1: 'grp' is neither a stage nor a top-level key; did you mean grpo?"),
        (
            "sft.trainer.max_step=1",
            "--set sft.trainer.max_step=1: stages[1].trainer.max_step: unknown key; did you mean max_steps?",
        ),
        (
            "sft.trainr.max_steps=1",
            "--set sft.trainr.max_steps=1: stages[1].trainr: unknown key; did you mean trainer?",
        ),
        ("grpo.rewards[3].alpha=1", "is a list of 1 (from 0), so 3 is no place in it"),
        ("grpo.rewards.alpha=1", "is a list of 1 (from 0), so 'alpha' is no place in it"),
        ("seed.x=1", "--set seed.x=1: seed is 3, which holds no keys"),
        ("seed=high", "--set seed=high: seed: found 'high'; expected a whole number"),
        ("seed", "--set seed: not of the form key=value"),
        ("=1", "--set =1: not of the form key=value"),
        ("eval.models=[sft", "--set eval.models=[sft: not YAML"),
    ],
)
def test_a_wrong_override_is_named_itself(chain, override, message):
    with pytest.raises(RecipeError) as caught:
        load_recipe(chain, overrides=[override])
    assert message in str(caught.value)


def test_a_wrong_overlay_key_names_line_and_overlay(edited):
    file = edited(("problems.train: 64", "problem.train: 64"))
    with pytest.raises(RecipeError, match=r"edited\.yaml:20 \(overlay tiny\): 'problem' is neither .* problems\?"):
        load_recipe(file, overlays=["tiny"])


def test_a_wrong_overlay_value_names_line_and_overlay(edited):
    file = edited(("problems.train: 64", "problems.train: many"))
    with pytest.raises(RecipeError, match=r"edited\.yaml:20 \(overlay tiny\): problems\.train: found 'many'"):
        load_recipe(file, overlays=["tiny"])


def test_unknown_overlay(chain):
    with pytest.raises(RecipeError, match="no overlay is named 'tinny'; did you mean tiny"):
        load_recipe(chain, overlays=["tinny"])
