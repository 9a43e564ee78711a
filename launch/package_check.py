"""Installed versions beside the ranges that Laconic declares and the versions that are tested together."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from laconic.launch.findings import Finding

CHECKOUT = Path(__file__).parents[1]
"""Where pyproject.toml and constraints.txt are, unless Laconic was installed from a wheel."""
_REQUIREMENT = re.compile(r"^([A-Za-z0-9_.-]+)\s*(?:\[[^\]]*\])?\s*([^;]*)(?:;.*extra == [\"']([\w-]+)[\"'])?")
_DEVELOPERS = "dev"
_SHOWN = 6


@dataclass
class Requirement:
    """A package as Laconic's own metadata declares it."""

    name: str
    tested: str
    """A range like ``>=1.16,<1.17``; empty for any version."""
    extras: list[str] = field(default_factory=list)
    """Which of Laconic's extras bring it, in their order; none for a package that is always there."""


def packages() -> list[Finding]:
    """Every declared package: installed or not, inside the tested range or not."""
    return [_package(one) for one in requirements(declared())]


def declared(checkout: Path = CHECKOUT) -> list[str]:
    """Requirements as package metadata has them; of a checkout as it is now, not as it was when it was installed."""
    file = checkout / "pyproject.toml"
    project = tomllib.loads(file.read_text(encoding="utf-8")).get("project", {}) if file.is_file() else {}
    if project.get("name") != "laconic":
        return metadata.requires("laconic") or []
    extras = project["optional-dependencies"].items()
    return project["dependencies"] + [f'{line}; extra == "{extra}"' for extra, lines in extras for line in lines]


def requirements(lines: Iterable[str]) -> list[Requirement]:
    """Read lines like ``numba>=0.61; extra == "bm25-numba"``; a package that several extras name comes once."""
    found: dict[str, Requirement] = {}
    for line in lines:
        match = _REQUIREMENT.match(line)
        assert match is not None, f"a requirement without a name: {line!r}"
        name, tested, extra = match.groups()
        one = found.setdefault(name, Requirement(name, tested.strip()))
        if extra:
            one.extras.append(extra)
    return list(found.values())


def _package(one: Requirement) -> Finding:
    span = f"tested: {one.tested or 'any'}"
    try:
        version = metadata.version(one.name)
    except metadata.PackageNotFoundError:
        state = "note" if one.extras else "problem"
        return Finding(one.name, state, f"not installed ({span})", cure=bringing(one))
    if in_range(version, one.tested):
        return Finding(one.name, "ok", f"{version} ({span})")
    return Finding(one.name, "problem", f"{version} ({span})", cure=f"pip install '{one.name}{one.tested}'")


def bringing(one: Requirement) -> str:
    """How to get a package: the extra that users install for it, and the others that have it too."""
    if not one.extras:
        return "pip install laconic"
    extras = [name for name in one.extras if name != _DEVELOPERS] or one.extras
    others = f" (so {'do' if len(extras) > 2 else 'does'} {', '.join(extras[1:])})" if len(extras) > 1 else ""
    return f"pip install 'laconic[{extras[0]}]' brings it{others}"


def in_range(version: str, tested: str) -> bool:
    """Whether a version lies in a range like ``>=1.16,<1.17``."""
    found = _numbers(version)
    return all(
        found >= _numbers(bound) if sign == ">=" else found < _numbers(bound)
        for sign, bound in re.findall(r"(>=|<)\s*([0-9.]+)", tested)
    )


def _numbers(version: str) -> tuple[int, ...]:
    numbers = [int(part) for part in re.findall(r"\d+", version.split("+")[0])]
    return tuple([*numbers, 0, 0, 0][:3])


def constraints(file: Path = CHECKOUT / "constraints.txt") -> list[Finding]:
    """Whether what is installed is what is tested together; nothing is said where there is no such file."""
    if not file.is_file():
        return []
    pinned = [line.split("==") for line in file.read_text(encoding="utf-8").splitlines() if "==" in line]
    other = [text for name, version in pinned if (text := _differs(name, version))]
    if not other:
        return [Finding("tested together", "ok", f"no version differs from {file.name}")]
    more = f" and {len(other) - _SHOWN} more" if len(other) > _SHOWN else ""
    return [
        Finding(
            "tested together",
            "note",
            f"{len(other)} of {len(pinned)} versions differ from {file.name}: {', '.join(other[:_SHOWN])}{more}",
            cure=f"pip install --constraint {file.name} --editable '.[train]' where exact repetition matters",
        )
    ]


def _differs(name: str, pinned: str) -> str | None:
    """Words for an installed version that is not the pinned one; a build's own suffix (`+cpu`) does not count."""
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
    return None if version.split("+")[0] == pinned else f"{name} {version} (not {pinned})"
