"""Loading a model folder for decoding, and what a decode loop needs to know about it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from laconic.inference.engine import Prompt
from laconic.inference.engines.folder import TOKENIZER_FILES, check_model_folder, is_adapter
from laconic.inference.trace import prompt_text
from laconic.rewards.errors import ModelError

CPU_ROWS = 128
MOST_ROWS = 512
CACHE_SHARE = 0.6
"""Of the device's free memory, the part that keys and values may take; the rest is for activations and logits."""


def load_model(
    path_or_id: str | os.PathLike[str],
    *,
    revision: str | None = None,
    dtype: str = "auto",
    attn_implementation: str | None = None,
    device: str | torch.device | None = None,
) -> tuple[Any, Any]:
    """Load a model and its tokenizer for sampling.

    Args:
        path_or_id: A Hugging Face model folder, or the id of a model on the hub. A folder with a LoRA adapter loads its
            base model with the adapter folded in; the tokenizer is the base's where the folder has none.
        revision: Branch, tag or commit on the hub.
        dtype: `float32`, `bfloat16`, `float16` or `auto`: bfloat16 on an accelerator, else as saved. So all checkpoints
            of a run are compared in one precision there, whatever each was saved in.
        attn_implementation: As `from_pretrained` takes it; None lets transformers choose.
        device: Where to put it; None takes an accelerator if there is one.

    Returns:
        The model in evaluation mode, and the tokenizer.

    Raises:
        ModelError: no such folder, or a part of it is missing: the message names it.
    """
    name = os.fspath(path_or_id)
    check_model_folder(name)
    device = device or ("cuda" if has_accelerator() else "cpu")
    if dtype == "auto" and torch.device(device).type == "cuda":
        dtype = "bfloat16"
    options = {"revision": revision, "dtype": dtype, "attn_implementation": attn_implementation}
    try:
        model, tokenizer = _adapted(Path(name), **options) if is_adapter(name) else _plain(name, **options)
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(
            f"{name}: cannot be loaded: {reason}", cure="name a model folder, or a hub id that this machine can reach"
        ) from error
    if tokenizer.chat_template is None:
        raise ModelError(
            f"{name}: its tokenizer has no chat template", cure="fine-tune it with an sft stage first, which adds one"
        )
    return model.to(device).eval(), tokenizer


def _plain(name: str, *, revision: str | None, **options: Any) -> tuple[Any, Any]:
    tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
    return AutoModelForCausalLM.from_pretrained(name, revision=revision, **options), tokenizer


def _adapted(folder: Path, **options: Any) -> tuple[Any, Any]:
    """The base model with an adapter folded in: merged weights decode faster than base and adapter apart."""
    from peft import PeftConfig, PeftModel

    model, tokenizer = _plain(PeftConfig.from_pretrained(str(folder)).base_model_name_or_path, **options)
    if any((folder / name).is_file() for name in TOKENIZER_FILES):
        tokenizer = AutoTokenizer.from_pretrained(folder)
    return PeftModel.from_pretrained(model, str(folder)).merge_and_unload(), tokenizer


def has_accelerator() -> bool:
    """Whether this process computes on a GPU: there is one, and the launch profile does not say to leave it alone."""
    wants_cpu = os.environ.get("ACCELERATE_USE_CPU", "false").lower() in ("1", "true", "yes")
    return torch.cuda.is_available() and not wants_cpu


def encode_prompt(tokenizer: Any, prompt: Prompt) -> list[int]:
    """Token ids of the prompt for one user message or a conversation, the chat template applied."""
    return tokenizer(prompt_text(tokenizer, prompt), add_special_tokens=False)["input_ids"]


def eos_ids(generation_config: Any, tokenizer: Any) -> frozenset[int]:
    """The tokens that end a completion: the generation config's (one or several) and the tokenizer's.

    Raises:
        ModelError: there is none.
    """
    configured = None if generation_config is None else generation_config.eos_token_id
    several = configured if isinstance(configured, list | tuple) else [configured]
    ids = frozenset(int(i) for i in (*several, tokenizer.eos_token_id) if i is not None)
    if not ids:
        raise ModelError(
            "neither the generation config nor the tokenizer names an end-of-sequence token",
            cure="set tokenizer.eos_token and save the tokenizer again",
        )
    return ids


def attention_config(config: Any) -> Any:
    """The decoder's part of a configuration; every layer of it has keys and values.

    Raises:
        ModelError: the model has layers without (linear attention, state space).
    """
    config = config.get_text_config(decoder=True)
    kinds = set(getattr(config, "layer_types", None) or ())
    if foreign := sorted(kinds - {"full_attention", "sliding_attention"}):
        raise ModelError(
            f"this engine has no cache for layers of the kind {foreign[0]!r}",
            cure="use a model whose layers are all full or sliding-window attention",
        )
    return config


def positions(model: Any) -> int | None:
    """The longest sequence the model is made for, in tokens; None if its config names none."""
    return getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)


def fitting_batch_size(model: Any, length: int, *, held: int = 0) -> int:
    """How many rows of `length` tokens to decode at once: what fits in memory on an accelerator, 128 on a CPU.

    `held` bytes are the cache's already, and count as free.
    """
    if model.device.type != "cuda":
        return CPU_ROWS
    config = model.config.get_text_config(decoder=True)
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    row_bytes = 2 * config.num_hidden_layers * heads * width * model.dtype.itemsize * length
    free, _ = torch.cuda.mem_get_info(model.device)
    # What PyTorch keeps of freed tensors counts as used there; after a training step that is most of the card.
    free += torch.cuda.memory_reserved(model.device) - torch.cuda.memory_allocated(model.device)
    free += held
    # Buffers grow by halves, and both the old and the new one exist while growing.
    return max(1, min(MOST_ROWS, int(CACHE_SHARE * free / (2.5 * row_bytes))))
