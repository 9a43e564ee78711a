"""What `plan` says about rows holds when the stage is run."""

from __future__ import annotations

from laconic.data_gen.stage import main
from laconic.launch.counts import Count, rows, sampled_tokens
from laconic.recipes.entry import run_stage
from laconic.recipes.resolve import resolve
from laconic.recipes.source import load_recipe

RECIPE = """\
name: world
problems: {source: world, size: 60, taught_share: 0.3, facts_per_document: 1, hops: {1: 1.0}, train: 60, test: 10}
model: {scratch: {hidden_size: 32, layers: 1, heads: 2, max_length: 160}}
search: {protocol: spaced, k: 1, max_searches: 2}
stages:
  - kind: generate
    name: made
    teacher: {styles: {minimal: 1, needless: 1}, statements: 2, taught_questions: 3, recalls: 4}
    samples: 2
"""


def test_rows_of_a_world_count_what_is_practised(tmp_path):
    path = tmp_path / "world.yaml"
    path.write_text(RECIPE)
    plan = resolve(load_recipe(path), tmp_path / "runs")
    stage = plan.stage("made")
    before = rows(plan, stage)
    run_stage("generate", main, [str(path), "--runs", str(tmp_path / "runs")])
    after = rows(plan, stage)
    taught = sum(fact.taught for fact in stage.problems.world(stage.problems_seed).facts.values())
    assert before == Count(60 * 2 + 9 * taught)
    assert after.exact
    # More than the questions alone would give, and all that is stated and recalled.
    assert 6 * taught < after.value <= before.value


def test_skipped_problems_are_not_counted(tmp_path):
    path = tmp_path / "world.yaml"
    sampled = "    model: base\n    keep: all\n    skip: 15\n    sampling: {max_tokens: 10}\n    samples: 2\n"
    path.write_text(RECIPE[: RECIPE.index("    teacher:")] + sampled)
    plan = resolve(load_recipe(path), tmp_path / "runs")
    assert rows(plan, plan.stage("made")) == Count(45 * 2)
    assert sampled_tokens(plan.stage("made")) == "at most 900 sampled: 90 rollouts x max_tokens 10"
