"""Policies in an eval stage on a real small model, and what its report makes of them."""

import json

import pytest

from laconic.eval import stage
from laconic.eval.report import write_report
from laconic.recipes.entry import run_stage
from laconic.rewards.records import read_rollouts
from laconic.training import init

RECIPE = """
name: asked
seed: 3
problems: {source: reasoning_gym, families: [chain_sum], train: 16, test: 10}
model: {scratch: {hidden_size: 16, layers: 1, heads: 2, max_length: 128}}
stages:
  - {kind: eval, models: [base], samples: 2, limit: 8, sampling: {max_tokens: 12}}
  - kind: eval
    name: policies
    models: [base]
    samples: 1
    limit: 5
    sampling: {max_tokens: 12}
    scorer: steps
    prices: {prompt: 1, generated: 4}
    policies:
      - {name: plain, label: the same}
      - {name: self_consistency, samples: 2, label: two <votes>}
      - {name: best_of_n, samples: 2, models: [base]}
      - {name: confidence_cascade, label: cascade, engines: [base, base]}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    (folder / "recipe.yaml").write_text(RECIPE)
    arguments = [str(folder / "recipe.yaml"), "--runs", str(folder / "runs")]
    run_stage("init", init.main, arguments)
    for name in ("eval", "policies"):
        run_stage("eval", stage.main, [*arguments, "--stage", name])
    return folder / "runs" / "asked"


def only(run, pattern):
    (found,) = run.glob(pattern)
    return found


def test_every_policy_has_its_rollouts_and_rows(run):
    folder = only(run, "0*-policies-*")
    results = json.loads((folder / "results.json").read_text())
    rows = results["policies"]["rows"]
    assert [row["policy"] for row in rows] == ["none", "the same", "two <votes>", "best_of_n:samples=2", "cascade"]
    files = ("the-same", "two-votes", "best_of_n-samples-2", "cascade")
    for row, name in zip(rows[1:], files, strict=True):
        rollouts = list(read_rollouts(folder / "policies" / "base" / f"{name}.jsonl"))
        assert len(rollouts) == 5
        assert row["tokens"] == pytest.approx(sum(rollout.tokens for rollout in rollouts) / 5)
    assert [row["policy"] for row in results["rows"]] == ["none"]
    plain = list(read_rollouts(folder / "rollouts" / "base.jsonl"))
    assert rows[0]["tokens"] == pytest.approx(sum(rollout.tokens for rollout in plain) / 5)
    assert rows[0]["prompt"] == rows[1]["prompt"] > 0


def test_no_policy_and_plain_draw_the_same_random_numbers(run):
    folder = only(run, "0*-policies-*")
    plain, same = (read_rollouts(folder / name) for name in ("rollouts/base.jsonl", "policies/base/the-same.jsonl"))
    facts = [[(row.problem_id, row.text, row.tokens, row.correct, row.seed) for row in rows] for rows in (plain, same)]
    assert facts[0] == facts[1]


def test_a_report_tells_models_and_policies_apart(run):
    report = write_report(run)
    results = json.loads((report / "results.json").read_text())
    assert [(row["eval"], row["policy"], row["n_samples"]) for row in results["rows"]] == [("eval", "none", 2)]
    assert {row["eval"] for row in results["policies"]["rows"]} == {"policies"}
    assert set(results["provenance"]["evals"]) == {"eval", "policies"}
    text, page = (report / "report.md").read_text(), (report / "report.html").read_text()
    assert "## Policies" in text
    assert "| two <votes> |" in text
    assert "two &lt;votes&gt;" in page
    assert "<votes>" not in page
    assert (report / "policies_base.png").read_bytes() != (report / "policies_base_dark.png").read_bytes()


def test_an_evaluation_with_policies_alone_keeps_its_rows(run):
    report = write_report(run, [only(run, "0*-policies-*").name])
    results = json.loads((report / "results.json").read_text())
    assert [(row["eval"], row["model"]) for row in results["rows"]] == [("policies", "base")]
