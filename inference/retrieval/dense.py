"""Search by the nearest vectors, exact: one matrix product over all documents."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from laconic.inference.retrieval.documents import Document, Hit, digest_of
from laconic.inference.retrieval.protocol import check_k, off_the_loop
from laconic.inference.retrieval.stored import Manifest, StoredDocuments, create_index, of_kind, read_manifest
from laconic.rewards.errors import DataError

KIND = "dense"
_FILE = "vectors.npy"
_CHUNK = 100_000
"""Vectors that are compared at once; half precision is widened by as many."""
_ENCODED = 256
"""Documents that are encoded at once while an index is built."""

Vectors = NDArray[np.float32]


class Encoder(Protocol):
    """Makes vectors of texts; near means similar by the dot product."""

    settings: dict[str, Any]
    """What `load_encoder` needs to make it again; kept in the index."""

    def encode(self, texts: Sequence[str], *, kind: Literal["query", "passage"]) -> Vectors:
        """Vectors of shape (texts, dimension)."""
        ...


class DenseRetriever:
    """Finds the documents whose vectors have the largest dot product with the query's.

    Every query has `k` hits, whether anything fits or not; equal scores come in the order of the corpus. The search is
    exact and reads all vectors for every batch: right for up to some million documents, and the baseline for anything
    approximate.

    Make one with `from_documents` or `open`.

    Args:
        documents: The corpus.
        vectors: One for every document, in single or half precision; may be memory-mapped.
        encoder: Of queries; the one that made the vectors.
        corpus: The digest of the documents.

    Raises:
        DataError: there are not as many vectors as documents.
    """

    kind = KIND

    def __init__(self, documents: Sequence[Document], vectors: NDArray[Any], encoder: Encoder, *, corpus: str) -> None:
        if vectors.ndim != 2 or len(vectors) != len(documents):
            raise DataError(
                f"{len(documents)} documents and vectors of shape {vectors.shape}", cure="encode them again"
            )
        self.documents, self.corpus, self.encoder = documents, corpus, encoder
        self._vectors = vectors

    @classmethod
    def from_documents(cls, documents: Iterable[Document], encoder: Encoder) -> DenseRetriever:
        """Encode documents in memory.

        Raises:
            DataError: there are none.
        """
        held = list(documents)
        if not held:
            raise DataError("the corpus holds no documents", cure="index at least one")
        vectors = np.concatenate(list(_encoded(held, encoder)))
        return cls(held, vectors, encoder, corpus=digest_of(held))

    @classmethod
    def open(
        cls, folder: str | os.PathLike[str], *, encoder: Encoder | None = None, corpus: str | None = None
    ) -> DenseRetriever:
        """Open an index folder; vectors and documents stay on disk and are read as they are needed.

        Args:
            folder: What `build` wrote.
            encoder: Of queries; by default the one that the folder names.
            corpus: The digest that its corpus must have; None takes any.

        Raises:
            DataError: there is no index, it is incomplete, of another kind, of another corpus or of another encoder.
            LaunchError: transformers is not installed.
        """
        from laconic.inference.retrieval.dense_encoder import load_encoder

        manifest = of_kind(read_manifest(folder, corpus=corpus), KIND, folder)
        if encoder is not None and encoder.settings != manifest.settings["encoder"]:
            raise DataError(
                f"{folder}: vectors are of {manifest.settings['encoder']}, not of {encoder.settings}",
                cure="use that encoder, or build the index again",
            )
        vectors = np.load(Path(folder) / _FILE, mmap_mode="r")
        encoder = encoder or load_encoder(manifest.settings["encoder"])
        return cls(StoredDocuments(Path(folder)), vectors, encoder, corpus=manifest.corpus)

    @staticmethod
    def build(
        documents: Iterable[Document], folder: str | os.PathLike[str], encoder: Encoder, *, half: bool = True
    ) -> Manifest:
        """Encode documents into a folder for `open`.

        Args:
            documents: The corpus.
            folder: It must not exist, or be empty.
            encoder: Of queries and documents.
            half: Keep vectors in half precision; scores change in the fourth digit.

        Raises:
            DataError: there are none, or the folder holds something.
        """

        def fill(stored: StoredDocuments, place: Path) -> dict[str, Any]:
            out, at = None, 0
            for part in _encoded(stored, encoder):
                if out is None:
                    shape, kind = (len(stored), part.shape[1]), np.float16 if half else np.float32
                    out = np.lib.format.open_memmap(place / _FILE, mode="w+", dtype=kind, shape=shape)
                out[at : at + len(part)] = part
                at += len(part)
            assert out is not None
            out.flush()
            return {"encoder": encoder.settings, "dimension": out.shape[1], "half": half}

        return create_index(documents, folder, kind=KIND, fill=fill)

    async def search(self, queries: Sequence[str], *, k: int) -> list[list[Hit]]:
        """See `Retriever`."""
        # Encoding is what takes the time, whatever the corpus.
        return await off_the_loop(lambda: self.find(queries, k=k), cost=10**9)

    def find(self, queries: Sequence[str], *, k: int) -> list[list[Hit]]:
        """`search` for callers without an event loop."""
        check_k(k)
        asked = [place for place, query in enumerate(queries) if query.strip()]
        found: list[list[Hit]] = [[] for _ in queries]
        if asked:
            vectors = self.encoder.encode([queries[place] for place in asked], kind="query")
            for place, near in zip(asked, nearest(self._vectors, vectors, k), strict=True):
                found[place] = [Hit(self.documents[document], score) for document, score in near]
        return found

    async def aclose(self) -> None:
        """See `Retriever`."""
        if isinstance(self.documents, StoredDocuments):
            self.documents.close()


def nearest(vectors: NDArray[Any], queries: Vectors, k: int) -> list[list[tuple[int, float]]]:
    """Places and dot products of the k nearest vectors of each query, the nearest first, equal ones in order."""
    best: list[list[tuple[int, float]]] = [[] for _ in queries]
    for start in range(0, len(vectors), _CHUNK):
        part = np.asarray(vectors[start : start + _CHUNK], dtype=np.float32)
        for row, scores in enumerate(queries @ part.T):
            floor = np.partition(scores, -k)[-k] if k < len(scores) else -np.inf
            among = [(int(place) + start, float(scores[place])) for place in np.flatnonzero(scores >= floor)]
            best[row] = sorted([*best[row], *among], key=lambda found: (-found[1], found[0]))[:k]
    return best


def _encoded(documents: Sequence[Document], encoder: Encoder) -> Iterator[Vectors]:
    for start in range(0, len(documents), _ENCODED):
        yield encoder.encode([each.contents for each in documents[start : start + _ENCODED]], kind="passage")
