"""The engine that a command's MODEL names, opened without noise and with as many threads as there are idle cores."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path

from laconic.inference.engines.folder import check_model_folder, check_on_hub
from laconic.inference.opening import VLLM, Opened, check_for_server, is_address, open_engine
from laconic.launch.environment import QUIET
from laconic.launch.threads import choose_threads
from laconic.rewards.errors import DataError

MOST_TOKENS = 1024
"""Of a completion, where nothing is said and the model has room for it."""


def open_model(
    model: str, *, server: str = "compatible", tokenizer: str | None = None, batch_size: int | None = None
) -> Opened:
    """Open it; arguments as for `laconic.inference.opening.open_engine`.

    Raises:
        LaunchError: the address names no model, what is for servers is given for another, or a library is missing.
        ModelError: it cannot be loaded.
    """
    check_model(model, server=server, tokenizer=tokenizer)
    if sys.stderr.isatty():
        print(f"loading {model}", file=sys.stderr, flush=True)
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if not is_address(model):
        # Read when torch is imported.
        os.environ.setdefault("OMP_NUM_THREADS", str(choose_threads(1).count))
        _hush()
    return open_engine(model, server=server, tokenizer=tokenizer, batch_size=batch_size)


def check_model(model: str, *, server: str, tokenizer: str | None) -> None:
    """Refuse what cannot be a model before any library is loaded; arguments as of `open_model`.

    Raises:
        LaunchError: as `open_model`.
        ModelError: a folder lacks a part, or there is neither a folder nor a model on the hub.
    """
    check_for_server(model, server=server, tokenizer=tokenizer)
    name = model.removeprefix(VLLM)
    if is_address(model):
        return
    check_model_folder(name)
    if not Path(name).is_dir():
        check_on_hub(name)


def _hush() -> None:
    """Without bars while weights are loaded, and without a warning of lengths that are checked here."""
    try:
        from transformers.utils import logging
    except ImportError:
        return  # opening says what is missing
    logging.disable_progress_bar()
    logging.get_logger("transformers.tokenization_utils_base").setLevel(logging.ERROR)


def completion_tokens(opened: Opened, prompts: Iterable[str], asked: int | None) -> int:
    """The budget of one completion: what was asked for, else 1,024, or less where the model has fewer positions.

    Three quarters of what prompts leave, so that there is room for what policies put in.

    Args:
        opened: The engine.
        prompts: What will be asked.
        asked: By the user.

    Raises:
        DataError: a prompt leaves no room for a completion.
    """
    room = opened.positions
    if opened.tokenizer is None or room is None:
        return MOST_TOKENS if asked is None else asked
    from laconic.inference.engines.loading import encode_prompt

    longest = max(len(encode_prompt(opened.tokenizer, prompt)) for prompt in prompts)
    if longest >= room:
        message = f"a question of {longest:,} tokens, its template included: the model has {room:,} positions"
        raise DataError(message, cure="ask a shorter one, or a model with more positions")
    return max(1, min(MOST_TOKENS, (room - longest) * 3 // 4)) if asked is None else asked
