"""ASGI middleware: cross-origin requests, bearer authentication, request metrics, and errors as JSON."""

from __future__ import annotations

import hmac
import logging
from asyncio import CancelledError
from pathlib import Path
from traceback import extract_tb

from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cascadebert.errors import DataError
from cascadebert.server.config import ServerConfig
from cascadebert.server.http.messages import CLOSE, ClientDisconnected, HTTPError, header, send_json
from cascadebert.server.http.operations import OPERATIONS
from cascadebert.server.monitoring.metrics import Metrics
from cascadebert.server.types import DeadlineExceeded, Overloaded, ServiceUnavailable, StageUnavailable
from cascadebert.timing import now

log = logging.getLogger("cascadebert")

PUBLIC = {(method, o.path) for o in OPERATIONS if o.public for method in (o.method, "HEAD")}
CORS_METHODS = ("GET", "HEAD", "POST")
CORS_HEADERS = ("Authorization", "Content-Encoding")  # and those that every page may send
CORS_EXPOSED = ("Retry-After", "X-Cascade-Operating-Point", "X-Cascade-Uncertified", "X-Cascade-Degraded")


class ServerMiddleware:
    """The application: `app` behind cross-origin rules, authentication, metrics and error handling.

    While `closing` is true, every response closes its connection.
    """

    def __init__(self, app: ASGIApp, config: ServerConfig, metrics: Metrics) -> None:
        self._app, self._metrics, self._probe_every = app, metrics, config.probe_every
        self._token = None if config.token is None else config.token.encode()
        self._handler: ASGIApp = self._handle
        if config.cors_origins:  # outside of authentication: preflights have no token, and pages read errors
            self._handler = CORSMiddleware(
                self._handle, config.cors_origins, CORS_METHODS, CORS_HEADERS, expose_headers=CORS_EXPOSED
            )
        self.closing = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        app = self._handler if scope["type"] == "http" else self._app
        await app(scope, receive, send)

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
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
            http_error = self._http_error(error)
            if http_error.status in (424, 500):
                _log(error.__cause__ or error)
            if not status:
                await send_json(send_and_note, http_error.body, http_error.status, http_error.headers)
        finally:
            self._metrics.count_request(scope["path"], status, now() - start)

    def _authenticate(self, scope: Scope) -> None:
        if self._token is None or (scope["method"], scope["path"]) in PUBLIC:
            return
        scheme, _, token = header(scope, b"authorization").partition(b" ")
        if scheme.lower() != b"bearer" or not hmac.compare_digest(token.strip(), self._token):
            message = "expected `Authorization: Bearer TOKEN` with the token of this server"
            raise HTTPError(message, 401, headers=((b"www-authenticate", b"Bearer"),))

    def _http_error(self, error: BaseException) -> HTTPError:
        message = str(error) or "the server stopped before a result"  # CancelledError is empty
        match error:
            case HTTPError():
                return error
            case HTTPException():
                headers = [(key.encode(), value.encode()) for key, value in (error.headers or {}).items()]
                return HTTPError(error.detail, error.status_code, headers=tuple(headers))
            case Overloaded():
                return HTTPError(message, 429, "Overloaded", retry_after=error.retry_after)
            case DeadlineExceeded():
                return HTTPError(message, 504, "Overloaded")
            case StageUnavailable():
                return HTTPError(message, 503, "Unhealthy", retry_after=self._probe_every)
            case ServiceUnavailable() | CancelledError():
                return HTTPError(message, 503, "Unhealthy", retry_after=1.0)
            case DataError():
                return HTTPError(message, 422, "Tokenizer")
        return HTTPError("internal server error; see the server's log", 500, "Backend")


def _log(error: BaseException) -> None:
    frames = extract_tb(error.__traceback__)
    where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "an unknown line"
    log.error("a request failed: %s at %s", type(error).__name__, where)  # messages may contain texts
