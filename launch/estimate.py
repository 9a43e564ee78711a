"""What a stage will need: memory and disk. `bench/memory.py` sets the memory beside what processes really take.

On a CPU the estimate is within 25 % of what is measured: too low most of all for grpo where prompts, which are not
counted, are long beside completions, too high with LoRA on the smallest models. That of GPUs follows from the same
count of tensors and is not yet measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from laconic.launch.activations import Precision, activation_bytes, cache_bytes, logit_bytes
from laconic.launch.profiles import Profile
from laconic.launch.shapes import Shape, pretrained_shape
from laconic.recipes.arithmetic import BatchPlan, micro_batch_tokens
from laconic.recipes.early_stop import stop_length
from laconic.recipes.model_spec import ModelSpec
from laconic.recipes.problems_model import Problems
from laconic.recipes.stages import DpoStage, GrpoStage, TrainingStage
from laconic.recipes.trainer_fields import default

_CONTROL_TOKENS = 7
"""Of a tokenizer built from scratch: five of the chat format and two thinking tags."""

_HEAP = 1.4
"""On a CPU, what the C library's heap takes for activations, in units of what they fill: tensors of many sizes that
come and go leave holes. Measured: 1.3 to 1.6."""

_HEAP_BUSY = 1.8
"""The same with adapters or gradient checkpointing, where more comes and goes beside what stays: an adapter's outputs
and their sums, layers that are computed again. (Autograd itself then keeps less, and where every tensor has pages of
its own, a process does not take more.) Measured: 1.5 to 2.0."""

_RUNTIME = 60e6
"""Bytes of what a training process loads after its imports, measured with a model of 1,000 parameters."""

_AT_ONCE = 128
"""Rollouts that Laconic's engine decodes at once on a CPU; on a GPU they are as many as there is memory for."""


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


def precision(stage: TrainingStage, model: ModelSpec, profile: Profile) -> Precision:
    """What a stage computes in: 16 bits where an accelerator or the recipe's `trainer` says so.

    Weights are 32-bit beside it, as TRL loads them unless `model.dtype` says otherwise; DeepSpeed makes them 16-bit
    and keeps 32-bit masters.
    """
    chosen = [key for key in ("bf16", "fp16") if stage.trainer.get(key) is not None]
    mixed = any(stage.trainer[key] for key in chosen) if chosen else not profile.on_cpu
    if model.dtype in ("bfloat16", "float16") or (mixed and profile.needs_deepspeed):
        return "half"
    return "mixed" if mixed else "float32"


