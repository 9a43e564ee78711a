"""What `bench/quickstart_trl.py` compares: the same stage twice, once with TRL's trainer and generation."""

import sys
from pathlib import Path

import pytest
from trl import GRPOConfig

from laconic.recipes.resolve import resolve
from laconic.recipes.source import load_recipe
from laconic.recipes.yaml_text import dump_yaml
from laconic.training.grpo import _trainer
from laconic.training.rollouts import applicable, sampling_of
from laconic.training.trl_trainer import TimedGRPOTrainer

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    import quickstart_trl

    yield quickstart_trl
    for name in ("quickstart_trl", "seeds"):
        del sys.modules[name]


@pytest.mark.parametrize(("seed", "order"), [(0, ["grpo", "grpo_trl"]), (1, ["grpo_trl", "grpo"])])
def test_the_two_stages_differ_in_who_trains_and_who_generates(bench, tmp_path, seed, order):
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_yaml(bench.recipe(seed)))
    plan = resolve(load_recipe(path), tmp_path)
    assert [stage.name for stage in plan.stages[5:]] == [*order, "eval"]
    shipped = resolve(load_recipe(ROOT / "recipes" / "quickstart.yaml", overrides=[f"seed={seed}"]), tmp_path)
    assert [stage.folder for stage in plan.stages[:5]] == [stage.folder for stage in shipped.stages[:5]]
    ours, theirs = plan.stage("grpo"), plan.stage("grpo_trl")
    # A folder of the same name from another place in the chain would be the same stage.
    assert ours.hash == shipped.stage("grpo").hash
    assert ours.inputs == theirs.inputs == {"model": shipped.stage("dpo").folder}
    mine, other = ours.config.model_dump(), theirs.config.model_dump()
    assert other["trainer"].pop("generation_kwargs") == {}
    assert {key: other[key] for key in other if key not in ("name", "fast")} == {
        key: mine[key] for key in mine if key != "name"
    }
    assert _trainer(theirs.config) is TimedGRPOTrainer
    fixed = {"output_dir": str(tmp_path), "use_cpu": True, "bf16": False, "report_to": []}
    own, trls = (GRPOConfig(**fixed, **stage.config.trainer) for stage in (ours, theirs))
    assert (applicable(own), applicable(trls)) == (True, False)
    assert not trls.use_vllm
    assert sampling_of(own) == sampling_of(trls)


def test_intervals(bench):
    assert bench._overlap([0.7, 0.8], [0.8, 0.9])
    assert not bench._overlap([0.81, 0.9], [0.7, 0.8])
    assert bench._interval(5.0, 0.5) == pytest.approx([4.02, 5.98])
    assert bench._interval(5.0, None) == [5.0, 5.0]


def test_the_median_round_counts_and_all_are_kept(bench):
    rounds = [
        {"training_ratio": ratio, "grpo": {"training_seconds": 10 * ratio}, "grpo_trl": {"training_seconds": 10.0}}
        for ratio in (0.7, 0.5, 0.6, 0.9)
    ]
    assert bench.middle(rounds[:3])["training_ratio"] == 0.6
    found = bench.middle(rounds)
    assert found["training_ratio"] == 0.7
    assert found["rounds"]["training_ratio"] == [0.7, 0.5, 0.6, 0.9]
    assert found["rounds"]["training_seconds"][1] == {"grpo": 5.0, "grpo_trl": 10.0}
