"""The registry of rewards: names, parameters with their ranges, papers, what each needs and what holds for it.

A reward is a plain function; the decorator `reward` enters it here under its own name, and its keyword-only
parameters become the keys a recipe may set::

    @reward(paper="arXiv:2504.21370", scope="group")
    def shorter_better(group: Group, *, correct_weight: NonNegative = 2.0, length_weight: NonNegative = 1e-3) -> Array:
        ...

A function of scope ``rollout`` or ``group`` gets one `Group`; one of scope ``batch`` gets a `Batch`. A reward with
memory is a class: its constructor takes the parameters, a call takes a `Batch` and returns one number per rollout, and
it has ``state_dict()`` and ``load_state_dict()``. NaN means that the reward abstains from a rollout.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol, TypeAlias, get_args

import numpy as np

from laconic.rewards import docstring
from laconic.rewards.errors import DataError, RecipeError
from laconic.rewards.group import COLUMNS, Array, Batch, Group, as_batch
from laconic.rewards.judge import Judged
from laconic.rewards.parameters import Count, NonNegative, Parameter, Positive, Range, Share, parameters_of

__all__ = [
    "CLAIMS",
    "REWARDS",
    "Count",
    "Judged",
    "NonNegative",
    "Positive",
    "Range",
    "Reward",
    "Scorer",
    "Share",
    "reward",
]

Scope: TypeAlias = Literal["rollout", "group", "batch"]
Kind: TypeAlias = Literal["outcome", "length", "mode", "search"]

RESERVED = frozenset({"name", "weight", "warmup", "schedule", "gate", "tasks", "times_correct", "judge"})
"""Keys of a recipe's entry that say when, how much and for whom a reward counts; no reward has such a parameter."""

CLAIMS: Mapping[str, str] = {
    "right_above_wrong": "a right rollout (finished, well formed) is never below a wrong one of its group",
    "shorter_is_no_worse": "of two right rollouts of a group, alike but for length, the shorter is never below",
    "no_length_pressure_on_wrong": "the length of a wrong rollout does not move its own reward",
    "fewer_searches_is_no_worse": "of two right rollouts of a group, alike but for searches, fewer are never below",
    "no_search_pressure_on_wrong": "the searches of a wrong rollout do not move its own reward",
}
"""What a registration may claim; each is tested on random groups."""


class Scorer(Protocol):
    """A reward with its parameters bound, and its memory if it has one."""

    def __call__(self, given: Group | Batch) -> Array:
        """One number per rollout, shape (N,); NaN where it abstains."""

    def state_dict(self) -> dict[str, Any]:
        """Its memory, as JSON can hold it; {} without one."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a memory that `state_dict` gave."""


@dataclass(frozen=True)
class Reward:
    """A registered reward."""

    name: str
    function: Callable[..., Any]
    """The function, or the class of a reward with memory."""
    paper: str
    kind: Kind
    scope: Scope
    needs: tuple[str, ...] = ()
    """Columns of `Group` that it cannot do without."""
    uses: tuple[str, ...] = ()
    """Columns it reads where they are there."""
    claims: frozenset[str] = frozenset()
    """Names from `CLAIMS`."""
    abstains: bool = False
    """It may give NaN."""
    judged: Judged | None = None
    """The column that an injected judge fills, if it needs one."""
    slow: str | None = None
    """Why it scores fewer than 100,000 rollouts per second on one core."""
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    ordered: tuple[tuple[str, str], ...] = ()
    """Pairs of parameters of which the first may not exceed the second."""
    cap: str | None = None
    """The parameter above which a length earns one and the same reward, whatever else the rollout is."""
    cap_wants: str | None = None
    """A parameter that may be null, and then there is no such length."""

    @property
    def stateful(self) -> bool:
        """It remembers earlier batches."""
        return inspect.isclass(self.function)

    @cached_property
    def documentation(self) -> docstring.Documentation:
        """The docstring's sections."""
        return docstring.read(self.function)

    def cap_length(self, parameters: Mapping[str, Any]) -> float | None:
        """The length above which all rollouts earn the same; None where there is none.

        Args:
            parameters: Checked ones, as a recipe gives them; the others have their defaults.
        """
        values = {name: parameters.get(name, item.default) for name, item in self.parameters.items()}
        if self.cap is None or (self.cap_wants is not None and values[self.cap_wants] is None):
            return None
        return float(values[self.cap])

    @property
    def summary(self) -> str:
        """First line of the docstring."""
        return self.documentation.summary

    def build(self, parameters: Mapping[str, Any] | None = None) -> Scorer:
        """Bind parameters, without checking them; see the function `build`."""
        return _Bound(self, dict(parameters or {}))

    def __call__(self, given: Group | Batch, **parameters: Any) -> Array:
        """One number per rollout, shape (N,); a reward with memory starts with none."""
        return self.build(parameters)(given)

    def require(self, group: Group) -> None:
        """Raise a DataError that names the first column that is missing."""
        for name in self.needs:
            if getattr(group, name) is None:
                wanted = COLUMNS[name]
                raise DataError(
                    f"reward {self.name} needs {name!r} ({wanted.unit}: {wanted.about})",
                    cure=f"give every {wanted.owner} the key {name!r}; `laconic list rewards {self.name}` has the rest",
                )


