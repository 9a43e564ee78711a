"""Starting vLLM with a model folder, a folder with a LoRA adapter, or a model of the hub."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from laconic.rewards.errors import ModelError

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM's `max_lora_rank` may be."""


def start(
    name: str, *, revision: str | None, think_tags: tuple[str, str] | None, fields: Mapping[str, Any]
) -> tuple[Any, Any, Any]:
    """Start an `AsyncLLM`.

    Args:
        name: A model folder, an adapter's folder or a hub id.
        revision: Branch, tag or commit on the hub.
        think_tags: What opens and closes thinking, if budgets of thinking are wanted.
        fields: Of `AsyncEngineArgs`.

    Returns:
        It, the tokenizer, and the `LoRARequest` to decode with, if any.

    Raises:
        ModelError: no such folder, a part of it is missing, or vLLM cannot load it.
    """
    from transformers import AutoTokenizer
    from vllm import AsyncEngineArgs
    from vllm.config import ReasoningConfig
    from vllm.v1.engine.async_llm import AsyncLLM

    from laconic.inference.engines.folder import TOKENIZER_FILES, check_model_folder

    check_model_folder(name)
    base, lora, ranks = _adapter(name)
    given = {"enable_prefix_caching": True, "disable_log_stats": True} | ranks | dict(fields)
    if think_tags is not None:
        given["reasoning_config"] = ReasoningConfig(reasoning_start_str=think_tags[0], reasoning_end_str=think_tags[1])
    own = lora is not None and any((Path(name) / file).is_file() for file in TOKENIZER_FILES)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name if own else base, revision=None if own else revision)
        llm = AsyncLLM.from_engine_args(AsyncEngineArgs(model=base, revision=revision, **given))
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(
            f"{name}: vLLM cannot load it: {reason}", cure="see its log above; name a folder or id of a model it knows"
        ) from error
    if tokenizer.chat_template is None:
        llm.shutdown()
        raise ModelError(
            f"{name}: its tokenizer has no chat template", cure="fine-tune it with an sft stage first, which adds one"
        )
    return llm, tokenizer, lora


def _adapter(name: str) -> tuple[str, Any, dict[str, Any]]:
    """The base model, and what vLLM has to know to decode with an adapter."""
    from vllm.lora.request import LoRARequest

    from laconic.inference.engines.folder import ADAPTER

    path = Path(name) / ADAPTER
    if not path.is_file():
        return name, None, {}
    config = json.loads(path.read_text())
    rank = max([config["r"], *config.get("rank_pattern", {}).values()])
    fitting = [size for size in RANKS if size >= rank]
    if not fitting:
        raise ModelError(f"{name}: a LoRA adapter of rank {rank}", cure=f"vLLM takes ranks up to {RANKS[-1]}; merge it")
    lora = LoRARequest(lora_name=Path(name).name, lora_int_id=1, lora_path=str(Path(name).resolve()))
    return config["base_model_name_or_path"], lora, {"enable_lora": True, "max_lora_rank": fitting[0]}
