"""Requests that no client should send: bodies, heads and connections, drawn at random."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from load import JSON, request

Rng = np.random.Generator
T = TypeVar("T")
PATHS = ("/predict", "/v1/classify")
WORDS = (
    "a",
    "lovely film",
    "not worth the ticket",
    "é",
    "☃",
    "\u202eright to left",
    "\x00",
    "\U0001f3ac" * 9,
)
VALUES = (
    "null", "true", "0", "-1", "1e400", "NaN", "Infinity", "-Infinity", "9" * 1000, "0.1e-999", '""', '"a"',
    "[]", "[[]]", "[[[]]]", "{}", "[1]", "[null]", '[["a"]]', '[["a","b"]]', '[["a","b","c"]]', '["a","b"]',
    '["a",["b"]]', '[["a"],"b"]', '{"a":"b"}', '[{"a":1}]', '"\\ud800"', '["\\udfff\\ud800"]', '"\\u0000"',
    '[["\\u0000"]]', '"\ufeff"', '"\\x"', "'a'", '["a",]', "[", '"', "", "undefined", "1 2", '"a" // b',
)  # fmt: skip
FIELDS = ("inputs", "texts", "raw_scores", "truncate", "truncation_direction", "max_stage", "deadline_ms",
          "explain", "__proto__", "")  # fmt: skip
HEADS = (
    "content-type: text/plain\r\n", "", "content-type: application/json; charset=utf-16\r\n",
    f"{JSON}expect: 100-continue\r\n", f"{JSON}accept-encoding: gzip\r\n",
    f"{JSON}content-encoding: gzip\r\n", f"{JSON}cookie: a=b\r\n",
    f"{JSON}x: {'y' * 9000}\r\n", f"{JSON}authorization: Bearer \xff\r\n", f"{JSON}upgrade: h2c\r\n",
    f"{JSON}upgrade: websocket\r\nconnection: upgrade\r\n", "content-type: \x01\r\n",
    "content-type: application/ld+json\r\n", f"{JSON}content-type: text/plain\r\n", f"{JSON}host:\r\n",
)  # fmt: skip
LINES = (
    "GET /predict", "PUT /predict", "DELETE /v1/classify", "OPTIONS /predict", "HEAD /", "PATCH /info",
    "POST /predict/", "POST //predict", "POST /predict?x=%ff", "POST /..%2f..%2fetc/passwd", "POST /%00",
    "GET /../../etc/passwd", "TRACE /", "POST /metrics", "GET /metrics", "GET /info", "GET /ready", "GET /",
    "GET /openapi.json", "GET /%zz", "POST http://elsewhere/predict", "POST *", "GET /docs", "GET /health",
)  # fmt: skip
BROKEN: tuple[bytes, ...] = (
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\r\n\r\n\r\n\r\n",
    b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"POST /predict HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
    b"POST /predict HTTP/1.1\r\ncontent-length: 9" + b"9" * 30 + b"\r\n\r\n", b"\x00" * 100, b"A" * 70_000,
    b"POST /predict HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n{}",
    b"POST /predict HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    b"POST /predict HTTP/1.1\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n0\r\n\r\n",
    b"POST /predict HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffff\r\nx",
    b"POST /predict HTTP/1.1\r\nbad header\r\n\r\n", b"POST /predict HTTP/1.1\r\n: empty\r\n\r\n",
    b"POST /predict HTTP/1.1\r\nx: a\r\n b\r\n\r\n", b"POST /predict HTTP/1.1\nx: a\n\n",
    "POST /prédict HTTP/1.1\r\n\r\n".encode(), b"POST /pre\x00dict HTTP/1.1\r\n\r\n",
)  # fmt: skip


class Sent(NamedTuple):
    """A request that is whole: HTTP says where it ends, so an answer is due.

    Attributes:
        kind: in words.
        data: in bytes.
        bare: the answer has no body, whatever its head says of one.
    """

    kind: str
    data: bytes
    bare: bool = False


def pick(rng: Rng, of: Sequence[T]) -> T:
    """One of some, as it is."""
    return of[int(rng.integers(len(of)))]


def text(rng: Rng) -> str:
    """Any characters at all but surrogates."""
    if rng.random() < 0.5:
        return " ".join(pick(rng, WORDS) for _ in range(int(rng.integers(0, 12))))
    points = rng.integers(0, 0x110000, int(rng.integers(0, 60)))
    return "".join(chr(one) for one in points.tolist() if not 0xD800 <= one < 0xE000)


def right(rng: Rng) -> bytes:
    """A request's body that is as it should be, but for what its texts are."""
    texts = [text(rng) for _ in range(int(rng.integers(1, 6)))]
    ascii_only = bool(rng.random() < 0.5)
    if rng.random() < 0.5:
        return json.dumps({"inputs": [[one] for one in texts]}, ensure_ascii=ascii_only).encode()
    deadline = pick(rng, (None, 0.001, 1, 50, 3_600_000))
    values = {"texts": texts, "explain": bool(rng.random() < 0.5), "deadline_ms": deadline,
              "max_stage": pick(rng, (None, 1, 2, 3, 4))}  # fmt: skip
    return json.dumps(values, ensure_ascii=ascii_only).encode()