class _Bound:
    """A registered reward with its parameters: the `Scorer` of the plain cases."""

    def __init__(self, registered: Reward, parameters: dict[str, Any]) -> None:
        self.reward = registered
        self.parameters = parameters
        self._memory = registered.function(**parameters) if registered.stateful else None

    def __call__(self, given: Group | Batch) -> Array:
        batch = as_batch(given)
        for group in batch:
            self.reward.require(group)
        rewards = self._score(batch)
        if np.shape(rewards) != (batch.size,):
            raise DataError(
                f"reward {self.reward.name} gave an array of shape {np.shape(rewards)} for {batch.size} rollouts",
                cure="return one number per rollout of what the function gets",
            )
        return rewards

    def _score(self, batch: Batch) -> Array:
        if self._memory is not None:
            return self._memory(batch)
        if self.reward.scope == "batch":
            return self.reward.function(batch, **self.parameters)
        return batch.gather(lambda group: self.reward.function(group, **self.parameters))

    def state_dict(self) -> dict[str, Any]:
        return {} if self._memory is None else self._memory.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if self._memory is not None:
            self._memory.load_state_dict(state)


REWARDS: dict[str, Reward] = {}
"""By name."""
_PLACES: dict[str, Reward] = {}
"""By ``module:name``, so that rewards of other packages never take a name away from each other."""


