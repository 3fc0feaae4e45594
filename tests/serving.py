"""A scripted dispatcher, and servers in their own processes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from starlette.testclient import TestClient

from cascadebert.server.config import ServerConfig
from cascadebert.server.http.app import make_app
from cascadebert.server.http.schemas import ErrorResponse
from cascadebert.server.types import (
    DispatcherState,
    RequestOptions,
    RequestResult,
    RowResult,
    StageResult,
    StageState,
)

OPERATING_POINTS = ((0.9,), (0.8,))
SMALL = ServerConfig(
    max_client_batch_size=8, max_characters=400, max_bytes=20_000, latency_target=5.0, max_queue_size=64
)
JSON = {"content-type": "application/json"}


def row_result(stage: int = 1, *, degraded: bool = False, high: float = 0.75) -> RowResult:
    """Result of a text that exited at `stage`."""
    results = [StageResult(i, np.array([1 - high, high]), high, 0.001 * i) for i in range(1, stage + 1)]
    return RowResult(tuple(results), np.array([-1.0, 2.0]), degraded, False)


class ScriptedDispatcher:
    """Returns `result` for every request; an error is raised by `submit`, or later by the future."""

    def __init__(self, result: RequestResult | BaseException | None = None, *, later: bool = True) -> None:
        self.result, self.later = result, later
        self.ready = True
        self.submitted: list[tuple[object, RequestOptions]] = []
        self.futures: list[Future[RequestResult]] = []

    def start(self) -> None:
        pass

    def submit(self, texts, options=RequestOptions()) -> Future[RequestResult]:  # noqa: B008 - frozen
        self.submitted.append((texts, options))
        if isinstance(self.result, BaseException) and not self.later:
            raise self.result
        future: Future[RequestResult] = Future()
        self.futures.append(future)
        if isinstance(self.result, BaseException):
            future.set_exception(self.result)
        elif self.result is not None:
            future.set_result(self.result)
        return future

    def drain(self, seconds: float) -> bool:
        return True

    def state(self) -> DispatcherState:
        stages = tuple(StageState(f"stage {i}", 0, 0.0, True, None, 10) for i in (1, 2))
        return DispatcherState(self.ready, 0, OPERATING_POINTS, None, 0, 0.0, 0.05, 0, 0, stages, 0, 1)


class RunningServer:
    """A server in its own process; `startup` is its line of JSON."""

    def __init__(self, process: subprocess.Popen[str], startup: dict, log: Path) -> None:
        self.process, self.startup, self.log = process, startup, log
        self.port = int(startup["url"].rsplit(":", 1)[1])

    def connect(self) -> socket.socket:
        """Open a plain connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def raw(self, data: bytes) -> bytes:
        """Send bytes, and return everything until the server closes the connection."""
        with self.connect() as connection:
            connection.sendall(data)
            return read_to_end(connection)


def read_to_end(connection: socket.socket) -> bytes:
    """Return everything until the other side closes."""
    received = b""
    with suppress(ConnectionResetError):
        while block := connection.recv(65536):
            received += block
    return received


def request(body: bytes, *, path: str = "/predict", close: bool = True, headers: str = "") -> bytes:
    """Encode a POST request."""
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{headers}"
    end = "connection: close\r\n" if close else ""
    return f"{head}content-length: {len(body)}\r\n{end}\r\n".encode() + body


@contextmanager
def serving(folder: Path, log: Path, *options: object, **environment: str) -> Iterator[RunningServer]:
    """Run `cascadebert serve` on a free port, and kill it at the end if it still runs."""
    command = [sys.executable, "-m", "cascadebert", "serve", folder, "--port", "0", "--json", *options]
    paths = os.pathsep.join(sys.path)
    with log.open("w") as errors:
        process = subprocess.Popen(
            list(map(str, command)),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, "PYTHONPATH": paths, **environment},
        )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, log.read_text() if log.is_file() else "no output"
        yield RunningServer(process, json.loads(line), log)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def scripted(cascade, result, *, later=True, config=SMALL):
    """Return a client of an application with a scripted dispatcher, and the dispatcher."""
    dispatcher = ScriptedDispatcher(result, later=later)
    return TestClient(make_app(dispatcher, cascade, config), raise_server_exceptions=False), dispatcher


def post(client, body, path="/predict", **headers):
    """POST a JSON value or raw bytes."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return client.post(path, content=content, headers={**JSON, **headers})


def check_error(response, status, error_type):
    """Check status and form of an error, and return its message."""
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) == {"error", "error_type"} and body["error"] and body["error_type"] == error_type
    ErrorResponse.model_validate(body)
    return body["error"]
