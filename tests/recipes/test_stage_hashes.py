from __future__ import annotations

import pytest
import yaml

from laconic.recipes.resolve import StageFile, fingerprint, resolve
from laconic.recipes.source import load_recipe
from laconic.rewards.errors import DataError, ModelError, RecipeError

NAMES = ["init", "teach", "sft", "pairs", "dpo", "grpo", "eval"]


def hashes(plan):
    return {stage.name: stage.hash for stage in plan.stages}


def changed(before, after):
    return {name for name, value in hashes(before).items() if hashes(after).get(name) != value}


def test_the_chain_is_linked_by_folder_names(planned):
    plan = planned()
    assert [stage.name for stage in plan.stages] == NAMES
    folders = {stage.name: stage.folder for stage in plan.stages}
    assert folders["init"].startswith("00-init-")
    assert folders["sft"].startswith("02-sft-")
    assert plan.stage("sft").inputs == {"model": folders["init"], "data": folders["teach"]}
    assert plan.stage("dpo").inputs == {"model": folders["sft"], "data": folders["pairs"]}
    assert plan.stage("eval").inputs == {f"model:{name}": folders[name] for name in ("sft", "dpo", "grpo")}
    assert plan.stage("teach").inputs == {}


def test_references_that_were_left_out_are_filled_in(planned):
    plan = planned()
    assert plan.stage("grpo").config.model == "dpo"
    assert plan.stage("eval").config.models == ("sft", "dpo", "grpo")
    assert plan.stage("eval").config.baseline == "sft"


def test_resolving_twice_gives_the_same_hashes(planned):
    assert hashes(planned()) == hashes(planned())


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("eval.samples=3", {"eval"}),
        ("grpo.rewards[0].alpha=0.3", {"grpo", "eval"}),
        ("grpo.rewards[0].warmup={steps: 5}", {"grpo", "eval"}),
        ("dpo.trainer.beta=0.2", {"dpo", "grpo", "eval"}),
        ("sft.trainer.learning_rate=1e-3", {"sft", "pairs", "dpo", "grpo", "eval"}),
        ("teach.limit=10", {"teach", "sft", "pairs", "dpo", "grpo", "eval"}),
        ("model.scratch.layers=2", {"init", "sft", "pairs", "dpo", "grpo", "eval"}),
        ("problems.options.chain_sum.max_terms=5", set(NAMES)),
        ("seed=4", set(NAMES)),
        ("dpo.seed=4", {"dpo", "grpo", "eval"}),
        ("defaults.trainer.num_generations=8", {"grpo", "eval"}),
        ("defaults.sampling.max_tokens=65", {"pairs", "dpo", "grpo", "eval"}),
        # What does not change the work does not change a hash.
        ("description=other words", set()),
        ("grpo.model=dpo", set()),
        ("sft.trainer.weight_decay=0.0", {"sft", "pairs", "dpo", "grpo", "eval"}),
        ("eval.name=final", {"eval"}),
        ("overlays={}", set()),
    ],
)
def test_a_change_reaches_the_stage_and_what_follows_from_it(planned, override, expected):
    assert changed(planned(), planned(override)) == expected


def test_an_int_and_the_same_float_are_one_setting(planned):
    assert hashes(planned("sft.trainer.weight_decay=1")) == hashes(planned("sft.trainer.weight_decay=1.0"))


def test_order_of_keys_does_not_matter(chain, tmp_path):
    def reversed_keys(data):
        if isinstance(data, dict):
            return {key: reversed_keys(data[key]) for key in reversed(data)}
        return [reversed_keys(item) for item in data] if isinstance(data, list) else data

    other = tmp_path / "reversed.yaml"
    other.write_text(yaml.safe_dump(reversed_keys(yaml.safe_load(chain.read_text())), sort_keys=False))
    assert hashes(resolve(load_recipe(chain), tmp_path)) == hashes(resolve(load_recipe(other), tmp_path))


def test_fingerprint_is_eight_hex_digits_of_sha256():
    # printf '{"a":[1,"x"],"b":null}' | sha256sum
    assert fingerprint({"b": None, "a": (1.0, "x")}) == "854ef06d"


def test_seed_reaches_every_stage_and_problems_keep_the_recipes(planned):
    plan = planned("grpo.seed=11")
    assert {stage.name: stage.seed for stage in plan.stages} == dict.fromkeys(NAMES, 3) | {"grpo": 11}
    assert all(stage.config.seed == stage.seed for stage in plan.stages)
    assert {stage.problems_seed for stage in plan.stages} == {3}


