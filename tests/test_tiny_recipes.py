"""Every shipped recipe runs with its `tiny` overlay, for two steps, found by its file name."""

import json
from pathlib import Path

import pytest

from laconic.data_gen import stage as generate
from laconic.eval import stage as evaluate
from laconic.recipes.entry import run_stage
from laconic.recipes.resolve import resolve
from laconic.recipes.source import load_recipe
from laconic.training import dpo, grpo, init, sft

ROOT = Path(__file__).parents[1]
MAINS = {
    "init": init.main,
    "generate": generate.main,
    "sft": sft.main,
    "dpo": dpo.main,
    "grpo": grpo.main,
    "eval": evaluate.main,
}


@pytest.mark.parametrize("path", sorted(ROOT.glob("recipes/*.yaml")), ids=lambda path: path.stem)
def test_tiny(path, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("LACONIC_TRACKER", "none")
    plan = resolve(load_recipe(path, overlays=["tiny"]), tmp_path)
    for stage in plan.stages:
        argv = [str(path), "--overlay", "tiny", "--stage", stage.name, "--runs", str(tmp_path)]
        run_stage(stage.kind, MAINS[stage.kind], argv)
    for stage in plan.stages:
        manifest = json.loads((plan.run_dir / stage.folder / "manifest.json").read_text())
        assert manifest.get("steps", 2) == 2
    results = json.loads((plan.run_dir / plan.stages[-1].folder / "results.json").read_text())
    assert {row["model"] for row in results["rows"]} == set(plan.stages[-1].config.models)
    if plan.recipe.model.scratch.architecture == "qwen2":
        trained = [stage for stage in plan.stages if stage.kind == "grpo"][-1]
        config = json.loads((plan.run_dir / trained.folder / "model" / "config.json").read_text())
        assert config["architectures"] == ["Qwen2ForCausalLM"]
