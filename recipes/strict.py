"""The base of every model a recipe is made of, and the small vocabulary its fields share."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable
from typing import Annotated, Any, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

Location: TypeAlias = tuple[str | int, ...]
"""Where in a recipe a value stands: ``("stages", 2, "trainer", "learning_rate")``."""

Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Listed = Strict(False)
"""Lets a YAML list stand where the model has a tuple; the items stay strict."""


def _not_empty(value: tuple[Any, ...]) -> tuple[Any, ...]:
    # Not `min_length`, which also complains about a list whose items are wrong.
    if not value:
        raise ValueError("must have at least one item")
    return value


NotEmpty = AfterValidator(_not_empty)


class StrictModel(BaseModel):
    """Frozen; unknown keys are refused; `"3"` is not a number and `true` is not 1."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80


def nearest(name: object, legal: Iterable[str]) -> str | None:
    """The legal name that `name` was probably meant to be, if there is one."""
    near = difflib.get_close_matches(str(name), list(legal), n=1, cutoff=0.6)
    return near[0] if near else None


def suggest(name: object, legal: Iterable[str]) -> str:
    """What to say about a name that is not legal: the nearest one, or else all of them."""
    legal = list(legal)
    near = nearest(name, legal)
    return f"did you mean {near}?" if near else f"legal here: {', '.join(legal) or '(nothing)'}"


def shown(value: Any) -> str:
    """A value as messages show it: like YAML where Python differs, and never long."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return _SHORT.repr(value)


def mistake(location: Location, message: str, value: Any = None) -> InitErrorDetails:
    """One error of a validator, at a place below the value that is being validated."""
    # The message travels as context, so that braces in it are not read as a template.
    kind = PydanticCustomError("mistake", "{message}", {"message": message})
    return InitErrorDetails(type=kind, loc=location, input=value)


def raise_all(mistakes: list[InitErrorDetails]) -> None:
    """Raise every mistake at once, in the form that keeps each one's place; nothing if there is none."""
    if mistakes:
        raise ValidationError.from_exception_data("recipe", mistakes)
