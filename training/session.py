"""What SFT, DPO and GRPO share: arguments for TRL, resume from the last whole checkpoint, a checked model folder."""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from accelerate import PartialState
from transformers import PreTrainedTokenizerBase, Trainer, TrainerCallback, TrainingArguments
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from transformers.trainer_callback import PrinterCallback

from laconic.inference.engines.loading import has_accelerator
from laconic.recipes.arithmetic import stage_batch_plan
from laconic.recipes.entry import Opened
from laconic.training import model as folders
from laconic.training.callbacks import HealthCheck, MetricsWriter
from laconic.training.checkpoints import CheckpointSeal, is_last, last_checkpoint
from laconic.training.tracking import finish, trackers

ArgumentsT = TypeVar("ArgumentsT", bound=TrainingArguments)


def world_size() -> int:
    """Processes of this launch, as the launcher set it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def training_arguments(kind: type[ArgumentsT], opened: Opened, **fixed: Any) -> ArgumentsT:
    """The stage's ``trainer:`` keys as TRL's own configuration, completed with what Laconic decides.

    Args:
        kind: SFTConfig, DPOConfig or GRPOConfig.
        opened: The stage.
        **fixed: Fields that the calling stage sets itself.
    """
    stage = opened.stage
    batch = stage_batch_plan(stage.config, stage.problems, world_size())
    defaults: dict[str, Any] = {
        "logging_steps": 5,
        "save_steps": 0.2,
        "save_total_limit": 2,
        "gradient_checkpointing": False,
        "bf16": folders.bf16_supported(),
        "model_init_kwargs": _init_kwargs(opened),
        # The trainer would log the running mean in place of a NaN, and the health check would never see one.
        "logging_nan_inf_filter": False,
    }
    ours = {
        "output_dir": str(opened.work / "checkpoints"),
        "seed": stage.seed,
        "report_to": trackers(opened.work),
        "run_name": f"{stage.recipe}-{stage.name}",
        "disable_tqdm": True,
        "use_cpu": not has_accelerator(),
    }
    return kind(**(defaults | batch.arguments(stage.kind, stage.config.trainer) | ours | fixed))


def callbacks(opened: Opened) -> list[TrainerCallback]:
    """Metrics and health for a training stage, written into its folder."""
    return [
        MetricsWriter(opened.work / "metrics.jsonl"),
        HealthCheck(opened.work / "health.jsonl"),
        CheckpointSeal(),
    ]


def fit(opened: Opened, trainer: Trainer, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Train (resuming if a checkpoint is there), save `model/`, and prove that it loads.

    Returns:
        Facts for the manifest.

    Raises:
        ModelError: what was saved does not load, or is not finite.
        TrainingDiverged: the loss or the gradient is no longer finite.
        LaunchError: the checkpoint to resume from needs another launch.
    """
    trainer.remove_callback(PrinterCallback)
    checkpoint = last_checkpoint(Path(trainer.args.output_dir))
    if checkpoint is not None and PartialState().is_main_process:
        print(f"resuming from {checkpoint.name}", flush=True)
    if checkpoint is not None and is_last(checkpoint):
        # Otherwise the trainer takes one more step before it looks whether any are left.
        trainer.args.max_steps, trainer.args.num_train_epochs = -1, 0
    with _out_of_garbage_collection():
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    finish()
    _save(opened, trainer, tokenizer)
    return {
        "steps": trainer.state.global_step,
        "world_size": world_size(),
        "resumed": checkpoint is not None,
    }


@contextmanager
def _out_of_garbage_collection() -> Iterator[None]:
    """What is there already lives until the end: the garbage collector need not look through it again and again.

    With torch, transformers and TRL loaded that takes as long as a step of a small model.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _save(opened: Opened, trainer: Trainer, tokenizer: PreTrainedTokenizerBase) -> None:
    folder = opened.work / "model"
    lora = opened.stage.config.lora is not None
    # Every rank takes part: under ZeRO-3 and FSDP the weights are gathered here.
    trainer.save_model(str(opened.work / "adapter" if lora else folder))
    # From here on one process loads models for itself; under ZeRO-3 it would wait for the others to take their shards.
    unset_hf_deepspeed_config()
    if PartialState().is_main_process:
        if lora:
            given = {"dtype": opened.stage.model.dtype, "revision": opened.revision()}
            folders.merge_adapter(opened.model_dir(), opened.work / "adapter", folder, **given)
        (folder / "training_args.bin").unlink(missing_ok=True)
        folders.save_tokenizer(tokenizer, folder)
        folders.check_loads(folder)
        shutil.rmtree(opened.work / "checkpoints", ignore_errors=True)
    PartialState().wait_for_everyone()


def _init_kwargs(opened: Opened) -> dict[str, Any]:
    pretrained = opened.stage.model
    # `auto` is left to TRL, which trains float32 weights: pure bfloat16 loses small updates of AdamW.
    dtype = None if pretrained.dtype == "auto" else pretrained.dtype
    chosen = {
        "dtype": dtype,
        "attn_implementation": pretrained.attn_implementation,
        "revision": opened.revision(),
    }
    return {key: value for key, value in chosen.items() if value is not None}
