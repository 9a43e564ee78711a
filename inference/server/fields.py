"""Reading the fields of a request: each has a type and a range, and what is not understood is refused by name."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from laconic.inference.server.refusals import Refused

T = TypeVar("T")


class Fields:
    """The fields of a request; null counts as absent.

    Args:
        body: The request's JSON object.
    """

    def __init__(self, body: Mapping[str, Any]) -> None:
        self.body = {name: value for name, value in body.items() if value is not None}

    def __contains__(self, name: str) -> bool:
        return name in self.body

    def refuse_unknown(self, known: Collection[str], neutral: Mapping[str, Collection[Any]]) -> None:
        """Refuse what would change the meaning of the answer and is not done here.

        Args:
            known: Fields that are read, and fields that change nothing.
            neutral: Fields that are taken only with these values, which change nothing.

        Raises:
            Refused: names the field.
        """
        for name, value in self.body.items():
            if name in known or (name in neutral and any(_same(value, other) for other in neutral[name])):
                continue
            what = "is supported only as " + _listed(neutral[name]) if name in neutral else "is not supported"
            raise Refused(400, f"{short(name)} {what} by this server", param=short(name), code="unsupported_parameter")

    def get(self, name: str, kind: type[T], default: T) -> T:
        """A field of one type."""
        value = self.body.get(name, default)
        # True is an int to Python, not to JSON.
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise wrong(name, f"must be {_NAMES[kind]}")
        return value

    def whole(self, name: str, default: int, *, least: int, most: int) -> int:
        """A whole number within a range."""
        value = self.get(name, int, default)
        if not least <= value <= most:
            raise wrong(name, f"must be from {least} to {most}")
        return value

    def number(self, name: str, default: float, *, least: float, most: float) -> float:
        """A number within a range."""
        value = self.body.get(name, default)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise wrong(name, "must be a number")
        if not least <= value <= most:
            raise wrong(name, f"must be from {least:g} to {most:g}")
        return float(value)

    def texts(self, name: str, *, most: int, longest: int) -> tuple[str, ...]:
        """A text or a list of texts, none of them empty."""
        value = self.body.get(name, [])
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list) or not all(isinstance(item, str) for item in values):
            raise wrong(name, "must be a text or a list of texts")
        if len(values) > most or any(not 0 < len(item) <= longest for item in values):
            raise wrong(name, f"takes {most} texts at most, of 1 to {longest} characters")
        return tuple(values)


_NAMES: dict[type, str] = {
    bool: "true or false",
    int: "a whole number",
    str: "a text",
    list: "a list",
    dict: "an object",
}


def wrong(name: str, rule: str) -> Refused:
    """A field with a value that it cannot have."""
    return Refused(400, f"{name} {rule}", param=name, code="invalid_value")


def short(name: str) -> str:
    """A name a client made up, at a length that can be repeated."""
    return name if len(name) <= 80 else f"{name[:77]}..."


def _same(value: Any, other: Any) -> bool:
    return value == other and isinstance(value, bool) == isinstance(other, bool)


def _listed(values: Collection[Any]) -> str:
    return " or ".join(repr(value) for value in values)
