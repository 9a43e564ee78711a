"""Documents, hits, and corpora on disk or on the hub."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from laconic.rewards.errors import DataError
from laconic.rewards.jsonl import dumps, numbered_rows

_HALF = re.compile("[\ud800-\udfff]")
_ROWS = (
    'rows are {"id", "contents"}, contents being the text, after a line "Title" or without, or {"id", "title", "text"}'
)


@dataclass(frozen=True, slots=True)
class Document:
    """One passage of a corpus.

    Args:
        id: Stable and distinct in its corpus.
        text: What it says.
        title: One line, without quotation marks around it; None for none.
    """

    id: str
    text: str
    title: str | None = None

    @property
    def contents(self) -> str:
        r"""Title and text in one, as retrieval servers exchange them.

        >>> Document("7", "It lies on the Spree.", "Berlin").contents
        '"Berlin"\nIt lies on the Spree.'
        """
        return self.text if self.title is None else f'"{self.title}"\n{self.text}'

    @classmethod
    def from_contents(cls, id: str, contents: str) -> Document:
        r"""The inverse of `contents`: a first line in quotation marks is the title.

        >>> Document.from_contents("7", '"Berlin"\nIt lies on the Spree.').title
        'Berlin'
        """
        first, line_end, rest = contents.partition("\n")
        if line_end and len(first) > 2 and first[0] == first[-1] == '"':
            return cls(id, rest, first[1:-1])
        return cls(id, contents)

    @classmethod
    def from_json(cls, row: Mapping[str, Any], *, where: str = "document") -> Document:
        """A corpus row of either form; other keys are ignored.

        Args:
            row: ``{"id", "contents"}`` or ``{"id", "title", "text"}``; an id may be a whole number.
            where: What messages call the row.

        Raises:
            DataError: a key is missing or holds something else.
        """
        name = row.get("id")
        if isinstance(name, bool) or not isinstance(name, str | int) or name == "":
            raise DataError(f"{where}: id is {name!r}", cure=_ROWS)
        if "contents" in row:
            return cls.from_contents(str(name), _text(row, "contents", where))
        title = row.get("title")
        if title is not None and not isinstance(title, str):
            raise DataError(f"{where}: title is {title!r}", cure=_ROWS)
        return cls(str(name), _text(row, "text", where), " ".join(title.split()) or None if title else None)

    def to_json(self) -> dict[str, str]:
        """``{"id", "contents"}``, which every client of a retrieval server reads."""
        return {"id": self.id, "contents": self.contents}

    def to_row(self) -> dict[str, str]:
        """``{"id", "title", "text"}``, without a title where there is none."""
        row = {"id": self.id, "title": self.title, "text": self.text}
        return {key: value for key, value in row.items() if value is not None}


def _text(row: Mapping[str, Any], key: str, where: str) -> str:
    found = row.get(key)
    if not isinstance(found, str) or not found.strip():
        raise DataError(f"{where}: {key} is {found!r}", cure=_ROWS)
    if not found.isascii() and _HALF.search(found):
        raise DataError(f"{where}: {key} holds half a surrogate pair", cure="save the corpus as UTF-8 text")
    return found


@dataclass(frozen=True, slots=True)
class Hit:
    """A document that was found, and how well it fits: higher is better, on the retriever's own scale."""

    document: Document
    score: float


def read_corpus(path: str | os.PathLike[str]) -> Iterator[Document]:
    """The documents of a JSON Lines file, one by one.

    Raises:
        DataError: the file is missing or empty, a row is malformed, or an id names two documents; with the line.
    """
    rows = ((f"{path}:{number}", row) for number, row in numbered_rows(path))
    yield from distinct(((where, Document.from_json(row, where=where)) for where, row in rows), source=str(path))


def read_hub(
    name: str, *, split: str = "train", config: str | None = None, revision: str | None = None
) -> Iterator[Document]:
    """The documents of a data set on the hub or in a folder, one by one.

    Raises:
        DataError: it cannot be loaded, is empty, a row is malformed, or an id names two documents.
        ImportError: `datasets` is not installed.
    """
    import datasets

    try:
        data = datasets.load_dataset(name, config, split=split, revision=revision)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(
            f"{name} (config {config}, split {split}) cannot be loaded: {reason}",
            cure="check the name, the config and the split, and that this machine can reach the hub",
        ) from error
    rows = ((f"{name}, split {split}: row {number}", row) for number, row in enumerate(data, start=1))
    yield from distinct(((where, Document.from_json(row, where=where)) for where, row in rows), source=name)


def distinct(found: Iterable[tuple[str, Document]], *, source: str) -> Iterator[Document]:
    """Documents with distinct ids.

    Args:
        found: Documents, each with its place.
        source: What messages call all of them.

    Raises:
        DataError: an id comes twice, or there is no document.
    """
    first: dict[str, str] = {}
    for where, document in found:
        if (before := first.setdefault(document.id, where)) != where:
            raise DataError(f"{where}: id {document.id!r} is that of {before} already", cure="make ids distinct")
        yield document
    if not first:
        raise DataError(f"{source}: holds no documents", cure=_ROWS)


def write_corpus(documents: Iterable[Document], path: str | os.PathLike[str]) -> None:
    """Write a corpus that `read_corpus` reads back equal."""
    with Path(path).open("w", encoding="utf-8") as out:
        out.writelines(corpus_line(document) for document in documents)


def corpus_line(document: Document) -> str:
    """A document as a line of a corpus file; it reads back equal.

    >>> print(corpus_line(Document("7", "It lies on the Spree.", "Berlin")), end="")
    {"id": "7", "title": "Berlin", "text": "It lies on the Spree."}
    """
    return dumps(document.to_row()) + "\n"


def digest_of(documents: Iterable[Document]) -> str:
    """SHA-256 of all documents in their order, whatever the form of the file they came from."""
    digest = hashlib.sha256()
    for document in documents:
        digest.update(corpus_line(document).encode())
    return digest.hexdigest()
