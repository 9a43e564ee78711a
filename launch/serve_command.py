"""`laconic serve`: an OpenAI-compatible server whose answers come from a policy."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from laconic.data_gen.scorers import SCORERS, find_scorer
from laconic.inference.engine import Prompt
from laconic.inference.opening import Opened, open_named
from laconic.inference.policies.base import POLICIES, Scorer
from laconic.inference.policies.base import find as find_policy
from laconic.inference.policies.choose import Choice, parse_choice
from laconic.inference.policies.needs import OWN_SCORER, check_needs
from laconic.launch.compare_command import model_name
from laconic.launch.engine_argument import ENGINES, check_asked, check_model, named_models, open_model
from laconic.launch.retriever_argument import open_argument
from laconic.rewards.errors import LaunchError, RecipeError
from laconic.rewards.records import Problem

_PATIENCE = 10.0
"""Seconds that a request waits for a retrieval server that is away."""


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """What the command line said; None takes the default of `Settings` or `open_model`."""

    model: str
    policy: str
    host: str = "127.0.0.1"
    port: int = 8000
    api_key_env: str | None = None
    name: str | None = None
    scorer: str | None = None
    retriever: str | None = None
    """Where policies search."""
    allow: str | None = None
    """Policies that requests may name, separated by commas."""
    engines: tuple[str, ...] = ()
    """Further engines for cascades, routers and drafts, each as ``NAME=MODEL``."""
    engine: dict[str, Any] = field(default_factory=dict)
    """For `open_model`."""
    limits: dict[str, Any] = field(default_factory=dict)
    """For `Settings`."""


def serve(options: ServeOptions) -> None:
    """Open the engines and serve until told to stop.

    Raises:
        RecipeError: an unknown policy or parameter, a limit out of range, an engine that no policy asks.
        LaunchError: a library is missing, the key is not set, the engine cannot run the policy, an engine that it asks
            is not given, the port is taken.
        ModelError: a model cannot be loaded.
    """
    _check_installed()
    from laconic.inference.server.service import Service
    from laconic.inference.server.serving import Server, is_loopback
    from laconic.inference.server.settings import Settings
    from laconic.inference.sockets import bind, place_of

    given = {name: value for name, value in options.limits.items() if value is not None}
    settings = Settings(**given, key=_key(options.api_key_env), allowed=_allowed(options.allow))
    choice, scorer = parse_choice(options.policy), _scorer(options.scorer)
    named = _named_models(options, choice, settings.allowed)
    check_needs(
        choice,
        scorer=scorer is not None,
        retriever=options.retriever is not None,
        engines=named,
        scorer_cure=OWN_SCORER,
        engines_cure=ENGINES,
    )
    # Before the model is loaded: a taken port shows at once.
    listener = bind(options.host, options.port)
    with listener:
        retriever, opened = open_argument(options.retriever, patience=_PATIENCE), _open(options)
        service = Service(
            opened,
            choice,
            name=options.name or model_name(options.model),
            settings=settings,
            scorer=scorer,
            retriever=retriever,
            engines=open_named(named, beside=opened, open_one=open_model),
        )
        place = f"{place_of(listener)}/v1"
        if settings.key is None and not is_loopback(options.host):
            _say(f"warning: everyone who reaches {place} can use this server; --api-key-env NAME asks for a key")
        Server(service, ready=lambda: _say(f"serving {service.name} at {place}, policy {choice}")).run_on(listener)


def _open(options: ServeOptions) -> Opened:
    given = {name: value for name, value in options.engine.items() if value is not None}
    return open_model(options.model, **given)


def _named_models(options: ServeOptions, choice: Choice, allowed: tuple[str, ...] | None) -> Mapping[str, str]:
    """The further engines, which somebody must be able to ask: the server's policy, or one that ``--allow`` names."""
    named = named_models(options.engines)
    if not any(POLICIES[name].engines for name in allowed or ()):
        check_asked(named, [choice], cure="leave it out, or name policies in --allow that requests may give it to")
    for model in named.values():
        check_model(model)
    return named


def _check_installed() -> None:
    try:
        import prometheus_client  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise LaunchError(f"the server needs {error.name}", cure="pip install 'laconic[serve]'") from None


def _key(variable: str | None) -> str | None:
    """The key that clients must show. It comes from the environment alone, where no list of processes shows it."""
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key or not key.isascii() or not key.isprintable():
        raise LaunchError(f"${variable} holds no key", cure=f"set it: export {variable}=...")
    return key


def _allowed(names: str | None) -> tuple[str, ...] | None:
    if names is None:
        return None
    listed = tuple(name.strip() for name in names.split(",") if name.strip())
    for name in listed:
        find_policy(name)
    if not listed:
        raise RecipeError("--allow names no policy", cure=f"name some of: {', '.join(sorted(POLICIES))}")
    return listed


def _scorer(place: str | None) -> Callable[[Prompt], Scorer] | None:
    """A scorer for each question. Those that read a problem's steps or gold answer have nothing to read here."""
    if place is None:
        return None
    if place in SCORERS:
        cure = "name one of your own as module:function"
        raise RecipeError(
            f"--scorer {place}: it needs the problem behind a question, which a server has not", cure=cure
        )
    make = find_scorer(place)
    return lambda prompt: make(Problem("request", _question(prompt), answer="", task="request"))


def _question(prompt: Prompt) -> str:
    """The text of the last message."""
    return prompt if isinstance(prompt, str) else prompt[-1]["content"]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
