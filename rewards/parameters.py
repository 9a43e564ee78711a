"""What a reward's parameters may be: read from annotations, checked as a recipe gives them."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from laconic.rewards.errors import RecipeError


@dataclass(frozen=True)
class Range:
    """The legal values of a number, both ends included."""

    low: float = float("-inf")
    high: float = float("inf")

    def __str__(self) -> str:
        if self.high == float("inf"):
            return f"at least {self.low:g}"
        return f"between {self.low:g} and {self.high:g}"


_KINDS = (float, int, bool, str)
_SMALLEST = 5e-324
NonNegative = Annotated[float, Range(low=0.0)]
Positive = Annotated[float, Range(low=_SMALLEST)]
Share = Annotated[float, Range(0.0, 1.0)]
Count = Annotated[int, Range(low=1)]


@dataclass(frozen=True)
class Parameter:
    """One keyword-only parameter of a reward."""

    name: str
    kind: type
    default: Any
    legal: Range | tuple[Any, ...] | None
    optional: bool = False
    """None is legal."""

    def check(self, reward: str, value: Any) -> None:
        """Raise a RecipeError that names the legal values unless `value` is one."""
        if value is None and self.optional:
            return
        if isinstance(self.legal, tuple):
            if value not in self.legal:
                raise self._error(reward, value)
            return
        accepted = (int, float) if self.kind is float else (self.kind,)
        if not isinstance(value, accepted) or (isinstance(value, bool) and self.kind is not bool):
            raise self._error(reward, value)
        if self.kind in (int, float) and not _inside(value, self.legal):
            raise self._error(reward, value)

    @property
    def legal_values(self) -> str:
        """In words."""
        if isinstance(self.legal, tuple):
            said = f"one of {', '.join(map(str, self.legal))}"
        elif self.legal is None:
            said = self._kind
        elif self.legal.low == _SMALLEST and self.legal.high == float("inf"):
            said = f"{self._kind} above 0"
        else:
            said = f"{self._kind} {self.legal}"
        return f"{said}, or null" if self.optional else said

    @property
    def _kind(self) -> str:
        return f"an {self.kind.__name__}" if self.kind is int else f"a {self.kind.__name__}"

    def _error(self, reward: str, value: Any) -> RecipeError:
        return RecipeError(
            f"reward {reward}: {self.name} is {value!r}", cure=f"make it {self.legal_values} (default {self.default!r})"
        )


def parameters_of(function: Callable[..., Any]) -> dict[str, Parameter]:
    """The keyword-only parameters of a reward function, or of the constructor of a reward class, by name.

    Raises:
        RecipeError: one has no annotation, no default, or is of a kind that a recipe cannot give.
    """
    source = function.__init__ if inspect.isclass(function) else function
    hints = get_type_hints(source, include_extras=True)
    keywords = [p for p in inspect.signature(source).parameters.values() if p.kind is p.KEYWORD_ONLY]
    return {p.name: _parameter(function.__name__, p, hints.get(p.name)) for p in keywords}


def _parameter(reward: str, parameter: inspect.Parameter, hint: Any) -> Parameter:
    if hint is None or parameter.default is parameter.empty:
        lacking = "annotation" if hint is None else "default"
        cure = "write it as `slope: NonNegative = 0.1`; recipes show and check both"
        raise RecipeError(f"reward {reward}: parameter {parameter.name!r} has no {lacking}", cure=cure)
    optional = False
    if get_origin(hint) in (Union, types.UnionType):
        optional = type(None) in get_args(hint)
        (hint,) = [item for item in get_args(hint) if item is not type(None)]
    if get_origin(hint) is Literal:
        return Parameter(parameter.name, str, parameter.default, get_args(hint), optional)
    kind, legal = get_args(hint)[:2] if get_origin(hint) is Annotated else (hint, None)
    if kind not in _KINDS:
        cure = f"a parameter is a {', '.join(kind.__name__ for kind in _KINDS)} or a Literal, with or without `| None`"
        raise RecipeError(f"reward {reward}: parameter {parameter.name!r} is annotated {hint}", cure=cure)
    return Parameter(parameter.name, kind, parameter.default, legal, optional)


def _inside(value: float, legal: Range | tuple[Any, ...] | None) -> bool:
    if value != value or value in (float("inf"), float("-inf")):
        return False
    return not isinstance(legal, Range) or legal.low <= value <= legal.high
