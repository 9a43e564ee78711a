"""`policies:` of an eval stage: checked when a recipe is read, without torch; stages without any stay as they were."""

import re
import subprocess
import sys

import pytest
from pydantic import ValidationError

from laconic.inference.engine import Capability
from laconic.inference.engines.transformers import ABILITIES, SIGNALS
from laconic.inference.policies import POLICIES
from laconic.recipes.resolve import StageFile
from laconic.recipes.schema import Recipe, json_schema
from laconic.recipes.source import load_recipe
from laconic.recipes.stages import EvalStage
from laconic.rewards.errors import RecipeError

GOOD = "{name: short_mk, k: 3, m: 1, label: short, models: [sft, grpo]}"


def with_policies(chain, *policies, scorer=None):
    sets = [f"eval.policies=[{', '.join(policies)}]"]
    return load_recipe(chain, overrides=[*sets, *([f"eval.scorer={scorer}"] if scorer else [])])


def test_a_policy_is_read_with_its_parameters(chain):
    recipe = with_policies(chain, GOOD, "{name: self_consistency}")
    first, second = recipe.stage("eval").policies
    assert (first.choice.name, first.choice.parameters, first.choice.label) == ("short_mk", {"k": 3, "m": 1}, "short")
    assert first.models == ("sft", "grpo")
    assert (second.choice.label, second.models) == ("self_consistency", None)
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe


@pytest.mark.parametrize(
    ("policies", "scorer", "message"),
    [
        (["{name: short_km}"], None, r"unknown policy 'short_km'.*short_mk"),
        (["{name: short_mk, kk: 3}"], None, r"unknown parameter 'kk'.*did you mean k"),
        (["{name: short_mk, k: 1, m: 3}"], None, r"m=3 of k=1"),
        (["{name: best_of_n}"], None, r"scorer: policy best_of_n needs a scorer"),
        (["{name: best_of_n}"], "stpes", r"unknown scorer 'stpes'"),
        ([GOOD, "{name: first_finish, label: short}"], None, r"policies\[1\].label: 'short' is taken"),
        (["{name: short_mk, label: none}"], None, r"'none' is taken"),
        (["{name: short_mk, models: [stf]}"], None, r"policies\[0\].models\[0\]: 'stf'.*did you mean sft"),
    ],
    ids=["name", "parameter", "value", "no scorer", "scorer", "label", "none", "model"],
)
def test_mistakes_are_named_with_their_place(chain, policies, scorer, message):
    with pytest.raises(RecipeError) as raised:
        with_policies(chain, *policies, scorer=scorer)
    assert re.search(message, str(raised.value), re.DOTALL), str(raised.value)
    assert "eval" in str(raised.value) or ".yaml" in str(raised.value) or "--set" in str(raised.value)


def test_the_engine_of_eval_stages_can_do_what_any_policy_needs():
    of_the_model = {Capability.STEERING, Capability.KV_EDIT}
    needed = set().union(*(registered.requires for registered in POLICIES.values()))
    assert needed <= ABILITIES | SIGNALS | of_the_model


def test_stages_without_policies_are_what_they_were(planned, tmp_path):
    stage = planned().stage("eval")
    assert not {"policies", "scorer", "prices"} & set(stage.config.model_dump(mode="json"))
    assert planned(f"eval.policies=[{GOOD}]").stage("eval").hash != stage.hash
    assert planned("eval.policies=[]", "eval.scorer=null").stage("eval").hash == stage.hash


def test_a_stage_file_brings_the_policies_back(planned, tmp_path):
    stage = planned(f"eval.policies=[{GOOD}]", "eval.scorer=steps", "eval.prices={prompt: 0.5, generated: 2}").stage(
        "eval"
    )
    file = tmp_path / "stage.yaml"
    file.write_text(stage.to_yaml())
    assert StageFile.from_yaml(file).config == stage.config


def test_the_schema_names_the_policies():
    entry = json_schema()["$defs"]["PolicyEntry"]
    assert "short_mk" in entry["properties"]["name"]["enum"]
    assert entry["additionalProperties"] is True


def test_a_recipe_with_policies_is_planned_without_torch(chain):
    script = (
        "import sys\nfrom laconic.recipes.source import load_recipe\n"
        f"load_recipe({str(chain)!r}, overrides=['eval.policies=[{GOOD}]', 'eval.scorer=steps'])\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_policy_may_ask_only_models_of_its_stage():
    entry = {"name": "confidence_cascade", "engines": ["sft", "grpo"]}
    given = {"kind": "eval", "policies": [entry]}
    assert EvalStage(**given, models=["sft", "grpo"]).policies[0].choice.parameters["engines"] == ["sft", "grpo"]
    with pytest.raises(ValidationError, match="asks grpo, no model of this stage"):
        EvalStage(**given, models=["sft", "dpo"])
