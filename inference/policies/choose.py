"""Naming a policy with its parameters, on a command line and in a recipe.

>>> parse_choice("short_mk:k=8,m=3").parameters
{'k': 8, 'm': 3}
>>> parse_choice("five votes=self_consistency:samples=5").label
'five votes'
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import yaml

from laconic.inference.policies.base import Policy, Registered, find
from laconic.rewards.errors import RecipeError

_LABEL = re.compile(r"([^=:]+)=([a-z0-9_]+(?::.*)?)$", re.DOTALL)


@dataclass(frozen=True)
class Choice:
    """A policy by name, its parameters, and what to call it in tables.

    Raises:
        RecipeError: an unknown policy or parameter, or a value that it does not take.
    """

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""

    def __post_init__(self) -> None:
        # Mistakes show where the choice is made, not at the first question.
        self.build()
        if not self.label:
            object.__setattr__(self, "label", str(self))

    @property
    def registered(self) -> Registered:
        """The policy's class and needs."""
        return find(self.name)

    def build(self) -> Policy:
        """The policy."""
        return find(self.name).build(self.parameters)

    def to_json(self) -> dict[str, Any]:
        """As a recipe has it, the label always there."""
        return {"name": self.name, "label": self.label, **self.parameters}

    def __str__(self) -> str:
        """As the command line takes it."""
        values = (f"{key}={_scalar(value)}" for key, value in self.parameters.items())
        return self.name + (f":{','.join(values)}" if self.parameters else "")

    @classmethod
    def of(cls, entry: Self | str | Mapping[str, Any]) -> Self:
        """A choice from any of its forms: the command line's, or a recipe's ``{name: ..., label: ..., key: value}``.

        Raises:
            RecipeError: as the class; or an entry has no name.
        """
        if isinstance(entry, cls):
            return entry
        if isinstance(entry, str):
            return cls(**parse_entry(entry))
        given = dict(entry)
        if not isinstance(given.get("name"), str):
            raise RecipeError(f"a policy without a name: {given}", cure="{name: self_consistency, samples: 8}")
        return cls(given.pop("name"), label=str(given.pop("label", "")), parameters=given)


def parse_choice(text: str) -> Choice:
    """Read ``name``, ``name:key=value,key=value`` or either after ``label=``; values are written as in YAML.

    Raises:
        RecipeError: it cannot be read, or see `Choice`.
    """
    return Choice(**parse_entry(text))


def choice_of(entry: Choice | str | Mapping[str, Any]) -> Choice:
    """See `Choice.of`."""
    return Choice.of(entry)


def parse_entry(text: str) -> dict[str, Any]:
    """What `parse_choice` reads: name, parameters and label, before anything is built from them.

    Raises:
        RecipeError: it cannot be read.
    """
    label, rest = "", text.strip()
    if found := _LABEL.match(rest):
        label, rest = found[1].strip(), found[2]
    name, _, values = rest.partition(":")
    return {"name": name.strip(), "parameters": _parameters(name.strip(), values, text), "label": label}


def _parameters(name: str, values: str, text: str) -> dict[str, Any]:
    # A policy may have one parameter that need not be named: calibrated:FILE.json.
    main = getattr(find(name).policy, "main_parameter", None) if values and "=" not in values else None
    if main is not None:
        return {main: values.strip()}
    return dict(_pair(part, text) for part in _parts(values)) if values else {}


def _parts(values: str) -> Iterator[str]:
    """Split at commas, but not at those within brackets, braces or a quoted value."""
    start, depth, quote, before = 0, 0, "", "="
    for place, character in enumerate(values):
        if quote:
            # A doubled quote closes and opens again at once, which comes to the same.
            escaped = quote == '"' and before == "\\"
            quote = "" if character == quote and not escaped else quote
            before = "" if escaped else character
            continue
        if character in "'\"" and (before in "=,[{:" or before == character):
            quote = character
        depth += (character in "[{") - (character in "]}")
        if character == "," and depth <= 0:
            yield values[start:place]
            start = place + 1
        before = before if character.isspace() else character
    yield values[start:]


def _pair(part: str, text: str) -> tuple[str, Any]:
    key, equals, value = part.partition("=")
    if not equals or not key.strip():
        raise RecipeError(f"policy {text!r}: {part!r} is not key=value", cure="write name:key=value,key=value")
    try:
        return key.strip(), yaml.safe_load(value)
    # The constructors of dates and tagged values let errors of their own through.
    except (yaml.YAMLError, ValueError, AttributeError, LookupError, RecursionError):
        cure = "quote it as in YAML: stop='[a]'"
        raise RecipeError(f"policy {text!r}: {value!r} cannot be read as a value", cure=cure) from None


def _scalar(value: Any) -> str:
    # In a list, text with a comma is quoted; alone it need not be, but then the next key is not found.
    return yaml.safe_dump([value], default_flow_style=True, width=10_000).removesuffix("\n")[1:-1]
