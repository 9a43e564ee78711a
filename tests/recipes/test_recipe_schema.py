from __future__ import annotations

import pytest

from laconic.inference.engine import Sampling
from laconic.recipes.schema import Recipe, json_schema
from laconic.recipes.source import load_recipe
from laconic.rewards.compose import RESERVED


def test_defaults_are_inherited_key_by_key_and_the_stage_wins(chain):
    recipe = load_recipe(chain)
    # Only what SFT's own config has: num_generations is GRPO's, packing is SFT's.
    assert recipe.stage("sft").trainer == {"learning_rate": 2e-3, "packing": False}
    assert recipe.stage("dpo").trainer == {"learning_rate": 1e-4}
    assert recipe.stage("grpo").trainer == {"learning_rate": 1e-4, "num_generations": 4}
    assert recipe.stage("pairs").sampling.build() == Sampling(temperature=1.0, max_tokens=64)
    assert recipe.stage("eval").sampling.build() == Sampling(temperature=0.7, max_tokens=64)
    assert (recipe.stage("pairs").samples, recipe.stage("eval").samples) == (8, 2)


def test_a_teacher_inherits_nothing_about_sampling(chain):
    teach = load_recipe(chain).stage("teach")
    assert teach.samples == 1
    assert teach.sampling.build() == Sampling()


def test_null_in_a_stage_undoes_a_default(edited):
    recipe = load_recipe(
        edited(("  samples: 2\n", "  samples: 2\n  lora: {r: 8}\n"), ("{kind: dpo}", "{kind: dpo, lora: null}"))
    )
    assert recipe.stage("sft").lora.r == 8
    assert recipe.stage("dpo").lora is None


def test_a_loaded_recipe_is_the_same_when_loaded_again(chain):
    recipe = load_recipe(chain)
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe


def test_name_defaults_to_kind_and_models_are_frozen(chain):
    recipe = load_recipe(chain)
    assert [stage.name for stage in recipe.stages] == ["teach", "sft", "pairs", "dpo", "grpo", "eval"]
    with pytest.raises(ValueError, match="frozen"):
        recipe.seed = 4


def test_a_reward_is_handed_on_with_all_its_keys(chain):
    written = "{name: hapo, shape: linear, gate: {kind: running_best}, schedule: {share: [[0, 1], [1, 0.5]]}}"
    recipe = load_recipe(chain, overrides=[f"grpo.rewards=[{written}]"])
    assert recipe.stage("grpo").rewards[0].entry == {
        "name": "hapo",
        "weight": 1.0,
        "shape": "linear",
        "gate": {"kind": "running_best"},
        "schedule": {"share": [[0, 1], [1, 0.5]]},
    }
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe


def test_rows_follow_keep(chain):
    recipe = load_recipe(chain)
    assert (recipe.stage("teach").rows, recipe.stage("pairs").rows) == ("sft", "preference")


def test_json_schema_lists_the_legal_trainer_keys_of_each_stage():
    definitions = json_schema()["$defs"]
    sft = definitions["SftStage"]["properties"]["trainer"]
    assert sft["properties"]["learning_rate"] == {"type": ["number"]}
    assert sft["additionalProperties"] is False
    assert "output_dir" not in sft["properties"]
    assert "num_generations" in definitions["GrpoStage"]["properties"]["trainer"]["properties"]
    assert "num_generations" not in sft["properties"]


def test_json_schema_knows_when_and_for_whom_a_reward_counts():
    reward = json_schema()["$defs"]["Reward"]
    assert set(reward["properties"]) == RESERVED
    assert reward["properties"]["warmup"]["properties"]["shape"] == {"enum": ["step", "linear"]}
    assert reward["properties"]["gate"]["anyOf"][0]["properties"] == {
        "kind": {"const": "running_best"},
        "tolerance": {"type": "number", "minimum": 0.0, "maximum": 1.0},
    }


def test_json_schema_knows_every_stage_kind():
    stages = json_schema()["properties"]["stages"]["items"]["discriminator"]["mapping"]
    assert sorted(stages) == ["dpo", "eval", "generate", "grpo", "sft"]
