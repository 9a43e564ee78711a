"""Whether processes can compute together: two on this machine, or one on each node of a job."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from laconic.inference.sockets import bind
from laconic.launch import meeting
from laconic.launch.findings import Finding
from laconic.launch.machine import visible_gpus
from laconic.rewards.errors import LaunchError

LOCAL_TIMEOUT = 30.0
_START = 60.0
"""Seconds that importing torch may take, on a busy machine or from a network disk."""
_NO_TORCH = Finding("collectives", "note", "not tried without torch", cure="pip install 'laconic[train]' brings it")


def collectives(environ: Mapping[str, str] = os.environ, *, timeout: float = LOCAL_TIMEOUT) -> list[Finding]:
    """Start processes here that add numbers up together: two with gloo, and one per GPU, at most two, with NCCL.

    Args:
        environ: Of the processes.
        timeout: Seconds that each waits for the other.
    """
    if importlib.util.find_spec("torch") is None:
        return [_NO_TORCH]
    found = [_together("gloo", 2, environ, timeout)]
    if gpus := visible_gpus(environ):
        found.append(_together("nccl", min(2, gpus), environ, timeout))
    return found


def _together(backend: str, size: int, environ: Mapping[str, str], timeout: float) -> Finding:
    listener = bind("127.0.0.1", 0)
    port = listener.getsockname()[1]
    listener.close()
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(size)}
    # Where this runs under torchrun or Slurm, the processes must not take their part in that.
    own = {name: value for name, value in environ.items() if not name.startswith("TORCHELASTIC_")} | place
    envs = [own | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(size)]
    found = _run(["--backends", backend, "--timeout", str(timeout)], envs, _START + 3 * timeout)[0]
    last = found[-1]
    return last if last.subject == backend else Finding(backend, "problem", last.text, cure=last.cure)


def nodes(
    environ: Mapping[str, str] = os.environ,
    *,
    hosts: Sequence[str] = (),
    shared: Path | None = None,
    timeout: float = 60.0,
) -> list[Finding]:
    """Meet the processes that other nodes started in the same way, and compute something together.

    Ranks and place are torchrun's variables (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT), or Slurm's for the ranks.

    Args:
        environ: Of this process.
        hosts: Names by rank, to say who is missing; without them missing ranks are numbers.
        shared: A folder that every node should see.
        timeout: Seconds to wait for others, each time.

    Raises:
        LaunchError: variables are missing, or torch is.
    """
    if importlib.util.find_spec("torch") is None:
        raise LaunchError("--nodes needs torch", cure="pip install 'laconic[train]'")
    part = ranks(environ)
    arguments = ["--backends", "gloo,nccl", "--timeout", str(timeout), "--hosts", ",".join(hosts)]
    arguments += ["--shared", str(shared)] if shared is not None else []
    found = _run(arguments, [dict(environ) | part], _START + 5 * timeout)[0]
    # What went well is the same everywhere; one process says it.
    return [one for one in found if part["RANK"] == "0" or one.state == "problem"]


def ranks(environ: Mapping[str, str]) -> dict[str, str]:
    """The part that a process has, as torch names it.

    Raises:
        LaunchError: a variable is missing or is no number.
    """
    names = ("RANK", "WORLD_SIZE") if "RANK" in environ else ("SLURM_PROCID", "SLURM_NTASKS")
    needed = (*names, "MASTER_ADDR", "MASTER_PORT")
    lacking = [name for name in needed if not environ.get(name)]
    if lacking:
        raise LaunchError(
            f"--nodes: {', '.join(lacking)} not set",
            cure="start it once on each node with srun or torchrun, MASTER_ADDR and MASTER_PORT set; the script of "
            "`laconic plan --slurm` does",
        )
    for name in (*names, "MASTER_PORT"):
        if not environ[name].isdigit():
            raise LaunchError(f"--nodes: {name} is {environ[name]!r}", cure="a whole number")
    local = environ.get("LOCAL_RANK") or environ.get("SLURM_LOCALID") or "0"
    return {"RANK": environ[names[0]], "WORLD_SIZE": environ[names[1]], "LOCAL_RANK": local}


def _run(arguments: Sequence[str], envs: Sequence[Mapping[str, str]], limit: float) -> list[list[Finding]]:
    """Start a process for each environment; what each of them found, within so many seconds."""
    command = [sys.executable, "-m", meeting.__name__, *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started = [subprocess.Popen(command, env={"OMP_NUM_THREADS": "1", **env}, **pipes) for env in envs]
    deadline = time.monotonic() + limit
    try:
        return [_finish(process, deadline) for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()


def _finish(process: subprocess.Popen[str], deadline: float) -> list[Finding]:
    late = False
    try:
        said, error = process.communicate(timeout=max(0.1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()
        late = True
        said, error = process.communicate()
    found = [Finding(**json.loads(line)) for line in said.splitlines() if line.startswith("{")]
    if not late and process.returncode in (0, 1) and found:
        return found
    end = "did not end" if late else f"ended with {_ending(process.returncode)}"
    last = (error.strip().splitlines() or ["it wrote nothing"])[-1]
    return [
        *found,
        Finding("collectives", "problem", f"the check {end}: {last}", cure="run it again with NCCL_DEBUG=INFO"),
    ]


def _ending(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
