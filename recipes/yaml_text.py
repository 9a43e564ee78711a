"""YAML 1.2 scalars (`1e-6` is a number, `no` is text), refused duplicate keys, and the line of every value."""

from __future__ import annotations

import re
from typing import Any

import yaml

from laconic.recipes.strict import Location
from laconic.rewards.errors import RecipeError

_TAG = "tag:yaml.org,2002:"
_SCALARS = (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?[0-9]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("merge", r"<<", "<"),
)


class _Loader(yaml.SafeLoader):
    """Knows the scalars of YAML 1.2's core schema only."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (PyYAML's own interface)


class _Dumper(yaml.SafeDumper):
    """Quotes exactly the text that `_Loader` would read as something else."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012


for _class in (_Loader, _Dumper):
    for _name, _pattern, _first in _SCALARS:
        _class.add_implicit_resolver(_TAG + _name, re.compile(f"^(?:{_pattern})$"), list(_first))


def _construct_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = loader.construct_scalar(node)
    return int(text, 16) if text.startswith("0x") else int(text, 10)


_Loader.add_constructor(_TAG + "int", _construct_int)


def load_yaml(text: str, *, label: str, numbered: bool = True) -> tuple[Any, dict[Location, int]]:
    """Read one YAML document.

    Args:
        text: The document.
        label: What messages call it, normally the file's path.
        numbered: Whether messages have line numbers; a single value needs none.

    Returns:
        The data, and the line (from 1) of every value by its place.

    Raises:
        RecipeError: not YAML, or a key stands twice in one mapping (with both lines).
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None, {}
        _refuse_duplicates(node, label, ())
        data = loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{label}:{mark.line + 1}" if mark and numbered else label
        raise RecipeError(
            f"{where}: not YAML: {error.problem or error}", cure="mind indentation and brackets"
        ) from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{label}: not YAML: {error}") from None
    # Only now, because construction has put the keys of merged mappings (<<) in their places.
    return data, dict(_lines(node, ()))


def _refuse_duplicates(node: yaml.Node, label: str, above: tuple[yaml.Node, ...]) -> None:
    if node in above:
        raise RecipeError(f"{label}:{node.start_mark.line + 1}: an alias that contains itself")
    if isinstance(node, yaml.MappingNode):
        first: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if key.value in first and isinstance(key, yaml.ScalarNode):
                message = f"{label}:{line}: the key {key.value!r} stands already in line {first[key.value]}"
                raise RecipeError(message, cure="remove one of the two")
            if isinstance(key, yaml.ScalarNode):
                first[key.value] = line
    for child in _children(node):
        _refuse_duplicates(child, label, (*above, node))


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [value for _, value in node.value]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _lines(node: yaml.Node, place: Location) -> list[tuple[Location, int]]:
    found = [(place, node.start_mark.line + 1)]
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*place, key.value)
            # A block under a key starts a line later; the key's own line is what a person looks for.
            found += [*_lines(value, here), (here, key.start_mark.line + 1)]
    elif isinstance(node, yaml.SequenceNode):
        for at, value in enumerate(node.value):
            found += _lines(value, (*place, at))
    return found


def dump_yaml(data: Any) -> str:
    """Write plain data so that `load_yaml` reads the same data back."""
    # Unicode is escaped: PyYAML writes some line separators raw and reads them back as spaces.
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=False, width=120)
