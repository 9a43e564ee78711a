"""The engine that a command's MODEL names, opened without noise and with as many threads as there are idle cores."""

from __future__ import annotations

import os
from collections.abc import Iterable

from laconic.inference.opening import Opened, open_engine
from laconic.launch.environment import QUIET
from laconic.launch.threads import choose_threads

MOST_TOKENS = 1024
"""Of a completion, where nothing is said and the model has room for it."""


def open_model(
    model: str, *, server: str = "compatible", tokenizer: str | None = None, batch_size: int | None = None
) -> Opened:
    """Open it; arguments as for `laconic.inference.opening.open_engine`.

    Raises:
        LaunchError: the address names no model, or a library is missing.
        ModelError: it cannot be loaded.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if not model.startswith(("http://", "https://")):
        # Read when torch is imported.
        os.environ.setdefault("OMP_NUM_THREADS", str(choose_threads(1).count))
        _hush()
    return open_engine(model, server=server, tokenizer=tokenizer, batch_size=batch_size)


def _hush() -> None:
    """Without bars while weights are loaded."""
    try:
        from transformers.utils import logging
    except ImportError:
        return  # opening says what is missing
    logging.disable_progress_bar()


def completion_tokens(opened: Opened, prompts: Iterable[str], asked: int | None) -> int:
    """The budget of one completion: what was asked for, else 1,024, or less where the model has fewer positions.

    Three quarters of what prompts leave, so that there is room for what policies put in.

    Args:
        opened: The engine.
        prompts: What will be asked.
        asked: By the user.
    """
    if asked is not None:
        return asked
    model = getattr(opened.engine, "model", None)
    if opened.tokenizer is None or not hasattr(model, "config"):
        return MOST_TOKENS
    from laconic.inference.engines.loading import encode_prompt, positions

    room = positions(model)
    if room is None:
        return MOST_TOKENS
    longest = max(len(encode_prompt(opened.tokenizer, prompt)) for prompt in prompts)
    return max(1, min(MOST_TOKENS, (room - longest) * 3 // 4))
