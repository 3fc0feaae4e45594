"""Reading a request: its head and its body, never more than allowed and never for ever."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from anyio import fail_after

from cascadebert.server.http.responses import CLOSE, HTTPError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

BODY_SECONDS = 15.0


class ClientDisconnected(Exception):
    """The client cut the connection; nobody waits for an answer."""


def header(scope: Scope, name: bytes) -> bytes:
    """The value of a header, empty where it is absent."""
    return next((value for key, value in scope["headers"] if key == name), b"")


def has_bearer_token(scope: Scope, token: bytes) -> bool:
    """Whether a request bears the token; takes the same time for every wrong one of a length."""
    scheme, _, given = header(scope, b"authorization").partition(b" ")
    return scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(), token)


async def read_json(scope: Scope, receive: Receive, limit: int) -> bytes:
    """The body of a request.

    Raises:
        Refusal: 415 if it is not said to be JSON, 413 as soon as it is over the limit, 408 if it does not
            come within some seconds.
        Gone: if the connection is cut.
    """
    kind = header(scope, b"content-type").split(b";")[0].strip().lower()
    if kind != b"application/json" and not kind.endswith(b"+json"):
        raise HTTPError(415, "Validation", "expected a body of JSON with `Content-Type: application/json`")
    length = header(scope, b"content-length")
    if length.isdigit() and (len(length) > 18 or int(length) > limit):
        raise _too_large(limit)
    try:
        with fail_after(BODY_SECONDS):
            return await _body(receive, limit)
    except TimeoutError as error:
        message = f"the body did not come within {BODY_SECONDS:g} seconds"
        raise HTTPError(408, "Validation", message, CLOSE) from error


async def _body(receive: Receive, limit: int) -> bytes:
    body, more = bytearray(), True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        body += message.get("body", b"")
        if len(body) > limit:
            raise _too_large(limit)
        more = message.get("more_body", False)
    return bytes(body)


def _too_large(limit: int) -> HTTPError:
    return HTTPError(
        413, "Validation", f"the body has more than {limit:,} bytes, the most that is read", CLOSE
    )
