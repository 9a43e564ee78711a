"""The node of a Slurm job on which vLLM samples the rollouts of grpo stages with ``vllm_mode: server``.

`trl vllm-serve` (TRL 1.16) starts vLLM's own server in the way TRL's trainer needs it; before each generation the
trainer sends it the weights of the step. So the server may start from the model that the stage starts from.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from laconic.launch.estimate import model_shape, setting
from laconic.launch.lines import short
from laconic.launch.shapes import Shape
from laconic.recipes.resolve import StageFile
from laconic.recipes.stages import GrpoStage
from laconic.rewards.errors import LaunchError

_ITS_OWN = ("vllm_server_base_url", "vllm_server_host")
"""Keys that name a server which somebody else runs."""
_PASSED_ON = {
    "vllm_gpu_memory_utilization": "gpu_memory_utilization",
    "vllm_max_model_length": "max_model_len",
    "vllm_model_impl": "vllm_model_impl",
}
"""Keys of the trainer that TRL uses for a colocated vLLM only, and what the server calls them."""


def wants_server(stage: StageFile) -> bool:
    """Whether a stage has its rollouts sampled by a server that the job has to start."""
    config = stage.config
    if not isinstance(config, GrpoStage) or not setting(config, "use_vllm"):
        return False
    return setting(config, "vllm_mode") == "server" and not any(config.trainer.get(key) for key in _ITS_OWN)


def server_line(stage: StageFile, run_dir: Path, *, gpus: int) -> str:
    """The command that starts a stage's server, as the shell takes it; `$SERVER_PORT` is filled in there.

    Args:
        stage: A grpo stage.
        run_dir: Where the folders of its inputs are.
        gpus: Of the node.

    Raises:
        LaunchError: the node has not enough of them.
    """
    if gpus == 0:
        raise LaunchError(
            f"stage {stage.name!r} has its rollouts sampled by a vLLM server, which needs GPUs",
            cure="add gpus=N (per node) to --slurm, or leave out vllm_mode: server",
        )
    given = {"model": _model(stage, run_dir), "tensor_parallel_size": str(tensor_parallel(stage, gpus))}
    if "model" not in stage.inputs and stage.model.revision:
        given["revision"] = stage.model.revision
    if stage.model.dtype != "auto":
        given["dtype"] = stage.model.dtype
    trainer = stage.config.trainer  # type: ignore[union-attr]
    given |= {name: str(trainer[key]) for key, name in _PASSED_ON.items() if trainer.get(key) is not None}
    options = [part for name, value in given.items() for part in (f"--{name}", value)]
    return f'{shlex.join(["trl", "vllm-serve", *options])} --port "$SERVER_PORT"'


def tensor_parallel(stage: StageFile, gpus: int) -> int:
    """Over how many GPUs the server spreads the model: what the recipe says, else as many as its heads allow.

    Raises:
        LaunchError: the recipe says more than a node has.
    """
    asked = stage.config.trainer.get("vllm_tensor_parallel_size")  # type: ignore[union-attr]
    if asked is None:
        shape = model_shape(stage.model, stage.problems)
        return 1 if shape is None else max(n for n in range(1, gpus + 1) if _divides(shape, n))
    if asked > gpus:
        raise LaunchError(
            f"stage {stage.name!r}: vllm_tensor_parallel_size is {asked}, but the server's node has {gpus} GPUs",
            cure=f"set it to at most {gpus}, or ask --slurm for gpus={asked}",
        )
    return int(asked)


def _divides(shape: Shape, parts: int) -> bool:
    """Whether vLLM can cut the attention heads into so many parts; it repeats keys and values where it must."""
    return shape.heads % parts == 0 and (shape.kv_heads % parts == 0 or parts % shape.kv_heads == 0)


def _model(stage: StageFile, run_dir: Path) -> str:
    if "model" in stage.inputs:
        return short(run_dir / stage.inputs["model"] / "model")
    assert stage.model.path is not None
    return stage.model.path
