"""What is sent back: JSON, and one form for every error."""

from __future__ import annotations

import json
import math
from asyncio import CancelledError
from typing import NamedTuple

from cascadebert.errors import DataError
from cascadebert.server.types import (
    DeadlineExceeded,
    Overloaded,
    ServerError,
    ServiceUnavailable,
    StageUnavailable,
)

Headers = tuple[tuple[bytes, bytes], ...]
CLOSE: Headers = ((b"connection", b"close"),)


class JSONReply(NamedTuple):
    """An answer in JSON.

    Attributes:
        status: of HTTP.
        body: UTF-8.
        headers: beside the content's length and type.
    """

    status: int
    body: bytes
    headers: Headers = ()


class HTTPError(ServerError):
    """A request that is not answered, with the status and the kind of error that say so."""

    def __init__(self, status: int, kind: str, message: str, headers: Headers = ()) -> None:
        super().__init__(message)
        self.status, self.kind, self.headers = status, kind, headers


def json_reply(values: object, headers: Headers = ()) -> JSONReply:
    """An answer.

    Raises:
        Refusal: 424 if a number in it is not finite: a model is broken.
    """
    try:
        return JSONReply(200, _json(values), headers)
    except ValueError as error:
        raise HTTPError(424, "Backend", "a stage gave a score that is no finite number") from error


def error_reply(status: int, kind: str, message: str, headers: Headers = ()) -> JSONReply:
    """The one form of errors; the kinds are those of text-embeddings-inference."""
    return JSONReply(status, _json({"error": message, "error_type": kind}), headers)


def reply_to_error(error: BaseException, probe_every: float) -> JSONReply | None:
    """The answer to an error that was foreseen; None for others.

    Args:
        error: that a request met.
        probe_every: seconds between attempts to have a failed stage back.
    """
    message = str(error)
    if isinstance(error, HTTPError):
        return error_reply(error.status, error.kind, message, error.headers)
    if isinstance(error, Overloaded):
        return error_reply(429, "Overloaded", message, _retry(error.retry_after))
    if isinstance(error, DeadlineExceeded):
        return error_reply(504, "Overloaded", message)
    if isinstance(error, StageUnavailable):
        return error_reply(503, "Unhealthy", message, _retry(probe_every))
    if isinstance(error, ServiceUnavailable):
        return error_reply(503, "Unhealthy", message, _retry(1.0))
    if isinstance(error, CancelledError):
        return error_reply(503, "Unhealthy", "the server stopped before there was an answer", _retry(1.0))
    if isinstance(error, DataError):
        return error_reply(422, "Tokenizer", message)
    return None


def _retry(seconds: float) -> Headers:
    return ((b"retry-after", b"%d" % max(1, math.ceil(min(seconds, 3600.0)))),)


def _json(values: object) -> bytes:
    return json.dumps(values, allow_nan=False, separators=(",", ":")).encode()
