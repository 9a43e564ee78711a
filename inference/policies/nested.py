"""Policies that run other policies: what the inner one needs is checked before the first token, too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from laconic.inference.engine import check_capabilities
from laconic.inference.policies.base import Ask, Policy, find
from laconic.rewards.errors import LaunchError


def build(name: str, parameters: Mapping[str, Any]) -> Policy:
    """The inner policy.

    Raises:
        RecipeError: there is none of that name, or a parameter of it is wrong.
    """
    return find(name).build(parameters)


def check(name: str, ask: Ask, *, outer: str) -> None:
    """Refuse before the first token what the inner policy would lack.

    Raises:
        LaunchError: the engine cannot do it, or there is no scorer.
    """
    registered = find(name)
    check_capabilities(ask.engine, registered.requires, who=f"policy {name}, inside {outer},")
    if registered.scorer and registered.instead is None and ask.scorer is None:
        raise LaunchError(
            f"policy {name}, inside {outer}, needs a scorer", cure="pass a verifier, reward model or judge"
        )
