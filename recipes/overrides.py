"""Changes to a recipe from outside its file: overlays, and `--set grpo.trainer.learning_rate=1e-6`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from laconic.recipes.schema import Recipe
from laconic.recipes.strict import Location, shown, suggest
from laconic.recipes.yaml_text import load_yaml
from laconic.rewards.errors import RecipeError


@dataclass
class Draft:
    """A recipe that is still plain data, with where each value was written."""

    label: str
    """What messages call the recipe, normally its path."""
    data: dict[str, Any]
    origins: dict[Location, str]

    def origin(self, place: Location) -> str:
        """Where the value at a place was written; for a place that is not there, where its surroundings were."""
        for end in range(len(place), 0, -1):
            if place[:end] in self.origins:
                return self.origins[place[:end]]
        return self.label

    def set(self, key: str, value: Any, *, origin: str) -> None:
        """Put a value where a dotted key says; mappings on the way are made where they lack.

        Raises:
            RecipeError: the key names no stage and no top-level key, or leads through something that holds nothing.
        """
        place = self._place(key, origin)
        at: Any = self.data
        for depth, part in enumerate(place[:-1], start=1):
            _check_step(at, part, place[: depth - 1], origin)
            if isinstance(at, dict) and at.get(part) is None:
                at[part] = {}
                self.origins[place[:depth]] = origin
            at = at[part]
        _check_step(at, place[-1], place[:-1], origin)
        at[place[-1]] = unshared(value)
        self.origins = {known: where for known, where in self.origins.items() if known[: len(place)] != place}
        self.origins[place] = origin

    def _place(self, key: str, origin: str) -> Location:
        stages = self._stages()
        # Stage names may hold dots, so the longest one that fits is taken.
        for name in sorted(stages, key=len, reverse=True):
            if key == name or key.startswith((f"{name}.", f"{name}[")):
                return ("stages", stages[name], *_split(key[len(name) :]))
        place = _split(key)
        if not place or place[0] not in Recipe.model_fields:
            first = place[0] if place else key
            legal = [*stages, *Recipe.model_fields]
            raise RecipeError(f"{origin}: {first!r} is neither a stage nor a top-level key; {suggest(first, legal)}")
        return place

    def _stages(self) -> dict[str, int]:
        """Position of each stage by its name."""
        stages = self.data.get("stages")
        listed = stages if isinstance(stages, list) else []
        mappings = [(at, stage) for at, stage in enumerate(listed) if isinstance(stage, dict)]
        return {str(stage.get("name", stage.get("kind"))): at for at, stage in mappings}


def unshared(data: Any) -> Any:
    """A copy in which no two places share one object, as aliases in YAML make them do."""
    if isinstance(data, dict):
        return {key: unshared(value) for key, value in data.items()}
    return [unshared(value) for value in data] if isinstance(data, list) else data


def _split(key: str) -> Location:
    """`rewards[0].alpha` and `rewards.0.alpha` as `("rewards", 0, "alpha")`."""
    parts = (part for part in re.split(r"[.\[\]]", key) if part)
    return tuple(int(part) if part.isdecimal() else part for part in parts)


def _check_step(at: Any, part: str | int, above: Location, origin: str) -> None:
    here = ".".join(map(str, above))
    if isinstance(at, list) and not (isinstance(part, int) and part < len(at)):
        raise RecipeError(f"{origin}: {here} is a list of {len(at)} (from 0), so {part!r} is no place in it")
    if not isinstance(at, dict | list):
        raise RecipeError(f"{origin}: {here} is {shown(at)}, which holds no keys")


def apply_overlay(draft: Draft, name: str) -> None:
    """Apply one of the recipe's own overlays and append its name to the recipe's.

    Raises:
        RecipeError: there is no such overlay, or one of its keys leads nowhere.
    """
    overlays = draft.data.get("overlays")
    overlays = overlays if isinstance(overlays, dict) else {}
    if not isinstance(overlays.get(name), dict):
        raise RecipeError(f"{draft.label}: no overlay is named {name!r}; {suggest(name, overlays)}")
    for key, value in overlays[name].items():
        line = draft.origin(("overlays", name, key))
        draft.set(str(key), value, origin=f"{line} (overlay {name})")
    if isinstance(draft.data.get("name"), str):
        draft.data["name"] += f"-{name}"


def apply_override(draft: Draft, override: str) -> None:
    """Apply one `key=value`; the value is read as YAML.

    Raises:
        RecipeError: it has no `=`, its value is not YAML, or its key leads nowhere.
    """
    key, equals, text = override.partition("=")
    origin = f"--set {override}"
    if not equals or not key.strip():
        raise RecipeError(f"{origin}: not of the form key=value", cure="such as --set sft.trainer.learning_rate=1e-4")
    value, _ = load_yaml(text, label=origin, numbered=False)
    draft.set(key.strip(), value, origin=origin)
