"""BM25 in this process: the index is bm25s's, in memory or memory-mapped."""

from __future__ import annotations

import functools
import importlib.util
import os
from array import array
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from laconic.inference.retrieval.bm25_loop import best_loop
from laconic.inference.retrieval.documents import Document, Hit, digest_of
from laconic.inference.retrieval.protocol import check_k, off_the_loop
from laconic.inference.retrieval.stored import Manifest, StoredDocuments, create_index, of_kind, read_manifest
from laconic.inference.retrieval.words import query_words, words_of
from laconic.rewards.errors import DataError, LaunchError, RecipeError

KIND = "bm25"
K1, B = 1.5, 0.75
Backend = Literal["auto", "numpy", "numba"]
Best = Callable[..., tuple[NDArray[np.int32], NDArray[np.float32]]]


class Bm25Retriever:
    """Finds documents that share rare words with the query.

    The score of a document is the sum, over the words of the query (a word said twice counts twice), of

        ln(1 + (N - n + 0.5) / (n + 0.5)) * f / (f + k1 * (1 - b + b * length / mean length))

    with N documents, n of them with the word, and f occurrences of it in this one: Lucene's form of BM25, in single
    precision. Only documents with a word of the query are hits; equal scores come in the order of the corpus, whether
    numba is used or not. Title and text count alike. Stop words of the query are left out unless it has no others.

    Make one with `from_documents` or `open`.

    Args:
        index: A bm25s index over `words_of` of all documents.
        documents: The same documents.
        backend: `numba` compiles the loop (a few seconds at the first search ever, then kept on disk), `auto` does so
            where numba is installed. The hits are the same.
        corpus: The digest of the documents.

    Raises:
        LaunchError: bm25s or numba is asked for and not installed.
    """

    kind = KIND

    def __init__(self, index: Any, documents: Sequence[Document], *, backend: Backend = "auto", corpus: str) -> None:
        self.documents, self.corpus = documents, corpus
        self._vocabulary: dict[str, int] = index.vocab_dict
        parts = index.scores
        self._matrix = (parts["data"], parts["indices"], parts["indptr"])
        self._best = _chosen(backend)

    @classmethod
    def from_documents(
        cls, documents: Iterable[Document], *, k1: float = K1, b: float = B, backend: Backend = "auto"
    ) -> Bm25Retriever:
        """Index documents in memory.

        Raises:
            DataError: there are none, or no word in any.
            RecipeError: `k1` or `b` is out of range.
        """
        held = list(documents)
        return cls(_indexed(held, k1, b), held, backend=backend, corpus=digest_of(held))

    @classmethod
    def open(
        cls, folder: str | os.PathLike[str], *, backend: Backend = "auto", corpus: str | None = None
    ) -> Bm25Retriever:
        """Open an index folder; scores and documents stay on disk and are read as they are needed.

        Args:
            folder: What `build` wrote.
            backend: See the class.
            corpus: The digest that its corpus must have; None takes any.

        Raises:
            DataError: there is no index, or it is incomplete, of another kind or of another corpus.
        """
        manifest = of_kind(read_manifest(folder, corpus=corpus), KIND, folder)
        index = _bm25s().BM25.load(folder, mmap=True, show_progress=False, backend="numpy")
        return cls(index, StoredDocuments(Path(folder)), backend=backend, corpus=manifest.corpus)

    @staticmethod
    def build(
        documents: Iterable[Document], folder: str | os.PathLike[str], *, k1: float = K1, b: float = B
    ) -> Manifest:
        """Index documents into a folder for `open`.

        Raises:
            DataError: there are none, no word is in any, or the folder holds something.
            RecipeError: `k1` or `b` is out of range.
        """

        def fill(stored: StoredDocuments, place: Path) -> dict[str, Any]:
            _indexed(stored, k1, b).save(place, show_progress=False)
            return {"k1": k1, "b": b, "method": "lucene", "bm25s": _bm25s().__version__}

        return create_index(documents, folder, kind=KIND, fill=fill)

    async def search(self, queries: Sequence[str], *, k: int) -> list[list[Hit]]:
        """See `Retriever`."""
        return await off_the_loop(lambda: self.find(queries, k=k), cost=len(self.documents))

    def find(self, queries: Sequence[str], *, k: int) -> list[list[Hit]]:
        """`search` for callers without an event loop."""
        check_k(k)
        if not queries:
            return []
        words, starts = self._numbers(queries)
        places, scores = self._best(*self._matrix, words, starts, len(self.documents), min(k, len(self.documents)))
        documents = self.documents
        return [
            [Hit(documents[place], score) for place, score in zip(*row, strict=True) if place >= 0]
            for row in zip(places.tolist(), scores.tolist(), strict=True)
        ]

    async def aclose(self) -> None:
        """See `Retriever`."""
        if isinstance(self.documents, StoredDocuments):
            self.documents.close()

    def _numbers(self, queries: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Known words of all queries as numbers, one query after the other, and where each begins."""
        words, starts = array("i"), [0]
        for query in queries:
            known = map(self._vocabulary.get, query_words(query))
            words.extend(word for word in known if word is not None)
            starts.append(len(words))
        return np.array(words, dtype=np.int32), np.array(starts, dtype=np.int64)


def _indexed(documents: Sequence[Document], k1: float, b: float) -> Any:
    if k1 < 0 or not 0 <= b <= 1:
        raise RecipeError(f"k1 is {k1} and b is {b}", cure="k1 is at least 0, b is from 0 to 1")
    vocabulary: dict[str, int] = {}
    rows = [
        [vocabulary.setdefault(word, len(vocabulary)) for word in words_of(_searched(document))]
        for document in documents
    ]
    if not vocabulary:
        raise DataError("no document holds a word", cure="index documents with text")
    index = _bm25s().BM25(k1=k1, b=b, method="lucene")
    index.index((rows, vocabulary), show_progress=False)
    return index


def _searched(document: Document) -> str:
    return document.text if document.title is None else f"{document.title}\n{document.text}"


def best_numpy(
    data: NDArray[np.float32],
    indices: NDArray[np.int32],
    indptr: NDArray[np.int64],
    words: NDArray[np.int32],
    starts: NDArray[np.int64],
    documents: int,
    k: int,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The best documents of every query; the numba backend computes the same.

    Args:
        data: Scores, one for every pair of a word and a document with it.
        indices: The documents of these pairs.
        indptr: Where the pairs of each word begin; one more at the end.
        words: Of all queries.
        starts: Where the words of each query begin; one more at the end.
        documents: How many there are.
        k: Hits per query.

    Returns:
        Places of documents, -1 where there is none, and their scores; each of shape (queries, k).
    """
    places = np.full((len(starts) - 1, k), -1, dtype=np.int32)
    best = np.zeros((len(starts) - 1, k), dtype=np.float32)
    scores = np.zeros(documents, dtype=np.float32)
    for row in range(len(starts) - 1):
        touched = []
        for word in words[starts[row] : starts[row + 1]]:
            pairs = slice(indptr[word], indptr[word + 1])
            # A word has a document once, so that nothing is lost in adding.
            scores[indices[pairs]] += data[pairs]
            touched.append(indices[pairs])
        if touched:
            chosen = _top(scores, touched, k)
            places[row, : len(chosen)], best[row, : len(chosen)] = chosen, scores[chosen]
        for part in touched:
            scores[part] = 0
    return places, best


def _top(scores: NDArray[np.float32], touched: Sequence[NDArray[np.int32]], k: int) -> NDArray[np.intp]:
    """Places of the k highest scores above zero, best first, equal ones in order.

    The k-th best of any documents is a floor under the k-th best of all: that of the rarest word's documents leaves few
    to sort.
    """
    rarest = min((part for part in touched if len(part) >= k), key=len, default=None)
    floor = 0 if rarest is None else np.partition(scores[rarest], -k)[-k]
    # What ties with the floor stays, so that the order of the corpus decides.
    among = np.flatnonzero(scores >= floor) if floor > 0 else np.flatnonzero(scores)
    return among[np.argsort(-scores[among], kind="stable")[:k]]


def _chosen(backend: Backend) -> Best:
    there = importlib.util.find_spec("numba") is not None
    if backend == "numpy" or (backend == "auto" and not there):
        return best_numpy
    if not there:
        raise LaunchError("backend: numba is not installed", cure='pip install "laconic[bm25-numba]"')
    return _compiled()


@functools.cache
def _compiled() -> Best:
    import numba

    try:
        return numba.njit(cache=True, nogil=True)(best_loop)
    except RuntimeError:  # there is no folder to keep it in
        return numba.njit(nogil=True)(best_loop)


def _bm25s() -> ModuleType:
    try:
        import bm25s
    except ImportError:
        cure = 'pip install "laconic[search]", or use fts5, which needs nothing'
        raise LaunchError("BM25 needs bm25s", cure=cure) from None
    return bm25s
