"""An index on disk: its corpus, read through a memory map, and a manifest that says what belongs together."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, overload

import numpy as np

from laconic.inference.retrieval.documents import Document, corpus_line
from laconic.rewards.errors import DataError

FORMAT = 1
MANIFEST = "manifest.json"
CORPUS = "corpus.jsonl"
OFFSETS = "offsets.npy"
_AGAIN = "build it again: laconic retriever index CORPUS.jsonl --out FOLDER"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What an index folder holds."""

    kind: str
    """The retriever it is for: bm25, fts5 or dense."""
    documents: int
    corpus: str
    """SHA-256 of all documents in order; see `digest_of`."""
    settings: dict[str, Any]
    """What the kind was built with."""
    files: dict[str, int] = field(default_factory=dict)
    """Bytes of every other file."""
    laconic: str = field(default_factory=lambda: metadata.version("laconic"))
    format: int = FORMAT


class StoredDocuments(Sequence[Document]):
    """The documents of an index folder; only those that are asked for are read."""

    def __init__(self, folder: Path) -> None:
        # As a plain array, still mapped: one number of a memmap takes many times as long.
        self._offsets = np.asarray(np.load(folder / OFFSETS, mmap_mode="r"))
        self._kept: dict[int, Document] = {}
        self._most = 0
        with (folder / CORPUS).open("rb") as file:
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @overload
    def __getitem__(self, at: int) -> Document: ...
    @overload
    def __getitem__(self, at: slice) -> list[Document]: ...
    def __getitem__(self, at: int | slice) -> Document | list[Document]:
        """The document at a place."""
        if isinstance(at, slice):
            return [self[place] for place in range(*at.indices(len(self)))]
        if (kept := self._kept.get(at)) is not None:
            return kept
        place = at + len(self) if at < 0 else at
        if not 0 <= place < len(self):
            raise IndexError(at)
        line = self._bytes[int(self._offsets[place]) : int(self._offsets[place + 1])]
        document = Document.from_json(json.loads(line))
        if self._most:
            self._kept[place] = document
            if len(self._kept) > self._most:
                del self._kept[next(iter(self._kept))]
        return document

    def keep(self, most: int) -> None:
        """From now on, hold on to documents that were read.

        Args:
            most: How many; the oldest go first.
        """
        self._most = most

    def close(self) -> None:
        """Let go of the files."""
        self._bytes.close()


def create_index(
    documents: Iterable[Document],
    folder: str | os.PathLike[str],
    *,
    kind: str,
    fill: Callable[[StoredDocuments, Path], dict[str, Any]],
) -> Manifest:
    """Write an index folder; it appears under its name when it is complete, or not at all.

    Args:
        documents: The corpus, with distinct ids; only one document at a time is in memory.
        folder: Where; it must not exist, or be empty.
        kind: Of the retriever.
        fill: Writes the kind's own files into the folder and returns its settings.

    Raises:
        DataError: the folder holds something, or the corpus nothing.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} exists already", cure="name a new folder, or delete that one first")
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir()
    try:
        digest = _store(documents, building)
        stored = StoredDocuments(building)
        settings = fill(stored, building)
        sizes = {path.name: path.stat().st_size for path in sorted(building.iterdir())}
        manifest = Manifest(kind=kind, documents=len(stored), corpus=digest, settings=settings, files=sizes)
        stored.close()
        (building / MANIFEST).write_text(json.dumps(asdict(manifest), indent=2) + "\n")
        building.replace(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return manifest


def _store(documents: Iterable[Document], folder: Path) -> str:
    """Write the corpus and its offsets; returns its digest."""
    digest, offsets = hashlib.sha256(), [0]
    with (folder / CORPUS).open("wb") as out:
        for document in documents:
            line = corpus_line(document).encode()
            out.write(line)
            digest.update(line)
            offsets.append(offsets[-1] + len(line))
    if len(offsets) == 1:
        raise DataError("the corpus holds no documents", cure="index at least one")
    np.save(folder / OFFSETS, np.array(offsets, dtype=np.uint64))
    return digest.hexdigest()


def read_manifest(folder: str | os.PathLike[str], *, corpus: str | None = None) -> Manifest:
    """The manifest of a folder whose files are all there, in the sizes they were written with.

    Args:
        folder: An index folder.
        corpus: The digest that its corpus must have.

    Raises:
        DataError: there is no index, it is incomplete or altered, of another format, or of another corpus.
    """
    folder = Path(folder)
    manifest = _parsed(folder)
    for name, size in manifest.files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size:
            state = f"has {path.stat().st_size} bytes instead of {size}" if path.is_file() else "is missing"
            raise DataError(f"{folder}: the index is incomplete, {name} {state}", cure=_AGAIN)
    check_corpus(str(folder), manifest.corpus, corpus)
    return manifest


def _parsed(folder: Path) -> Manifest:
    place = folder / MANIFEST
    if not place.is_file():
        what = "no such folder" if not folder.exists() else f"holds no index ({MANIFEST} is missing)"
        raise DataError(f"{folder}: {what}", cure=f"name an index folder, or {_AGAIN}")
    try:
        found = json.loads(place.read_text(encoding="utf-8"))
        version = found["format"]
        manifest = Manifest(**found) if version == FORMAT else None
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{place}: not a manifest of an index", cure=_AGAIN) from None
    if manifest is None:
        message = f"{folder}: the index has format {version}, and this version of laconic reads {FORMAT}"
        raise DataError(message, cure=_AGAIN)
    return manifest


def check_corpus(place: str, found: str, wanted: str | None) -> None:
    """Refuse a corpus other than the wanted one, if one is wanted.

    Raises:
        DataError: the digests differ.
    """
    if wanted is not None and found != wanted:
        raise DataError(
            f"{place}: the index is of another corpus (digest {found[:12]}, expected {wanted[:12]})",
            cure="name the index of that corpus, or build one of it",
        )


def of_kind(manifest: Manifest, kind: str, folder: str | os.PathLike[str]) -> Manifest:
    """The manifest, if it is of a kind.

    Raises:
        DataError: it is of another.
    """
    if manifest.kind != kind:
        raise DataError(f"{folder}: the index is for {manifest.kind}, not {kind}", cure="open it with open_retriever")
    return manifest
