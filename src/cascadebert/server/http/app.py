"""The application: routes, the life of the dispatcher, and the page at `/`."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from cascadebert.inference.cascade import Cascade
from cascadebert.server.config import ServerConfig
from cascadebert.server.http.handlers import Handlers
from cascadebert.server.http.info import server_info
from cascadebert.server.http.middleware import ServerMiddleware
from cascadebert.server.http.operations import OPERATIONS, openapi_document
from cascadebert.server.monitoring.metrics import Metrics
from cascadebert.server.monitoring.monitor import QualityMonitor
from cascadebert.server.scheduling.dispatcher import BatchDispatcher
from cascadebert.server.types import ServiceUnavailable


def make_app(
    dispatcher: BatchDispatcher,
    cascade: Cascade,
    config: ServerConfig,
    monitor: QualityMonitor | None = None,
    *,
    replica: str | None = None,
) -> ServerMiddleware:
    """Build an ASGI application; it starts the dispatcher on startup and drains it on shutdown.

    `replica` is its name among several behind one address, as a label of its metrics.
    """
    paths = {operation.path for operation in OPERATIONS}
    metrics = Metrics(cascade, dispatcher.state, None if monitor is None else monitor.state, paths, replica)
    handlers = Handlers(dispatcher, cascade, config, metrics)

    @asynccontextmanager
    async def lifespan(_: object) -> AsyncIterator[None]:
        await asyncio.to_thread(dispatcher.start)
        yield
        await asyncio.to_thread(dispatcher.drain, config.shutdown_timeout)
        handlers.log_truncation()

    def ready(_: Request) -> Response:
        if not dispatcher.state().ready or app.closing:
            raise ServiceUnavailable("the server is starting or stopping")
        return JSONResponse({"status": "ready"})

    def info(_: Request) -> Response:
        state = None if monitor is None else monitor.state()
        return JSONResponse(server_info(cascade, config, dispatcher.state(), state))

    def prometheus(_: Request) -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    answers: dict[str, Callable[..., Any]] = {
        "/": _Root(_page(), handlers),
        "/health": JSONResponse({"status": "ok"}),
        "/ready": ready,
        "/ping": ready,
        "/info": info,
        "/metrics": prometheus,
        "/openapi.json": JSONResponse(openapi_document(token=config.token is not None)),
    }
    methods: dict[str, list[str]] = {path: [] for path in paths}
    for operation in OPERATIONS:
        methods[operation.path].append(operation.method)
    routes = [Route(path, answers.get(path, handlers), methods=methods[path]) for path in methods]
    app = ServerMiddleware(Router(routes, redirect_slashes=False, lifespan=lifespan), config, metrics)
    return app


class _Root:
    """The page for GET, predictions for POST."""

    def __init__(self, page: ASGIApp, handlers: ASGIApp) -> None:
        self._page, self._handlers = page, handlers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._handlers if scope["method"] == "POST" else self._page
        await app(scope, receive, send)


def _page() -> HTMLResponse:
    # One file; the headers allow the browser only its own script and style.
    html = Path(__file__).with_name("ui.html").read_text("utf-8")
    policy = (
        f"default-src 'none'; script-src {_hash(html, 'script')}; style-src {_hash(html, 'style')}; "
        "img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    headers = {
        "content-security-policy": policy,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-cache",
    }
    return HTMLResponse(html, headers=headers)


def _hash(html: str, element: str) -> str:
    content = html.partition(f"<{element}>")[2].partition(f"</{element}>")[0]
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
