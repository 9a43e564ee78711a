"""What the documents say is true: figures come from result files, examples run, named files exist."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from laconic.launch.cli import app
from laconic.recipes.model_spec import ScratchModel
from laconic.recipes.source import load_recipe
from laconic.recipes.stages import GrpoStage
from laconic.rewards import compose
from laconic.training import scratch

ROOT = Path(__file__).parents[1]
GUIDES = ROOT / "docs" / "guides"


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(), re.DOTALL)


def test_figures_in_the_documents_come_from_result_files(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    before = set(sys.modules)
    import readme_results as written

    readme, guide = ROOT / "README.md", GUIDES / "search-quickstart.md"
    for study, section, document in (
        (written.QUICKSTART, written.section, readme),
        (written.QUICKSTART, written.policies_section, GUIDES / "policy-results.md"),
        (written.SEARCH, written.seeds_section, readme),
        (written.REWARDS, written.table_section, guide),
    ):
        results = study.results()
        assert section(results) in document.read_text(), study.recipe
    for figures in (written.step_section(), written.trl_section()):
        assert figures in (GUIDES / "faster-grpo.md").read_text()
    assert sorted(written.QUICKSTART.results()) == sorted(written.SEARCH.results()) == [0, 1, 2]
    for study in (written.QUICKSTART, written.SEARCH):
        assert all(study.verdict(result)[0] for result in study.results().values())
    for module in set(sys.modules) - before:
        if Path(getattr(sys.modules[module], "__file__", None) or "/").parent == ROOT / "bench":
            del sys.modules[module]


def test_the_reward_of_the_guide_works(tmp_path):
    """The reader writes that file into a copy of the package and types the guide's lines."""
    guide = GUIDES / "add-a-reward.md"
    shutil.copytree(ROOT / "rewards", tmp_path / "laconic" / "rewards")
    shutil.copy(ROOT / "docs" / "examples" / "rollouts.jsonl", tmp_path)
    file = tmp_path / "laconic" / "rewards" / "length" / "gentle.py"
    file.write_text(blocks(guide, "python")[0])
    entries = blocks(guide, "yaml")[0].removeprefix("rewards: ").strip()
    in_a_recipe = f"plan {ROOT}/recipes/quickstart.yaml --set 'grpo.rewards={entries}'"
    listed, scored, planned = (
        laconic(shlex.split(line.removeprefix("laconic ")), tmp_path)
        for line in [*commands(guide.relative_to(ROOT))[:2], in_a_recipe]
    )
    assert "r = c * max(0, 1 - slope * (L / shortest - 1))" in listed
    assert "wrong above right     never" in scored
    assert "length moves wrong    no" in scored
    assert "grpo" in planned
    examples = subprocess.run(
        [sys.executable, "-m", "doctest", "-v", str(file)], capture_output=True, text=True, check=True
    )
    assert "1 passed" in examples.stdout


def laconic(arguments, folder):
    """What the command prints, with the rewards of a folder in place of the installed ones."""
    env = os.environ | {"PYTHONPATH": str(folder), "COLUMNS": "100"}
    command = [sys.executable, "-m", "laconic.launch.cli", *arguments]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def commands(document):
    return [line.split("  #")[0] for block in blocks(ROOT / document, "bash") for line in block.splitlines()]


def test_the_policy_of_the_guide_answers(tmp_path, capsys):
    tokenizer = scratch.symbolic_tokenizer(["3", "4", "7", "+", "="])
    model = ScratchModel(hidden_size=32, layers=2, heads=2, max_length=256)
    scratch.build(model, tokenizer, seed=0, folder=tmp_path)
    names = {}
    exec(blocks(GUIDES / "use-a-policy.md", "python")[0], names)
    names["main"](str(tmp_path))
    printed = capsys.readouterr().out
    assert "'generated': " in printed
    assert "'exact': {'generated': True, 'prompt': True}" in printed


def test_the_corpus_of_the_search_guide_answers_its_question(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes", ignore=shutil.ignore_patterns("*.py", "tiny"))
    (tmp_path / "runs" / "search_quickstart").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    guide = GUIDES / "search-quickstart.md"
    exec(blocks(guide, "python")[0], {})
    corpus = (tmp_path / "runs" / "search_quickstart" / "corpus.jsonl").read_text()
    (subject,) = re.findall(r"who taught ([\w ]+) \?", " ".join(commands(guide.relative_to(ROOT))))
    assert f"the mentor of {subject} is " in corpus


@pytest.mark.parametrize("keys", blocks(GUIDES / "grpo-methods.md", "yaml"))
def test_keys_of_the_methods_guide_are_legal(keys):
    assert GrpoStage(**{"kind": "grpo", "rewards": [{"name": "accuracy"}]} | yaml.safe_load(keys))


@pytest.mark.parametrize("document", ["docs/guides/use-a-reward.md", "README.md"])
def test_rewards_of_the_documents_are_legal(document):
    entries = yaml.safe_load(blocks(ROOT / document, "yaml")[0])["rewards"]
    assert len(entries) >= 2
    for entry in entries:
        compose(entry)


@pytest.mark.parametrize("document", ["docs/guides/use-a-reward.md", "README.md"])
def test_scoring_the_example_works(document, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where a picture would be written
    shutil.copytree(ROOT / "docs" / "examples", tmp_path / "docs" / "examples")
    found = [shlex.split(command)[1:] for command in commands(document) if "docs/examples/" in command]
    assert found
    for arguments in found:
        assert CliRunner().invoke(app, arguments).exit_code == 0, arguments


def test_the_recipe_of_the_guide_is_legal(tmp_path):
    recipe = tmp_path / "my_recipe.yaml"
    recipe.write_text(blocks(GUIDES / "write-a-recipe.md", "yaml")[0])
    assert [stage.kind for stage in load_recipe(recipe).stages] == ["generate", "dpo", "grpo", "eval"]


@pytest.mark.parametrize(
    "document", ["README.md", "CONTRIBUTING.md", *(f"docs/guides/{p.name}" for p in GUIDES.glob("*"))]
)
def test_links_lead_somewhere(document):
    path = ROOT / document
    targets = re.findall(r"\]\((?!http)([^)#]+)\)|src(?:set)?=\"([^\"]+)\"", path.read_text())
    for target in (a or b for a, b in targets):
        assert (path.parent / target).exists(), target
