"""Configuration of a server; the only place of its defaults."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from cascadebert.errors import CascadeError

SERVER, OVERLOAD, MONITORING = "Server", "Overload and failure", "Quality monitoring"
ORIGIN = r"[a-z][a-z0-9+.-]*://[a-z0-9._-]+(:\d+)?|[a-z]+://\[[0-9a-f:]+\](:\d+)?"
TOKEN = "CASCADEBERT_TOKEN"  # environment variable; command lines are visible to all users
DEADLINE_FACTOR = 10  # default deadline, in latency targets


def _option(default: Any, group: str, metavar: str | None, description: str) -> Any:
    """A field that the command line exposes."""
    return field(default=default, metadata={"help": description, "group": group, "metavar": metavar})


def environment_token() -> str | None:
    """The bearer token in the environment; None if there is none. Raises CascadeError if it is invalid."""
    token = os.environ.get(TOKEN)
    if token is not None and (not token or not token.isascii() or any(map(str.isspace, token))):
        raise CascadeError(f"{TOKEN} must be a token of ASCII characters without spaces, or not be set")
    return token


@dataclass(frozen=True)
class ServerConfig:
    """Configuration of a server; durations are in seconds.

    The metadata of a field holds the `help`, `group` and `metavar` of its command-line option.
    """

    latency_target: float = 0.1  # under load; without a deadline, requests expire after ten times this
    max_queue_size: int = _option(
        2048, OVERLOAD, "N", "Maximum number of accepted texts without a result, queued or running."
    )
    max_client_batch_size: int = _option(256, SERVER, "N", "Maximum number of texts per request.")
    cache_size: int = _option(
        0, SERVER, "N", "Number of texts whose predictions are remembered, for traffic that repeats; 0: none."
    )
    max_characters: int = 20_000  # of a text, or of both texts of a pair
    max_bytes: int = 2_000_000  # of a request body
    adaptive: bool = _option(True, SERVER, None, "Adapt the certified operating point to the load.")
    on_last_stage_failure: Literal["degrade", "error"] = _option(
        "error",
        OVERLOAD,
        "degrade|error",
        "While the last stage is unavailable, predict with the stage before it, or return an error.",
    )
    stage_timeout: float = 10.0  # of a batch, after which its stage counts as hanging
    probe_every: float = 5.0  # between attempts to reach a failed stage
    shutdown_timeout: float = _option(30.0, OVERLOAD, "S", "Time to complete in-flight requests on shutdown.")
    shadow_rate: float = _option(
        0.01,
        MONITORING,
        "R",
        "Fraction of texts whose prediction is compared with the last stage's; 0 turns monitoring off.",
    )
    shadow_queue_size: int = 1024  # the shadow rate is lowered before more texts wait
    on_alarm: Literal["log", "safest-point"] = _option(
        "log",
        MONITORING,
        "log|safest-point",
        "On a quality alarm, only log it, or also switch to the most conservative operating point.",
    )
    token: str | None = None  # bearer token that requests must carry; None disables authentication
    cors_origins: tuple[str, ...] = ()  # whose pages may send requests and read responses
    seed: int = 0  # of the selection of texts for shadow evaluation

    def __post_init__(self) -> None:
        for option in fields(self):
            value = getattr(self, option.name)
            if option.name in ("cache_size", "shadow_rate", "seed") or not isinstance(value, (int, float)):
                continue
            if not isinstance(value, bool) and value <= 0:
                raise CascadeError(f"{option.name} must be above 0, not {value}")
        if self.cache_size < 0:
            raise CascadeError(f"cache_size must be 0 or more, not {self.cache_size}")
        for origin in self.cors_origins:
            if origin != "*" and not re.fullmatch(ORIGIN, origin):
                expected = "scheme, host and port without a path, such as http://localhost:3000, or *"
                raise CascadeError(f"an origin (--cors-origin) must be {expected}; not {origin!r}")
        if not 0 <= self.shadow_rate <= 1:
            raise CascadeError(f"shadow_rate must be a fraction between 0 and 1, not {self.shadow_rate}")
        if self.max_client_batch_size > self.max_queue_size:
            raise CascadeError(
                f"max_client_batch_size ({self.max_client_batch_size}) must not exceed "
                f"max_queue_size ({self.max_queue_size}): such a request would never fit into the queue"
            )

    @property
    def default_deadline(self) -> float:
        """Seconds after arrival at which a request without a deadline of its own expires."""
        return DEADLINE_FACTOR * self.latency_target
