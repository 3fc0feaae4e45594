"""The application: paths, their description, and the one form of errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from cascadebert import __version__
from cascadebert.inference.cascade import Cascade
from cascadebert.server.config import ServerConfig
from cascadebert.server.http.handlers import Handlers, Pool
from cascadebert.server.http.info import Watched, info
from cascadebert.server.http.middleware import ServerMiddleware, ShutdownFlag
from cascadebert.server.http.responses import JSONReply, error_reply
from cascadebert.server.http.schemas import (
    ClassifyRequest,
    ClassifyResponse,
    ErrorResponse,
    Prediction,
    PredictRequest,
)
from cascadebert.server.http.ui import page
from cascadebert.server.monitoring.metrics import Metrics

_SAID = {
    400: "The body is no JSON, or a text is empty.",
    401: "The token is missing or wrong.",
    408: "The body came too slowly.",
    413: "The body is too large.",
    415: "The body is not said to be JSON.",
    422: "The body has another form, or is over a limit.",
    424: "A stage failed on this request.",
    429: "The queues are full; `Retry-After` says when to come again.",
    503: "Not ready, or a stage that the answer needs cannot be had.",
    504: "The deadline passed before there was an answer.",
}
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse, "description": words} for status, words in _SAID.items()
}


def _only(status: int) -> dict[int | str, dict[str, Any]]:
    return {status: _ERRORS[status]}


def make_app(pool: Pool, cascade: Cascade, settings: ServerConfig, watch: Watched | None = None) -> FastAPI:
    """An application that answers from a pool; it starts the pool with itself, and drains it at its end.

    Args:
        pool: that runs the cascade.
        cascade: what it says of itself is told.
        settings: of the server.
        watch: of the quality, to be told; None where nothing is audited.
    """

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(pool.start)
        yield
        await asyncio.to_thread(pool.drain, settings.shutdown_timeout)

    app = FastAPI(
        title="cascadebert",
        version=__version__,
        description="Small text classifiers first, large ones only for the unsure rows.",
        docs_url=None,  # they would load scripts from elsewhere
        redoc_url=None,
        lifespan=life,
        redirect_slashes=False,
    )
    app.state.closing = ShutdownFlag()
    metrics = Metrics(pool, cascade, watch)
    answering = Handlers(pool, cascade, settings, metrics.answered)

    def gate(inner: ASGIApp) -> ServerMiddleware:
        direct = {"/predict": answering.predict, "/v1/classify": answering.classify}
        return ServerMiddleware(inner, direct, settings, metrics, app.state.closing)

    app.add_middleware(gate)
    app.add_exception_handler(HTTPException, _other_error)
    _describe_questions(app)
    _add_states(app, pool, cascade, settings, metrics, watch)
    return app


def _describe_questions(app: FastAPI) -> None:
    """Describe the two paths that the gate answers: a POST never comes this far."""

    @app.post("/predict", responses=_ERRORS, summary="Answer as text-embeddings-inference does")
    def predict(asked: PredictRequest) -> list[Prediction] | list[list[Prediction]]:
        """Scores of all labels, the highest first: a list of them, and for a batch a list of lists."""
        raise NotImplementedError

    @app.post("/v1/classify", responses=_ERRORS, summary="Answer, and say how")
    def classify(asked: ClassifyRequest) -> ClassifyResponse:
        """The label of each text or pair, on request with each stage that it went through."""
        raise NotImplementedError


def _add_states(
    app: FastAPI,
    pool: Pool,
    cascade: Cascade,
    settings: ServerConfig,
    metrics: Metrics,
    watch: Watched | None,
) -> None:
    @app.get("/", include_in_schema=False)
    def look() -> Response:
        body, headers = page()
        return Response(body, media_type="text/html", headers=headers)

    @app.get("/health", summary="Whether the process answers at all")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/ready", responses=_only(503), summary="Whether requests are accepted")
    def ready() -> dict[str, str]:
        if not pool.state().ready or app.state.closing.now:
            raise HTTPException(503, "the server is starting or stopping", {"retry-after": "1"})
        return {"status": "ready"}

    @app.get("/info", responses=_only(401), summary="The cascade, its points, its queues, its audit")
    def tell() -> JSONResponse:
        seen = None if watch is None else watch.state()
        return JSONResponse(info(cascade, settings, pool.state(), seen))

    @app.get("/metrics", responses=_only(401), summary="For Prometheus", response_class=Response)
    def measure() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")


async def _other_error(_: Request, error: Exception) -> Response:
    """Errors of FastAPI's own, such as paths and methods that there are not, in the form of all others."""
    assert isinstance(error, HTTPException)
    kind = "Unhealthy" if error.status_code == 503 else "Validation"
    said: JSONReply = error_reply(error.status_code, kind, str(error.detail))
    return Response(said.body, said.status, headers=error.headers, media_type="application/json")
