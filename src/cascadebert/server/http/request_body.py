"""Reading of JSON request bodies, limited in size and time."""

from __future__ import annotations

from anyio import fail_after
from starlette.types import Receive, Scope

from cascadebert.server.http.responses import CLOSE, HTTPError

BODY_SECONDS = 15.0


class ClientDisconnected(Exception):
    """The client closed the connection; no response is sent."""


def header(scope: Scope, name: bytes) -> bytes:
    """Value of a header; empty if it is absent."""
    return next((value for key, value in scope["headers"] if key == name), b"")


async def read_body(scope: Scope, receive: Receive, max_bytes: int) -> bytes:
    """Read a JSON body.

    Raises HTTPError 415 for another content type, 413 as soon as the body exceeds `max_bytes`, 408 if it does
    not arrive in time; ClientDisconnected if the connection is closed.
    """
    media_type = header(scope, b"content-type").split(b";")[0].strip().lower()
    if media_type != b"application/json" and not media_type.endswith(b"+json"):
        raise HTTPError(415, "Validation", "expected a JSON body with `Content-Type: application/json`")
    length = header(scope, b"content-length")
    if length.isdigit() and (len(length) > 18 or int(length) > max_bytes):
        raise _too_large(max_bytes)
    try:
        with fail_after(BODY_SECONDS):
            return await _receive_body(receive, max_bytes)
    except TimeoutError as error:
        message = f"the body did not arrive within {BODY_SECONDS:g} seconds"
        raise HTTPError(408, "Validation", message, CLOSE) from error


async def _receive_body(receive: Receive, max_bytes: int) -> bytes:
    body, more_body = bytearray(), True
    while more_body:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        body += message.get("body", b"")
        if len(body) > max_bytes:
            raise _too_large(max_bytes)
        more_body = message.get("more_body", False)
    return bytes(body)


def _too_large(max_bytes: int) -> HTTPError:
    return HTTPError(413, "Validation", f"the body exceeds the maximum of {max_bytes:,} bytes", CLOSE)
