"""What a policy's parameters may be: read from its annotations, checked as a recipe or a command line gives them."""

from __future__ import annotations

import ast
import difflib
import inspect
import re
import textwrap
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from itertools import pairwise
from numbers import Integral, Real
from typing import Any, Literal, Union, get_args, get_origin

from laconic.rewards.errors import RecipeError

_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    type(None): "null",
}
_ARGUMENT = re.compile(r"^    (\w+): (.*(?:\n      .*)*)", re.MULTILINE)
_PLURALS: dict[Any, str] = {int: "whole numbers", float: "numbers", str: "texts"}


def check_parameters(name: str, policy: type[Any], given: Mapping[str, Any]) -> None:
    """Refuse parameters that a policy does not take, before its own code sees them.

    Ranges, and how parameters go together, are the policy's own to check.

    Args:
        name: The policy's.
        policy: A dataclass.
        given: The parameters.

    Raises:
        RecipeError: one is unknown, has the wrong type, or is missing; it names the policy, the parameter, the value
            and what is legal.
    """
    known, hints = {item.name: item for item in fields(policy)}, _hints(policy)
    for key, value in given.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            cure = f"did you mean {near[0]}?" if near else f"its parameters are {', '.join(known) or '(none)'}"
            raise RecipeError(f"policy {name}: unknown parameter {key!r}", cure=cure)
        if not fits(value, hints[key]):
            cure = f"make it {legal(hints[key])}{_default(known[key])}"
            raise RecipeError(f"policy {name}: {key} is {value!r}", cure=cure)
    missing = [key for key, item in known.items() if not _has_default(item) and key not in given]
    if missing:
        cure = f"give {', and '.join(f'{key}, {legal(hints[key])}' for key in missing)}"
        raise RecipeError(f"policy {name}: {', '.join(missing)} has no value", cure=cure)


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is what an annotation says.

    A whole number is a number, and true is neither; a text is no list of texts; a list stands for a tuple, and a
    mapping for a dataclass whose parameters it has.

    >>> fits(3, float), fits(True, int), fits("Wait", Sequence[str]), fits(None, int | None)
    (True, False, False, True)
    """
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(fits(value, one) for one in inner)
    if origin is Literal:
        return any(type(value) is type(one) and value == one for one in inner)
    if origin is Callable:
        return callable(value)
    if origin is not None and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(fits(k, inner[0]) and fits(v, inner[1]) for k, v in value.items())
    if origin is not None and issubclass(origin, Sequence):
        return isinstance(value, Sequence) and not isinstance(value, str) and all(fits(one, inner[0]) for one in value)
    return _is_a(value, hint)


def legal(hint: Any) -> str:
    """What fits, in words.

    >>> legal(int | None), legal(Literal["auto", "time"]), legal(Sequence[float])
    ('a whole number or null', 'auto or time', 'a list of numbers')
    """
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(legal(one) for one in inner)
    if origin is Literal:
        *first, last = map(str, inner)
        return f"{', '.join(first)} or {last}" if first else last
    if origin is Callable:
        return "a function (from Python only)"
    if origin is not None and issubclass(origin, Mapping):
        return "a mapping" if inner[1] is Any else f"a mapping to {_PLURALS.get(inner[1], legal(inner[1]))}"
    if origin is not None and issubclass(origin, Sequence):
        return f"a list of {_PLURALS.get(inner[0]) or 'mappings'}"
    if is_dataclass(hint):
        said = (f"{key} ({legal(one)})" for key, one in _hints(hint).items())
        return f"a mapping with any of {', '.join(said)}"
    return _WORDS.get(hint) or f"a {getattr(hint, '__name__', hint)}"


def _is_a(value: Any, kind: Any) -> bool:
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    if kind in (int, float):
        return isinstance(value, Integral if kind is int else Real)
    if is_dataclass(kind) and isinstance(value, Mapping):
        hints = _hints(kind)
        return all(key in hints and fits(one, hints[key]) for key, one in value.items())
    return isinstance(value, kind)


def described(policy: type[Any]) -> dict[str, tuple[str, Any, str]]:
    """The parameters of a policy: what is legal in words, the default (`MISSING`: there is none), and what it says.

    Args:
        policy: A dataclass; a field says what is below it or in the section Args, there or in a class inherited from.
    """
    said = {key: text for owner in reversed(policy.__mro__) for key, text in _texts(owner).items()}
    hints = _hints(policy)
    return {
        item.name: (
            legal(hints[item.name]),
            item.default if item.default_factory is MISSING else item.default_factory(),
            said.get(item.name, ""),
        )
        for item in fields(policy)
    }


def _texts(owner: type[Any]) -> dict[str, str]:
    """What one class says of its fields: in its section Args, and below them in the source."""
    if not is_dataclass(owner):
        return {}
    _, _, section = inspect.cleandoc(owner.__dict__.get("__doc__") or "").partition("\nArgs:\n")
    args = {key: " ".join(text.split()) for key, text in _ARGUMENT.findall(section.partition("\n\n")[0])}
    [definition] = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
    assert isinstance(definition, ast.ClassDef)
    return args | {
        field.target.id: inspect.cleandoc(text.value.value)
        for field, text in pairwise(definition.body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
    }


def _default(item: Field[Any]) -> str:
    return "" if item.default is MISSING or callable(item.default) else f" (default {item.default!r})"


def _has_default(item: Field[Any]) -> bool:
    return item.default is not MISSING or item.default_factory is not MISSING


@cache
def _hints(kind: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {item.name: hints[item.name] for item in fields(kind)}
