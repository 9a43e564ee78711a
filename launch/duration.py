"""How long a training stage will take: its arithmetic over what the device does per second. A rough estimate.

Every row counts as long as it may be, so that it is an upper bound where rows are shorter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from laconic.launch.counts import Training
from laconic.launch.estimate import precision, row_tokens, setting, weight_bytes
from laconic.launch.machine import gpu_name, usable_cores
from laconic.launch.profiles import Profile
from laconic.launch.shapes import Shape
from laconic.recipes.model_spec import ModelSpec
from laconic.recipes.stages import DpoStage, GrpoStage

_START = 10.0
"""Seconds before the first step: imports, loading, preparing rows."""
_UTILISATION = 0.35
"""Of a GPU's arithmetic, what training on padded rows with TRL is taken to reach. Not yet measured."""
_LAUNCH = 0.4e-3
"""Seconds that one layer takes on a GPU at least, for one token of all sequences, without compiled graphs."""
_CPU = 60e9
"""Operations per second of one core in 32 bits: a decoder of 20 million parameters reached 84e9, smaller ones less."""
_CPU_DECODING = 0.3
"""Of that, what is left for decoding token by token."""
_AT_ONCE = 128


@dataclass(frozen=True, slots=True)
class Device:
    """What one process computes on."""

    name: str
    operations: float
    """Per second, in training."""
    bandwidth: float | None
    """Bytes per second of a GPU's memory; None on a CPU."""


GPUS = {
    "B200": (2250e12, 8.0e12),
    "H200": (989e12, 4.8e12),
    "H100": (989e12, 3.35e12),
    "A100": (312e12, 2.0e12),
    "L40S": (362e12, 0.86e12),
    "4090": (165e12, 1.0e12),
    "A10": (125e12, 0.6e12),
    "V100": (125e12, 0.9e12),
    "T4": (65e12, 0.32e12),
}
"""Dense 16-bit operations and bytes of memory per second, by what the driver calls the GPU; from data sheets."""


def device(profile: Profile) -> Device:
    """What a process of the profile computes on; an H100 where this machine shows no GPU that is known."""
    if profile.on_cpu:
        cores = max(1, usable_cores() // max(1, profile.processes))
        return Device(f"{cores} core{'s' if cores > 1 else ''}", cores * _CPU, None)
    said = gpu_name()
    name = next((known for known in GPUS if known in said), "H100")
    return Device(name, GPUS[name][0] * _UTILISATION, GPUS[name][1])


def training_seconds(view: Training, model: ModelSpec, shape: Shape, profile: Profile, on: Device) -> float | None:
    """From the first import to the last step; None where the number of steps is not known.

    Args:
        view: The stage with its batches and steps.
        model: The recipe's.
        shape: Of the model.
        profile: Decides precision.
        on: What each process computes on.
    """
    if view.steps.value is None:
        return None
    stage, batch = view.config, view.batch
    length = row_tokens(stage, model)
    forward = forward_operations(shape, length)
    tokens = batch.rows_per_process * length * (2 if isinstance(stage, DpoStage) else 1)
    slowness = 2.0 if precision(stage, model, profile) == "float32" and not profile.on_cpu else 1.0
    learning = tokens * forward * passes(view) / on.operations * slowness
    return _START + view.steps.value * (learning + _decoding(view, model, shape, profile, on))


def forward_operations(shape: Shape, length: int) -> float:
    """Of one token in one forward pass, in a causal row of so many tokens."""
    looked_up = 0 if shape.tied else shape.vocab * shape.hidden
    return 2 * (shape.parameters - looked_up) + 2 * shape.layers * shape.heads * shape.head_dim * length


def passes(view: Training) -> float:
    """What a row costs, in forward passes: a backward pass counts as two, of frozen weights as one."""
    stage = view.config
    count = 2.0 if stage.lora else 3.0
    count += bool(stage.trainer.get("gradient_checkpointing", False))
    if isinstance(stage, DpoStage):
        return count + (0 if setting(stage, "precompute_ref_log_probs") else 1)
    if isinstance(stage, GrpoStage):
        iterations = setting(stage, "num_iterations")
        old = iterations > 1 or view.batch.steps_per_generation > view.batch.accumulation
        return count + (bool(setting(stage, "beta")) + old) / iterations
    return count


def _decoding(view: Training, model: ModelSpec, shape: Shape, profile: Profile, on: Device) -> float:
    """Seconds per optimiser step in which rollouts are sampled."""
    stage, batch = view.config, view.batch
    if not isinstance(stage, GrpoStage):
        return 0.0
    rows, length = batch.rows_per_process, row_tokens(stage, model)
    operations = rows * length * forward_operations(shape, length) / setting(stage, "num_iterations")
    if on.bandwidth is None:
        return operations / (on.operations * _CPU_DECODING)
    token = weight_bytes(precision(stage, model, profile)) * shape.parameters / on.bandwidth + shape.layers * _LAUNCH
    return max(
        operations / on.operations, math.ceil(rows / _AT_ONCE) * length * token / setting(stage, "num_iterations")
    )
