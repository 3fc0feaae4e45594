"""Runs the application in uvicorn until a signal, and then to the end of the in-flight requests."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
import sys
from collections.abc import Callable
from http import HTTPStatus

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from cascadebert.errors import CascadeError
from cascadebert.server.http.messages import HTTPError
from cascadebert.server.http.middleware import ServerMiddleware

HEAD_SECONDS = 15.0
KEEP_ALIVE_SECONDS = 30
LAST_REQUESTS_SECONDS = 1.0
OBJECTS_PER_COLLECTION = 50_000
MAX_HEAD_BYTES = 65_536  # of a request's head, or of the trailers of a chunked body, which are kept in memory

log = logging.getLogger("cascadebert")


def listen(host: str, port: int) -> socket.socket:
    """Listening socket; port 0 selects a free one. Raises CascadeError if the address is unavailable."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sets TCP_NODELAY only with an explicit IPPROTO_TCP; without it small responses are delayed.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(2048)
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or str(error)
        message = f"cannot listen on {host}, port {port}: {reason}. Choose another --host or --port."
        raise CascadeError(message) from error
    return listener


def run(
    app: ServerMiddleware, listener: socket.socket, *, shutdown_timeout: float, on_ready: Callable[[], None]
) -> None:
    """Serve until SIGTERM or SIGINT, and then complete in-flight requests for at most `shutdown_timeout` s.

    `on_ready` is called as soon as requests are accepted.
    """
    config = uvicorn.Config(
        app,
        http=_Connection,
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=max(1, round(shutdown_timeout)),
    )
    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises the signal again after the shutdown
        signal.signal(number, lambda *_: sys.exit(0))
    _Server(config, app, on_ready).run([listener])


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, app: ServerMiddleware, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._app, self._on_ready = app, on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        gc.freeze()  # full collections then skip the libraries, and are rarer with many objects in flight
        gc.set_threshold(OBJECTS_PER_COLLECTION, 20, 20)
        self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no connection; each open one gets its next response and is closed with it."""
        log.info("stopping: completing the requests in flight")
        self._app.closing = True
        for server in self.servers:
            server.close()
        end = asyncio.get_running_loop().time() + LAST_REQUESTS_SECONDS
        while self.server_state.connections and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)


class _Connection(HttpToolsProtocol):
    """Connection that limits the head of requests in time and size, and whose own errors are JSON.

    It ignores offers to speak another protocol (`Upgrade: h2c` of Java and `curl --http2`), as RFC 9110 (7.8)
    allows, and answers a request whose client has closed its sending side.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        self._timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._update_timer()

    def data_received(self, data: bytes) -> None:
        self._head_bytes += len(data)
        self._unset_keepalive_if_required()
        try:
            self._parse(data)
        except httptools.HttpParserError:
            self.send_400_response("the request is not valid HTTP/1.1")
        if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._reject(431, f"the head of the request exceeds {MAX_HEAD_BYTES:,} bytes")
        self._update_timer()

    def _parse(self, data: bytes) -> None:
        # httptools stops behind a head that offers another protocol; it is parsed again without the offer.
        while True:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as stopped:
                if self.parser.get_method() == b"CONNECT":  # for proxies
                    raise httptools.HttpParserError from stopped
                data = self._head_without_offer() + data[stopped.args[0] :]
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does

    def _head_without_offer(self) -> bytes:
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        lines = [b"%s %s HTTP/%s" % (method, self.url, version)]
        for name, value in self.headers:
            if name == b"connection":
                options = [option.strip() for option in value.split(b",")]
                value = b", ".join(option for option in options if option.lower() != b"upgrade")
            if name != b"upgrade":
                lines.append(name + b": " + value)
        return b"\r\n".join([*lines, b"", b""])

    def on_headers_complete(self) -> None:
        if not self.parser.should_upgrade():
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def eof_received(self) -> bool:  # type: ignore[override]  # uvicorn always closes
        """Keep the connection for a response if the last request was complete; then close it."""
        if not self._busy or self.cycle.more_body:
            return False
        self.cycle.keep_alive = False
        return True

    def on_message_begin(self) -> None:
        self._head_bytes = 0
        super().on_message_begin()

    def on_chunk_header(self) -> None:
        self._head_bytes = 0

    def on_body(self, body: bytes) -> None:
        self._head_bytes -= len(body)
        super().on_body(body)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._update_timer()

    def send_400_response(self, msg: str) -> None:
        """Respond to what is not HTTP."""
        self._reject(400, msg)

    def _reject(self, status: int, message: str) -> None:
        # Closes the connection, with a response unless another one is under way.
        if not self._busy:
            body = HTTPError(message, status).body
            line = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-length: {len(body)}\r\n"
            rest = b"content-type: application/json\r\nconnection: close\r\n\r\n"
            self.transport.write(line.encode() + rest + body)
        self.transport.close()

    @property
    def _busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _update_timer(self) -> None:
        # Runs while no request is under way; further bytes of the same head do not restart it.
        waiting = not self._busy and not self.transport.is_closing()
        if waiting and self._timer is None:
            self._timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)
        elif not waiting and self._timer is not None:
            self._timer.cancel()
            self._timer = None
