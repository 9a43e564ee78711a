"""BM25 by SQLite's own full-text index: nothing to install, for corpora of up to some ten thousand documents."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from laconic.inference.retrieval.documents import Document, Hit, digest_of
from laconic.inference.retrieval.protocol import check_k, off_the_loop
from laconic.inference.retrieval.stored import Manifest, StoredDocuments, create_index, of_kind, read_manifest
from laconic.inference.retrieval.words import query_words
from laconic.rewards.errors import DataError, LaunchError

KIND = "fts5"
_FILE = "passages.db"
_CREATE = "CREATE VIRTUAL TABLE passages USING fts5(title, text, content='', tokenize='unicode61 remove_diacritics 2')"
_SEARCH = "SELECT rowid, rank FROM passages WHERE passages MATCH ? ORDER BY rank, rowid LIMIT ?"


class Fts5Retriever:
    """Finds documents that share rare words with the query; SQLite fixes k1 at 1.2 and b at 0.75.

    Scores are those of SQLite with the sign turned, so that higher is better; they are not on the scale of
    `Bm25Retriever`. Only documents with a word of the query are hits, equal scores come in the order of the corpus, and
    stop words are treated as there.

    Make one with `from_documents` or `open`.

    Args:
        connection: A database filled by `_fill`, usable from any thread.
        documents: The same documents, in the same order.
        corpus: The digest of the documents.
    """

    kind = KIND

    def __init__(self, connection: sqlite3.Connection, documents: Sequence[Document], *, corpus: str) -> None:
        self.documents, self.corpus = documents, corpus
        self._connection, self._alone = connection, threading.Lock()

    @classmethod
    def from_documents(cls, documents: Iterable[Document]) -> Fts5Retriever:
        """Index documents in memory.

        Raises:
            DataError: there are none.
            LaunchError: this Python's SQLite has no full-text index.
        """
        held = list(documents)
        if not held:
            raise DataError("the corpus holds no documents", cure="index at least one")
        connection = sqlite3.connect(":memory:", check_same_thread=False)
        _fill(connection, held)
        return cls(connection, held, corpus=digest_of(held))

    @classmethod
    def open(cls, folder: str | os.PathLike[str], *, corpus: str | None = None) -> Fts5Retriever:
        """Open an index folder, which is not changed.

        Args:
            folder: What `build` wrote.
            corpus: The digest that its corpus must have; None takes any.

        Raises:
            DataError: there is no index, or it is incomplete, of another kind or of another corpus.
        """
        manifest = of_kind(read_manifest(folder, corpus=corpus), KIND, folder)
        place = (Path(folder) / _FILE).resolve().as_uri()
        connection = sqlite3.connect(f"{place}?mode=ro&immutable=1", uri=True, check_same_thread=False)
        return cls(connection, StoredDocuments(Path(folder)), corpus=manifest.corpus)

    @staticmethod
    def build(documents: Iterable[Document], folder: str | os.PathLike[str]) -> Manifest:
        """Index documents into a folder for `open`.

        Raises:
            DataError: there are none, or the folder holds something.
            LaunchError: this Python's SQLite has no full-text index.
        """

        def fill(stored: StoredDocuments, place: Path) -> dict[str, Any]:
            connection = sqlite3.connect(place / _FILE)
            _fill(connection, stored)
            connection.close()
            return {"sqlite": sqlite3.sqlite_version}

        return create_index(documents, folder, kind=KIND, fill=fill)

    async def search(self, queries: Sequence[str], *, k: int) -> list[list[Hit]]:
        """See `Retriever`."""
        # Some hundred times slower than `Bm25Retriever`, so that a thread pays for smaller corpora already.
        return await off_the_loop(lambda: self.find(queries, k=k), cost=100 * len(self.documents))

    def find(self, queries: Sequence[str], *, k: int) -> list[list[Hit]]:
        """`search` for callers without an event loop."""
        check_k(k)
        with self._alone:
            return [self._one(query, k) for query in queries]

    async def aclose(self) -> None:
        """See `Retriever`."""
        self._connection.close()
        if isinstance(self.documents, StoredDocuments):
            self.documents.close()

    def _one(self, query: str, k: int) -> list[Hit]:
        asked = match_expression(query)
        if not asked:
            return []
        found = self._connection.execute(_SEARCH, (asked, k))
        return [Hit(self.documents[row - 1], -rank) for row, rank in found]


def match_expression(query: str) -> str:
    """A query in FTS5's language: any of its words. Nothing in a query is an operator.

    >>> match_expression('NOT "Berlin" AND col:1*')
    '"berlin" OR "col" OR "1"'
    """
    # A word said twice counts once: SQLite would count it twice only in part.
    return " OR ".join(f'"{word}"' for word in dict.fromkeys(query_words(query)))


def _fill(connection: sqlite3.Connection, documents: Sequence[Document]) -> None:
    try:
        connection.execute(_CREATE)
    except sqlite3.OperationalError as error:
        cure = 'pip install "laconic[search]", and use bm25'
        raise LaunchError(f"this Python's SQLite has no full-text index: {error}", cure=cure) from None
    rows = ((place, each.title, each.text) for place, each in enumerate(documents, start=1))
    connection.executemany("INSERT INTO passages(rowid, title, text) VALUES (?, ?, ?)", rows)
    connection.commit()
