"""Which policy answers a request: the server's, or the one that the request names, if it may."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from laconic.inference.engine import Engine, check_capabilities
from laconic.inference.policies.base import POLICIES, Registered
from laconic.inference.policies.choose import Choice, parse_entry
from laconic.inference.policies.needs import check_engines, lacking
from laconic.inference.policies.retrieving import check_retriever, searches
from laconic.inference.server.refusals import Refused, said
from laconic.rewards.errors import LaunchError, RecipeError

LONGEST = 2000
"""Characters of a policy's specification."""
DEEPEST = 64
"""Lists and objects of a specification in text."""
READ_FILES = frozenset({"calibrated", "steered"})
"""Policies with a parameter that names a file of the server: its default may be one of them, no request names one."""


@dataclass(frozen=True)
class Menu:
    """What can be chosen.

    Args:
        default: For requests that name no policy.
        engine: Must be able to run what is chosen.
        scorer: There is one.
        allowed: Names that requests may use; None: all that the engine can run.
        retriever: There is one.
        engines: The names of further engines.
    """

    default: Choice
    engine: Engine
    scorer: bool
    allowed: tuple[str, ...] | None = None
    retriever: bool = False
    engines: Collection[str] = ()

    @property
    def names(self) -> list[str]:
        """The policies that a request may name: of those that ask further engines, the server's own, and those for
        which there are engines of the names that they ask by default.
        """
        allowed = [POLICIES[name] for name in sorted(POLICIES) if self._may_name(name)]
        able = [registered for registered in allowed if self._lacks(registered) is None]
        return [registered.name for registered in able if self._finds_engines(registered)]

    def check_default(self) -> None:
        """Refuse a server whose own policy cannot run.

        Raises:
            LaunchError: says what is missing.
        """
        registered = self.default.registered
        check_capabilities(self.engine, registered.requires, who=f"policy {registered.name}")
        if registered.lacks_scorer(self.default.build()) and not self.scorer:
            raise LaunchError(f"policy {registered.name} needs a scorer", cure="name one: --scorer module:function")
        check_retriever(registered, retriever=self.retriever)
        check_engines(self.default, self.engines, cure="name each: --engine NAME=MODEL")

    def pick(self, wish: Any) -> Choice:
        """The choice of a request.

        Args:
            wish: Its field `policy`: a text as the command line takes it, or an object with `name` and parameters.

        Raises:
            Refused: it cannot be read, is not allowed, or the engine cannot run it.
        """
        if wish is None:
            return self.default
        try:
            entry = _read(wish)
            self._check_allowed(entry)
            choice = Choice(**entry)
        except RecipeError as error:
            raise _wrong(said(error)) from None
        if lack := self._lacks(choice.registered) or self._lacks_engines(choice):
            raise _wrong(lack, code="engine_cannot")
        return choice

    def _check_allowed(self, entry: Mapping[str, Any]) -> None:
        """A policy, and any policy inside it. Before it is built: building some reads files."""
        for name in (entry["name"], *_policies_within(entry["parameters"])):
            if name in POLICIES and not self._may_name(name):
                message = f"policy {name} is not allowed here; these are: {', '.join(self.names)}"
                raise _wrong(message, code="policy_not_allowed")

    def _may_name(self, name: str) -> bool:
        return name not in READ_FILES and (self.allowed is None or name in self.allowed)

    def _lacks(self, registered: Registered) -> str | None:
        if registered.scorer and not self.scorer:
            return f"policy {registered.name} needs a scorer, and this server has none"
        if searches(registered) and not self.retriever:
            return f"policy {registered.name} needs a retriever, and this server has none"
        try:
            check_capabilities(self.engine, registered.requires, who=f"policy {registered.name}")
        except LaunchError as error:
            return said(error)
        return None

    def _finds_engines(self, registered: Registered) -> bool:
        if registered.engines is None or registered.name == self.default.name:
            return True
        return self._lacks_engines(Choice(registered.name)) is None

    def _lacks_engines(self, choice: Choice) -> str | None:
        if (lacks := lacking(choice, self.engines)) is None:
            return None
        return f"policy {choice.name} needs {lacks}, and this server has {', '.join(sorted(self.engines)) or 'none'}"


def _read(wish: Any) -> dict[str, Any]:
    """Name and parameters; nothing is built from them yet."""
    if not isinstance(wish, str | dict) or len(json.dumps(wish)) > LONGEST:
        raise _wrong(f"must be a text or an object, of {LONGEST} characters at most")
    if isinstance(wish, str):
        if wish.count("[") + wish.count("{") > DEEPEST:
            raise _wrong(f"takes {DEEPEST} lists and objects at most")
        entry = parse_entry(wish)
        _check_tree(entry["parameters"])
        return entry
    if not isinstance(wish.get("name"), str):
        raise _wrong("must have a name, as {'name': 'short_mk', 'k': 4}")
    return {"name": wish["name"], "parameters": {key: wish[key] for key in wish if key not in ("name", "label")}}


def _check_tree(value: Any) -> None:
    """YAML can name a value and use it again, also within itself: a short text for more than anyone can read."""
    seen, level = set(), [value]
    while level:
        value = level.pop()
        if isinstance(value, dict | list | tuple | set):
            if id(value) in seen:
                raise _wrong("must not refer to a value twice")
            seen.add(id(value))
            level += [*value, *value.values()] if isinstance(value, dict) else value


def _policies_within(value: Any) -> Iterator[str]:
    """Names of policies anywhere in the parameters."""
    if isinstance(value, str) and value in POLICIES:
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _policies_within(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _policies_within(inner)


def _wrong(message: str, *, code: str = "invalid_policy") -> Refused:
    text = message if message.startswith("policy") else f"policy: {message}"
    return Refused(400, text, param="policy", code=code)
