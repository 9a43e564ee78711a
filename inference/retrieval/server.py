"""A retriever behind HTTP, in the protocols that search agents and their trainers speak.

======================  ==========================================  ====================================================
request                 body                                        answer
======================  ==========================================  ====================================================
``POST /retrieve``      ``queries`` or ``query``, ``topk``,         ``{"result": [[{"document", "score"}, ...], ...]}``;
                        ``return_scores``                           without scores the documents themselves
``POST /search``        ``query``, ``top_n``, ``return_score``      ``[document, ...]``, or ``[documents, scores]``
``POST /batch_search``  ``query`` (a list), ``top_n``,              ``[[document, ...], ...]``, or
                        ``return_score``                            ``[documents, scores]``
``POST /queries``       ``queries``, ``k``                          ``{"answers": [[contents, ...], ...]}``
``GET /health``                                                     ``{"status", "kind", "documents", "corpus"}``
======================  ==========================================  ====================================================

A document is ``{"id", "contents"}``. Every number of hits may be called ``topk``, ``top_k``, ``top_n`` or ``k``. The
header ``x-corpus`` of an answer to a search has the digest of the corpus.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from laconic.inference.retrieval.batching import BatchingRetriever
from laconic.inference.retrieval.documents import Document, Hit
from laconic.inference.retrieval.identity import HEADER, identify
from laconic.inference.retrieval.protocol import Retriever
from laconic.inference.retrieval.stored import StoredDocuments
from laconic.inference.server.body import read_object
from laconic.inference.server.refusals import Refused
from laconic.rewards.errors import LaconicError

log = logging.getLogger(__name__)

_COUNTS = ("topk", "top_k", "top_n", "k")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one request may ask."""

    k: int = 3
    """Hits of a request that names no number."""
    most_k: int = 1000
    queries: int = 4096
    characters: int = 20_000
    """Of one query."""
    body: int = 16 * 2**20
    """Bytes."""
    body_seconds: float = 30.0
    """For all of a body to arrive."""
    at_once: int = 1024
    """Requests that are being answered; more get 503 and may come back."""
    kept: int = 20_000
    """Documents of an index that stay in memory, ready to be sent, once they were found."""


@dataclass(frozen=True)
class Asked:
    """What a request asks."""

    queries: list[str]
    k: int
    scores: bool


