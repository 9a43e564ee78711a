"""The smaller commands: list, doctor, schema, and how numbers are written."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from laconic.data_gen.families import FAMILIES
from laconic.inference.policies import POLICIES
from laconic.launch.listing import print_listing
from laconic.launch.profiles import shipped_profiles
from laconic.launch.report import headline_table, is_fresh
from laconic.launch.reward_listing import print_all
from laconic.launch.text import console, number, seconds, share, size
from laconic.recipes.source import shipped
from laconic.rewards import REWARDS
from laconic.rewards.errors import RecipeError
from laconic.rewards.registry import CLAIMS


def laconic(*arguments, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "laconic.launch.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("tasks", {*FAMILIES, "math", "exact"}),
        ("profiles", set(shipped_profiles())),
    ],
)
def test_lists_name_everything_there_is(what, names):
    done = laconic("list", what)
    assert done.returncode == 0, done.stderr
    assert {line.split()[0] for line in done.stdout.splitlines()[1:]} == names
    assert "\x1b" not in done.stdout


def test_rewards_are_listed_by_kind_in_a_hundred_columns():
    done = laconic("list", "rewards")
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert "\x1b" not in done.stdout
    blocks = done.stdout.split("\n\n")[:-1]
    for kind, block in zip(("outcome", "length", "mode", "search"), blocks, strict=True):
        heading, *lines = block.splitlines()
        assert heading.split()[:2] == [kind, "reward"]
        names = [line.split()[0] for line in lines if not line.startswith(" ")]
        assert names == sorted(name for name, item in REWARDS.items() if item.kind == kind)


def test_the_list_of_rewards_fits_a_terminal_of_eighty_columns(capsys):
    print_all(Console(width=80))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert sum(line.startswith("    ") for line in lines) < 2 * len(REWARDS)
    said = " ".join(" ".join(lines).split())
    assert all(item.summary.replace("``", "") in said for item in REWARDS.values())


@pytest.mark.parametrize("name", ["accuracy", "hapo", "mash"])
def test_one_reward_says_all_about_itself(name):
    done = laconic("list", "rewards", name)
    assert done.returncode == 0, done.stderr
    prose, _, example = done.stdout.partition("\nexample\n")
    reward, said = REWARDS[name], " ".join(done.stdout.split())
    documented = reward.documentation
    # Formulas and examples stand as they are written.
    assert max(len(line) for line in prose.splitlines() if line.strip() not in documented.formula) <= 100
    assert ">>> " in example
    assert done.stdout.startswith(f"{name}: ")
    for text in (documented.summary, documented.formula, documented.deviations, documented.gaming, documented.source):
        assert " ".join(text.split()) in said
    assert reward.paper in said
    for parameter in reward.parameters.values():
        unit = documented.arguments[parameter.name].unit
        assert re.search(rf"^  {parameter.name} = .* \[{re.escape(unit)}\]; ", done.stdout, re.MULTILINE)
        assert parameter.legal_values in said
    assert f"history: {'yes' if reward.stateful else 'no'}" in said
    assert all(f"column `{column}` (" in said for column in reward.needs)
    assert said.count("not claimed: ") == len(CLAIMS) - len(reward.claims)


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_one_policy_says_all_about_itself(name, capsys):
    policies = POLICIES[name]
    print_listing(Console(width=80), "policies", name, Path())
    printed = capsys.readouterr().out
    prose = [line for line in printed.splitlines() if not line.startswith("      ")]
    assert max(map(len, prose)) <= 80
    assert printed.startswith(f"{name}: ")
    for parameter in policies.parameters:
        assert re.search(rf"^  {parameter}( = |, to be given)", printed, re.MULTILINE)
    needs = printed.partition("\nneeds\n")[2].partition("\npaper\n")[0]
    assert all(item.value in " ".join(needs.split()) for item in policies.requires)
    assert ("a scorer" in needs) == policies.scorer
    assert policies.paper in " ".join(printed.split())


def test_policies_that_need_more_than_a_model_say_so(capsys):
    print_listing(Console(width=200), "policies", None, Path())
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    said = {line[0]: " ".join(line) for line in lines if line and line[0] in POLICIES}
    assert set(said) == set(POLICIES)
    asks = {"cascade", "confidence_cascade", "hybrid_router", "draft_target"}
    assert {name for name, line in said.items() if ", engines " in line or line.startswith(f"{name} engines ")} == asks
    for name in ("search_episode", "stable_search", "self_answer_search"):
        assert "retriever" in said[name]
    for name in ("semantic_switch", "difficulty_probe", "hybrid_router"):
        assert "scorer" in said[name]
    with pytest.raises(RecipeError, match="unknown policy 'short_mkk'"):
        print_listing(Console(), "policies", "short_mkk", Path())


def test_only_rewards_and_policies_are_listed_one_by_one():
    done = laconic("list", "recipes", "hapo")
    assert (done.returncode, done.stdout) == (2, "")
    assert "only rewards and policies" in done.stderr
    done = laconic("list", "rewards", "hapoo")
    assert (done.returncode, done.stdout) == (2, "")
    assert "did you mean hapo?" in done.stderr


def test_shipped_recipes_are_listed():
    done = laconic("list", cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    assert [Path(line.split()[0]).name for line in done.stdout.splitlines()[1:]] == [path.name for path in shipped()]


def test_runs_show_what_is_complete_and_what_was_begun(tmp_path):
    for folder in ("00-init-aa", "01-teach-bb", "02-sft-cc.partial"):
        (tmp_path / "runs" / "demo" / folder).mkdir(parents=True)
        (tmp_path / "runs" / "demo" / folder / "stage.yaml").touch()
    for folder in ("00-init-aa", "01-teach-bb"):
        (tmp_path / "runs" / "demo" / folder / "manifest.json").touch()
    lines = laconic("list", "runs", cwd=tmp_path).stdout.splitlines()
    assert lines[1].split() == ["demo", "2", "02-sft-cc", "-", "-"]
    assert laconic("list", "runs", "--runs", str(tmp_path / "none")).returncode == 0


def test_an_unknown_list_is_refused():
    done = laconic("list", "reward")
    assert (done.returncode, done.stdout) == (2, "")
    assert "did you mean rewards?" in done.stderr


def test_schema_describes_every_stage():
    schema = json.loads(laconic("schema").stdout)
    assert {"name", "problems", "model", "stages"} <= set(schema["required"])
    kinds = {d["properties"]["kind"]["const"] for d in schema["$defs"].values() if "kind" in d.get("properties", {})}
    assert kinds == {"generate", "sft", "dpo", "grpo", "eval"}


def test_usage_errors_are_the_users():
    assert laconic("run").returncode == 2
    assert laconic("plna").returncode == 2
    assert laconic("report", "/nonexistent").returncode == 2


def test_doctor_looks_at_everything_and_needs_no_network():
    done = laconic("doctor")
    assert done.returncode in (0, 1)
    subjects = {re.split(r"\s{2,}", line)[1] for line in done.stdout.splitlines()}
    assert {"python", "numpy", "cpu", "threads", "gpu", "disk", "temporary files", "shared memory"} <= subjects
    assert {"rendezvous port", "gloo", "wandb mode", "hub"} <= subjects
    assert "all_reduce over 2 processes" in done.stdout
    assert "not tried; --online tries it" in done.stdout


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (size(999), "999 B"),
        (size(1_234_567), "1.23 MB"),
        (size(8e10), "80 GB"),
        (number(9999), "9,999"),
        (number(411_000), "411 k"),
        (number(7_615_616_512), "7.62 G"),
        (seconds(8.24), "8.2 s"),
        (seconds(187), "3 min 07 s"),
        (seconds(3600 * 2 + 300), "2 h 05 min"),
        (seconds(59.97), "1 min 00 s"),
        (share(1, 3), "33 %"),
        (share(1, 1000), "<1 %"),
        (share(999, 1000), ">99 %"),
        (share(3, 3), "100 %"),
        (share(0, 3), "0 %"),
        (share(0, 0), "-"),
    ],
)
def test_numbers_as_people_write_them(written, expected):
    assert written == expected


def row(model: str, task: str, accuracy: float, tokens: float) -> dict:
    scores = {"accuracy": accuracy, "accuracy_se": 0.012, "tokens": tokens, "tokens_se": 0.5}
    return {"eval": "eval", "model": model, "task": task, **scores}


def test_the_headline_is_the_row_over_all_tasks(capsys):
    pair = {"eval": "eval", "task": "all", "model": "grpo", "token_ratio": 0.52, "token_ratio_ci": [0.5, 0.55]}
    pair |= {"d_accuracy": 0.013, "d_accuracy_ci": [-0.004, 0.03]}
    rows = [row("sft", "all", 0.71, 47.6), row("grpo", "all", 0.723, 25.0), row("sft", "gcd", 0.1, 1.0)]
    console().print(headline_table({"rows": rows, "paired": [pair]}))
    lines = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    assert cells[1:] == [
        ["sft", "71.0 ± 1.2", "47.6 ± 0.5", "-", "-"],
        ["grpo", "72.3 ± 1.2", "25.0 ± 0.5", "52 % [50, 55]", "+1.3 [-0.4, +3.0]"],
    ]


def test_a_report_is_fresh_only_for_the_stages_it_is_about(tmp_path):
    assert not is_fresh(tmp_path, {"aa"})
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "report.html").touch()
    stages = [{"kind": "sft", "hash": "cc"}, {"kind": "eval", "hash": "aa"}]
    (tmp_path / "report" / "results.json").write_text(json.dumps({"provenance": {"stages": stages}}))
    assert is_fresh(tmp_path, {"aa"})
    assert not is_fresh(tmp_path, {"bb"})
    assert not is_fresh(tmp_path, {"aa", "bb"})