def weight_bytes(kind: Precision) -> int:
    """Bytes of one weight."""
    return 2 if kind == "half" else 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes that one process of a training stage needs on its device, by what they hold."""

    weights: float
    gradients: float
    optimiser: float
    reference: float
    activations: float
    """Of one micro-batch, for the backward pass, logits included."""
    rollouts: float = 0.0
    """Keys and values while rollouts are sampled; they are gone before the backward pass."""
    runtime: float = 0.0
    """Libraries that load on first use, on a CPU."""
    host_optimiser: float = 0.0
    """In host memory, when the profile offloads it."""

    @property
    def device(self) -> float:
        """All that lies on the device at its fullest."""
        lasting = self.weights + self.gradients + self.optimiser + self.reference + self.runtime
        return lasting + max(self.activations, self.rollouts)


def training_memory(
    stage: TrainingStage, model: ModelSpec, shape: Shape, profile: Profile, *, batch: BatchPlan
) -> Memory:
    """Estimate one process's memory.

    Args:
        stage: An sft, dpo or grpo stage.
        model: The recipe's.
        shape: Of the model.
        profile: Decides precision and sharding.
        batch: How many rows are computed at once.
    """
    kind = precision(stage, model, profile)
    width = weight_bytes(kind)
    ranks = max(1, profile.processes)
    weight_shards, gradient_shards, optimiser_shards = (
        ranks if profile.zero_stage >= level else 1 for level in (3, 2, 1)
    )
    trained = shape.lora_parameters(stage.lora.r) if stage.lora else shape.parameters
    # PyTorch's data parallelism sends gradients from buckets that hold them a second time.
    buckets = 2 if profile.distributed_type == "MULTI_GPU" and ranks > 1 else 1
    optimiser = _optimiser_bytes(kind, profile) * trained / optimiser_shards
    return Memory(
        weights=width * shape.parameters / weight_shards,
        gradients=buckets * width * trained / gradient_shards,
        optimiser=0.0 if profile.offloads else optimiser,
        host_optimiser=optimiser if profile.offloads else 0.0,
        reference=_reference(stage, width * shape.parameters / weight_shards),
        activations=_activations(stage, model, shape, profile, batch),
        rollouts=_rollouts(stage, model, shape, profile, batch),
        runtime=_RUNTIME if profile.on_cpu else 0.0,
    )


def _optimiser_bytes(kind: Precision, profile: Profile) -> int:
    """Per trained parameter: Adam's two moments, as precise as the weights; DeepSpeed's 32-bit masters beside them."""
    return 12 if profile.needs_deepspeed else 2 * weight_bytes(kind)


def _reference(stage: TrainingStage, weights: float) -> float:
    """A frozen copy of the model; with LoRA the model without its adapter serves instead."""
    if stage.lora is not None:
        return 0.0
    if isinstance(stage, DpoStage):
        return 0.0 if setting(stage, "precompute_ref_log_probs") else weights
    return weights if isinstance(stage, GrpoStage) and setting(stage, "beta") else 0.0


def _activations(stage: TrainingStage, model: ModelSpec, shape: Shape, profile: Profile, batch: BatchPlan) -> float:
    """Of one micro-batch of the longest rows; both members of a preference pair are computed at once."""
    kind, length = precision(stage, model, profile), row_tokens(stage, model)
    tokens = _micro_batch(stage, length, profile, batch)
    rows = tokens / length
    flash = "flash" in (model.attn_implementation or "")
    checkpointing = bool(stage.trainer.get("gradient_checkpointing", False))
    kept = activation_bytes(
        shape, kind, rows=rows, length=length, padded=rows > 1 and not flash, checkpointing=checkpointing
    )
    head = stage.lora is None
    lean = stage.fast if isinstance(stage, GrpoStage) else not isinstance(stage, DpoStage)
    keeps = lean and profile.on_cpu and profile.zero_stage < 3
    kept += logit_bytes(shape, kind, tokens=tokens, fused=not profile.on_cpu, trains_head=head, keeps=keeps)
    if kind == "mixed":
        kept += 2 * shape.parameters  # the weights once more, as autocast makes them
    if not profile.on_cpu:
        return kept
    return kept * (_HEAP if head and not checkpointing else _HEAP_BUSY)


def _micro_batch(stage: TrainingStage, length: int, profile: Profile, batch: BatchPlan) -> int:
    """The most tokens of one micro-batch, padding included; one row always fits.

    A `fast` grpo stage fills a budget from all rollouts of the step instead of counting rows (`training.trainer`).
    """
    own = batch.per_device * length * (2 if isinstance(stage, DpoStage) else 1)
    if not isinstance(stage, GrpoStage) or not stage.fast or setting(stage, "top_entropy_quantile") < 1:
        return own
    budget = stage.tokens_per_micro_batch or micro_batch_tokens(own, on_cpu=profile.on_cpu)
    return max(length, min(budget, batch.rows_per_process * length))


def _rollouts(stage: TrainingStage, model: ModelSpec, shape: Shape, profile: Profile, batch: BatchPlan) -> float:
    """Zero where vLLM samples; it takes a fixed share of a GPU, or GPUs of its own."""
    if not isinstance(stage, GrpoStage) or setting(stage, "use_vllm"):
        return 0.0
    kind = precision(stage, model, profile)
    rows = min(_AT_ONCE, max(1, batch.rollouts_per_generation // batch.world_size)) if profile.on_cpu else 1
    return cache_bytes(shape, kind, rows=rows, length=row_tokens(stage, model))


def setting(stage: TrainingStage, key: str) -> Any:
    """What the stage's trainer will use: the recipe's value or TRL's default."""
    return stage.trainer[key] if key in stage.trainer else default(_kind(stage), key)


def _kind(stage: TrainingStage) -> str:
    return stage.kind  # type: ignore[attr-defined,no-any-return]


def row_tokens(stage: TrainingStage, model: ModelSpec) -> int:
    """Tokens of the longest training row, as trainer and model cut it (a prompt of grpo is not counted)."""
    longest = int(setting(stage, "max_completion_length" if isinstance(stage, GrpoStage) else "max_length") or 1024)
    if isinstance(stage, GrpoStage) and stage.stop_early:
        longest = min(longest, stop_length(stage.rewards))
    return min(longest, model.scratch.max_length) if model.scratch is not None else longest


def checkpoint_bytes(stage: TrainingStage, model: ModelSpec, shape: Shape, profile: Profile) -> int:
    """Disk that a training stage needs at its fullest.

    A checkpoint holds weights and optimiser; the last `save_total_limit` (by default 2) are kept, one more is written
    before the oldest goes, and the finished model comes on top.
    """
    kind = precision(stage, model, profile)
    width, moments = weight_bytes(kind), _optimiser_bytes(kind, profile)
    trained = shape.lora_parameters(stage.lora.r) if stage.lora else shape.parameters
    weights = width * (trained if stage.lora else shape.parameters)
    kept = stage.trainer.get("save_total_limit") or 2
    return int((kept + 1) * (weights + moments * trained) + width * shape.parameters)
