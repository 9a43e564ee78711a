"""The eval stage on a real small model: files, resuming, pairing of random numbers, provenance."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from laconic.eval import stage
from laconic.eval.provenance import commit
from laconic.recipes.entry import run_stage
from laconic.rewards.records import read_problems, read_rollouts
from laconic.training import init

RECIPE = """
name: evaluated
seed: 3
problems: {source: reasoning_gym, families: [chain_sum, count_bits], train: 16, test: 10}
model: {scratch: {hidden_size: 16, layers: 1, heads: 2, max_length: 128}}
stages:
  - {kind: eval, models: [base], samples: 3, limit: 8, sampling: {max_tokens: 16}}
  - {kind: eval, name: again, models: [base], samples: 3, limit: 8, seed: 9, budgets: [12, 4],
     sampling: {max_tokens: 16}}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose model is made and whose first evaluation was killed in the middle of a row, then finished."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "recipe.yaml").write_text(RECIPE)
    arguments = [str(folder / "recipe.yaml"), "--runs", str(folder / "runs")]
    run_stage("init", init.main, arguments)
    run_stage("eval", stage.main, [*arguments, "--stage", "eval"])
    return folder / "runs" / "evaluated", arguments


def only(run, pattern):
    (found,) = run.glob(pattern)
    return found


def test_files_and_results(run):
    folder = only(run[0], "0*-eval-*")
    problems = list(read_problems(folder / "problems.jsonl"))
    rollouts = list(read_rollouts(folder / "rollouts" / "base.jsonl"))
    assert [(row.problem_id, row.sample) for row in rollouts] == [(p.id, s) for p in problems for s in range(3)]
    results = json.loads((folder / "results.json").read_text())
    row = results["rows"][0]
    assert (row["model"], row["n_problems"], row["n_samples"]) == ("base", 8, 3)
    assert row["tokens"] == pytest.approx(sum(r.tokens for r in rollouts) / 24)
    assert row["budget_limit"] == 16
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["rollouts"], manifest["tokens"]) == (24, sum(r.tokens for r in rollouts))


def test_provenance(run):
    facts = json.loads((only(run[0], "0*-eval-*") / "results.json").read_text())["provenance"]
    assert {"command", "commit", "hardware", "versions", "seed", "recipe", "sampling", "date"} <= set(facts)
    assert (facts["recipe"], facts["seed"], facts["split"]) == ("evaluated", 3, "test")
    assert facts["hardware"]["cores"] >= 1
    assert set(facts["stage_hashes"]) == {"init", "eval"}
    assert facts["sampling"]["max_tokens"] == 16
    first = next(read_problems(only(run[0], "0*-eval-*") / "problems.jsonl"))
    assert first.prompt in facts["prompts"][0]["example"]


def test_a_killed_evaluation_goes_on_where_it_stopped(run, tmp_path):
    """Half of the rollouts and a torn line, in the folder that a killed process leaves."""
    folder = only(run[0], "0*-eval-*")
    whole = (folder / "rollouts" / "base.jsonl").read_text().splitlines(keepends=True)
    copy = tmp_path / "evaluated"
    copy.mkdir()
    (copy / only(run[0], "0*-init-*").name).symlink_to(only(run[0], "0*-init-*"))
    work = copy / f"{folder.name}.partial"
    (work / "rollouts").mkdir(parents=True)
    (work / "stage.yaml").write_text((folder / "stage.yaml").read_text())
    kept = [line.replace('"text": "', '"text": "kept ') for line in whole[:10]]
    (work / "rollouts" / "base.jsonl").write_text("".join(kept) + whole[10][:20])
    run_stage("eval", stage.main, [str(work / "stage.yaml")])
    finished = (copy / folder.name / "rollouts" / "base.jsonl").read_text().splitlines(keepends=True)
    assert finished == kept + whole[10:]


def test_another_seed_asks_the_same_problems_and_samples_anew(run):
    run_stage("eval", stage.main, [*run[1], "--stage", "again"])
    first, second = only(run[0], "0*-eval-*"), only(run[0], "0*-again-*")
    assert (first / "problems.jsonl").read_text() == (second / "problems.jsonl").read_text()
    texts = [[row.text for row in read_rollouts(f / "rollouts" / "base.jsonl")] for f in (first, second)]
    assert texts[0] != texts[1]
    row = json.loads((second / "results.json").read_text())["rows"][0]
    assert list(row["accuracy_at_budget"]) == ["4", "12"]


def test_a_complete_evaluation_is_left_alone(run, capsys):
    before = only(run[0], "0*-eval-*/results.json").stat().st_mtime_ns
    with pytest.raises(SystemExit) as leaving:
        run_stage("eval", stage.main, [*run[1], "--stage", "eval"])
    assert leaving.value.code == 0
    assert "already complete" in capsys.readouterr().out
    assert only(run[0], "0*-eval-*/results.json").stat().st_mtime_ns == before


def test_commit_of_a_tracked_file(tmp_path):
    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    code, other = tmp_path / "code.py", tmp_path / "site.py"
    code.write_text("1\n")
    other.write_text("1\n")
    assert commit(code) is None  # no repository
    figures = tmp_path / "bench" / "results" / "speed.json"
    figures.parent.mkdir(parents=True)
    figures.write_text("1\n")
    git("init")
    git("add", "code.py", "bench")
    assert commit(code) is None  # no commit yet
    git("commit", "-m", "x")
    found = commit(code)
    assert len(found["hash"]) == 40
    assert found["dirty"] is False
    assert commit(other) is None  # lies in the repository, but is not its code
    figures.write_text("2\n")
    assert commit(code) == found  # what a measurement writes
    code.write_text("2\n")
    assert commit(code) == {"hash": found["hash"], "dirty": True}


def test_metrics_need_no_torch():
    modules = ("accuracy", "cost", "frontier", "stats", "results", "table", "headline", "report")
    lines = [f"import laconic.eval.{name}" for name in modules]
    check = "import sys; bad = {'torch', 'transformers', 'trl'} & set(sys.modules); assert not bad, bad"
    subprocess.run([sys.executable, "-c", "\n".join([*lines, check])], check=True, cwd=Path(__file__).parent)
