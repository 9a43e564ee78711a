"""A retriever by the text that commands, recipes and servers take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from laconic.inference.retrieval.bm25 import Bm25Retriever
from laconic.inference.retrieval.dense import DenseRetriever
from laconic.inference.retrieval.documents import read_corpus
from laconic.inference.retrieval.fts5 import Fts5Retriever
from laconic.inference.retrieval.http import HttpRetriever
from laconic.inference.retrieval.protocol import Retriever
from laconic.inference.retrieval.stored import check_corpus, read_manifest
from laconic.rewards.errors import DataError

_FORMS = "an index folder, a corpus FILE.jsonl (or fts5:FILE.jsonl), or http://host:port of a retrieval server"
_KINDS: dict[str, Any] = {each.kind: each for each in (Bm25Retriever, Fts5Retriever, DenseRetriever)}


def open_retriever(text: str, *, corpus: str | None = None, **client: Any) -> Retriever:
    """Open a retriever.

    Args:
        text: A folder that `laconic retriever index` wrote; a corpus file, which is indexed in memory with BM25, or
            with SQLite after ``fts5:``; or the URL of a server.
        corpus: The digest that the corpus must have; None takes any. A server is held to it in every answer, as
            far as it says what it searches.
        client: For `HttpRetriever`.

    Raises:
        DataError: there is nothing at that place, the index is incomplete or of another corpus, a row is malformed.
        LaunchError: a library is missing.
        RecipeError: the URL holds more than a place.
    """
    if text.startswith(("http://", "https://")):
        return HttpRetriever(text, corpus=corpus, **client)
    kind, _, place = text.rpartition(":") if text.startswith(("fts5:", "bm25:")) else ("bm25", "", text)
    path = Path(place)
    if path.is_dir():
        return _KINDS[_known(read_manifest(path).kind, path)].open(path, corpus=corpus)
    if not path.exists():
        raise DataError(f"no retriever at {text!r}", cure=f"name {_FORMS}")
    found = _KINDS[kind].from_documents(read_corpus(path))
    check_corpus(text, found.corpus, corpus)
    return found


def _known(kind: str, path: Path) -> str:
    if kind not in _KINDS:
        raise DataError(f"{path}: an index for {kind!r}, which is not known", cure="update laconic, or build it again")
    return kind
