"""ASGI middleware: bearer authentication, request metrics, and errors as JSON."""

from __future__ import annotations

import hmac
import logging
from asyncio import CancelledError
from pathlib import Path
from traceback import extract_tb

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cascadebert.errors import DataError
from cascadebert.server.config import ServerConfig
from cascadebert.server.http.request_body import ClientDisconnected, header
from cascadebert.server.http.responses import CLOSE, HTTPError, JSONReply, error_reply, retry_after
from cascadebert.server.monitoring.metrics import Metrics
from cascadebert.server.types import DeadlineExceeded, Overloaded, ServiceUnavailable, StageUnavailable
from cascadebert.timing import now

log = logging.getLogger("cascadebert")

PUBLIC_PATHS = ("/", "/health", "/ready", "/openapi.json")
"""Paths that need no token: they show nothing of the model and of the traffic."""


class ServerMiddleware:
    """The application: `app` behind authentication, metrics and error handling.

    While `closing` is true, every response closes its connection.
    """

    def __init__(self, app: ASGIApp, config: ServerConfig, metrics: Metrics) -> None:
        self._app, self._metrics, self._probe_every = app, metrics, config.probe_every
        self._token = None if config.token is None else config.token.encode()
        self.closing = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = now(), 0
        scope["app"] = self  # so that the router raises HTTPException for unknown paths and methods

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if self.closing:
                    message["headers"] = [*message.get("headers", ()), *CLOSE]
            await send(message)

        try:
            self._authenticate(scope)
            await self._app(scope, receive, send_and_note)
        except ClientDisconnected:
            status = 499  # the code of nginx, for metrics only
        except (Exception, CancelledError) as error:
            reply = self._error_reply(error)
            if not status:
                await reply.send(send_and_note)
        finally:
            self._metrics.count_request(scope["path"], status, now() - start)

    def _authenticate(self, scope: Scope) -> None:
        if self._token is None or scope["path"] in PUBLIC_PATHS:
            return
        scheme, _, token = header(scope, b"authorization").partition(b" ")
        if scheme.lower() != b"bearer" or not hmac.compare_digest(token.strip(), self._token):
            message = "expected `Authorization: Bearer TOKEN` with the token of this server"
            raise HTTPError(401, "Validation", message, ((b"www-authenticate", b"Bearer"),))

    def _error_reply(self, error: BaseException) -> JSONReply:
        reply = _expected_error_reply(error, self._probe_every)
        if reply is None or reply.status == 424:
            cause = error.__cause__ or error
            frames = extract_tb(cause.__traceback__)
            where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "an unknown line"
            log.error("a request failed: %s at %s", type(cause).__name__, where)  # messages may contain texts
        return reply or error_reply(500, "Backend", "internal server error; see the server's log")


def _expected_error_reply(error: BaseException, probe_every: float) -> JSONReply | None:
    message = str(error)
    match error:
        case HTTPError():
            return error_reply(error.status, error.error_type, message, error.headers)
        case HTTPException():
            headers = [(key.encode(), value.encode()) for key, value in (error.headers or {}).items()]
            return error_reply(error.status_code, "Validation", error.detail, tuple(headers))
        case Overloaded():
            return error_reply(429, "Overloaded", message, retry_after(error.retry_after))
        case DeadlineExceeded():
            return error_reply(504, "Overloaded", message)
        case StageUnavailable():
            return error_reply(503, "Unhealthy", message, retry_after(probe_every))
        case ServiceUnavailable():
            return error_reply(503, "Unhealthy", message, retry_after(1.0))
        case CancelledError():
            return error_reply(503, "Unhealthy", "the server stopped before a result", retry_after(1.0))
        case DataError():
            return error_reply(422, "Tokenizer", message)
    return None