def reward(
    *,
    paper: str,
    scope: Scope = "group",
    kind: Kind | None = None,
    needs: tuple[str, ...] = (),
    uses: tuple[str, ...] = (),
    claims: Collection[str] = (),
    abstains: bool = False,
    judged: Judged | None = None,
    slow: str | None = None,
    ordered: tuple[tuple[str, str], ...] = (),
    cap: str | None = None,
    cap_wants: str | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Enter a function or class into the registry; a class `ShorterBetter` becomes the name `shorter_better`.

    Args:
        paper: Where the formula is from, as ``arXiv:NNNN.NNNNN`` or a URL; ``-`` for common practice.
        scope: ``rollout`` if a rollout's reward depends on nothing else, ``group`` if it depends on its siblings (and
            on memory, for a class), ``batch`` if it depends on other groups.
        kind: What it is about; by default the part of the package it stands in.
        needs: Columns of `Group` that it cannot do without, beside `correct`, `length` and `finished`.
        uses: Columns that it reads where they are there.
        claims: What holds for it, by names from `CLAIMS`; the property tests hold it to them.
        abstains: It may give NaN, for "no reward here".
        judged: The column that an injected judge fills.
        slow: Why it scores fewer than 100,000 rollouts per second on one core.
        ordered: Pairs of parameters of which the first may not exceed the second.
        cap: The parameter above which a length earns one and the same reward, whatever else the rollout is: right or
            wrong, finished or not. A grpo stage with `stop_early` stops there.
        cap_wants: A parameter that may be null, and then there is no such length.

    Raises:
        RecipeError: the name is taken by another reward of Laconic's, or the registration is wrong.
    """

    def enter(function: Callable[..., Any]) -> Callable[..., Any]:
        name = _snake(function.__name__)
        _check_columns(name, (*needs, *uses))
        assert set(claims) <= CLAIMS.keys(), f"{name}: {sorted(set(claims) - CLAIMS.keys())} is no claim"
        parameters = parameters_of(function)
        assert {cap, cap_wants} <= {None, *parameters}, f"{name}: {cap} or {cap_wants} is no parameter of it"
        registered = Reward(
            name=name,
            function=function,
            paper=paper,
            kind=kind or _kind(function.__module__),
            scope=scope,
            needs=needs,
            uses=uses,
            claims=frozenset(claims),
            abstains=abstains,
            judged=judged,
            slow=slow,
            parameters=parameters,
            ordered=ordered,
            cap=cap,
            cap_wants=cap_wants,
        )
        _enter(registered)
        return function

    return enter


def _enter(registered: Reward) -> None:
    name, function = registered.name, registered.function
    if taken := sorted(RESERVED & registered.parameters.keys()):
        raise RecipeError(
            f"reward {name}: a parameter may not be named {taken[0]!r}",
            cure=f"in a recipe that word has a meaning of its own, as have {', '.join(sorted(RESERVED))}",
        )
    there = REWARDS.get(name)
    again = there is not None and _place(there.function) == _place(function)  # a notebook's cell run twice
    if there is not None and not again and function.__module__.startswith("laconic."):
        raise RecipeError(f"two rewards named {name}", cure="give one of the functions another name")
    _PLACES[_place(function)] = registered
    if there is None or again:
        REWARDS[name] = registered


def _place(function: Callable[..., Any]) -> str:
    return f"{function.__module__}:{function.__qualname__}"


def _check_columns(name: str, columns: Collection[str]) -> None:
    for column in columns:
        if column not in COLUMNS:
            raise RecipeError(f"reward {name}: there is no column {column!r}", cure=_nearest(column, COLUMNS))


def _nearest(word: str, among: Collection[str], otherwise: str | None = None) -> str:
    near = difflib.get_close_matches(word, among, n=1)
    return f"did you mean {near[0]}?" if near else otherwise or f"there are {', '.join(sorted(among))}"


def find(name: str) -> Reward:
    """Look a reward up. A name ``module:function`` imports that module first, so rewards can live in anyone's package.

    Raises:
        RecipeError: there is none of that name; the message has the nearest one.
    """
    if ":" in name:
        return _imported(name)
    if name not in REWARDS:
        hint = _nearest(name, REWARDS, f"the rewards are {', '.join(sorted(REWARDS))}")
        raise RecipeError(f"unknown reward {name!r}", cure=hint)
    return REWARDS[name]


def check(name: str, parameters: Mapping[str, Any]) -> None:
    """Check a reward's name and parameters as a recipe gives them.

    Raises:
        RecipeError: unknown reward or parameter (with the nearest right one), wrong type, value out of range.
    """
    registered = find(name)
    known = registered.parameters
    for key, value in parameters.items():
        if key not in known:
            legal = _nearest(key, known, f"its parameters are {', '.join(known) or '(none)'}")
            raise RecipeError(f"reward {name}: unknown parameter {key!r}", cure=legal)
        known[key].check(name, value)
    values = {key: parameters.get(key, item.default) for key, item in known.items()}
    for low, high in registered.ordered:
        if None not in (values[low], values[high]) and values[low] > values[high]:
            raise RecipeError(
                f"reward {name}: {low} {values[low]:g} is above {high} {values[high]:g}",
                cure="lower one, or raise the other",
            )


def build(name: str, parameters: Mapping[str, Any] | None = None) -> Scorer:
    """A checked reward with its parameters bound: a group or a batch in, rewards of shape (N,) out."""
    check(name, parameters or {})
    return find(name).build(parameters)


def abstentions_as_none(values: Array) -> list[float | None]:
    """Rewards as plain numbers, None where the reward abstained; what TRL and JSON understand."""
    return [None if value != value else value for value in np.asarray(values, dtype=float).tolist()]


def _imported(place: str) -> Reward:
    module, _, name = place.partition(":")
    try:
        imported = importlib.import_module(module)
    except (ImportError, ValueError, TypeError) as error:
        cure = "install the package, or put its folder on PYTHONPATH"
        raise RecipeError(f"reward {place!r}: {error}", cure=cure) from None
    found = getattr(imported, name, None)
    if found is None:
        raise RecipeError(f"reward {place!r}: {module} has no {name!r}", cure=_nearest(name, dir(imported)))
    if not callable(found) or _place(found) not in _PLACES:
        raise RecipeError(f"reward {place!r}: {name} is no registered reward", cure="decorate it with @reward(...)")
    return _PLACES[_place(found)]


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def _kind(module: str) -> Kind:
    # Where it stands says it for Laconic's own alone.
    parts = module.split(".") if module.startswith("laconic.rewards.") else []
    return next((part for part in parts if part in get_args(Kind)), "outcome")  # type: ignore[return-value]
