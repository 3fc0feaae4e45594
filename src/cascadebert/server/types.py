"""Values and errors that the packages of the server exchange."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from cascadebert.errors import CascadeError
from cascadebert.types import Floats


@dataclass(frozen=True)
class RequestOptions:
    """Options of one request beside its texts."""

    max_stage: int | None = None  # the latest stage that may predict, counted from 1; None for the last
    deadline: float | None = None  # seconds after arrival; None for the server's default


class StageResult(NamedTuple):
    """Outputs of one stage for one text."""

    stage: int  # counted from 1
    probabilities: Floats  # (num_labels,) after temperature scaling
    confidence: float  # compared with the threshold
    seconds: float  # from entering the stage's queue to its logits


class RowResult(NamedTuple):
    """Result for one text or pair."""

    stage_results: tuple[StageResult, ...]  # in order; the last one is the prediction
    logits: Floats  # (num_labels,) of the stage that predicted, before scaling
    degraded: bool  # a later stage was required but unavailable
    truncated: bool  # the stage that predicted read a part of the text only


@dataclass(frozen=True)
class RequestResult:
    """Result of one request."""

    rows: tuple[RowResult, ...]  # one per text, in order
    operating_point: int  # index into the server's operating points; 0 is the most conservative
    uncertified_reason: str | None  # None where the certificate covers the result


class ServerError(CascadeError):
    """Base of the reasons for which a request fails."""


class Overloaded(ServerError):
    """The queues are full or too slow; `retry_after` is in seconds."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DeadlineExceeded(ServerError):
    """The deadline passed before the result was complete."""


class StageUnavailable(ServerError):
    """A required stage is down, and degraded results are not allowed."""


class ServiceUnavailable(ServerError):
    """The server is starting or stopping."""


@dataclass(frozen=True)
class StageState:
    """Snapshot of one stage."""

    name: str
    queue_size: int  # texts
    oldest_age: float  # seconds that the first text in the queue has waited
    up: bool
    reason: str | None  # why the stage is down
    exits: int  # texts that exited here since the start


@dataclass(frozen=True)
class DispatcherState:
    """Snapshot of the dispatcher."""

    ready: bool  # requests are accepted
    operating_point: int  # index into `operating_points`
    operating_points: tuple[tuple[float, ...], ...]  # thresholds, the most conservative point first
    uncertified_reason: str | None  # None if the cascade is certified here
    switches: int  # changes of the operating point since the start
    estimated_delay: float  # seconds of queueing expected for a new request
    admission_delay_limit: float  # seconds of that delay above which requests are rejected
    inflight_texts: int
    cached_texts: int  # answered with a remembered result since the start
    stages: tuple[StageState, ...]
    shadow_backlog: int  # texts waiting for shadow evaluation; after `drain`, those never evaluated
    workers: int  # threads that run batches
