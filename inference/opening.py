"""Opening an engine by name: a model folder or hub id, a server's address, or vLLM in this process.

Loads torch, vLLM or httpx only when such an engine is opened.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import urldefrag

from laconic.inference.engine import Engine, Prompt, Sampling
from laconic.inference.ledger import Ledger
from laconic.inference.policies.base import Ask
from laconic.inference.trace import template_opens_thinking
from laconic.inference.vocabulary import Vocabulary
from laconic.rewards.errors import LaunchError

VLLM = "vllm:"
POSITIONS = "max_position_embeddings"
COMPATIBLE = "compatible"
"""The kind of server that is asked for nothing but what all of them have."""


@dataclass(frozen=True)
class Opened:
    """An engine, and what asking it needs to know about its model."""

    engine: Engine
    name: str
    """As it was asked for."""
    tokenizer: Any = None
    """None for a server whose model's tokenizer was not named."""
    opens_thinking: bool = False
    """The chat template ends the prompt with the opening tag."""
    eos_ids: frozenset[int] = frozenset()

    @cached_property
    def vocabulary(self) -> Vocabulary | None:
        """What its tokens say; None without a tokenizer."""
        return None if self.tokenizer is None else Vocabulary(self.tokenizer)

    @property
    def positions(self) -> int | None:
        """The longest sequence of a model in this process; None if its config, or the engine, does not say."""
        config = getattr(getattr(self.engine, "model", None), "config", None)
        return None if config is None else getattr(config.get_text_config(decoder=True), POSITIONS, None)

    def ask(self, prompt: Prompt, *, sampling: Sampling, seed: int = 0, **fields: Any) -> Ask:
        """One question to it, with a ledger of its own.

        Args:
            prompt: The user message, or a conversation.
            sampling: How completions are drawn; `max_tokens` is the budget of one.
            seed: Equal seeds give equal answers, if the engine has `Capability.SEED`.
            fields: Further fields of `Ask`.
        """
        given = {"opens_thinking": self.opens_thinking, "vocabulary": self.vocabulary, **fields}
        return Ask(self.engine, prompt, Ledger(), sampling=sampling, seed=seed, **given)


def open_engine(
    model: str,
    *,
    server: str = COMPATIBLE,
    tokenizer: str | None = None,
    batch_size: int | None = None,
    signals: bool = True,
    dtype: str = "auto",
    device: str | None = None,
    revision: str | None = None,
) -> Opened:
    """Open the engine that a name stands for.

    Args:
        model: A model folder or hub id, decoded in this process; ``http://host:port/v1#name`` for the model `name` at
            an OpenAI-compatible server; ``vllm:folder-or-id`` for vLLM in this process.
        server: What kind of server it is: a name in `laconic.inference.engines.dialects.DIALECTS`. ``+name``
            after it says how its chats are asked for an effort, as in ``vllm+enable_thinking``: a name in
            `laconic.inference.effort.EFFORT_DIALECTS`.
        tokenizer: A folder or hub id with the tokenizer of a server's model. With it prompts are rendered and counted
            here and raw prefixes are gone on with, so that policies can stop, force text and fork.
        batch_size: Branches that decode at once (for a server: requests); None fits it to the device (a server: 64).
        signals: Report log-probabilities and entropies; only for a model in this process.
        dtype: Of the weights; see `laconic.inference.engines.loading.load_model`.
        device: Where to put a model in this process.
        revision: Branch, tag or commit on the hub.

    Raises:
        LaunchError: an address names no model, what is for servers is given for another, or the library that the
            engine needs is not installed.
        ModelError: the model cannot be loaded.
        RecipeError: there is no such kind of server.
    """
    check_for_server(model, server=server, tokenizer=tokenizer)
    if is_address(model):
        return _at_server(model, server=server, tokenizer=tokenizer, concurrency=batch_size or 64)
    if model.startswith(VLLM):
        return _in_vllm(model.removeprefix(VLLM), dtype=dtype, revision=revision)
    return _in_process(model, batch_size=batch_size, signals=signals, dtype=dtype, device=device, revision=revision)


def open_named(
    models: Mapping[str, str], *, beside: Opened, open_one: Callable[[str], Opened] = open_engine
) -> dict[str, Opened]:
    """Open further engines; a model that is open already is not opened again, and its names share the engine.

    Args:
        models: By the names under which policies ask them.
        beside: The question's own engine.
        open_one: Opens a model.

    Raises:
        LaunchError, ModelError: as `open_engine`.
    """
    opened = {beside.name: beside}
    for model in models.values():
        if model not in opened:
            opened[model] = open_one(model)
    return {name: opened[model] for name, model in models.items()}


def is_address(model: str) -> bool:
    """Whether a name is a server's address."""
    return model.startswith(("http://", "https://"))


def check_for_server(model: str, *, server: str, tokenizer: str | None) -> None:
    """Refuse, before anything is loaded, what is for servers where there is none; arguments as of `open_engine`.

    Raises:
        LaunchError: there is no server, or its address names no model.
    """
    if is_address(model):
        if not urldefrag(model).fragment:
            raise LaunchError(f"{model}: which model of this server?", cure=f"name it: {model}#model-name")
    elif tokenizer is not None:
        raise LaunchError("a tokenizer of its own is for servers only", cure="leave it out; the model brings its own")
    elif server != COMPATIBLE:
        cure = "leave it out, or give the server's address: http://host:port/v1#model-name"
        raise LaunchError(f"a kind of server ({server}) is for servers only, and {model} is none", cure=cure)


def _in_process(name: str, *, batch_size: int | None, signals: bool, **options: Any) -> Opened:
    from laconic.inference.engines.loading import load_model
    from laconic.inference.engines.transformers import TransformersEngine

    model, tokenizer = load_model(name, **options)
    engine = TransformersEngine(model, tokenizer, batch_size=batch_size, signals=signals)
    return Opened(engine, name, **_facts(tokenizer), eos_ids=engine.eos_ids)


def _at_server(address: str, *, server: str, tokenizer: str | None, concurrency: int) -> Opened:
    from laconic.inference.engines.openai import OpenAIEngine

    url, name = urldefrag(address)
    facts: Mapping[str, Any] = {}
    if tokenizer is not None:
        facts = _facts(_tokenizer(tokenizer))
    kind, _, effort = server.partition("+")
    settings: Mapping[str, Any] = {"server": kind, "effort": effort or None, "concurrency": concurrency}
    engine = OpenAIEngine(url, name, tokenizer=facts.get("tokenizer"), **settings)
    # The reader of chats puts in the tags of a server that sends thinking in a field of its own.
    return Opened(engine, address, **facts)


def _in_vllm(name: str, **options: Any) -> Opened:
    from laconic.inference.engines.vllm import VllmEngine

    engine = VllmEngine.load(name, **options)
    return Opened(engine, VLLM + name, **_facts(engine.tokenizer), eos_ids=engine.eos_ids)


def _tokenizer(name: str) -> Any:
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise LaunchError("a tokenizer needs transformers", cure="pip install 'laconic[train]'") from None
    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise LaunchError(f"{name}: no tokenizer: {reason}", cure="name a model folder or a hub id") from error


def _facts(tokenizer: Any) -> dict[str, Any]:
    return {"tokenizer": tokenizer, "opens_thinking": template_opens_thinking(tokenizer)}