def of_values(rng: Rng) -> bytes:
    """Fields and values of every wrong type."""
    some = [f'"{pick(rng, FIELDS)}": {pick(rng, VALUES)}' for _ in range(int(rng.integers(1, 5)))]
    return ("{" + ", ".join(some) + "}").encode()


def alone(rng: Rng) -> bytes:
    """One value that is no object."""
    return pick(rng, VALUES).encode()


def deep(rng: Rng) -> bytes:
    """Nested further than anyone reads."""
    depth, (start, end) = int(10 ** rng.uniform(1, 5)), pick(rng, (("[", "]"), ('{"a":', "}"), ("[[", "]]")))
    return ('{"inputs": ' + start * depth + '"a"' + end * depth * int(rng.random() < 0.8) + "}").encode()


def not_unicode(rng: Rng) -> bytes:
    """Bytes that are no UTF-8, in a string."""
    wrong = pick(
        rng, (b"\xff", b"\xc3", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\x80", b"\xf0\x9f")
    )
    return b'{"inputs": "a ' + wrong + b' b"}'


def other_encoding(rng: Rng) -> bytes:
    """A right body in another encoding."""
    return right(rng).decode().encode(pick(rng, ("utf-16", "utf-32", "utf-8-sig", "utf-7")))


def broken(rng: Rng) -> bytes:
    """A right body with some bytes changed, left out or doubled."""
    body = bytearray(right(rng))
    for _ in range(int(rng.integers(1, 6))):
        place = int(rng.integers(len(body)))
        how = int(rng.integers(3))
        body[place : place + int(how == 1)] = rng.bytes(1) if how < 2 else body[: place + 1][-20:]
    return bytes(body[: int(rng.integers(1, len(body) + 1))] if rng.random() < 0.3 else body)


def noise(rng: Rng) -> bytes:
    """Any bytes."""
    return rng.bytes(int(rng.integers(0, 300)))


def huge(rng: Rng) -> bytes:
    """Over some limit, or just at it."""
    form = int(rng.integers(6))
    if form == 0:
        return json.dumps({"inputs": "a" * pick(rng, (19_999, 20_000, 20_001, 1_999_000))}).encode()
    if form == 1:
        return json.dumps({"inputs": [["a b"]] * pick(rng, (256, 257, 5000))}).encode()
    if form == 2:
        return b'{"inputs": "' + b"a" * pick(rng, (1_999_980, 2_000_100)) + b'"}'
    if form == 3:
        return ("{" + ",".join(f'"k{i}": 1' for i in range(20_000)) + ', "inputs": "a"}').encode()
    if form == 4:
        return json.dumps({"inputs": [["e\u0301" * 5000], ["\U0001f469\u200d" * 3000]]}).encode()
    return b" " * 500_000 + b'{"inputs": "a"}'


BODIES: tuple[tuple[str, float, Callable[[Rng], bytes]], ...] = (
    ("right form, any characters", 0.25, right),
    ("wrong types", 0.25, of_values),
    ("no object", 0.1, alone),
    ("deep", 0.02, deep),
    ("no UTF-8", 0.08, not_unicode),
    ("another encoding", 0.05, other_encoding),
    ("broken", 0.15, broken),
    ("any bytes", 0.095, noise),
    ("huge", 0.005, huge),
)


def draw(rng: Rng) -> Sent:
    """A whole request of any kind."""
    if rng.random() < 0.1:
        line = pick(rng, LINES)
        body = right(rng) if rng.random() < 0.5 else b""
        return Sent("paths and methods", request(body, line=line), line.startswith("HEAD"))
    if rng.random() < 0.1:
        return Sent("heads", request(right(rng), line=f"POST {pick(rng, PATHS)}", head=pick(rng, HEADS)))
    place = int(rng.choice(len(BODIES), p=[share for _, share, _ in BODIES]))
    kind, _, make = BODIES[place]
    return Sent(kind, request(make(rng), line=f"POST {pick(rng, PATHS)}"))
