"""HTTP messages: request bodies, limited in size and time; JSON responses; errors as JSON."""

from __future__ import annotations

import gzip
import io
import json
import math
import zlib

from anyio import fail_after
from starlette.types import Receive, Scope, Send

from cascadebert.server.types import ServerError

BODY_SECONDS = 15.0
IDENTITY, GZIP = (b"", b"identity"), (b"gzip", b"x-gzip")  # RFC 9110, 8.4.1.3

Headers = tuple[tuple[bytes, bytes], ...]
CLOSE: Headers = ((b"connection", b"close"),)


class ClientDisconnected(Exception):
    """The client closed the connection; no response is sent."""


class HTTPError(ServerError):
    """An error response: its status and the `error_type` of text-embeddings-inference.

    With `retry_after` the client is asked to wait for so many seconds, at least one and at most an hour.
    """

    def __init__(
        self,
        message: str,
        status: int = 422,
        error_type: str = "Validation",
        *,
        headers: Headers = (),
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers
        self.body = encode_json({"error": message, "error_type": error_type})
        if retry_after is not None:
            seconds = max(1, math.ceil(min(retry_after, 3600.0)))
            self.headers = (*headers, (b"retry-after", b"%d" % seconds))


def encode_json(content: object) -> bytes:
    """Encode a body; raises HTTPError 424 if a number is not finite, as then a model is broken."""
    try:
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()
    except ValueError as error:
        raise HTTPError("a stage returned a score that is not a finite number", 424, "Backend") from error


async def send_json(send: Send, body: bytes, status: int = 200, headers: Headers = ()) -> None:
    """Send an encoded body; cheaper per request than Starlette's responses."""
    fixed = ((b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": [*fixed, *headers]})
    await send({"type": "http.response.body", "body": body})


def header(scope: Scope, name: bytes) -> bytes:
    """Value of a header; empty if it is absent."""
    return next((value for key, value in scope["headers"] if key == name), b"")


async def read_body(scope: Scope, receive: Receive, max_bytes: int) -> bytes:
    """Read a JSON body, which may be compressed by gzip.

    Raises HTTPError 415 for another content type or encoding, 413 as soon as the body exceeds `max_bytes`,
    also unpacked, 408 if it does not arrive in time, 400 if it cannot be unpacked; ClientDisconnected if the
    connection is closed.
    """
    media_type = header(scope, b"content-type").split(b";")[0].strip().lower()
    if media_type != b"application/json" and not media_type.endswith(b"+json"):
        raise HTTPError("expected a JSON body with `Content-Type: application/json`", 415)
    encoding = header(scope, b"content-encoding").strip().lower()
    if encoding not in IDENTITY + GZIP:
        name = encoding[:40].decode("latin-1")
        error = f"expected a body that is compressed by gzip or not at all, got `Content-Encoding: {name}`"
        raise HTTPError(error, 415, headers=((b"accept-encoding", b"gzip"),))
    length, body, more_body = header(scope, b"content-length"), bytearray(), True
    too_large = length.isdigit() and (len(length) > 18 or int(length) > max_bytes)
    try:
        with fail_after(BODY_SECONDS):
            while more_body and not too_large:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnected
                body += message.get("body", b"")
                too_large, more_body = len(body) > max_bytes, message.get("more_body", False)
    except TimeoutError as error:
        raise HTTPError(
            f"the body did not arrive within {BODY_SECONDS:g} seconds", 408, headers=CLOSE
        ) from error
    content = bytes(body) if too_large or encoding in IDENTITY else _gunzip(bytes(body), max_bytes + 1)
    if too_large or len(content) > max_bytes:
        raise HTTPError(f"the body exceeds the maximum of {max_bytes:,} bytes", 413, headers=CLOSE)
    return content


def _gunzip(body: bytes, size: int) -> bytes:
    # At most `size` bytes of the content: a small body can unpack to gigabytes.
    try:
        return gzip.GzipFile(fileobj=io.BytesIO(body)).read(size)
    except (OSError, EOFError, zlib.error) as error:
        raise HTTPError("the body is not valid gzip, as its `Content-Encoding` says", 400) from error
