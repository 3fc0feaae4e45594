"""What stands before every path: the token, the count of answers, and errors nobody foresaw.

The two paths that answer texts are taken from here straight to their room: the tenth of a millisecond that
FastAPI takes for a request would be a tenth of what a small stage takes for a text.
"""

from __future__ import annotations

import logging
from asyncio import CancelledError
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from traceback import extract_tb

from cascadebert.server.config import ServerConfig
from cascadebert.server.http.request_body import (
    ClientDisconnected,
    Message,
    Receive,
    Scope,
    Send,
    has_bearer_token,
)
from cascadebert.server.http.responses import CLOSE, JSONReply, error_reply, reply_to_error
from cascadebert.server.monitoring.metrics import Metrics
from cascadebert.timing import now

log = logging.getLogger("cascadebert")

OPEN = ("/", "/health", "/ready", "/openapi.json")
"""What is given without the token: nothing of the model and nothing of the traffic."""

Direct = Callable[[Scope, Receive], Awaitable[JSONReply]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


class ShutdownFlag:
    """Whether the server is about to stop, so that no connection is kept."""

    def __init__(self) -> None:
        self.now = False


class ServerMiddleware:
    """An ASGI application around another.

    Args:
        app: the other.
        direct: what answers a POST, by path.
        settings: of the server.
        metrics: where answers are counted.
        closing: whether connections are to be closed.
    """

    def __init__(
        self,
        app: Application,
        direct: Mapping[str, Direct],
        settings: ServerConfig,
        metrics: Metrics,
        closing: ShutdownFlag,
    ) -> None:
        self._app, self._direct, self._metrics, self._closing = app, direct, metrics, closing
        self._token = None if settings.token is None else settings.token.encode()
        self._probe_every = settings.probe_every

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, sender = now(), _Sender(send, self._closing)
        try:
            await self._answer(scope, receive, sender)
        except ClientDisconnected:
            sender.status = 499  # as nginx counts them; nothing is sent
        except (Exception, CancelledError) as error:
            await sender.reply(self._reply_to(error))
        finally:
            self._metrics.request(scope["path"], sender.status, now() - start)

    async def _answer(self, scope: Scope, receive: Receive, sender: _Sender) -> None:
        path = scope["path"]
        if self._token is not None and path not in OPEN and not has_bearer_token(scope, self._token):
            asks = ((b"www-authenticate", b"Bearer"),)
            message = "expected `Authorization: Bearer TOKEN` with this server's token"
            await sender.reply(error_reply(401, "Validation", message, asks))
            return
        direct = self._direct.get(path) if scope["method"] == "POST" else None
        if direct is None:
            await self._app(scope, receive, sender)
        else:
            await sender.reply(await direct(scope, receive))

    def _reply_to(self, error: BaseException) -> JSONReply:
        found = reply_to_error(error, self._probe_every)
        if found is not None and found.status != 424:
            return found
        cause = error.__cause__ or error
        frames = extract_tb(cause.__traceback__)
        where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "nowhere"
        log.error("a request failed: %s at %s", type(cause).__name__, where)  # a message could hold a text
        return found or error_reply(500, "Backend", "an error of the server's own; it is in its log")


class _Sender:
    """Sends one answer, and remembers its status."""

    def __init__(self, send: Send, closing: ShutdownFlag) -> None:
        self._send, self._closing = send, closing
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if self._closing.now:
                message["headers"] = [*message.get("headers", ()), *CLOSE]
        await self._send(message)

    async def reply(self, found: JSONReply) -> None:
        """Send it, unless another answer was begun."""
        if self.status:
            return
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(found.body)),
            *found.headers,
        ]
        await self({"type": "http.response.start", "status": found.status, "headers": headers})
        await self({"type": "http.response.body", "body": found.body})
