"""100,000 requests to a server: from its own OpenAPI by schemathesis, and made by hand to be worse.

Every request that is whole is due an answer, with a status that the server's documentation knows and never
500; right requests come in between, and must be answered rightly. See benchmarks/server.py.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from threading import Lock, Thread
from typing import Any

import numpy as np

from cascadebert.timing import now
from load import Question, request
from rubbish import BROKEN, Rng, Sent, draw, pick
from servers import Running

SCHEMA, MADE, ROUGH, SLOW = 40_000, 55_000, 5_000, 200
EVERY = 50
"""Among so many requests by hand one is right."""
KNOWN = {200, 400, 404, 405, 408, 413, 415, 422, 429, 431, 503, 504}
PIPELINED = 20
SETTLED = 0.1
SLOW_SECONDS = 40.0


class Tally:
    """What was answered."""

    def __init__(self) -> None:
        self.statuses: Counter[str] = Counter()
        self.sent = 0
        self.problems: Counter[str] = Counter()
        self._lock = Lock()

    def add(self, kind: str, status: int | None) -> None:
        """A request, and the status that it got; None where none was due, 0 where one was."""
        with self._lock:
            self.sent += 1
            if status is not None:
                self.statuses[str(status)] += 1
        if status is not None and status not in KNOWN:
            self.blame(f"{kind}: {status or 'no answer'}")

    def blame(self, problem: str) -> None:
        """Something that must not be."""
        with self._lock:
            self.problems[problem] += 1


class Wire:
    """A connection that is kept while the server keeps it."""

    def __init__(self, server: Running) -> None:
        self._server, self._rest = server, b""
        self._socket: socket.socket | None = None

    def send(self, data: bytes) -> None:
        """Send, on a new connection if there is none."""
        if self._socket is None:
            self._socket, self._rest = self._server.connect(), b""
        with suppress(OSError):
            self._socket.sendall(data)

    def answer(self, *, bare: bool = False) -> tuple[int, bytes]:
        """The next answer; status 0 if the connection is closed instead."""
        assert self._socket is not None
        got = self._rest
        while True:
            head, found, body = got.partition(b"\r\n\r\n")
            if found and head.startswith(b"HTTP/1.1 100"):
                got = body
                continue
            fields = dict(line.partition(b":")[::2] for line in head.lower().split(b"\r\n")[1:])
            length = 0 if bare else int(fields.get(b"content-length", b"0"))
            if found and len(body) >= length:
                break
            block = self._block()
            if not block:
                self.close()
                return 0, b""
            got += block
        self._rest = body[length:]
        if fields.get(b"connection", b"").strip() == b"close":
            self.close()
        return int(head[9:12]), body[:length]

    def _block(self) -> bytes:
        assert self._socket is not None
        with suppress(OSError):  # cut, or nothing for half a minute
            return self._socket.recv(1 << 16)
        return b""

    def half_close(self) -> None:
        """Say that nothing more comes."""
        assert self._socket is not None
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Cut."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def fuzz_server(server: Running, asked: Sequence[Question]) -> dict[str, Any]:
    """Send everything; memory is compared with that after a tenth of the requests by hand."""
    tally, memory, start = Tally(), list[float](), now()
    slow = [Thread(target=creep, args=(server, tally, number), daemon=True) for number in range(SLOW)]
    for one in slow:
        one.start()
    for _ in range(round(1 / SETTLED)):
        by_hand(server, tally, asked, round(MADE * SETTLED), len(memory))
        rough(server, tally, asked, round(ROUGH * SETTLED), len(memory))
        memory.append(server.memory_mb)
        print(tally.sent, dict(tally.statuses), dict(tally.problems), memory[-1], flush=True)
    for one in slow:
        one.join()
    from_schema(server, tally)
    memory.append(server.memory_mb)
    by_hand(server, tally, asked, round(MADE * SETTLED), len(memory))
    memory.append(server.memory_mb)
    return {
        "requests": tally.sent,
        "errors_500": tally.statuses["500"],
        "statuses": dict(sorted(tally.statuses.items())),
        "problems": dict(tally.problems),
        "crashed": server.process.poll() is not None,
        "memory_mb": memory,
        "rss_growth": memory[-1] / memory[0] - 1,
        "seconds": now() - start,
    }


def by_hand(server: Running, tally: Tally, asked: Sequence[Question], count: int, seed: int) -> None:
    """Whole requests on kept connections, and right ones in between."""
    rng, wire = np.random.default_rng(seed), Wire(server)
    for number in range(count):
        if number % EVERY == 0:
            check(wire, tally, pick(rng, asked))
            continue
        sent: Sent = draw(rng)
        wire.send(sent.data)
        tally.add(sent.kind, wire.answer(bare=sent.bare)[0])
    wire.close()


def check(wire: Wire, tally: Tally, question: Question) -> None:
    """A right request."""
    wire.send(request(question.body))
    judge(tally, question, *wire.answer())


def judge(tally: Tally, question: Question, status: int, body: bytes) -> None:
    """A right request has the right answer, or is refused as the server is busy."""
    tally.add("right", status)
    if status != 429 and not (status == 200 and question.answered_by(body)):
        tally.blame(f"right: {status} and not the right answer")


def rough(server: Running, tally: Tally, asked: Sequence[Question], count: int, seed: int) -> None:
    """Connections that are cut or hold what is no HTTP, and several requests sent at once."""
    rng = np.random.default_rng([seed, 1])
    ways: list[Callable[[Wire, Tally, Sequence[Question], Rng], None]] = [cut, no_http, pipelined]
    until = tally.sent + count
    while tally.sent < until:
        wire = Wire(server)
        pick(rng, ways)(wire, tally, asked, rng)
        wire.close()


def cut(wire: Wire, tally: Tally, asked: Sequence[Question], rng: Rng) -> None:
    """Cut within the request, or after it and before its answer."""
    data = request(pick(rng, asked).body)
    wire.send(data if rng.random() < 0.5 else data[: int(rng.integers(1, len(data)))])
    tally.add("cut", None)


def no_http(wire: Wire, tally: Tally, asked: Sequence[Question], rng: Rng) -> None:
    """Bytes that are no request, or none that ends; whatever is answered, it is no error of the server's."""
    wire.send(pick(rng, BROKEN))
    wire.half_close()
    tally.add("no HTTP", wire.answer()[0] or None)


