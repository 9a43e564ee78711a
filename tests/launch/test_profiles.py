"""Launch profiles: what accelerate itself makes of them, and what a machine without GPUs is told."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys

import pytest
import yaml

from laconic.launch.lines import launch_options, stage_line
from laconic.launch.profiles import FOLDER, KEYS, check_machine, load_profile, shipped_profiles
from laconic.rewards.errors import LaunchError

NAMES = ["cpu", "cpu2", "ddp", "fsdp2", "gpu", "zero2", "zero3", "zero3_offload"]


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def test_all_profiles_are_shipped():
    assert shipped_profiles() == NAMES


def test_known_keys_are_those_of_the_installed_accelerate():
    config_args = pytest.importorskip("accelerate.commands.config.config_args")
    assert {field.name for field in dataclasses.fields(config_args.ClusterConfig)} == KEYS


@pytest.mark.parametrize("name", NAMES)
def test_accelerate_reads_every_profile(name):
    config_args = pytest.importorskip("accelerate.commands.config.config_args")
    config = config_args.load_config_from_file(str(FOLDER / f"{name}.yaml"))
    profile = load_profile(name)
    assert config.distributed_type.value == profile.distributed_type
    assert config.use_cpu is profile.on_cpu
    assert config.deepspeed_config.get("zero_stage", 0) == (profile.zero_stage if profile.needs_deepspeed else 0)


@pytest.mark.parametrize("name", ["zero2", "zero3", "zero3_offload"])
def test_deepspeed_leaves_batches_to_the_recipe(name):
    settings = load_profile(name).settings["deepspeed_config"]
    assert settings["gradient_accumulation_steps"] == settings["gradient_clipping"] == "auto"
    if settings["zero_stage"] == 3:
        assert settings["zero3_save_16bit_model"] is True


@pytest.mark.parametrize(
    ("name", "zero", "offloads"), [("ddp", 0, False), ("zero2", 2, False), ("zero3", 3, False), ("fsdp2", 3, False)]
)
def test_sharding(name, zero, offloads):
    profile = load_profile(name, processes=8)
    assert (profile.zero_stage, profile.offloads, profile.processes) == (zero, offloads, 8)
    assert profile.gpus_needed == 8


def test_auto_without_gpu_is_cpu(no_gpu):
    profile = load_profile("auto")
    assert (profile.name, profile.processes, profile.gpus_needed) == ("cpu", 1, 0)
    check_machine(profile)


@pytest.mark.parametrize("name", ["gpu", "ddp", "zero3", "fsdp2"])
def test_a_gpu_profile_is_refused_without_gpus(no_gpu, name):
    with pytest.raises(LaunchError, match=rf"profile {name} needs 1 GPU\(s\) and this machine shows 0") as error:
        check_machine(load_profile(name))
    assert "--profile cpu" in error.value.cure


def test_one_process_profiles_refuse_several():
    with pytest.raises(LaunchError, match="--processes 4: profile cpu starts one process") as error:
        load_profile("cpu", processes=4)
    assert "cpu2" in error.value.cure
    with pytest.raises(LaunchError, match="--processes 0"):
        load_profile("cpu2", processes=0)


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(LaunchError, match="--profile zeroo3: no such profile") as error:
        load_profile("zeroo3")
    assert "did you mean zero3?" in error.value.cure


@pytest.mark.parametrize(
    ("text", "said", "cure"),
    [
        ("distributed_type: 'NO'\nnum_procesess: 1\n", "unknown key 'num_procesess'", "num_processes"),
        ("distributed_type: NO\n", "distributed_type is False", "quote it"),
        ("distributed_type: MULTI_CPU\n", "distributed_type is 'MULTI_CPU'", "MULTI_GPU"),
        ("distributed_type: 'NO'\nnum_processes: many\n", "num_processes is 'many'", "number"),
        ("- 1\n", "not an accelerate config", "accelerate config"),
        ("a: [1\n", "not YAML", "accelerate config"),
    ],
)
def test_a_wrong_file_is_named_with_its_cure(tmp_path, text, said, cure):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(LaunchError, match=said) as error:
        load_profile(str(path))
    assert str(path) in error.value.message
    assert cure in error.value.cure


def test_a_file_of_ones_own_is_used(tmp_path):
    path = tmp_path / "four.yaml"
    path.write_text(yaml.safe_dump({"distributed_type": "MULTI_GPU", "num_processes": 4, "use_cpu": True}))
    profile = load_profile(str(path))
    assert (profile.name, profile.processes, profile.on_cpu) == ("four", 4, True)
    assert launch_options(profile) == ["--config_file", str(path)]
    assert launch_options(load_profile(str(path), processes=3))[-2:] == ["--num_processes", "3"]


COUNT_RANKS = """
from accelerate import Accelerator
state = Accelerator().state
total = state.num_processes
print(f"rank {state.process_index} of {total} on {state.device.type}\\n", end="", flush=True)
"""


@pytest.mark.distributed
def test_the_cpu2_line_starts_two_ranks_when_typed_by_hand(tmp_path, no_gpu):
    pytest.importorskip("accelerate")
    script = tmp_path / "ranks.py"
    script.write_text(COUNT_RANKS)
    line = stage_line("sft", tmp_path / "stage.yaml", load_profile("cpu2"))
    module = f"-m laconic.training.sft {tmp_path / 'stage.yaml'}"
    assert line.endswith(module)
    typed = line.removesuffix(module).replace("accelerate launch", f"{sys.executable} -m accelerate.commands.launch")
    env = {key: value for key, value in os.environ.items() if not key.startswith("ACCELERATE_")}
    done = subprocess.run(
        f"{typed} {script}", shell=True, capture_output=True, text=True, env=env | {"OMP_NUM_THREADS": "1"}, check=True
    )
    assert sorted(done.stdout.split("\n")) == ["", "rank 0 of 2 on cpu", "rank 1 of 2 on cpu"]
