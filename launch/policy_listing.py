"""`laconic list policies NAME`: all about one policy."""

from __future__ import annotations

import inspect
import json
import re
import textwrap
from collections.abc import Iterable
from dataclasses import MISSING, asdict, is_dataclass
from typing import Any

from rich.console import Console

from laconic.inference.engine import Capability
from laconic.inference.policies.base import Registered, find
from laconic.inference.policies.needs import asks_others
from laconic.inference.policies.parameters import described
from laconic.inference.policies.retrieving import searches

_WIDEST = 100
_INDENT = "  "


def print_one(out: Console, name: str) -> None:
    """All about one policy: its rule, its parameters with their defaults, what it needs, and where it is from.

    Raises:
        RecipeError: there is none of that name.
    """
    registered, width = find(name), min(out.width, _WIDEST)
    summary, _, rule = (inspect.getdoc(registered.policy) or "").partition("\n")
    rule, _, after = rule.partition("\nArgs:\n")
    rule += "\n\n" + after.partition("\n\n")[2]
    print(textwrap.fill(f"{name}: {_plain(summary)}", width))
    _section("rule", _paragraphs(_plain(rule.strip()), width))
    _section("parameters", _parameters(registered, width))
    _section("needs", [line for text in _needs(registered) for line in _filled(text, width)])
    _section("paper", _filled(registered.paper, width))


def _plain(text: str) -> str:
    return text.replace("``", "")


def _parameters(registered: Registered, width: int) -> list[str]:
    lines = []
    for name, (legal, default, about) in described(registered.policy).items():
        lines += _filled(f"{name}{_value(default)}; {legal}", width)
        lines += [f"    {line}" for line in textwrap.wrap(_plain(about), width - 6, break_on_hyphens=False)]
    return lines or ["none"]


def _value(default: Any) -> str:
    """As the command line and recipes take it."""
    if default is MISSING:
        return ", to be given"
    bare = isinstance(default, str) and default.isidentifier()
    return f" = {default if bare else json.dumps(_simple(default), ensure_ascii=False)}"


def _simple(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return _simple(asdict(value))
    if isinstance(value, dict):
        return {key: _simple(one) for key, one in value.items()}
    return [_simple(one) for one in value] if isinstance(value, tuple | list) else value


def _needs(registered: Registered) -> list[str]:
    """One line per thing; the first of an engine."""
    found = [item.value for item in Capability if item in registered.requires]
    lines = [f"of the engine: {', '.join(found) or 'nothing but completions'}"]
    if registered.scorer:
        unless = f", unless {registered.instead} is given (from Python)" if registered.instead else ""
        lines.append(f"a scorer{unless}: --scorer; in a recipe the stage's scorer")
    if searches(registered):
        lines.append("a retriever: --retriever; in a recipe the stage's retriever")
    if asks_others(registered):
        names = ", ".join(registered.engine_names(registered.build()))
        lines.append(f"further engines, here {names}: --engine NAME=MODEL; in a recipe the models of an eval stage")
    return lines


def _section(title: str, lines: Iterable[str]) -> None:
    print(f"\n{title}")
    for line in lines:
        print(f"{_INDENT}{line}".rstrip())


def _filled(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width - len(_INDENT), subsequent_indent="  ", break_on_hyphens=False)


def _paragraphs(text: str, width: int) -> list[str]:
    """Prose filled anew, and items one by one; a block that is indented stays as it is."""
    lines: list[str] = []
    for paragraph in text.split("\n\n") if text else []:
        lines += [""] if lines else []
        if paragraph.startswith("    "):
            lines += paragraph.splitlines()
            continue
        for item in re.split(r"\n(?=- )", paragraph):
            after = "  " if item.startswith("- ") else ""
            folded = " ".join(item.split())
            lines += textwrap.wrap(folded, width - len(_INDENT), subsequent_indent=after, break_on_hyphens=False)
    return lines
