"""Launch profiles: accelerate config files, read, checked, and compared with this machine.

A profile says how a stage is launched and holds no science. The shipped ones lie in `profiles/`; any other
accelerate config file can be named by its path.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from laconic.launch.machine import visible_gpus
from laconic.recipes.strict import suggest
from laconic.rewards.errors import LaunchError

FOLDER = Path(__file__).parent / "profiles"

# fmt: off
KEYS = frozenset((
    "compute_environment", "distributed_type", "mixed_precision", "use_cpu", "debug",
    "num_processes", "machine_rank", "num_machines", "gpu_ids", "main_process_ip",
    "main_process_port", "rdzv_backend", "same_network", "main_training_function", "enable_cpu_affinity",
    "fp8_config", "deepspeed_config", "fsdp_config", "parallelism_config", "megatron_lm_config",
    "mpirun_config", "downcast_bf16", "tpu_name", "tpu_zone", "tpu_use_cluster",
    "tpu_use_sudo", "command_file", "commands", "tpu_vm", "tpu_env",
    "dynamo_config",
))
# fmt: on
"""The keys accelerate reads; it refuses others, but only once the stage starts."""

DISTRIBUTED_TYPES = ("NO", "MULTI_GPU", "DEEPSPEED", "FSDP")
"""The accelerate types that a stage can be launched with."""


@dataclass(frozen=True, slots=True)
class Profile:
    """One way to launch a stage."""

    name: str
    path: Path
    settings: dict[str, Any]
    """The file's content."""
    processes: int
    """Ranks in all (the world size). 0 when the profile wants every visible GPU and none is visible."""

    @property
    def distributed_type(self) -> str:
        """What accelerate calls it: one of `DISTRIBUTED_TYPES`."""
        return str(self.settings["distributed_type"])

    @property
    def on_cpu(self) -> bool:
        """Whether the ranks compute on the CPU."""
        return bool(self.settings.get("use_cpu", False))

    @property
    def machines(self) -> int:
        """Nodes."""
        return int(self.settings.get("num_machines", 1))

    @property
    def gpus_needed(self) -> int:
        """GPUs that must be visible on each node."""
        return 0 if self.on_cpu else max(1, self.processes // self.machines)

    @property
    def needs_deepspeed(self) -> bool:
        """Whether deepspeed must be installed."""
        return self.distributed_type == "DEEPSPEED"

    @property
    def zero_stage(self) -> int:
        """How far the training state is sharded: 0 not at all, 2 gradients and optimiser, 3 weights too (FSDP: 3)."""
        if self.distributed_type == "FSDP":
            return 3
        return int(self.settings.get("deepspeed_config", {}).get("zero_stage", 2)) if self.needs_deepspeed else 0

    @property
    def offloads(self) -> bool:
        """Whether the optimiser states live in host memory."""
        return self.settings.get("deepspeed_config", {}).get("offload_optimizer_device", "none") != "none"

    @property
    def mixed_precision(self) -> str:
        """`no`, `bf16`, `fp16` or `fp8`."""
        return str(self.settings.get("mixed_precision") or "no")

    @property
    def summary(self) -> str:
        """The first comment line of the file."""
        first = self.path.read_text(encoding="utf-8").split("\n", 1)[0]
        return first.lstrip("# ").strip() if first.startswith("#") else ""


def shipped_profiles() -> list[str]:
    """Names of the profiles that come with Laconic, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_profile(name: str, *, processes: int | None = None) -> Profile:
    """Read a profile.

    Args:
        name: A shipped profile's name, the path of an accelerate config file, or `auto` (`gpu` where a GPU is
            visible, else `cpu`).
        processes: Ranks in all; None takes the file's number, or every visible GPU where it says `gpu`.

    Raises:
        LaunchError: there is no such profile, or the file is not an accelerate config that a stage can use.
    """
    path = _find("gpu" if visible_gpus() else "cpu") if name == "auto" else _find(name)
    settings = _read(path)
    profile = Profile(path.stem, path, settings, _file_processes(path, settings))
    if processes is None:
        return profile
    if processes < 1:
        raise LaunchError(f"--processes {processes}: at least one process is needed", cure="give 1 or more")
    if profile.distributed_type == "NO" and processes > 1:
        other = "cpu2" if profile.on_cpu else "ddp"
        raise LaunchError(
            f"--processes {processes}: profile {profile.name} starts one process (distributed_type NO)",
            cure=f"choose a profile that starts several, such as --profile {other}",
        )
    return replace(profile, processes=processes)


def check_machine(profile: Profile) -> None:
    """Refuse a profile that this machine cannot run, before anything is started.

    Raises:
        LaunchError: too few GPUs are visible, or deepspeed is not installed.
    """
    gpus = visible_gpus()
    if profile.gpus_needed > gpus:
        seen = f" (CUDA_VISIBLE_DEVICES={hidden})" if (hidden := os.environ.get("CUDA_VISIBLE_DEVICES")) else ""
        raise LaunchError(
            f"profile {profile.name} needs {profile.gpus_needed} GPU(s) and this machine shows {gpus}{seen}",
            cure="run it where the GPUs are, " + (f"use --processes {gpus}, " if gpus else "") + "or use --profile cpu",
        )
    if profile.needs_deepspeed and importlib.util.find_spec("deepspeed") is None:
        raise LaunchError(
            f"profile {profile.name} needs deepspeed, which is not installed",
            cure="pip install deepspeed, or use --profile ddp or fsdp2",
        )


def _find(name: str) -> Path:
    for path in (FOLDER / f"{name}.yaml", Path(name)):
        if path.is_file():
            return path
    raise LaunchError(
        f"--profile {name}: no such profile and no such file",
        cure=f"{suggest(name, ['auto', *shipped_profiles()])} The path of an accelerate config file will do, too.",
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise LaunchError(f"{path}: not YAML: {error}", cure="write it with `accelerate config`") from None
    if not isinstance(settings, dict):
        raise LaunchError(f"{path}: not an accelerate config file", cure="write it with `accelerate config`")
    for key in settings:
        if key not in KEYS:
            raise LaunchError(f"{path}: unknown key {key!r}", cure=suggest(key, sorted(KEYS)))
    _check_values(path, settings)
    return settings


def _check_values(path: Path, settings: dict[str, Any]) -> None:
    kind = settings.get("distributed_type")
    if kind not in DISTRIBUTED_TYPES:
        # YAML 1.1 reads an unquoted NO as false.
        cure = "quote it: 'NO'" if kind is False else f"one of {', '.join(DISTRIBUTED_TYPES)}"
        raise LaunchError(f"{path}: distributed_type is {kind!r}", cure=cure)
    count = settings.get("num_processes", 1)
    if count != "gpu" and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
        raise LaunchError(f"{path}: num_processes is {count!r}", cure="a number from 1 up, or gpu for all visible")


def _file_processes(path: Path, settings: dict[str, Any]) -> int:
    count = settings.get("num_processes", 1)
    return visible_gpus() if count == "gpu" else int(count)
