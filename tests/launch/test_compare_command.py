"""`laconic compare` as a user runs it, on a small model in this process's own folder."""

import io
import json
import os
import shutil
import subprocess
import sys

import pytest
from rich.console import Console

from laconic.launch import compare_command
from laconic.launch.compare_command import CompareOptions, model_name, read_policies
from laconic.launch.compare_folder import prepare
from laconic.launch.compare_text import print_results
from laconic.recipes.entry import run_stage
from laconic.rewards.errors import DataError, LaunchError, RecipeError
from laconic.rewards.records import Problem, read_rollouts
from laconic.training import init

RECIPE = """
name: compared
seed: 3
problems: {source: reasoning_gym, families: [chain_sum], train: 16, test: 6}
model: {scratch: {hidden_size: 16, layers: 1, heads: 2, max_length: 128}}
stages: [{kind: eval, models: [base], samples: 1, sampling: {max_tokens: 12}}]
"""
TWO = ("--policy", "short=short_mk:k=2,m=1", "--policy", "self_consistency:samples=2")


def laconic(*arguments, cwd):
    command = [sys.executable, "-m", "laconic.launch.cli", "compare", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False, env=os.environ)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with a recipe and its untrained model, and a first comparison."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "recipe.yaml").write_text(RECIPE)
    run_stage("init", init.main, [str(folder / "recipe.yaml"), "--runs", str(folder / "runs")])
    model = next((folder / "runs" / "compared").glob("00-init-*")) / "model"
    asked = [model, "--problems", "recipe.yaml:test", "--max-tokens", 12, "--out", "out"]
    return folder, asked, laconic(*asked, *TWO, "--price-in", 1, "--price-out", 4, cwd=folder)


def test_every_policy_is_measured_against_no_policy(work):
    folder, _, done = work
    assert done.returncode == 0, done.stderr
    results = json.loads((folder / "out" / "results.json").read_text())["policies"]
    assert [row["policy"] for row in results["rows"]] == ["none", "short", "self_consistency:samples=2"]
    assert [pair["policy"] for pair in results["paired"]] == ["short", "self_consistency:samples=2"]
    for row, name in zip(results["rows"], ("none", "short", "self_consistency-samples-2"), strict=True):
        rollouts = list(read_rollouts(folder / "out" / "rollouts" / f"{name}.jsonl"))
        assert (row["n_problems"], len(rollouts)) == (6, 6)
        assert row["tokens"] == pytest.approx(sum(rollout.tokens for rollout in rollouts) / 6)
        read = sum(rollout.meta["ledger"]["prompt"] + rollout.meta["ledger"]["forced"] for rollout in rollouts) / 6
        assert row["price"] == pytest.approx((read + 4 * row["tokens"]) / 1e6)
    assert {path.suffix for path in (folder / "out").glob("policies_*")} == {".png"}
    assert "| self_consistency:samples=2 |" in (folder / "out" / "report.md").read_text()
    assert "no policy" in done.stdout
    assert "report: out/report.md" in done.stdout


def test_what_was_asked_is_kept_and_json_is_the_file(work):
    folder, asked, _ = work
    file = folder / "out" / "rollouts" / "short.jsonl"
    marked = file.read_text().replace('"text": "', '"text": "kept ')
    file.write_text(marked)
    done = laconic(*asked, *TWO, "--policy", "plain", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert file.read_text() == marked
    results = json.loads(done.stdout)
    assert results == json.loads((folder / "out" / "results.json").read_text())
    none, *_, plain = results["policies"]["rows"]
    assert (none["policy"], plain["policy"]) == ("none", "plain")
    texts = [
        [row.text for row in read_rollouts(folder / "out/rollouts" / f"{name}.jsonl")] for name in ("none", "plain")
    ]
    assert texts[0] == texts[1]


def test_answers_of_a_model_that_was_overwritten_are_not_used(work, tmp_path):
    folder, asked, _ = work
    shutil.copytree(folder / "out", tmp_path / "out")
    weights = asked[0] / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    done = laconic(*asked[:-1], tmp_path / "out", *TWO, cwd=folder)
    weights.write_bytes(content)
    assert done.returncode == 2
    assert "holds a comparison with another model" in done.stderr
    assert laconic(*asked[:-1], tmp_path / "out", *TWO, cwd=folder).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--policy", "short_mk:k=2,m=1", "--seed", 7), "holds a comparison with another seed (0, not 7)"),
        (("--policy", "short_mk:kk=2"), "unknown parameter 'kk'"),
        (("--policy", "plain", "--max-tokens", 500), "max_tokens"),
    ],
    ids=["other seed", "parameter", "too long"],
)
def test_mistakes_are_named_and_end_with_code_2(work, arguments, message):
    folder, asked, _ = work
    out = ["--out", "elsewhere"] if "--max-tokens" in arguments else []
    done = laconic(*asked, *arguments, *out, cwd=folder)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert message in done.stderr


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"policies": ()}, "no policy is named"),
        ({"policies": ("a=plain", "a=short_mk")}, "the label 'a' is taken"),
        ({"policies": ("none=plain",)}, "the label 'none' is taken"),
        ({"policies": ("best_of_n",)}, "needs a scorer"),
        ({"policies": ("plain",), "price_in": 1.0}, "one price without the other"),
        ({"policies": ("plain",), "engines": ("small=a",)}, "small: no policy asks for an engine of this name"),
        ({"policies": ("plain",), "engines": ("small",)}, "--engine small"),
    ],
    ids=["none", "label", "reserved", "scorer", "price", "engine for nothing", "engine without model"],
)
def test_policies_are_checked_before_anything_is_loaded(changes, message):
    with pytest.raises(RecipeError, match=message):
        read_policies(CompareOptions(model="m", problems="p.jsonl", **changes))


