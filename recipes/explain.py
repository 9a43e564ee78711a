"""From pydantic's errors to sentences: where, which key, what was found, what is legal, what was probably meant."""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from laconic.recipes.schema import Recipe
from laconic.recipes.strict import Location, shown, suggest
from laconic.rewards.errors import LaconicError, RecipeError

_EXPECTED = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "list": "a list",
    "tuple": "a list",
    "dict": "a mapping",
    "model_attributes": "a mapping",
    "model": "a mapping",
}
_BOUNDS = {
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "more than"),
    "less_than_equal": ("le", "at most"),
    "less_than": ("lt", "less than"),
}


@dataclass(frozen=True)
class Mistake:
    """One thing that is wrong with a recipe."""

    place: Location
    message: str
    cure: str | None = None


def explain(error: ValidationError, *, root: type[BaseModel] = Recipe) -> list[Mistake]:
    """The mistakes that a validation found, each once, in the recipe's order."""
    mistakes = (_explain_one(details, root) for details in error.errors())
    return list(dict.fromkeys(mistakes))


def dotted(place: Location) -> str:
    """`("stages", 2, "trainer")` as `stages[2].trainer`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    return text.removeprefix(".")


def recipe_error(mistakes: list[Mistake], *, label: str, origin: Callable[[Location], str]) -> RecipeError:
    """One error for all mistakes.

    Args:
        mistakes: At least one.
        label: What messages call the recipe.
        origin: Says where a value was written, such as ``quickstart.yaml:14``.
    """

    def sentence(one: Mistake) -> str:
        key = dotted(one.place)
        return f"{origin(one.place)}: {key}: {one.message}" if key else f"{origin(one.place)}: {one.message}"

    if len(mistakes) == 1:
        return RecipeError(sentence(mistakes[0]), cure=mistakes[0].cure)
    lines = [f"{label}: {len(mistakes)} mistakes"]
    for number, one in enumerate(mistakes, start=1):
        lines.append(f"  {number}. {sentence(one)}" + (f" -> {one.cure}" if one.cure else ""))
    return RecipeError("\n".join(lines))


def _explain_one(details: Any, root: type[BaseModel]) -> Mistake:
    kind, context, value = details["type"], details.get("ctx", {}), details["input"]
    place, owners = _walk(details["loc"], root)
    if kind == "extra_forbidden":
        legal = [name for owner in owners for name in owner.model_fields]
        return Mistake(place, f"unknown key; {suggest(place[-1], legal)}")
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        return _explain_tag(place, context, value, _models(_annotation(details["loc"], root)))
    if kind == "missing":
        return Mistake(place, "required, but missing")
    if kind == "mistake":
        return Mistake(place, context["message"])
    if kind == "value_error" and isinstance(context["error"], LaconicError):
        return Mistake(place, context["error"].message, context["error"].cure)
    if kind == "value_error":
        return Mistake(place, str(context["error"]))
    return Mistake(place, f"found {shown(value)}; {_expected(details)}")


def _explain_tag(place: Location, context: dict[str, Any], value: Any, legal: set[type[BaseModel]]) -> Mistake:
    key = context["discriminator"].strip("'")
    tags = sorted(tag for model in legal for tag in _tags(model))
    if not isinstance(value, dict) or key not in value:
        return Mistake((*place, key), f"required, but missing; one of {', '.join(tags)}")
    return Mistake((*place, key), f"found {shown(value[key])}; {suggest(value[key], tags)}")


def _expected(details: Any) -> str:
    kind, context = details["type"], details.get("ctx", {})
    if kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        return f"must be {words} {context[name]}"
    if kind == "literal_error":
        return f"must be {context['expected']}"
    if kind == "string_pattern_mismatch":
        return "only a-z, 0-9, _ . and - are legal"
    if kind == "string_type" and isinstance(details["input"], int | float):
        return "expected text; put it in quotes"
    for ending in ("_type", "_parsing", "_from_float"):
        if kind.endswith(ending) and kind.removesuffix(ending) in _EXPECTED:
            return f"expected {_EXPECTED[kind.removesuffix(ending)]}"
    return details["msg"]


def _walk(location: Location, root: type[BaseModel]) -> tuple[Location, set[type[BaseModel]]]:
    """The place without pydantic's union tags, and the models that could own its last key."""
    place: list[str | int] = []
    owners = current = {root}
    for part in location:
        tagged = {model for model in current if part in _tags(model)}
        # Of several models one is chosen first, by a tag that may be the name of a key too (`rollouts: {name: modes}`).
        if tagged and (len(current) > 1 or not any(part in model.model_fields for model in current)):
            current = tagged
            continue
        if part == "[key]":
            continue
        place.append(part)
        owners = current
        if isinstance(part, str):
            fields = [model.model_fields[part] for model in current if part in model.model_fields]
            current = {model for field in fields for model in _models(field.annotation)}
    return tuple(place), owners


def _annotation(location: Location, root: type[BaseModel]) -> Any:
    """The annotation of the field that a location lies in."""
    place, owners = _walk(tuple(part for part in location if isinstance(part, str)), root)
    return next(owner.model_fields[place[-1]].annotation for owner in owners if place[-1] in owner.model_fields)


def _models(annotation: Any) -> set[type[BaseModel]]:
    return set(_models_in(annotation))


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)


def _tags(model: type[BaseModel]) -> set[Any]:
    """The values of the literal field that tells this model from its siblings."""
    fields = (model.model_fields[name].annotation for name in ("kind", "source", "name") if name in model.model_fields)
    return {tag for field in fields if typing.get_origin(field) is typing.Literal for tag in get_args(field)}
