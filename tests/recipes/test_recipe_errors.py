"""One wrong thing at a time: the message names the place, what was found and what is legal."""

from __future__ import annotations

import re

import pytest

from laconic.recipes.source import load_recipe
from laconic.rewards.errors import RecipeError

STYLES = "{overthink: 0.7, short: 0.3}"
GRPO = "rewards: [{name: efficient_reasoning, alpha: 0.2}], batch_size: 16"

CASES = {
    "unknown key": (
        ("      learning_rate: 2e-3", "      learnin_rate: 2e-3"),
        13,
        "stages[1].trainer.learnin_rate: unknown key; did you mean learning_rate?",
    ),
    "unknown top-level key": (("seed: 3", "sead: 3"), 2, "sead: unknown key; did you mean seed?"),
    "unknown key, nothing near": (
        ("{kind: dpo}", "{kind: dpo, zzz: 1}"),
        16,
        "stages[3].zzz: unknown key; legal here: name, seed, model, batch_size",
    ),
    "key of another trainer": (
        ("      learning_rate: 2e-3", "      num_generations: 4"),
        13,
        "stages[1].trainer.num_generations: unknown key; a key of grpo only",
    ),
    "owned key": (
        ("      learning_rate: 2e-3", "      output_dir: here"),
        13,
        "stages[1].trainer.output_dir: set by Laconic; use --runs",
    ),
    "owned in defaults, once": (
        ("packing: false", "seed: 1"),
        6,
        "defaults.trainer.seed: set by Laconic; use seed: of the stage",
    ),
    "bad default, once": (
        ("learning_rate: 1e-4", "learning_rate: high"),
        6,
        "defaults.trainer.learning_rate: found 'high'; expected a number",
    ),
    "trainer value type": (
        ("      learning_rate: 2e-3", "      max_steps: 2.5"),
        13,
        "stages[1].trainer.max_steps: found 2.5; expected a whole number",
    ),
    "bool is no number": (
        ("      learning_rate: 2e-3", "      learning_rate: true"),
        13,
        "found true; expected a number",
    ),
    "trainer choice": (
        ("      learning_rate: 2e-3", "      lr_scheduler_type: cosin"),
        13,
        "found 'cosin'; did you mean cosine?",
    ),
    "quoted number": (("train: 400,", "train: '400',"), 3, "problems.train: found '400'; expected a whole number"),
    "seed true": (("seed: 3", "seed: true"), 2, "seed: found true; expected a whole number"),
    "bound": (("batch_size: 32", "batch_size: 0"), 14, "stages[1].batch_size: found 0; must be at least 1"),
    "missing": (("model: {scratch: {hidden_size: 32, layers: 1}}\n", ""), None, "model: required, but missing"),
    "unknown kind": (("kind: dpo", "kind: dpoo"), 16, "stages[3].kind: found 'dpoo'; did you mean dpo?"),
    "missing kind": (("{kind: dpo}", "{name: x}"), 16, "stages[3].kind: required, but missing; one of dpo, eval"),
    "unknown source": (
        ("source: reasoning_gym", "source: jsonlines"),
        3,
        "problems.source: found 'jsonlines'; did you mean jsonl?",
    ),
    "unknown family": (
        ("families: [chain_sum]", "families: [chain_sums]"),
        3,
        "problems.families[0]: unknown family 'chain_sums'; did you mean chain_sum?",
    ),
    "unknown option": (
        ("{max_terms: 4}", "{max_term: 4}"),
        3,
        "problems.options.chain_sum.max_term: unknown option; did you mean max_terms?",
    ),
    "option out of range": (
        ("{max_terms: 4}", "{max_terms: 0}"),
        3,
        "problems.options.chain_sum.max_terms: 0 is out of range",
    ),
    "unknown style": (
        (STYLES, "{overthnk: 1.0}"),
        10,
        "stages[0].teacher.styles.overthnk: unknown style; did you mean overthink?",
    ),
    "no styles": ((f"styles: {STYLES}", "redundancy: 1.0"), 10, "give at least one style a positive share"),
    "unknown reward": (
        ("name: efficient_reasoning", "name: efficient_reasonin"),
        17,
        "did you mean efficient_reasoning?",
    ),
    "reward parameter": (
        ("alpha: 0.2}", "alpa: 0.2}"),
        17,
        "stages[4].rewards[0]: reward efficient_reasoning: unknown key 'alpa'",
    ),
    "reward that counts from when": (
        ("alpha: 0.2}", "warmup: {steps: 0}}"),
        17,
        "stages[4].rewards[0]: reward efficient_reasoning: warmup.steps is 0",
    ),
    "reward behind an unknown gate": (
        ("alpha: 0.2}", "gate: {kind: runing_best}}"),
        17,
        "stages[4].rewards[0]: reward efficient_reasoning: gate.kind is 'runing_best'",
    ),
    "a search reward where nothing searches": (
        ("{name: efficient_reasoning, alpha: 0.2}", "{name: mash}"),
        17,
        "stages[4].rewards[0]: reward mash needs 'searches'",
    ),
    "no rewards": (
        ("[{name: efficient_reasoning, alpha: 0.2}]", "[]"),
        17,
        "stages[4].rewards: must have at least one item",
    ),
    "unknown keep": (
        ("keep: shortest_vs_longest", "keep: shortest_vs_longst"),
        15,
        "stages[2].keep: found 'shortest_vs_longst'; did you mean shortest_vs_longest?",
    ),
    "keep is needed": (
        ("samples: 8, keep: shortest_vs_longest", "samples: 8"),
        15,
        "stages[2].keep: required where a model generates",
    ),
    "teacher and model": (
        ("{kind: generate, name: teach,", "{kind: generate, model: base, name: teach,"),
        10,
        "stages[0].model: a teacher writes the traces here",
    ),
    "reserved name": (("{kind: dpo}", "{kind: dpo, name: model}"), 16, "stages[3].name: 'model' is reserved"),
    "name taken": (("{kind: dpo}", "{kind: dpo, name: sft}"), 16, "'sft' is taken by an earlier stage"),
    "later stage": (
        ("{kind: dpo}", "{kind: dpo, model: grpo}"),
        16,
        "stages[3].model: 'grpo' does not come earlier; legal here: base, sft",
    ),
    "not a model": (
        ("{kind: dpo}", "{kind: dpo, model: teach}"),
        16,
        "'teach' is a generate stage and makes no model; legal here: base, sft",
    ),
    "no such stage": (("{kind: dpo}", "{kind: dpo, model: stf}"), 16, "no stage is named 'stf'; did you mean sft?"),
    "wrong rows": (
        ("{kind: dpo}", "{kind: dpo, data: teach}"),
        16,
        "yields no preference rows (see its keep:); legal here: pairs",
    ),
    "no rows at all": (
        ("keep: shortest_vs_longest", "keep: all"),
        16,
        "stages[3].data: no earlier generate stage yields preference rows",
    ),
    "model twice": (
        ("{kind: eval}", "{kind: eval, models: [sft, sft]}"),
        18,
        "stages[5].models[1]: 'sft' is named twice",
    ),
    "baseline": (
        ("{kind: eval}", "{kind: eval, models: [sft, dpo], baseline: grpo}"),
        18,
        "stages[5].baseline: 'grpo' is not one of models; legal here: sft, dpo",
    ),
    "gold of procedural": ((f"styles: {STYLES}", "source: gold"), 10, "procedural problems come without solutions"),
    "accumulation twice": (
        ("      learning_rate: 2e-3", "      gradient_accumulation_steps: 2"),
        13,
        "derived from batch_size 32",
    ),
    "single rollout": (
        (GRPO, f"{GRPO}, trainer: {{num_generations: 1}}"),
        17,
        "stages[4].trainer.num_generations: found 1; a group needs at least 2",
    ),
    "two generation sizes": (
        (GRPO, f"{GRPO}, trainer: {{generation_batch_size: 32, steps_per_generation: 2}}"),
        17,
        "leave one out",
    ),
    "two losses": (
        ("{kind: dpo}", "{kind: dpo, nll_weight: 0.5, trainer: {loss_type: [ipo]}}"),
        16,
        "nll_weight 0.5 sets it",
    ),
    "heads": (
        ("layers: 1", "layers: 1, heads: 3"),
        4,
        "model.scratch.hidden_size: hidden_size 32 must be a multiple of 2 x heads (6)",
    ),
    "two models": (("layers: 1}", "layers: 1}, path: x"), 4, "model: give exactly one of scratch and path; found both"),
    "too long": (
        ("max_tokens: 64", "max_tokens: 600"),
        7,
        "defaults.sampling.max_tokens: found 600; the model's own limit is 512",
    ),
    "pass rate": (
        ("samples: 8,", "samples: 8, pass_rate: [0.9, 0.1],"),
        15,
        "stages[2].pass_rate: found [0.9, 0.1]; the lower end comes first",
    ),
    "not a mapping": (("{kind: dpo}", "{kind: dpo, lora: 8}"), 16, "stages[3].lora: found 8; expected a mapping"),
    "not a list": (
        ("[{name: efficient_reasoning, alpha: 0.2}]", "efficient_reasoning"),
        17,
        "stages[4].rewards: found 'efficient_reasoning'; expected a list",
    ),
    "target modules": (
        ("{kind: dpo}", "{kind: dpo, lora: {target_modules: 3}}"),
        16,
        "stages[3].lora.target_modules: found 3; expected all-linear",
    ),
    "literal": (
        ("{kind: eval}", "{kind: eval, split: tests}"),
        18,
        "stages[5].split: found 'tests'; must be 'train' or 'test'",
    ),
    "unquoted text": (("seed: 3", "paper: 2502.04463"), 2, "paper: found 2502.04463; expected text; put it in quotes"),
    "bad name": (("name: chain\n", "name: My Chain\n"), 1, "name: found 'My Chain'; only a-z"),
}


