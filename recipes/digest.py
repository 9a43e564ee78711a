"""Fingerprints of what a recipe reads from this machine, so that a changed file means a new stage."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from laconic.recipes.model_spec import ModelSpec
from laconic.recipes.problems_model import FileProblems, Problems
from laconic.recipes.search_model import WORLD, SearchSpec
from laconic.rewards.errors import DataError, ModelError

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
WEIGHT_PATTERNS = ("*.safetensors", "*.bin")
_LARGE = 16 * 2**20
_EDGE = 2**20


def digest_problems(problems: Problems) -> dict[str, str]:
    """Digests of the data files by key; nothing for problems that do not lie on this machine.

    Raises:
        DataError: a file is missing or empty.
    """
    if not isinstance(problems, FileProblems):
        return {}
    return {key: _digest_data(key, Path(path)) for key, path in (("train", problems.train), ("test", problems.test))}


def _digest_data(key: str, path: Path) -> str:
    if not path.is_file():
        cure = "check the path; it is relative to the current folder"
        raise DataError(f"problems.{key}: {path}: no such file", cure=cure)
    content = path.read_bytes()
    if not content.strip():
        raise DataError(f"problems.{key}: {path} is empty", cure="one JSON object per line, one problem each")
    return hashlib.sha256(content).hexdigest()


def digest_retriever(search: SearchSpec | None) -> dict[str, str]:
    """The digest of a corpus file, or of an index's manifest; nothing for a world, a server, or where nobody searches.

    Raises:
        DataError: the retriever is none of these.
    """
    if search is None or search.retriever == WORLD or search.retriever.startswith(("http://", "https://")):
        return {}
    path = Path(search.retriever.rpartition(":")[2])
    file = path / "manifest.json" if path.is_dir() else path
    if not file.is_file():
        cure = f"name a corpus FILE.jsonl, a folder of `laconic retriever index`, http://host:port, or {WORLD}"
        raise DataError(f"search.retriever: {search.retriever}: no such retriever", cure=cure)
    return {search.retriever: hashlib.sha256(file.read_bytes()).hexdigest()}


def looks_local(path: str) -> bool:
    """Whether a model's path means a folder here and not a model on the hub."""
    return path.startswith((".", "/", "~")) or Path(path).exists()


def digest_model(model: ModelSpec) -> dict[str, str]:
    """Digests of a local model folder's files by name; nothing for a model from the hub or from scratch.

    Raises:
        ModelError: the folder lacks its config, its tokenizer or its weights.
    """
    if model.path is None or not looks_local(model.path):
        return {}
    folder = Path(model.path)
    check_model_folder(folder, key="model.path")
    return digest_folder(folder)


def digest_folder(folder: Path) -> dict[str, str]:
    """Digests of a folder's files by name. Of files above 16 MiB only the size and both ends are read."""
    return {path.name: _digest_large(path) for path in sorted(folder.iterdir()) if path.is_file()}


def check_model_folder(folder: Path, *, key: str) -> None:
    """Check that a folder holds what `from_pretrained` needs for a model and its tokenizer.

    Raises:
        ModelError: naming the key and what is missing.
    """
    if not folder.is_dir():
        raise ModelError(f"{key}: {folder}: no such folder", cure="check the path; a hub id does not begin with . or /")
    missing = [] if (folder / "config.json").is_file() else ["config.json"]
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        missing.append(f"a tokenizer ({' or '.join(TOKENIZER_FILES[:2])})")
    if not any(any(folder.glob(pattern)) for pattern in WEIGHT_PATTERNS):
        missing.append("weights (*.safetensors)")
    if missing:
        cure = "save the model and its tokenizer there with save_pretrained"
        raise ModelError(f"{key}: {folder} lacks {' and '.join(missing)}", cure=cure)


def _digest_large(path: Path) -> str:
    """Of a large file only size, beginning and end are read: hashing all weights would make every plan slow."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as content:
        digest.update(content.read(_EDGE if size > _LARGE else size))
        if size > _LARGE:
            content.seek(-_EDGE, os.SEEK_END)
            digest.update(content.read())
    return digest.hexdigest()
