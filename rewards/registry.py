"""The registry of rewards: names, parameters with their ranges, papers.

A reward is a plain function; the decorator `reward` enters it here under its own name, and its keyword-only
parameters become the keys a recipe may set::

    @reward(paper="arXiv:2504.21370", scope="group")
    def shorter_better(group: Group, *, correct_weight: Positive = 2.0, length_weight: NonNegative = 1e-3) -> Array:
        ...
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, Literal, TypeAlias, get_args, get_origin, get_type_hints

from laconic.rewards.errors import DataError, RecipeError
from laconic.rewards.group import Array, Group

Scope: TypeAlias = Literal["rollout", "group"]
RewardFunction: TypeAlias = Callable[..., Array]


@dataclass(frozen=True)
class Range:
    """The legal values of a number, both ends included."""

    low: float = float("-inf")
    high: float = float("inf")

    def __str__(self) -> str:
        return f"between {self.low:g} and {self.high:g}"


NonNegative = Annotated[float, Range(low=0.0)]
Share = Annotated[float, Range(0.0, 1.0)]


@dataclass(frozen=True)
class Parameter:
    """One keyword-only parameter of a reward."""

    name: str
    kind: type
    default: Any
    legal: Range | tuple[Any, ...] | None

    def check(self, reward: str, value: Any) -> None:
        """Raise a RecipeError that names the legal values unless `value` is one."""
        if isinstance(self.legal, tuple):
            if value not in self.legal:
                raise self._error(reward, value, f"one of {', '.join(map(str, self.legal))}")
            return
        accepted = (int, float) if self.kind is float else (self.kind,)
        if not isinstance(value, accepted) or (isinstance(value, bool) and self.kind is not bool):
            raise self._error(reward, value, f"a {self.kind.__name__}")
        if self.legal is not None and not self.legal.low <= value <= self.legal.high:
            raise self._error(reward, value, str(self.legal))

    def _error(self, reward: str, value: Any, legal: str) -> RecipeError:
        return RecipeError(
            f"reward {reward}: {self.name} is {value!r}", cure=f"make it {legal} (default {self.default!r})"
        )


@dataclass(frozen=True)
class Reward:
    """A registered reward."""

    name: str
    function: RewardFunction
    paper: str
    scope: Scope
    needs: tuple[str, ...] = ()
    """Optional columns of `Group` that it reads."""
    parameters: Mapping[str, Parameter] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """First line of the docstring."""
        return inspect.getdoc(self.function).splitlines()[0]  # type: ignore[union-attr]

    def __call__(self, group: Group, **parameters: Any) -> Array:
        """One number per rollout of the group, shape (G,)."""
        for column in self.needs:
            if getattr(group, column) is None:
                raise DataError(f"reward {self.name} needs {column!r}", cure="rollouts written by Laconic carry it")
        return self.function(group, **parameters)


REWARDS: dict[str, Reward] = {}


def reward(
    *, paper: str, scope: Scope = "group", needs: tuple[str, ...] = ()
) -> Callable[[RewardFunction], RewardFunction]:
    """Enter a function into the registry under its own name.

    Args:
        paper: Where the formula is from, as ``arXiv:NNNN.NNNNN`` or a URL; ``-`` for common practice.
        scope: ``rollout`` if a rollout's reward does not depend on its siblings, else ``group``.
        needs: Optional columns of `Group` that the function reads.
    """

    def enter(function: RewardFunction) -> RewardFunction:
        name = function.__name__
        assert name not in REWARDS, f"two rewards named {name}"
        REWARDS[name] = Reward(name, function, paper, scope, needs, _parameters(function))
        return function

    return enter


def find(name: str) -> Reward:
    """Look a reward up.

    Raises:
        RecipeError: there is none of that name; the message has the nearest one.
    """
    if name not in REWARDS:
        near = difflib.get_close_matches(name, REWARDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"the rewards are {', '.join(sorted(REWARDS))}"
        raise RecipeError(f"unknown reward {name!r}", cure=hint)
    return REWARDS[name]


def check(name: str, parameters: Mapping[str, Any]) -> None:
    """Check a reward's name and parameters as a recipe gives them.

    Raises:
        RecipeError: unknown reward or parameter (with the nearest right one), wrong type, value out of range.
    """
    known = find(name).parameters
    for key, value in parameters.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            legal = f"did you mean {near[0]}?" if near else f"its parameters are {', '.join(known) or '(none)'}"
            raise RecipeError(f"reward {name}: unknown parameter {key!r}", cure=legal)
        known[key].check(name, value)


def build(name: str, parameters: Mapping[str, Any]) -> Callable[[Group], Array]:
    """A checked reward with its parameters bound: group in, rewards of shape (G,) out."""
    check(name, parameters)
    return partial(REWARDS[name], **parameters)


def _parameters(function: RewardFunction) -> dict[str, Parameter]:
    hints = get_type_hints(function, include_extras=True)
    keywords = [p for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    return {p.name: _parameter(p, hints[p.name]) for p in keywords}


def _parameter(parameter: inspect.Parameter, hint: Any) -> Parameter:
    assert parameter.default is not parameter.empty, f"{parameter.name} has no default"
    if get_origin(hint) is Literal:
        return Parameter(parameter.name, str, parameter.default, get_args(hint))
    if get_origin(hint) is Annotated:
        kind, legal = get_args(hint)[:2]
        return Parameter(parameter.name, kind, parameter.default, legal)
    return Parameter(parameter.name, hint, parameter.default, None)
