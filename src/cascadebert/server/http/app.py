"""The application: routes, and the life of the dispatcher."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from cascadebert.inference.cascade import Cascade
from cascadebert.server.config import ServerConfig
from cascadebert.server.http.handlers import Handlers
from cascadebert.server.http.info import server_info
from cascadebert.server.http.middleware import ServerMiddleware
from cascadebert.server.http.openapi import openapi_document
from cascadebert.server.http.responses import HTTPError, JSONReply, retry_after
from cascadebert.server.http.ui import page
from cascadebert.server.monitoring.metrics import Metrics
from cascadebert.server.monitoring.monitor import QualityMonitor
from cascadebert.server.scheduling.dispatcher import BatchDispatcher


class _Endpoint:
    # An ASGI application, so that Starlette builds no Request and no Response for each prediction.

    def __init__(self, handler: Callable[[Scope, Receive], Awaitable[JSONReply]]) -> None:
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reply = await self._handler(scope, receive)
        await reply.send(send)


def make_app(
    dispatcher: BatchDispatcher, cascade: Cascade, config: ServerConfig, monitor: QualityMonitor | None = None
) -> ServerMiddleware:
    """Build an ASGI application; it starts the dispatcher on startup and drains it on shutdown."""
    metrics = Metrics(cascade, dispatcher.state, None if monitor is None else monitor.state)
    handlers = Handlers(dispatcher, cascade, config, metrics)

    @asynccontextmanager
    async def lifespan(_: object) -> AsyncIterator[None]:
        await asyncio.to_thread(dispatcher.start)
        yield
        await asyncio.to_thread(dispatcher.drain, config.shutdown_timeout)

    def ready(_: Request) -> Response:
        if not dispatcher.state().ready or app.closing:
            raise HTTPError(503, "Unhealthy", "the server is starting or stopping", retry_after(1.0))
        return JSONResponse({"status": "ready"})

    def info(_: Request) -> Response:
        state = None if monitor is None else monitor.state()
        return JSONResponse(server_info(cascade, config, dispatcher.state(), state))

    def prometheus(_: Request) -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    routes = [
        Route("/predict", _Endpoint(handlers.predict), methods=["POST"]),
        Route("/v1/classify", _Endpoint(handlers.classify), methods=["POST"]),
        Route("/health", JSONResponse({"status": "ok"}), methods=["GET"]),
        Route("/ready", ready),
        Route("/info", info),
        Route("/metrics", prometheus),
        Route("/openapi.json", JSONResponse(openapi_document()), methods=["GET"]),
        Route("/", page(), methods=["GET"]),
    ]
    app = ServerMiddleware(Router(routes, redirect_slashes=False, lifespan=lifespan), config, metrics)
    return app
