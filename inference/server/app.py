"""The routes of the server."""

from __future__ import annotations

import hmac
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from laconic.inference.server.body import read_object
from laconic.inference.server.gate import closing
from laconic.inference.server.meters import TYPE
from laconic.inference.server.refusals import Refused, refusal_of
from laconic.inference.server.service import Service
from laconic.inference.server.wire import Reply, attended
from laconic.rewards.errors import LaconicError

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
MODELS, HEALTH, METRICS = "/v1/models", "/health", "/metrics"
_ROUTES = {CHAT, COMPLETIONS, MODELS, HEALTH, METRICS}


def create_app(service: Service) -> ASGIApp:
    """The application over a service; it closes the service's engine at the end of its lifespan."""

    async def models(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [service.card()]})

    async def model(request: Request) -> Response:
        if request.path_params["name"] != service.name:
            raise Refused(404, f"this server has the model {service.name!r} only", code="model_not_found")
        return JSONResponse(service.card())

    async def health(request: Request) -> Response:
        state = "closing" if service.gate.closed else "ok"
        return JSONResponse({"status": state}, status_code=503 if service.gate.closed else 200)

    async def metrics(request: Request) -> Response:
        return Response(service.meters.page(), media_type=TYPE)

    routes = [
        Route(CHAT, Completions(service, chat=True), methods=["POST"]),
        Route(COMPLETIONS, Completions(service, chat=False), methods=["POST"]),
        Route(MODELS, models),
        Route(MODELS + "/{name:path}", model),
        Route(HEALTH, health),
        Route(METRICS, metrics),
    ]

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await service.aclose()

    handlers = {LaconicError: _refused, Refused: _refused, HTTPException: _no_route, Exception: _failed}
    app = Starlette(routes=routes, exception_handlers=handlers, lifespan=lifespan)
    app.router.redirect_slashes = False
    return Watched(Guarded(app, service.settings.key), service)


class Completions:
    """`/v1/chat/completions` and `/v1/completions`."""

    def __init__(self, service: Service, *, chat: bool) -> None:
        self.service, self.chat = service, chat
        self.route = CHAT if chat else COMPLETIONS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; when its client goes, everything that it caused ends."""
        arrived, service = time.monotonic(), self.service
        if service.gate.closed:
            raise closing()
        settings = service.settings
        try:
            body = await read_object(Request(scope, receive), most=settings.max_body, seconds=settings.body_seconds)
        except ClientDisconnect:
            return service.meters.cancelled.inc()
        reply = Reply(send)
        exchange = service.exchange(service.rules.read(body, chat=self.chat), reply)
        service.exchanges.add(exchange)
        try:
            if not await attended(exchange.perform(), receive, reply):
                service.meters.cancelled.inc()
        finally:
            service.exchanges.discard(exchange)
            if exchange.first is not None:
                service.meters.first.labels(self.route).observe(exchange.first - arrived)


class Guarded:
    """Asks for the key, where there is one. `/health` is open.

    Args:
        app: What is guarded.
        key: What clients must show.
    """

    def __init__(self, app: ASGIApp, key: str | None) -> None:
        self.app, self.key = app, key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through, or answer 401."""
        if scope["type"] == "http" and self.key is not None and scope["path"] != HEALTH and not self._shown(scope):
            refused = Refused(401, "show this server's key as Authorization: Bearer KEY")
            headers = {"WWW-Authenticate": "Bearer"}
            return await Reply(send).json(refused.status, refused.to_json(), headers)
        await self.app(scope, receive, send)

    def _shown(self, scope: Scope) -> bool:
        assert self.key is not None
        shown = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        scheme, _, key = shown.partition(b" ")
        # The comparison takes equally long wherever they differ.
        return hmac.compare_digest(key.strip(), self.key.encode()) and scheme.lower() == b"bearer"


class Watched:
    """Counts requests by route and status, and measures how long they take."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.meters = app, service.meters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass it on."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        started, status = time.monotonic(), "none"

        async def seen(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        # A label for every path that somebody tries would have no end.
        route = scope["path"] if scope["path"] in _ROUTES else "other"
        try:
            await self.app(scope, receive, seen)
        finally:
            self.meters.requests.labels(route, status).inc()
            self.meters.seconds.labels(route).observe(time.monotonic() - started)


async def _refused(request: Request, error: Exception) -> Response:
    refused = refusal_of(error, remote=False, begun=False)
    return JSONResponse(refused.to_json(), status_code=refused.status, headers=refused.headers)


async def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    what = f"{request.method[:20]} {request.url.path[:200]}: {error.detail}"
    refused = Refused(error.status_code, what)
    return JSONResponse(refused.to_json(), status_code=error.status_code, headers=dict(error.headers or {}))


async def _failed(request: Request, error: Exception) -> Response:
    refused = Refused(500, "this server failed; its log says how", code="internal_error")
    return JSONResponse(refused.to_json(), status_code=500)
