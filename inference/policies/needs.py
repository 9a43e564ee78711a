"""What policies need besides a model, in words, and the refusal of one that lacks it before anything is loaded."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from laconic.inference.policies.base import POLICIES, Registered
from laconic.inference.policies.choose import Choice
from laconic.inference.policies.retrieving import check_retriever, searches
from laconic.rewards.errors import LaunchError, RecipeError

SCORERS = "--scorer steps (procedural tasks), gold (an oracle) or module:function"
OWN_SCORER = "--scorer module:function"
"""Where a question has neither steps nor a gold answer."""
PYTHON = "it runs from Python: pass engines= to Ask"


def needs(registered: Registered) -> list[str]:
    """What a policy with its default parameters needs: of the engine, and besides it."""
    found = sorted(item.name.lower() for item in registered.requires)
    found += ["scorer"] * registered.scorer + ["retriever"] * searches(registered)
    return found + ["engines"] * asks_others(registered)


def asks_others(registered: Registered) -> bool:
    """Whether a policy with its default parameters asks further engines."""
    return registered.engines is not None and bool(registered.engine_names(registered.build()))


def engines_of(choice: Choice) -> tuple[str, ...]:
    """The names of the further engines that a policy asks, those of policies inside it included."""
    inner = _engines_within(choice.parameters)
    return tuple(dict.fromkeys((*choice.registered.engine_names(choice.build()), *inner)))


def _engines_within(value: Any) -> Iterator[str]:
    """Of inner policies, which are named as ``{policy: name, parameters: {...}}`` anywhere in the parameters."""
    if isinstance(value, Mapping):
        if (inner := POLICIES.get(str(value.get("policy")))) is not None:
            yield from inner.engine_names(inner.build(value.get("parameters", {})))
        value = tuple(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _engines_within(item)


def lacking(choice: Choice, engines: Collection[str]) -> str | None:
    """Which engines a policy needs that there are not, in words; None if it has all."""
    missing = [name for name in engines_of(choice) if name not in engines]
    several = "engines of the names" if len(missing) > 1 else "an engine of the name"
    return f"{several} {' and '.join(map(repr, missing))}" if missing else None


def check_engines(choice: Choice, engines: Collection[str], *, cure: str = PYTHON) -> None:
    """Refuse a policy that asks an engine that there is not.

    Args:
        choice: The policy.
        engines: The names of further engines.
        cure: How they are given here.

    Raises:
        LaunchError: names those that are missing.
    """
    if (lacks := lacking(choice, engines)) is not None:
        raise LaunchError(f"policy {choice} needs {lacks}", cure=cure)


def check_needs(
    choice: Choice,
    *,
    scorer: bool,
    retriever: bool,
    engines: Collection[str] = (),
    scorer_cure: str = SCORERS,
    engines_cure: str = PYTHON,
) -> None:
    """Refuse a policy that was not given what it needs besides a model.

    Args:
        choice: The policy.
        scorer: There is one.
        retriever: There is one.
        engines: The names of further engines.
        scorer_cure: How a scorer is given here.
        engines_cure: How further engines are given here.

    Raises:
        RecipeError: there is no scorer.
        LaunchError: there is no retriever, or an engine is missing.
    """
    check_engines(choice, engines, cure=engines_cure)
    registered = choice.registered
    if registered.lacks_scorer(choice.build()) and not scorer:
        raise RecipeError(f"policy {choice} needs a scorer", cure=scorer_cure)
    check_retriever(registered, retriever=retriever)
