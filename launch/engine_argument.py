"""The engine that a command's MODEL names, opened without noise and with as many threads as there are idle cores."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from laconic.inference.engines.folder import check_model_folder, check_on_hub
from laconic.inference.opening import COMPATIBLE, VLLM, Opened, check_for_server, is_address, open_engine
from laconic.inference.policies.choose import Choice
from laconic.inference.policies.needs import engines_of
from laconic.launch.environment import QUIET
from laconic.launch.threads import choose_threads
from laconic.rewards.errors import DataError, RecipeError

MOST_TOKENS = 1024
"""Of a completion, where nothing is said and the model has room for it."""
ENGINES = "name each: --engine NAME=MODEL"
"""How further engines are given on a command line."""


def open_model(
    model: str, *, server: str = COMPATIBLE, tokenizer: str | None = None, batch_size: int | None = None
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


def check_model(model: str, *, server: str = COMPATIBLE, tokenizer: str | None = None) -> None:
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


def named_models(given: Sequence[str]) -> dict[str, str]:
    """The models of further engines, by name.

    Args:
        given: What ``--engine`` was given, each as ``NAME=MODEL``.

    Raises:
        RecipeError: one lacks a part, or a name is given twice.
    """
    found: dict[str, str] = {}
    for text in given:
        name, equals, model = text.partition("=")
        if not (name and equals and model) or name in found:
            raise RecipeError(f"--engine {text}", cure="give each once, as NAME=MODEL: --engine small=FOLDER")
        found[name] = model
    return found


def check_asked(models: Iterable[str], choices: Iterable[Choice], *, cure: str = "leave it out") -> None:
    """Refuse a further engine that would be loaded for nothing.

    Args:
        models: The names of further engines.
        choices: The policies that could ask them.
        cure: What else can be done.

    Raises:
        RecipeError: no policy asks for one of them.
    """
    asked = sorted({name for choice in choices for name in engines_of(choice)})
    for name in models:
        if name not in asked:
            are = f"asked for are: {', '.join(asked)}" if asked else "no policy here asks for any"
            raise RecipeError(f"--engine {name}: no policy asks for an engine of this name; {are}", cure=cure)


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