def pipelined(wire: Wire, tally: Tally, asked: Sequence[Question], rng: Rng) -> None:
    """Several right requests in one go are answered in their order."""
    some = [pick(rng, asked) for _ in range(int(rng.integers(2, PIPELINED)))]
    wire.send(b"".join(request(one.body) for one in some))
    for one in some:
        judge(tally, one, *wire.answer())


def creep(server: Running, tally: Tally, number: int) -> None:
    """A client that sends its request a few bytes a second, or stops in the middle: it is cut off."""
    data, wire, start = request(b'{"inputs": "slow"}'), Wire(server), now()
    wire.send(data[: 20 + number % 60])
    status, _ = wire.answer()
    tally.add("slow", status or None)
    if now() - start > SLOW_SECONDS:
        tally.blame("slow: not cut off")
    wire.close()


def from_schema(server: Running, tally: Tally) -> None:
    """What schemathesis draws from the OpenAPI, as it should be and as it should not."""
    import requests
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, seed, settings
    from schemathesis import GenerationMode

    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    session = requests.Session()
    for place, (path, method, mode, count) in enumerate(_operations(GenerationMode)):
        strategy = schema[path][method].as_strategy(generation_mode=mode)
        left = settings(
            max_examples=count, deadline=None, database=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip

        @seed(place)
        @left
        @given(case=strategy)
        def ask(case: Any) -> None:
            said = case.call(session=session)
            tally.add(f"schema {case.path}", said.status_code)

        ask()


def _operations(modes: Any) -> Iterator[tuple[str, str, Any, int]]:
    for mode in (modes.POSITIVE, modes.NEGATIVE):
        for path in ("/predict", "/v1/classify"):
            yield path, "POST", mode, SCHEMA // 4
