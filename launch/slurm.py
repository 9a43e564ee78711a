"""Slurm scripts, rendered from a checked recipe and profile."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from laconic.launch.lines import PLAIN, TRAINING, short
from laconic.launch.profiles import FOLDER, Profile
from laconic.launch.vllm_node import server_line, wants_server
from laconic.recipes.folder import MANIFEST
from laconic.recipes.resolve import StageFile
from laconic.recipes.strict import suggest
from laconic.rewards.errors import LaunchError

TEMPLATE = Path(__file__).parent / "templates" / "slurm.sh.j2"
_PASSED_ON = ("time", "partition", "account", "qos", "constraint", "mem", "cpus-per-task")
_KEYS = ("nodes", "gpus", *_PASSED_ON)
_TIME = re.compile(r"(\d+-)?\d+(:\d{2}){0,2}")


@dataclass(frozen=True, slots=True)
class SlurmRequest:
    """What to ask Slurm for."""

    nodes: int = 1
    """That train; where a stage has its rollouts sampled by a vLLM server, the job gets one more."""
    gpus: int = 0
    """Per node."""
    directives: dict[str, str] = field(default_factory=dict)
    """Further `#SBATCH` options, by name."""

    @property
    def processes(self) -> int:
        """Ranks in all: one per GPU, or one per node where there is none."""
        return self.nodes * max(1, self.gpus)


def parse_request(text: str) -> SlurmRequest:
    """Read ``nodes=2,gpus=8,time=12:00:00,partition=h100``.

    Raises:
        LaunchError: a key is unknown or a value is not what Slurm takes.
    """
    given: dict[str, str] = {}
    for part in text.split(","):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not value or key not in _KEYS:
            cure = "write key=value" if key in _KEYS else suggest(key, _KEYS)
            raise LaunchError(f"--slurm: cannot use {part.strip()!r}", cure=cure)
        given[key] = value
    if "time" in given and not _TIME.fullmatch(given["time"]):
        raise LaunchError(f"--slurm: time is {given['time']!r}", cure="write it as 12:00:00 or 2-00:00:00")
    counts = {key: _count(key, given[key], low) for key, low in (("nodes", 1), ("gpus", 0)) if key in given}
    return SlurmRequest(**counts, directives={key: given[key] for key in _PASSED_ON if key in given})


def render_slurm(
    request: SlurmRequest,
    profile: Profile,
    *,
    recipe: str,
    options: Sequence[str],
    stages: Sequence[tuple[StageFile, Path]],
) -> str:
    """The text of a script for `sbatch`.

    Args:
        request: What to ask for.
        profile: How training stages are launched.
        recipe: The recipe's name.
        options: The recipe file and the options after `laconic run`, the profile left out.
        stages: Each stage, in order, and where its `stage.yaml` will be.

    Raises:
        LaunchError: the profile cannot use what is asked for.
    """
    _check(request, profile)
    import jinja2

    server = any(wants_server(stage) for stage, _ in stages)

    run = ["laconic", "run", *options, "--profile", _profile_name(profile), "--processes", str(profile.processes)]
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        recipe=recipe,
        profile=profile.name,
        job_name=recipe,
        nodes=request.nodes,
        gpus=request.gpus,
        server=server,
        directives=list(request.directives.items()),
        bin=shlex.quote(str(Path(sys.executable).parent)),
        run=shlex.join(run),
        prepare=shlex.join(["laconic", "plan", *run[2:], "--write"]),
        doctor=shlex.join(["laconic", "doctor", "--nodes", "--runs", short(stages[0][1].parents[2])]),
        stages=[_stage(run, request, profile, *stage, apart=server) for stage in stages],
    )


def _stage(
    run: Sequence[str], request: SlurmRequest, profile: Profile, stage: StageFile, stage_yaml: Path, *, apart: bool
) -> dict[str, Any]:
    """What the template says of a stage; `apart`: the job has a node that trains nothing."""
    about = {"index": stage.index, "name": stage.name, "server": None}
    if stage.kind in PLAIN:
        return {**about, "line": shlex.join([*run, "--only", stage.name])}
    if wants_server(stage):
        about["server"] = server_line(stage, stage_yaml.parents[1], gpus=request.gpus)
        about["manifest"] = shlex.quote(short(stage_yaml.with_name(MANIFEST)))
    where = f'--nodes={request.nodes} --ntasks={request.nodes} --nodelist="$TRAINING" ' if apart else ""
    command = shlex.quote(_launch(request, profile, stage.kind, stage_yaml))
    return {**about, "line": f"srun {where}--kill-on-bad-exit=1 bash -c {command}"}


def _launch(request: SlurmRequest, profile: Profile, kind: str, stage_yaml: Path) -> str:
    """One launcher per node; the variables are filled in by the shell on each node."""
    launch = shlex.join(
        ["accelerate", "launch", "--config_file", short(profile.path), "--num_processes", str(profile.processes)]
    )
    nodes = f'--num_machines {request.nodes} --machine_rank "$SLURM_NODEID"'
    meeting = '--main_process_ip "$MASTER" --main_process_port "$PORT"'
    return f"{launch} {nodes} {meeting} {shlex.join(['-m', TRAINING[kind], short(stage_yaml)])}"


def _check(request: SlurmRequest, profile: Profile) -> None:
    if not profile.on_cpu and request.gpus == 0:
        raise LaunchError(
            f"--slurm asks for no GPU and profile {profile.name} needs one", cure="add gpus=N (per node) to --slurm"
        )
    if profile.distributed_type == "NO" and request.processes > 1:
        raise LaunchError(
            f"--slurm asks for {request.processes} processes and profile {profile.name} starts one",
            cure="choose --profile ddp, zero2, zero3 or fsdp2",
        )


def _profile_name(profile: Profile) -> str:
    return profile.name if profile.path.parent == FOLDER else short(profile.path)


def _count(key: str, value: str, low: int) -> int:
    if not value.isdigit() or int(value) < low:
        raise LaunchError(f"--slurm: {key} is {value!r}", cure=f"a whole number from {low} up")
    return int(value)