def test_stage_file_survives_the_disk(planned, tmp_path):
    for stage in planned().stages:
        file = tmp_path / "stage.yaml"
        file.write_text(stage.to_yaml())
        assert StageFile.from_yaml(file) == stage


def test_a_stage_file_of_another_version_is_refused(planned, tmp_path):
    file = tmp_path / "stage.yaml"
    text = planned().stage("sft").to_yaml()
    file.write_text(text.replace(f"version: {planned().stage('sft').version}", "version: 0.0.1"))
    with pytest.raises(RecipeError, match=r"written by Laconic 0\.0\.1"):
        StageFile.from_yaml(file)


def test_a_damaged_stage_file_is_named_with_its_line(planned, tmp_path):
    file = tmp_path / "stage.yaml"
    text = planned().stage("sft").to_yaml()
    file.write_text(text.replace("learning_rate:", "learnin_rate:"))
    line = 1 + text[: text.index("learning_rate:")].count("\n")
    message = rf"stage\.yaml:{line}: config\.trainer\.learnin_rate: .*learning_rate"
    with pytest.raises(RecipeError, match=message):
        StageFile.from_yaml(file)


PRETRAINED = """\
name: files
problems: {{source: jsonl, layout: gsm8k, train: {0}/train.jsonl, test: {0}/test.jsonl}}
model: {{path: {0}/model}}
stages:
  - {{kind: generate, teacher: {{source: gold}}}}
  - {{kind: sft}}
  - {{kind: eval, models: [base, sft]}}
"""


@pytest.fixture
def files(tmp_path):
    """A recipe on local files: two problem files and a model folder."""
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text('{"question": "1+1?", "answer": "#### 2"}\n')
    (tmp_path / "model").mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (tmp_path / "model" / name).write_text("{}")
    recipe = tmp_path / "files.yaml"
    recipe.write_text(PRETRAINED.format(tmp_path))
    return lambda: resolve(load_recipe(recipe), tmp_path / "runs")


def test_a_pretrained_base_is_no_input(files):
    plan = files()
    assert [stage.name for stage in plan.stages] == ["generate", "sft", "eval"]
    assert plan.stage("sft").inputs == {"data": plan.stage("generate").folder}
    assert plan.stage("eval").inputs == {"model:sft": plan.stage("sft").folder}


def test_changed_data_changes_every_stage(files, tmp_path):
    before = files()
    (tmp_path / "train.jsonl").write_text('{"question": "1+2?", "answer": "#### 3"}\n')
    assert changed(before, files()) == {"generate", "sft", "eval"}


def test_changed_weights_change_only_what_uses_them(files, tmp_path):
    before = files()
    (tmp_path / "model" / "model.safetensors").write_text("other")
    assert changed(before, files()) == {"sft", "eval"}


def test_the_end_of_large_weights_counts(files, tmp_path):
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(bytes(20 * 2**20))
    before = files()
    with weights.open("r+b") as out:
        out.seek(-1, 2)
        out.write(b"x")
    assert changed(before, files()) == {"sft", "eval"}


@pytest.mark.parametrize(("content", "message"), [(None, "no such file"), ("", "is empty"), ("\n \n", "is empty")])
def test_missing_and_empty_data_files_are_named_with_their_key(files, tmp_path, content, message):
    file = tmp_path / "test.jsonl"
    file.unlink() if content is None else file.write_text(content)
    with pytest.raises(DataError) as caught:
        files()
    assert "problems.test" in caught.value.message
    assert str(file) in caught.value.message
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("config.json", "lacks config.json"),
        ("tokenizer.json", "lacks a tokenizer"),
        ("model.safetensors", "lacks weights"),
    ],
)
def test_an_incomplete_model_folder_is_refused(files, tmp_path, file, message):
    (tmp_path / "model" / file).unlink()
    with pytest.raises(ModelError) as caught:
        files()
    assert "model.path" in caught.value.message
    assert message in caught.value.message


def test_a_hub_id_is_not_looked_for_here(planned):
    assert planned("model={path: org/model}").stages[0].name == "teach"


def test_a_missing_model_folder_is_named(planned):
    with pytest.raises(ModelError, match=r"model\.path: nowhere: no such folder"):
        planned("model={path: ./nowhere}")


def test_unknown_stage_of_a_plan(planned):
    with pytest.raises(RecipeError, match="did you mean grpo"):
        planned().stage("grop")
