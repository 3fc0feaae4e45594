"""What the rooms of the server hand one another: frozen values and errors. No thread and no HTTP here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from cascadebert.errors import CascadeError
from cascadebert.types import Bools, Floats, Ints


@dataclass(frozen=True)
class RequestOptions:
    """What one request may ask for beside its texts.

    Attributes:
        max_stage: rows are answered by this stage, counted from 1, at the latest; None for the last.
        deadline: seconds after arrival from which an answer is of no use; None for the server's own.
    """

    max_stage: int | None = None
    deadline: float | None = None


class StageResult(NamedTuple):
    """One stage that a row was run through.

    Attributes:
        stage: counted from 1.
        probabilities: (num_labels,) after scaling.
        confidence: what was compared with the threshold.
        seconds: from entering the stage's queue to its logits.
    """

    stage: int
    probabilities: Floats
    confidence: float
    seconds: float


class RowResult(NamedTuple):
    """The answer to one text or pair.

    Attributes:
        visits: the stages it went through, in order; the last one answered.
        logits: (num_labels,) of the stage that answered, before scaling.
        degraded: a later stage was wanted and could not be had.
    """

    visits: tuple[StageResult, ...]
    logits: Floats
    degraded: bool


@dataclass(frozen=True)
class RequestResult:
    """The answer to one request.

    Attributes:
        rows: one for each text, in order.
        point: place of the operating point on the server's ladder, 0 the safest.
        outside: why what is certified does not cover this answer; None where it does.
    """

    rows: tuple[RowResult, ...]
    point: int
    outside: str | None


class ServerError(CascadeError):
    """A request that could not be answered; the kinds below say why."""


class Overloaded(ServerError):
    """No room in the queues. `retry_after`: seconds after which there should be."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DeadlineExceeded(ServerError):
    """The deadline passed before an answer was there."""


class StageUnavailable(ServerError):
    """A stage that the answer needs cannot be had, and the server is set not to answer without it."""


class ServiceUnavailable(ServerError):
    """The server is starting or stopping."""


AlarmKind = Literal["agreement", "recent agreement", "exit rates", "confidences"]
"""What the watch of the quality raises an alarm about."""


class Watch(Protocol):
    """The watch of the quality, as the pool calls it: always one thread at a time."""

    def arrives(self, n: int) -> Bools:
        """(n,) which of n arriving rows are audited."""
        ...

    def weight(self) -> float:
        """Inverse of the current audit rate."""
        ...

    def left(self, point: int, stages: Ints, confidences: Floats) -> None:
        """A request was answered.

        Args:
            point: its place on the ladder.
            stages: (n,) that its rows left at, counted from 1.
            confidences: (n,) of its rows at the first stage.
        """
        ...

    def audited(self, point: int, agreed: bool, weight: float) -> None:
        """The last stage's answer to an audited row is known.

        Args:
            point: place on the ladder when the row arrived.
            agreed: the last stage says what was answered.
            weight: when the row arrived.
        """
        ...

    def backlog(self, waiting: int) -> None:
        """So many audited rows wait for the last stage."""
        ...

    def wants_safest(self) -> bool:
        """Whether the pool is to stay at the safest operating point."""
        ...


@dataclass(frozen=True)
class StageState:
    """How one stage is.

    Attributes:
        name: of the stage.
        waiting: rows in its queue.
        delay: seconds that the first in its queue has waited.
        up: it answers.
        why: what is wrong with it; None where nothing is.
        exits: rows that it has answered since the start.
    """

    name: str
    waiting: int
    delay: float
    up: bool
    why: str | None
    exits: int


@dataclass(frozen=True)
class PoolState:
    """How the pool is.

    Attributes:
        ready: requests are accepted.
        point: place of the operating point on the ladder.
        ladder: thresholds of the operating points, the safest first; one only without a certificate.
        uncertified: why there is no certificate here; None where there is one.
        moves: along the ladder since the start.
        delay: seconds that a request that arrives now is expected to wait.
        limit: of that delay; beyond it requests are refused.
        rows: accepted and not answered yet.
        stages: one for each.
        audits: audited rows that wait for the last stage; after `drain`, those that it never saw.
        workers: threads that run batches.
    """

    ready: bool
    point: int
    ladder: tuple[tuple[float, ...], ...]
    uncertified_reason: str | None
    moves: int
    delay: float
    limit: float
    rows: int
    stages: tuple[StageState, ...]
    audits: int
    workers: int
