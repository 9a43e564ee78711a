"""Inheritance: what a recipe's `defaults` give to its stages. Works on the raw mapping, before it is checked."""

from __future__ import annotations

from typing import Any

from laconic.recipes.stages import STAGES
from laconic.recipes.trainer_fields import fields

_KEY_BY_KEY = ("trainer", "sampling")


def inherit(recipe: dict[str, Any]) -> dict[str, Any]:
    """A copy of the recipe in which every stage has what it inherits; what a stage says itself wins.

    What is not a mapping where one is due is left alone: checking it is not this function's part.
    """
    defaults, stages = recipe.get("defaults"), recipe.get("stages")
    if not isinstance(defaults, dict) or not isinstance(stages, list):
        return recipe
    return {**recipe, "stages": [_inherit_one(stage, defaults) for stage in stages]}


def _inherit_one(stage: Any, defaults: dict[str, Any]) -> Any:
    kind = stage.get("kind") if isinstance(stage, dict) else None
    # A teacher does not sample, so nothing about sampling may reach (and change) its stage.
    if not isinstance(kind, str) or kind not in STAGES or stage.get("teacher") is not None:
        return stage
    given = {key: _only_fitting(key, kind, defaults[key]) for key in STAGES[kind].inherits if key in defaults}
    return {**stage, **{key: _merge(key, value, stage) for key, value in given.items()}}


def _only_fitting(key: str, kind: str, value: Any) -> Any:
    if key == "trainer" and isinstance(value, dict):
        return {name: setting for name, setting in value.items() if name in fields(kind)}
    return value


def _merge(key: str, value: Any, stage: dict[str, Any]) -> Any:
    own = stage.get(key, {} if key in _KEY_BY_KEY else value)
    if key in _KEY_BY_KEY and isinstance(value, dict) and isinstance(own, dict):
        return {**value, **own}
    return own
