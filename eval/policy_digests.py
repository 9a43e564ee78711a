"""Fingerprints of what a policy's answers depend on besides its name and parameters: files that can be rewritten."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from laconic.recipes.digest import digest_folder


def parameter_files(parameters: Mapping[str, Any]) -> dict[str, str]:
    """SHA-256 of every file that a policy's parameters name, those of inner policies too: artefacts, directions."""
    files = sorted({text for text in _texts(parameters) if text and len(text) < 4096 and _is_file(text)})
    return {file: _sha256(Path(file)) for file in files}


def model_digest(model: str) -> str | None:
    """Of a model folder's files; None for a model from the hub or on a server.

    Of files above 16 MiB only the size and the first and last MiB are read, of others all.
    """
    folder = Path(model.removeprefix("vllm:"))
    if not folder.is_dir():
        return None
    digests = digest_folder(folder)
    return hashlib.sha256("\n".join(f"{name} {digest}" for name, digest in digests.items()).encode()).hexdigest()


def module_digest(place: str | None) -> str | None:
    """Of the source of ``module:function``, which may lie in the current folder; None where there is no such file.

    Modules that it imports in turn are not looked at.
    """
    module, colon, _ = (place or "").partition(":")
    if not (module and colon):
        return None
    relative = Path(*module.split("."))
    names = (relative.with_suffix(".py"), relative / "__init__.py")
    found = (Path(folder) / name for folder in ("", *sys.path) for name in names)
    file = next((path for path in found if path.is_file()), None)
    return None if file is None else _sha256(file)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # not every text can be a path
        return False


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
