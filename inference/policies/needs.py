"""What policies need besides a model, in words, and the refusal of one that lacks it before anything is loaded."""

from __future__ import annotations

from collections.abc import Collection

from laconic.inference.policies.base import Registered
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
    registered, chosen = choice.registered, choice.build()
    missing = [name for name in registered.engine_names(chosen) if name not in engines]
    if missing:
        names = " and ".join(map(repr, missing))
        several = "engines of the names" if len(missing) > 1 else "an engine of the name"
        raise LaunchError(f"policy {choice} needs {several} {names}", cure=engines_cure)
    if registered.lacks_scorer(chosen) and not scorer:
        raise RecipeError(f"policy {choice} needs a scorer", cure=scorer_cure)
    check_retriever(registered, retriever=retriever)
