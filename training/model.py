"""Model folders: saving one so that it loads as what it was, merging adapters, choosing the precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from laconic.inference.engines.loading import has_accelerator
from laconic.inference.trace import THINK_CLOSE, THINK_OPEN, prompt_text
from laconic.recipes.schema import Lora
from laconic.rewards.errors import ModelError

_PROBE = f"{THINK_OPEN} 3 + 4 = 7 ; Wait, 12 - 5 = 7.\n\n{THINK_CLOSE} 7"


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Save weights and tokenizer as an ordinary Hugging Face folder, and prove that the tokenizer survived.

    Raises:
        ModelError: see `save_tokenizer`.
    """
    model.save_pretrained(folder)
    save_tokenizer(tokenizer, folder)


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Save a tokenizer and check that `AutoTokenizer` gives the same one back.

    `AutoTokenizer` loads some architectures (qwen2 is one) with their own tokenizer class whatever was saved; that
    class splits text its own way and drops tokens without a word.

    Raises:
        ModelError: the reloaded tokenizer encodes or decodes a probe text differently.
    """
    tokenizer.save_pretrained(folder)
    loaded = AutoTokenizer.from_pretrained(folder)
    for text in (_PROBE, prompt_text(tokenizer, "What is 7 - 3 ?")):
        ids = tokenizer.encode(text)
        if loaded.encode(text) != ids or loaded.decode(ids) != tokenizer.decode(ids):
            raise ModelError(
                f"{folder}: AutoTokenizer loads this tokenizer as {type(loaded).__name__}, which encodes differently",
                cure="choose an architecture whose own tokenizer class fits; nothing may use this folder",
            )


def check_loads(folder: Path) -> None:
    """Load a finished model folder once, so that a broken one never counts as done.

    Raises:
        ModelError: weights are missing, left over or not finite.
    """
    model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    problems = [f"{len(names)} {kind}" for kind, names in report.items() if names]
    if problems:
        raise ModelError(f"{folder}: the saved weights do not fit the model ({', '.join(problems)})")
    for name, weight in model.named_parameters():
        if not torch.isfinite(weight).all():
            raise ModelError(
                f"{folder}: {name} holds NaN or infinity", cure="lower trainer.learning_rate; see health.jsonl"
            )


def merge_adapter(base: str, adapter: Path, folder: Path, *, dtype: str, revision: str | None) -> None:
    """Write the base model with a trained LoRA adapter folded in; `folder` gets weights only."""
    from peft import PeftModel

    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype, revision=revision)
    PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(folder)


def lora_config(lora: Lora | None) -> Any:
    """The peft configuration of a stage, or None."""
    if lora is None:
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        task_type="CAUSAL_LM",
    )


def load_tokenizer(model: str, *, revision: str | None) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, padding on the left as generation needs.

    Raises:
        ModelError: there is none, or it has no chat template.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(model, revision=revision, padding_side="left")
    except (OSError, ValueError) as error:
        raise ModelError(
            f"model {model!r} has no usable tokenizer ({str(error).splitlines()[0]})",
            cure="name a folder or hub id that holds tokenizer.json and tokenizer_config.json",
        ) from None
    if tokenizer.chat_template is None:
        raise ModelError(f"model {model!r}: its tokenizer has no chat template", cure="use an instruction-tuned model")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def generation_config(model: str, *, revision: str | None) -> GenerationConfig | None:
    """What the model's folder says about generation; None if it says nothing."""
    try:
        return GenerationConfig.from_pretrained(model, revision=revision)
    except OSError:
        return None


def bf16_supported() -> bool:
    """Whether training in bfloat16 pays here: only accelerators that compute in it (on CPU it is slower)."""
    return has_accelerator() and torch.cuda.is_bf16_supported()
