"""Every recipe that ships loads and resolves, plain and with each of its overlays."""

from __future__ import annotations

from pathlib import Path

import pytest

from laconic.recipes.arithmetic import stage_batch_plan
from laconic.recipes.problems_model import FileProblems
from laconic.recipes.resolve import resolve
from laconic.recipes.source import load_recipe, shipped
from laconic.recipes.stages import TrainingStage
from laconic.recipes.yaml_text import load_yaml


def variants():
    for path in shipped():
        yield pytest.param(path, [], id=path.stem)
        for overlay in load_yaml(path.read_text(), label=path.name)[0].get("overlays", {}):
            yield pytest.param(path, [overlay], id=f"{path.stem}-{overlay}")


@pytest.mark.parametrize(("path", "overlays"), variants())
def test_it_loads_and_resolves(path, overlays, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(path, overlays=overlays)
    if isinstance(recipe.problems, FileProblems):
        _stand_in(recipe.problems)
    plan = resolve(recipe, tmp_path / "runs")
    assert [stage.name for stage in plan.stages if stage.kind != "init"] == [stage.name for stage in recipe.stages]
    assert recipe.name == "-".join([path.stem, *overlays])
    trained = [stage for stage in recipe.stages if isinstance(stage, TrainingStage)]
    assert all(stage_batch_plan(stage, recipe.problems, 1).rows_per_step for stage in trained)


def _stand_in(problems: FileProblems) -> None:
    """Resolving reads the data files for their digests; what they hold is not looked at."""
    for name in (problems.train, problems.test):
        if not Path(name).is_absolute():
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).write_text("{}\n")


def test_every_shipped_recipe_has_a_tiny_overlay():
    lacking = [path.name for path in shipped() if "tiny" not in load_recipe(path).overlays]
    assert lacking == []
