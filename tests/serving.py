"""A pool that does as it is told, and servers that run as processes of their own."""

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

LADDER = ((0.9,), (0.8,))
SMALL = ServerConfig(
    max_client_batch_size=8, max_characters=400, max_bytes=20_000, latency_target=5.0, max_queue_size=64
)
JSON = {"content-type": "application/json"}


def row(stage: int = 1, *, degraded: bool = False, high: float = 0.75) -> RowResult:
    """A row that went through so many stages."""
    visit = [StageResult(i, np.array([1 - high, high]), high, 0.001 * i) for i in range(1, stage + 1)]
    return RowResult(tuple(visit), np.array([-1.0, 2.0]), degraded)


class ScriptedPool:
    """Answers every request with `answer`; raises it at once, or later, if it is an error."""

    def __init__(self, answer: RequestResult | BaseException | None = None, *, later: bool = True) -> None:
        self.answer, self.later = answer, later
        self.ready = True
        self.asked: list[tuple[object, RequestOptions]] = []
        self.futures: list[Future[RequestResult]] = []

    def start(self) -> None:
        pass

    def submit(self, texts, options=RequestOptions()) -> Future[RequestResult]:  # noqa: B008 - frozen
        self.asked.append((texts, options))
        if isinstance(self.answer, BaseException) and not self.later:
            raise self.answer
        future: Future[RequestResult] = Future()
        self.futures.append(future)
        if isinstance(self.answer, BaseException):
            future.set_exception(self.answer)
        elif self.answer is not None:
            future.set_result(self.answer)
        return future

    def drain(self, seconds: float) -> bool:
        return True

    def state(self) -> DispatcherState:
        stages = tuple(StageState(f"stage {i}", 0, 0.0, True, None, 10) for i in (1, 2))
        return DispatcherState(self.ready, 0, LADDER, None, 0, 0.0, 0.05, 0, stages, 0, 1)


class Running:
    """A server in a process of its own."""

    def __init__(self, process: subprocess.Popen[str], said: dict, log: Path) -> None:
        self.process, self.said, self.log = process, said, log
        self.port = int(said["url"].rsplit(":", 1)[1])

    def connect(self) -> socket.socket:
        """A bare connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def raw(self, data: bytes) -> bytes:
        """What is answered to these bytes, until the server closes the connection."""
        with self.connect() as connection:
            connection.sendall(data)
            return rest(connection)


def rest(connection: socket.socket) -> bytes:
    """Everything until the other side closes."""
    got = b""
    with suppress(ConnectionResetError):
        while block := connection.recv(65536):
            got += block
    return got


def request(body: bytes, *, path: str = "/predict", close: bool = True, headers: str = "") -> bytes:
    """A POST in bytes."""
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{headers}"
    end = "connection: close\r\n" if close else ""
    return f"{head}content-length: {len(body)}\r\n{end}\r\n".encode() + body


@contextmanager
def serving(folder: Path, log: Path, *words: object, **environment: str) -> Iterator[Running]:
    """`cascadebert serve` on a free port; killed at the end if it still runs."""
    command = [sys.executable, "-m", "cascadebert", "serve", folder, "--port", "0", "--json", *words]
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
        assert line, log.read_text() if log.is_file() else "no answer"
        yield Running(process, json.loads(line), log)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def scripted(cascade, answer, *, later=True, known=SMALL):
    pool = ScriptedPool(answer, later=later)
    return TestClient(make_app(pool, cascade, known), raise_server_exceptions=False), pool


def ask(client, body, path="/predict", **headers):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return client.post(path, content=content, headers={**JSON, **headers})


def refused(response, status, kind):
    assert response.status_code == status, response.text
    said = response.json()
    assert set(said) == {"error", "error_type"} and said["error"] and said["error_type"] == kind
    ErrorResponse.model_validate(said)
    return said["error"]
