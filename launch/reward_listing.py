"""`laconic list rewards [NAME]`: the registered rewards by kind, or all about one."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import get_args

from rich.console import Console

from laconic.rewards.description import claims, default, looks_at, needs
from laconic.rewards.registry import REWARDS, Kind, Reward, find

_WIDEST = 100
_INDENT, _DEEP = "  ", "    "
_MORE = "`laconic list rewards NAME` has the formula, the parameters, what it needs and how it can be gamed."


def print_all(out: Console) -> None:
    """The rewards by kind: a line of facts, and below it what the reward does."""
    width = min(out.width, _WIDEST)
    names, sights = max(map(len, REWARDS)) + 2, max(len(_sights(item)) for item in REWARDS.values()) + 2
    for kind in get_args(Kind):
        out.print(f"{f'{kind} reward':<{names}}{'looks at':<{sights}}paper", style="bold")
        for _, item in sorted(REWARDS.items()):
            if item.kind == kind:
                print(f"{item.name:<{names}}{_sights(item):<{sights}}{item.paper}")
                does = item.summary.replace("``", "")
                print(textwrap.fill(does, width, initial_indent=_DEEP, subsequent_indent=_DEEP))
        print()
    print(textwrap.fill(_MORE, width, break_on_hyphens=False))


def _sights(reward: Reward) -> str:
    return ", ".join(looks_at(reward))


def print_one(out: Console, name: str) -> None:
    """All about one reward.

    Raises:
        RecipeError: there is none of that name.
    """
    reward, width = find(name), min(out.width, _WIDEST)
    said = reward.documentation
    print(textwrap.fill(f"{reward.name}: {said.summary}", width))
    _section(textwrap.fill(f"formula{said.where}", width), said.formula.splitlines())
    _section("cases", _paragraphs(said.body, width))
    _section("parameters", _parameters(reward, width))
    _section("needs", [line for text in needs(reward) for line in _filled(text, width)])
    _section(
        "what holds, with the default parameters", [line for text in claims(reward) for line in _filled(text, width)]
    )
    _section("deviations", _filled(said.deviations, width))
    _section("how it can be gamed", _filled(said.gaming, width))
    _section("paper", [*_filled(reward.paper, width), *_filled(said.source, width)])
    _section("example", said.example.splitlines())


def _parameters(reward: Reward, width: int) -> list[str]:
    lines = []
    for name, parameter in reward.parameters.items():
        said = reward.documentation.arguments.get(name)
        unit = f" [{said.unit}]" if said and said.unit else ""
        lines += _filled(f"{name} = {default(parameter)}{unit}; {parameter.legal_values}", width)
        lines += [f"    {line}" for line in textwrap.wrap(said.about if said else "", width - 6)]
    return lines or ["none"]


def _section(title: str, lines: Iterable[str]) -> None:
    print(f"\n{title}")
    for line in lines:
        print(f"{_INDENT}{line}".rstrip())


def _filled(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width - len(_INDENT), subsequent_indent="  ", break_on_hyphens=False)


def _paragraphs(text: str, width: int) -> list[str]:
    """Prose filled anew; an indented block stays as it is."""
    lines: list[str] = []
    for paragraph in text.split("\n\n"):
        block = paragraph.startswith("    ")
        lines += [""] if lines else []
        lines += paragraph.splitlines() if block else textwrap.wrap(paragraph, width - len(_INDENT))
    return lines
