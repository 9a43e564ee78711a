"""What a stage will need: memory, disk, tokens. Estimates, meant to be right within a factor of about 1.5."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from laconic.launch.profiles import Profile
from laconic.launch.shapes import Shape, pretrained_shape
from laconic.recipes.model_spec import ModelSpec
from laconic.recipes.problems_model import Problems
from laconic.recipes.stages import DpoStage, GrpoStage, TrainingStage
from laconic.recipes.trainer_fields import default

_CONTROL_TOKENS = 7
"""Of a tokenizer built from scratch: five of the chat format and two thinking tags."""

_ACTIVATIONS = 34
"""Bytes per token, layer and hidden unit that a 16-bit decoder layer keeps for the backward pass (arXiv:2205.05198,
equation 2, without the attention matrix, which fused attention never stores)."""


def model_shape(model: ModelSpec, problems: Problems) -> Shape | None:
    """The shape of the recipe's model; None where neither its files nor the table of known models tell."""
    if model.scratch is None:
        assert model.path is not None
        return pretrained_shape(model.path, model.revision)
    spec = model.scratch
    return Shape(
        architecture=spec.architecture,
        vocab=spec.vocab_size if spec.tokenizer == "bpe" else _symbols(problems) + _CONTROL_TOKENS,
        hidden=spec.hidden_size,
        layers=spec.layers,
        heads=spec.heads,
        kv_heads=spec.kv_heads or spec.heads,
        head_dim=spec.hidden_size // spec.heads,
        intermediate=spec.intermediate_size or 4 * spec.hidden_size,
        tied=True,
    )


def _symbols(problems: Problems) -> int:
    from laconic.data_gen.sources import vocabulary
    from laconic.inference.trace import THINK_CLOSE, THINK_OPEN

    return len(set(vocabulary(problems)) - {THINK_OPEN, THINK_CLOSE})


def weight_bytes(model: ModelSpec) -> int:
    """Bytes of one weight: 4 for a model from scratch or loaded in float32, else 2 (`auto` counts as bfloat16)."""
    return 4 if model.scratch is not None or model.dtype == "float32" else 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes that one process of a training stage needs on its device, by what they hold."""

    weights: float
    gradients: float
    optimiser: float
    reference: float
    activations: float
    host_optimiser: float = 0.0
    """In host memory, when the profile offloads it."""

    @property
    def device(self) -> float:
        """All that lies on the device."""
        return self.weights + self.gradients + self.optimiser + self.reference + self.activations


def training_memory(
    stage: TrainingStage, model: ModelSpec, shape: Shape, profile: Profile, *, per_device: int
) -> Memory:
    """Estimate one process's memory.

    Args:
        stage: An sft, dpo or grpo stage.
        model: The recipe's.
        shape: Of the model.
        profile: Decides precision and sharding.
        per_device: Rows in a micro-batch.
    """
    width = weight_bytes(model)
    ranks = max(1, profile.processes)
    sharded = [ranks if profile.zero_stage >= level else 1 for level in (3, 2, 1)]
    weight_shards, gradient_shards, optimiser_shards = sharded
    trained = shape.lora_parameters(stage.lora.r) if stage.lora else shape.parameters
    # DeepSpeed keeps 32-bit master weights beside Adam's two moments; otherwise Adam follows the weights' precision.
    per_parameter = 12 if profile.needs_deepspeed else 8 if profile.zero_stage == 3 else 2 * width
    optimiser = per_parameter * trained / optimiser_shards
    return Memory(
        weights=width * shape.parameters / weight_shards,
        gradients=width * trained / gradient_shards,
        optimiser=0.0 if profile.offloads else optimiser,
        host_optimiser=optimiser if profile.offloads else 0.0,
        reference=_reference(stage, width * shape.parameters / weight_shards),
        activations=_activations(stage, shape, per_device * row_tokens(stage, model), width),
    )


def _reference(stage: TrainingStage, weights: float) -> float:
    """A frozen copy of the model; with LoRA the model without its adapter serves instead."""
    if stage.lora is not None:
        return 0.0
    if isinstance(stage, DpoStage):
        return 0.0 if setting(stage, "precompute_ref_log_probs") else weights
    return weights if isinstance(stage, GrpoStage) and setting(stage, "beta") else 0.0


def _activations(stage: TrainingStage, shape: Shape, tokens: int, width: int) -> float:
    """Of one micro-batch with so many tokens; both members of a preference pair are computed at once."""
    tokens *= 2 if isinstance(stage, DpoStage) else 1
    kept = 2 if stage.trainer.get("gradient_checkpointing", False) else _ACTIVATIONS
    layers = tokens * shape.layers * shape.hidden * kept * width / 2
    # Logits and their gradient, in 32 bits.
    return layers + tokens * shape.vocab * 8


def setting(stage: TrainingStage, key: str) -> Any:
    """What the stage's trainer will use: the recipe's value or TRL's default."""
    return stage.trainer[key] if key in stage.trainer else default(_kind(stage), key)


def _kind(stage: TrainingStage) -> str:
    return stage.kind  # type: ignore[attr-defined,no-any-return]


def row_tokens(stage: TrainingStage, model: ModelSpec) -> int:
    """Tokens of the longest training row, as trainer and model cut it (a prompt of grpo is not counted)."""
    longest = int(setting(stage, "max_completion_length" if isinstance(stage, GrpoStage) else "max_length") or 1024)
    return min(longest, model.scratch.max_length) if model.scratch is not None else longest


def checkpoint_bytes(stage: TrainingStage, model: ModelSpec, shape: Shape, profile: Profile) -> int:
    """Disk that a training stage needs at its fullest.

    A checkpoint holds weights and optimiser; the last `save_total_limit` (by default 2) are kept, one more is written
    before the oldest goes, and the finished model comes on top.
    """
    width = weight_bytes(model)
    trained = shape.lora_parameters(stage.lora.r) if stage.lora else shape.parameters
    moments = 12 if profile.needs_deepspeed else 8 if profile.zero_stage == 3 else 2 * width
    weights = width * (trained if stage.lora else shape.parameters)
    kept = stage.trainer.get("save_total_limit") or 2
    return int((kept + 1) * (weights + moments * trained) + width * shape.parameters)