def test_models_are_called_by_the_part_of_their_name_that_says_most():
    names = ("runs/q/02-sft-0a/model", "org/name", "http://h:1/v1#org/name-8B", "vllm:org/name", "./model")
    assert [model_name(name) for name in names] == ["02-sft-0a", "name", "name-8B", "name", "model"]


def test_policies_that_were_compared_before_stay_in_the_report(work):
    folder, asked, _ = work
    again = [*asked[:-1], "kept"]
    for policy in ("self_consistency:samples=2", "plain"):
        assert laconic(*again, "--policy", policy, cwd=folder).returncode == 0
    rows = json.loads((folder / "kept" / "results.json").read_text())["policies"]["rows"]
    assert [row["policy"] for row in rows] == ["none", "self_consistency:samples=2", "plain"]
    # One that fails leaves the results as they are.
    before = (folder / "kept" / "results.json").read_bytes()
    (folder / "kept" / "rollouts" / "broken.jsonl").write_text("no rollout\n")
    failed = laconic(*again, "--policy", "broken=short_mk:k=2,m=1", cwd=folder)
    assert failed.returncode != 0
    assert "what it shows" not in failed.stdout
    assert (folder / "kept" / "results.json").read_bytes() == before


def entry(label):
    return {"name": "plain", "label": label}


def test_a_folder_keeps_what_has_answers_and_refuses_other_questions(tmp_path):
    problems = [Problem(f"p{k}", f"{k} =", str(k), "exact") for k in range(3)]
    identity = ("seed", "problems_sha256")
    settings = {"seed": 1, "problems_sha256": "ab", "policies": [entry("a"), entry("b")]}
    assert prepare(tmp_path, settings, problems, identity=identity) == []
    # Nothing was answered: anything else may be asked here.
    settings = {"seed": 2, "problems_sha256": "ab", "policies": [entry("a"), entry("b")]}
    assert prepare(tmp_path, settings, problems, identity=identity) == []
    (tmp_path / "rollouts").mkdir()
    (tmp_path / "rollouts" / "none.jsonl").write_text("{}\n")
    (tmp_path / "rollouts" / "a.jsonl").write_text("{}\n")
    (tmp_path / "rollouts" / "b.jsonl").touch()
    settings = {"seed": 2, "problems_sha256": "ab", "policies": [entry("c")]}
    assert prepare(tmp_path, settings, problems, identity=identity) == ["a"]
    assert [item["label"] for item in settings["policies"]] == ["a", "c"]
    assert json.loads((tmp_path / "compare.json").read_text()) == settings
    with pytest.raises(DataError, match=r"another seed \(2, not 3\)"):
        prepare(tmp_path, {**settings, "seed": 3}, problems, identity=identity)
    with pytest.raises(DataError, match=r"other problems \(3, not 2\)"):
        prepare(tmp_path, {**settings, "problems_sha256": "cd"}, problems[:2], identity=identity)


def test_a_scorer_that_cannot_judge_the_problems_leaves_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(compare_command, "check_model", lambda *_, **__: None)
    (tmp_path / "own.jsonl").write_text('{"prompt": "3 + 4 =", "answer": "7"}\n')
    asked = {"model": "m", "policies": ("best_of_n:samples=2",), "problems": "own.jsonl"}
    with pytest.raises(DataError, match="no checker for the task"):
        compare_command.compare(CompareOptions(**asked, scorer="steps"), Console())
    with pytest.raises(RecipeError, match="unknown scorer 'step'"):
        compare_command.compare(CompareOptions(**asked, scorer="step"), Console())
    assert [path.name for path in tmp_path.iterdir()] == ["own.jsonl"]


@pytest.mark.parametrize("width", [70, 80, 100, 120])
def test_the_table_fits_the_terminal(work, width):
    results = json.loads((work[0] / "out" / "results.json").read_text())
    out = Console(file=io.StringIO(), width=width, soft_wrap=True)
    print_results(out, results)
    text = out.file.getvalue()
    assert max(map(len, text.splitlines())) <= min(width, 100)
    words = " ".join(text.split())
    for piece in ("no policy", "self_consistency:", "samples=2", "tokens"):
        assert piece in words
    verdicts = [pair["says"] for pair in results["policies"]["paired"]]
    # In a narrow terminal each is a line of its own.
    assert ("what it shows" in words) == (width >= 100)
    if width < 100:
        assert [f"  {says}" in text.splitlines() for says in verdicts] == [True] * len(verdicts)
    told = "none of these policies saves tokens significantly" in words
    assert told != any(pair["saves"] for pair in results["policies"]["paired"])


