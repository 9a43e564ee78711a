"""The protocols that retrieval servers speak: what is asked, and how answers are read."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from laconic.inference.retrieval.documents import Document, Hit
from laconic.rewards.errors import DataError, RecipeError

_MOST = float("inf")


class Malformed(Exception):
    """An answer that is not what the protocol says."""


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """One protocol."""

    name: str
    path: str
    """Below the server's URL."""
    body: Callable[[Sequence[str], int], dict[str, Any]]
    """The request for queries and a number of hits."""
    lists: Callable[[Any], Any]
    """The list with one list of items per query, out of an answer."""
    single: bool = False
    """One query per request."""

    def read(self, answer: Any, *, queries: int, k: int) -> list[list[Hit]]:
        """The hits in an answer.

        Raises:
            Malformed: there are not as many lists as queries, or an item is no document.
        """
        try:
            found = self.lists(answer)
        except (KeyError, TypeError, IndexError):
            raise Malformed(f"no results in {shortened(answer)}") from None
        if not isinstance(found, list) or not all(isinstance(items, list) for items in found):
            raise Malformed(f"results are no lists: {shortened(found)}")
        if len(found) != queries:
            raise Malformed(f"{len(found)} lists of results for {queries} queries")
        return [[_plain(item) or _hit(item, rank) for rank, item in enumerate(items[:k], start=1)] for items in found]


def _plain(item: Any) -> Hit | None:
    """What nearly every item is: a scored document in ASCII with an id; None leaves it to the long way."""
    try:
        document, score = item["document"], item["score"]
        name, contents = document["id"], document["contents"]
    except (KeyError, TypeError, IndexError):
        return None
    plain = type(score) is float and type(name) is str and type(contents) is str and name
    if not plain or not contents.isascii() or contents.isspace() or not contents or not -_MOST < score < _MOST:
        return None
    return Hit(Document.from_contents(name, contents), score)


def _hit(item: Any, rank: int) -> Hit:
    """An item is a document, with or without its score, or its bare contents.

    Where a server gives no score it is one over the rank.
    """
    wrapped = isinstance(item, dict) and "document" in item
    score = item.get("score", 1 / rank) if isinstance(item, dict) else 1 / rank
    if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
        raise Malformed(f"a score is {score!r}")
    return Hit(_document(item["document"] if wrapped else item), float(score))


def _document(found: Any) -> Document:
    """A document; one without an id gets one from its contents, the same every time."""
    row = {"contents": found} if isinstance(found, str) else found
    if not isinstance(row, dict):
        raise Malformed(f"not a document: {shortened(found)}")
    if row.get("id") is None:
        text = row.get("contents") or row.get("text")
        row = row | {"id": hashlib.sha256(str(text).encode(errors="replace")).hexdigest()[:16]}
    try:
        return Document.from_json(row)
    except DataError as error:
        raise Malformed(f"{error.message} in {shortened(found)}") from None


def _flashrag(answer: Any) -> Any:
    """``[documents, scores]`` with a list per query in each, or the documents alone."""
    scored = len(answer) == 2 and answer[0] and all(isinstance(each, list) for each in answer[0])
    if not scored:
        return answer
    documents, scores = answer
    if [len(each) for each in documents] != [len(each) for each in scores]:
        raise Malformed("not as many scores as documents")
    return [
        [{"document": document, "score": score} for document, score in zip(*row, strict=True)]
        for row in zip(documents, scores, strict=True)
    ]


def shortened(found: Any) -> str:
    """The beginning of an answer, for messages."""
    text = found if isinstance(found, str) else repr(found)
    return text if len(text) <= 200 else f"{text[:200]}..."


SEARCH_R1 = Dialect(
    name="search_r1",
    path="retrieve",
    body=lambda queries, k: {"queries": list(queries), "topk": k, "return_scores": True},
    lists=lambda answer: answer["result"],
)
SKYRL = Dialect(
    name="skyrl",
    path="retrieve",
    body=lambda queries, k: {"query": queries[0], "topk": k, "return_scores": True},
    lists=lambda answer: answer["result"],
    single=True,
)
FLASHRAG = Dialect(
    name="flashrag",
    path="batch_search",
    body=lambda queries, k: {"query": list(queries), "top_n": k, "return_score": True},
    lists=_flashrag,
)
R1_SEARCHER = Dialect(
    name="r1_searcher",
    path="queries",
    body=lambda queries, k: {"queries": list(queries), "k": k},
    lists=lambda answer: answer["answers"],
)
DIALECTS = (SEARCH_R1, SKYRL, FLASHRAG, R1_SEARCHER)
"""In the order in which a server is tried."""


def find_dialect(name: str) -> Dialect:
    """A protocol by name.

    Raises:
        RecipeError: there is none of that name.
    """
    for dialect in DIALECTS:
        if dialect.name == name:
            return dialect
    legal = ", ".join(dialect.name for dialect in DIALECTS)
    raise RecipeError(f"no retrieval protocol {name!r}", cure=f"one of: {legal}")
