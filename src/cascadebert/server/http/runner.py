"""Running the application until it is told to stop, and then to the end of what it has begun."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from cascadebert.errors import CascadeError
from cascadebert.server.http.responses import error_reply

HEAD_SECONDS = 15.0
IDLE_SECONDS = 30
LAST_REQUESTS_SECONDS = 1.0
OBJECTS_UNTIL_COLLECTION = 50_000
MOST_HEAD = 65_536
"""Bytes of a request's head, or of the fields after a body in chunks; they would be kept, however many."""

log = logging.getLogger("cascadebert")


def listen(host: str, port: int) -> socket.socket:
    """A socket that connections to this address come to; port 0 for any that is free.

    Raises:
        CascadeError: if the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # named: else answers wait for more
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
        made.listen(2048)
    except (OSError, OverflowError) as error:
        made.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise CascadeError(
            f"cannot listen on {host}, port {port}: {reason}. Choose --host or --port."
        ) from error
    return made


def run(app: FastAPI, listener: socket.socket, *, shutdown_timeout: float, begun: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT; then answer what is in flight and return.

    Args:
        app: from `make_app`.
        listener: from `listen`.
        drain_seconds: time for what is in flight.
        begun: called once requests are accepted.
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
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=max(1, round(shutdown_timeout)),
    )
    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises it again when all is done
        signal.signal(number, _stopped)
    _Server(config, app, begun).run([listener])


def _stopped(*_: object) -> None:
    raise SystemExit(0)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, app: FastAPI, begun: Callable[[], None]) -> None:
        super().__init__(config)
        self._closing, self._begun = app.state.closing, begun

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        gc.freeze()  # else each full collection looks through the libraries and all rows in flight
        gc.set_threshold(OBJECTS_UNTIL_COLLECTION, 20, 20)
        self._begun()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no connection; each that is open gets its next answer and is closed with it."""
        log.info("stopping: what is in flight is answered")
        self._closing.now = True
        for server in self.servers:
            server.close()
        end = asyncio.get_running_loop().time() + LAST_REQUESTS_SECONDS
        while self.server_state.connections and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)


class _Connection(AutoHTTPProtocol):  # type: ignore[misc, valid-type]  # one of two, by what is installed
    """A connection that is closed if a request's head does not come, and that refuses in JSON too."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._timer: asyncio.TimerHandle | None = None
        self._beside: int | None = None  # h11, which has a limit of its own, does not tell of messages
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        if self._beside is not None:
            self._beside += len(data)
        super().data_received(data)
        if self._beside is not None and self._beside > MOST_HEAD and not self.transport.is_closing():
            self._refuse(431, f"the request's head has more than {MOST_HEAD:,} bytes")
        self._expect_head()

    def on_message_begin(self) -> None:
        self._beside = 0
        super().on_message_begin()

    def on_chunk_header(self) -> None:
        self._beside = 0

    def on_body(self, body: bytes) -> None:
        assert self._beside is not None
        self._beside -= len(body)
        super().on_body(body)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._forget_timer()

    def send_400_response(self, msg: str) -> None:
        """Said of what is no HTTP."""
        self._refuse(400, msg)

    def _refuse(self, status: int, message: str) -> None:
        """Close, with an answer unless another one is due."""
        if not self._busy:
            body = error_reply(status, "Validation", message).body
            line = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-length: {len(body)}\r\n"
            rest = b"content-type: application/json\r\nconnection: close\r\n\r\n"
            self.transport.write(line.encode() + rest + body)
        self.transport.close()

    @property
    def _busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _expect_head(self) -> None:
        """Start the clock while no request is under way; it runs on over further bytes of the same head."""
        if self._busy or self.transport.is_closing():
            self._forget_timer()
        elif self._timer is None:
            self._timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _forget_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