class Service:
    """A retriever, its limits, and what there is to say about it.

    Args:
        retriever: What is served. Requests that arrive together are searched as one batch.
        limits: Of a request.
    """

    def __init__(self, retriever: Retriever, *, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.batching = BatchingRetriever(retriever, largest=self.limits.queries)
        self.answering = 0
        stored = getattr(retriever, "documents", None)
        if isinstance(stored, StoredDocuments):
            stored.keep(self.limits.kept)
        # What is encoded is looked up by the document itself, which an index that keeps it gives again.
        self._encoded = functools.lru_cache(maxsize=self.limits.kept)(_encoded)

    async def health(self, request: Request) -> Response:
        """What is served."""
        return JSONResponse({"status": "ok", **(await identify(self.batching)).to_json()})

    async def retrieve(self, request: Request) -> Response:
        """Search-R1 and whoever followed it, with `queries`; SkyRL, with `query`."""
        asked, found = await self._found(request, names=("queries", "query"))
        item = self._item if asked.scores else lambda hit: self._encoded(hit.document)
        lists = ",".join([f"[{','.join([item(hit) for hit in hits])}]" for hits in found])
        return Response(f'{{"result":[{lists}]}}', media_type="application/json", headers=self._searched)

    async def search(self, request: Request) -> Response:
        """FlashRAG, one query."""
        asked, (hits,) = await self._found(request, names=("query",), single=True)
        documents = [_document(hit) for hit in hits]
        answer = [documents, [hit.score for hit in hits]] if asked.scores else documents
        return JSONResponse(answer, headers=self._searched)

    async def batch_search(self, request: Request) -> Response:
        """FlashRAG, many queries."""
        asked, found = await self._found(request, names=("query", "queries"))
        documents = [[_document(hit) for hit in hits] for hits in found]
        scores = [[hit.score for hit in hits] for hits in found]
        return JSONResponse([documents, scores] if asked.scores else documents, headers=self._searched)

    async def queries(self, request: Request) -> Response:
        """R1-Searcher."""
        _, found = await self._found(request, names=("queries",))
        answers = [[hit.document.contents for hit in hits] for hits in found]
        return JSONResponse({"answers": answers}, headers=self._searched)

    def _item(self, hit: Hit) -> str:
        return f'{{"document":{self._encoded(hit.document)},"score":{hit.score!r}}}'

    @property
    def _searched(self) -> dict[str, str]:
        """Headers of an answer."""
        corpus = getattr(self.batching.retriever, "corpus", None)
        return {} if corpus is None else {HEADER: corpus}

    async def _found(
        self, request: Request, *, names: Sequence[str], single: bool = False
    ) -> tuple[Asked, list[list[Hit]]]:
        if self.answering >= self.limits.at_once:
            raise Refused(503, "too many requests at once; come back", code="queue_full", headers={"Retry-After": "1"})
        self.answering += 1
        try:
            limits = self.limits
            body = await read_object(request, most=limits.body, seconds=limits.body_seconds)
            asked = read_asked(body, names=names, limits=limits, single=single)
            return asked, await self.batching.search(asked.queries, k=asked.k)
        finally:
            self.answering -= 1


def read_asked(body: dict[str, Any], *, names: Sequence[str], limits: Limits, single: bool = False) -> Asked:
    """What a body asks; fields that nobody knows are ignored, as in the servers it stands in for.

    Args:
        body: A JSON object.
        names: Fields that hold the queries; exactly one is given.
        limits: What is too much.
        single: One query as a text is all there may be.

    Raises:
        Refused: 400 where a field is missing, wrong or too much.
    """
    given = [name for name in names if body.get(name) is not None]
    if len(given) != 1:
        raise Refused(400, f"give {' or '.join(names)}, one of them", param=names[0])
    found = body[given[0]]
    queries = [found] if isinstance(found, str) else found
    wrong = not isinstance(queries, list) or not all(isinstance(query, str) for query in queries)
    if wrong or (single and not isinstance(found, str)):
        raise Refused(400, f"{given[0]} must be a {'text' if single else 'list of texts'}", param=given[0])
    if len(queries) > limits.queries:
        raise Refused(400, f"{len(queries)} queries; this server takes {limits.queries} at once", param=given[0])
    if any(len(query) > limits.characters for query in queries):
        raise Refused(400, f"a query has more than {limits.characters} characters", param=given[0])
    scores = next((body[name] for name in ("return_scores", "return_score") if body.get(name) is not None), False)
    if not isinstance(scores, bool):
        raise Refused(400, "return_scores must be true or false", param="return_scores")
    return Asked(queries, _count(body, limits), scores)


def _count(body: dict[str, Any], limits: Limits) -> int:
    name = next((name for name in _COUNTS if body.get(name) is not None), None)
    k = limits.k if name is None else body[name]
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= limits.most_k:
        raise Refused(400, f"{name} must be a whole number from 1 to {limits.most_k}", param=name)
    return k


def _document(hit: Hit) -> dict[str, Any]:
    return hit.document.to_json()


def _encoded(document: Document) -> str:
    """A document as JSON; encoding was a fifth of the work of the route that training uses."""
    return json.dumps(document.to_json(), ensure_ascii=False)


def create_app(service: Service) -> Starlette:
    """The routes of a service; see the module."""
    posts: dict[str, Callable[[Request], Awaitable[Response]]] = {
        "/retrieve": service.retrieve,
        "/search": service.search,
        "/batch_search": service.batch_search,
        "/queries": service.queries,
    }
    routes = [Route(path, answer, methods=["POST"]) for path, answer in posts.items()]
    handlers = {Refused: _refused, HTTPException: _no_route, LaconicError: _failed, Exception: _failed}
    app = Starlette(routes=[*routes, Route("/health", service.health)], exception_handlers=handlers)
    app.router.redirect_slashes = False
    return app


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return JSONResponse(error.to_json(), status_code=error.status, headers=error.headers)


async def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    refused = Refused(error.status_code, f"{request.method} {request.url.path[:200]}: {error.detail}")
    return JSONResponse(refused.to_json(), status_code=refused.status, headers=dict(error.headers or {}))


async def _failed(request: Request, error: Exception) -> Response:
    log.error("%s failed: %s", request.url.path, error, exc_info=error)
    refused = Refused(500, "the search failed; the server's log says how", code="internal_error")
    return JSONResponse(refused.to_json(), status_code=500)
