"""The fixed sections of a reward's docstring, read for `laconic list rewards NAME` and the reference page.

docs/guides/add-a-reward.md shows one. In this order: a line that says what the reward does; ``Formula::`` with an
indented block; what happens when none is correct, when one is, at equal lengths, at the token limit; ``Args:``, each
entry ending with its unit in square brackets; ``Deviations:``, ``Gaming:`` and ``Source:``; one worked example.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass, field
from typing import Any

SECTIONS = ("Deviations", "Gaming", "Source")
_HEADING = re.compile(rf"^({'|'.join((*SECTIONS, 'Args'))}):[ \n]", re.MULTILINE)
_FORMULA = re.compile(r"^Formula(?P<where>(?:.|\n)*?)::\n\n(?P<lines>(?:    .*\n|\n)+)", re.MULTILINE)
_ARGUMENT = re.compile(r"^    (\w+): (.*(?:\n        .*)*)", re.MULTILINE)
_UNIT = re.compile(r"\s*\[([^\[\]]+)\]\s*$")


@dataclass(frozen=True)
class Argument:
    """One line of ``Args:``."""

    about: str
    unit: str | None


@dataclass(frozen=True)
class Documentation:
    """A reward's docstring, taken apart."""

    summary: str
    formula: str = ""
    where: str = ""
    """What the line that opens the formula says about it: ", with h the shortest correct length"; often nothing."""
    body: str = ""
    """What stands between the formula and the arguments."""
    arguments: dict[str, Argument] = field(default_factory=dict)
    deviations: str = ""
    gaming: str = ""
    source: str = ""
    example: str = ""

    @property
    def missing(self) -> list[str]:
        """The sections that are not there."""
        wanted = ("summary", "formula", *(name.lower() for name in SECTIONS), "example")
        return [name for name in wanted if not getattr(self, name)]


def read(documented: Any) -> Documentation:
    """Take the docstring of a function or class apart."""
    text = (inspect.getdoc(documented) or "") + "\n"
    summary, _, rest = text.partition("\n\n")
    text, found, example = rest.partition(">>> ")
    parts = _parts(text)
    head = parts.pop("", "")
    formula = _FORMULA.search(head)
    body = head[formula.end() :] if formula else head
    return Documentation(
        summary=_joined(summary),
        formula=inspect.cleandoc(formula["lines"]) if formula else "",
        where=" ".join(formula["where"].split()) if formula else "",
        body=body.strip(),
        arguments={name: _argument(about) for name, about in _ARGUMENT.findall(parts.get("Args", ""))},
        example=(found + example).strip(),
        **{name.lower(): _joined(parts.get(name, "")) for name in SECTIONS},
    )


def _parts(text: str) -> dict[str, str]:
    """The text before the first heading under "", and what stands under each heading."""
    heads = list(_HEADING.finditer(text))
    if not heads:
        return {"": text}
    ends = [head.start() for head in heads[1:]] + [len(text)]
    parts = {head[1]: text[head.end() - 1 : end] for head, end in zip(heads, ends, strict=True)}
    return {"": text[: heads[0].start()]} | parts


def _argument(about: str) -> Argument:
    about = _joined(about)
    unit = _UNIT.search(about)
    return Argument(_UNIT.sub("", about), unit[1] if unit else None)


def _joined(text: str) -> str:
    return " ".join(text.split())