def test_policies_that_search_are_given_a_retriever(work):
    folder, asked, _ = work
    (folder / "corpus.jsonl").write_text('{"id": "a", "text": "3 + 4 = 7"}\n{"id": "b", "text": "1 + 1 = 2"}\n')
    policy = ("--policy", "search_episode:instruct=false,k=1")
    refused = laconic(*asked[:-2], *policy, "--out", "searched", cwd=folder)
    assert refused.returncode == 2
    assert "needs a retriever" in refused.stderr
    done = laconic(*asked[:-2], *policy, "--out", "searched", "--retriever", "corpus.jsonl", cwd=folder)
    assert done.returncode == 0, done.stderr
    none, searched = json.loads((folder / "searched" / "results.json").read_text())["policies"]["rows"]
    assert "searches" not in none
    (file,) = (folder / "searched" / "rollouts").glob("search_episode*.jsonl")
    counts = [len(row.meta["searches"]) for row in read_rollouts(file)]
    assert searched["searches"] == pytest.approx(sum(counts) / len(counts))
    other = laconic(*asked[:-2], *policy, "--out", "searched", "--retriever", "other.jsonl", cwd=folder)
    assert "another retriever (corpus.jsonl, not other.jsonl)" in other.stderr


def other_model(model, folder):
    """The same sizes and other weights."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(model, folder)
    weights = load_file(folder / "model.safetensors")
    save_file({name: weight.flip(0).contiguous() for name, weight in weights.items()}, folder / "model.safetensors")
    return folder


def test_cascades_are_given_further_engines(work, monkeypatch):
    folder, asked, _ = work
    monkeypatch.chdir(folder)
    other = other_model(asked[0], folder / "other")
    cascade = "up=confidence_cascade:engines=[same,other],thresholds=[0]"
    engines = (f"same={asked[0]}", "other=other")
    given = {"model": str(asked[0]), "problems": "recipe.yaml:test", "max_tokens": 60, "out": folder / "cascaded"}
    with pytest.raises(LaunchError, match="'same' and 'other'") as missing:
        compare_command.compare(CompareOptions(**given, policies=(cascade,)), Console())
    assert (missing.value.cure, (folder / "cascaded").exists()) == ("name each: --engine NAME=MODEL", False)
    options = [option for engine in engines for option in ("--engine", engine)]
    done = laconic(*asked[:3], "--max-tokens", 60, "--out", "cascaded", "--policy", cascade, *options, cwd=folder)
    assert done.returncode == 0, done.stderr
    results = json.loads((folder / "cascaded" / "results.json").read_text())
    assert results["provenance"]["engines"] == {"same": str(asked[0]), "other": "other"}
    none, up = (list(read_rollouts(folder / "cascaded/rollouts" / f"{name}.jsonl")) for name in ("none", "up"))
    assert results["policies"]["rows"][1]["tokens"] == pytest.approx(sum(row.tokens for row in up) / 6)
    # The first engine is the model itself: what it finishes is its answer, what is cut goes on to the other one.
    for alone, row in zip(none, up, strict=True):
        fates = row.meta["ledger"]["by_role"].values()
        discarded, kept = (sum(fate[name] for fate in fates) for name in ("discarded", "kept"))
        assert row.tokens == discarded + kept
        if alone.finished:
            assert (row.text, kept, discarded) == (alone.text, alone.tokens, 0)
        else:
            assert (row.text != alone.text, kept > 0, discarded) == (True, True, alone.tokens)
    assert {row.finished for row in none} == {True, False}
    # Further policies can be added without naming the engines of those that are there ...
    done = laconic(*asked[:3], "--max-tokens", 60, "--out", "cascaded", "--policy", "plain", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert (folder / "cascaded/rollouts/up.jsonl").read_text().count("\n") == len(up)
    rows = json.loads((folder / "cascaded" / "results.json").read_text())["policies"]["rows"]
    assert [row["policy"] for row in rows] == ["none", "up", "plain"]
    # ... but answers of other engines are not mixed with theirs.
    swapped = (engines[0], f"other={asked[0]}")
    with pytest.raises(DataError, match=r"another engine 'other' \(other, not "):
        compare_command.compare(CompareOptions(**given, policies=(cascade,), engines=swapped), Console())
    content = (other / "model.safetensors").read_bytes()
    (other / "model.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    for policies, named in (((cascade,), engines), (("plain",), ())):
        with pytest.raises(DataError, match="another engine 'other': the files of other have changed"):
            compare_command.compare(CompareOptions(**given, policies=policies, engines=named), Console())