@pytest.mark.parametrize("case", CASES)
def test_one_mistake_is_one_message_with_its_line(edited, case):
    change, line, message = CASES[case]
    file = edited(change)
    with pytest.raises(RecipeError) as caught:
        load_recipe(file)
    text = str(caught.value)
    where = f"{file}:{line}: " if line else f"{file}: "
    assert text.startswith(where), text
    assert message in text
    assert "mistakes" not in text


def test_all_mistakes_are_listed_with_numbers(edited):
    file = edited(
        ("seed: 3", "seed: -1"), ("batch_size: 32", "batch_sise: 32"), ("{kind: dpo}", "{kind: dpo, lora: 8}")
    )
    with pytest.raises(RecipeError) as caught:
        load_recipe(file)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{file}: 3 mistakes"
    assert re.fullmatch(rf"  1\. {re.escape(str(file))}:2: seed: found -1; must be at least 0", lines[1])
    assert lines[2].startswith("  2. ")
    assert lines[2].endswith("batch_sise: unknown key; did you mean batch_size?")
    assert lines[3].startswith("  3. ")
    assert "stages[3].lora: found 8" in lines[3]
    assert len(lines) == 4


def test_symbolic_tokenizer_needs_procedural_problems(tmp_path):
    file = tmp_path / "r.yaml"
    file.write_text(
        "name: r\nproblems: {source: jsonl, train: a, test: b}\nmodel: {scratch: {}}\nstages:\n"
        "  - {kind: generate, teacher: {styles: {short: 1.0}}}\n"
    )
    with pytest.raises(RecipeError) as caught:
        load_recipe(file)
    assert "r.yaml:5: stages[0].teacher: programs teach procedural families only" in str(caught.value)
    assert "r.yaml:3: model.scratch.tokenizer: a symbolic vocabulary exists for procedural" in str(caught.value)


def test_default_completion_length_counts_too(edited):
    file = edited(("layers: 1}", "layers: 1, max_length: 128}"))
    with pytest.raises(RecipeError, match=r"max_completion_length: found 512; the model's own limit is 128"):
        load_recipe(file)


def test_hub_columns_are_checked(tmp_path):
    file = tmp_path / "r.yaml"
    file.write_text(
        "name: r\nproblems:\n  source: hub\n  dataset: a/b\n  train: train\n  test: test\n  columns: {promt: q}\n"
        "model: {path: some/model}\nstages:\n  - {kind: eval}\n"
    )
    with pytest.raises(RecipeError, match=r"r\.yaml:7: problems\.columns\.promt: .*'prompt' or 'answer'"):
        load_recipe(file)


def test_missing_recipe_and_non_mapping(tmp_path):
    with pytest.raises(RecipeError, match="no such recipe"):
        load_recipe(tmp_path / "none.yaml")
    file = tmp_path / "list.yaml"
    file.write_text("- 1\n")
    with pytest.raises(RecipeError, match="a recipe is a mapping of keys"):
        load_recipe(file)
