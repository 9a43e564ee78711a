"""Profiles that shard weights (FSDP) and stages whose rollouts only Laconic's own engine can draw."""

import io

import pytest
import yaml
from rich.console import Console

from laconic.launch.options import Options
from laconic.launch.plan import check_rollouts, print_plan, slurm_script, view_stages
from laconic.launch.profiles import load_profile
from laconic.launch.run import run
from laconic.rewards.errors import LaunchError

RECIPE = """
name: sharded
problems: {source: world, size: 40, train: 16, test: 8}
model: {scratch: {hidden_size: 32, layers: 1, heads: 2}}
SEARCH
stages:
  - {kind: grpo, rewards: [{name: accuracy}], batch_size: 8, EXTRA trainer: {num_generations: 8, TRAINER}}
"""
EXITS = "rollouts: {name: early_exits, cuts: random, cue: '</think>'},"
SEARCH = "search: {max_searches: 2, protocol: spaced}"


def options(tmp_path, extra="", search="", trainer="max_steps: 1", profile="fsdp2"):
    path = tmp_path / "sharded.yaml"
    path.write_text(RECIPE.replace("EXTRA", extra).replace("SEARCH", search).replace("TRAINER", trainer))
    return Options(str(path), (), (), tmp_path / "runs", profile, None)


def refusal(given):
    profile = given.load_profile()
    for view in view_stages(given.plan(), profile):
        try:
            check_rollouts(view, profile)
        except LaunchError as error:
            return str(error)
    return None


@pytest.mark.parametrize(
    ("case", "what", "cure"),
    [
        ({"extra": EXITS}, "rollouts: {name: early_exits} are drawn", "or leave rollouts out"),
        ({"search": SEARCH}, "search episodes are drawn", "or set use_vllm"),
    ],
    ids=["rollouts", "search"],
)
def test_under_fsdp_they_are_refused(tmp_path, case, what, cure):
    said = refusal(options(tmp_path, **case))
    assert f"stage grpo: {what} by Laconic's own engine" in said
    assert "weights that profile fsdp2 shards" in said
    assert "use --profile ddp, zero2 or zero3" in said
    assert said.endswith(cure)
    for profile in ("cpu2", "ddp", "zero3"):
        assert refusal(options(tmp_path, profile=profile, **case)) is None


def test_what_other_engines_draw_is_let_through(tmp_path):
    assert refusal(options(tmp_path)) is None
    assert refusal(options(tmp_path, search=SEARCH, trainer="use_vllm: true")) is None


def test_a_plan_says_so_and_nothing_is_started(tmp_path):
    given, out = options(tmp_path, extra=EXITS), io.StringIO()
    plan, profile = given.plan(), given.load_profile()
    print_plan(Console(file=out, width=400), plan, profile, view_stages(plan, profile))
    assert "cannot run: stage grpo: rollouts: {name: early_exits} are drawn" in out.getvalue()
    with pytest.raises(LaunchError, match="stage grpo: rollouts"):
        slurm_script(given, "nodes=1,gpus=2")
    # One that this machine could start.
    here = tmp_path / "fsdp_cpu.yaml"
    settings = load_profile("fsdp2").settings | {"use_cpu": True, "num_processes": 1}
    here.write_text(yaml.safe_dump(settings))
    with pytest.raises(LaunchError, match="that profile fsdp_cpu shards"):
        run(options(tmp_path, extra=EXITS, profile=str(here)), Console(file=out))
    assert not (tmp_path / "runs").exists()
