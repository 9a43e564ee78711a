"""From a recipe file to a checked `Recipe`, with every mistake named by file and line."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from laconic.recipes.explain import Mistake, explain, recipe_error
from laconic.recipes.overrides import Draft, apply_overlay, apply_override, unshared
from laconic.recipes.schema import Recipe
from laconic.recipes.strict import Location, nearest
from laconic.recipes.yaml_text import load_yaml
from laconic.rewards.errors import RecipeError


def shipped() -> list[Path]:
    """The recipe files that come with Laconic, by name."""
    return sorted(Path(__file__).parent.glob("*.yaml"))


def load_recipe(path: str | os.PathLike[str], *, overrides: Sequence[str] = (), overlays: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe.

    Args:
        path: A YAML file.
        overrides: `key=value` strings, applied after the overlays.
        overlays: Names of the recipe's own overlays; each is appended to the recipe's name.

    Raises:
        RecipeError: anything is wrong with it. All mistakes are listed, each with file and line, dotted key, what
            was found and what is legal.
    """
    draft = _read(Path(path))
    for name in overlays:
        apply_overlay(draft, name)
    for override in overrides:
        apply_override(draft, override)
    return check(draft)


def check(draft: Draft) -> Recipe:
    """Make a recipe of plain data.

    Raises:
        RecipeError: with every mistake there is.
    """
    try:
        return Recipe.model_validate(draft.data)
    except ValidationError as error:
        mistakes = [_at_its_origin(one, draft) for one in explain(error)]
    raise recipe_error(list(dict.fromkeys(mistakes)), label=draft.label, origin=draft.origin)


def _at_its_origin(one: Mistake, draft: Draft) -> Mistake:
    """A mistake in an inherited value is a mistake in `defaults`."""
    inherited: Location = ("defaults", *one.place[2:])
    if one.place[:1] == ("stages",) and one.place not in draft.origins and inherited in draft.origins:
        return Mistake(inherited, one.message, one.cure)
    return one


def _read(path: Path) -> Draft:
    if not path.is_file():
        by_name = {recipe.stem: recipe for recipe in shipped()}
        near = nearest(path.stem, by_name)
        cure = f"did you mean {by_name[near]}?" if near else "laconic list shows the recipes that come with Laconic"
        raise RecipeError(f"{path}: no such recipe", cure=cure)
    data, lines = load_yaml(path.read_text(encoding="utf-8"), label=str(path))
    if not isinstance(data, dict):
        raise RecipeError(f"{path}: a recipe is a mapping of keys", cure="start with name:, problems:, model:, stages:")
    origins = {place: f"{path}:{line}" for place, line in lines.items()}
    return Draft(str(path), unshared(data), origins)
