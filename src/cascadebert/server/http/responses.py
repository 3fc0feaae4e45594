"""JSON responses, and the one form of all errors."""

from __future__ import annotations

import json
import math
from typing import NamedTuple

from starlette.types import Send

from cascadebert.server.types import ServerError

Headers = tuple[tuple[bytes, bytes], ...]
CLOSE: Headers = ((b"connection", b"close"),)


class JSONReply(NamedTuple):
    """A JSON response; cheaper per request than Starlette's."""

    status: int
    body: bytes  # UTF-8
    headers: Headers = ()  # besides type and length

    async def send(self, send: Send) -> None:
        """Send the response."""
        content = ((b"content-type", b"application/json"), (b"content-length", b"%d" % len(self.body)))
        await send(
            {"type": "http.response.start", "status": self.status, "headers": [*content, *self.headers]}
        )
        await send({"type": "http.response.body", "body": self.body})


class HTTPError(ServerError):
    """An error response: its status and the `error_type` of text-embeddings-inference."""

    def __init__(self, status: int, error_type: str, message: str, headers: Headers = ()) -> None:
        super().__init__(message)
        self.status, self.error_type, self.headers = status, error_type, headers


def json_reply(content: object, headers: Headers = ()) -> JSONReply:
    """Encode a response; raises HTTPError 424 if a number is not finite, as then a model is broken."""
    try:
        return JSONReply(200, _encode(content), headers)
    except ValueError as error:
        raise HTTPError(424, "Backend", "a stage returned a score that is not a finite number") from error


def error_reply(status: int, error_type: str, message: str, headers: Headers = ()) -> JSONReply:
    """Encode an error."""
    return JSONReply(status, _encode({"error": message, "error_type": error_type}), headers)


def retry_after(seconds: float) -> Headers:
    """Header that asks the client to wait, for a second to an hour."""
    return ((b"retry-after", b"%d" % max(1, math.ceil(min(seconds, 3600.0)))),)


def _encode(content: object) -> bytes:
    return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()
