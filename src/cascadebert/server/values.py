"""What the rooms of the server hand one another: frozen values and errors. No thread and no HTTP here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cascadebert.errors import CascadeError
from cascadebert.types import Floats


@dataclass(frozen=True)
class Options:
    """What one request may ask for beside its texts.

    Attributes:
        max_stage: rows are answered by this stage, counted from 1, at the latest; None for the last.
        deadline: seconds after arrival from which an answer is of no use; None for the server's own.
    """

    max_stage: int | None = None
    deadline: float | None = None


@dataclass(frozen=True)
class Visit:
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


@dataclass(frozen=True)
class RowAnswer:
    """The answer to one text or pair.

    Attributes:
        visits: the stages it went through, in order; the last one answered.
        logits: (num_labels,) of the stage that answered, before scaling.
        degraded: a later stage was wanted and could not be had.
    """

    visits: tuple[Visit, ...]
    logits: Floats
    degraded: bool


@dataclass(frozen=True)
class Answer:
    """The answer to one request.

    Attributes:
        rows: one for each text, in order.
        point: place of the operating point on the server's ladder, 0 the safest.
        outside: why what is certified does not cover this answer; None where it does.
    """

    rows: tuple[RowAnswer, ...]
    point: int
    outside: str | None


class ServerError(CascadeError):
    """A request that could not be answered; the kinds below say why."""


class Overloaded(ServerError):
    """No room in the queues. `retry_after`: seconds after which there should be."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Expired(ServerError):
    """The deadline passed before an answer was there."""


class StageDown(ServerError):
    """A stage that the answer needs cannot be had, and the server is set not to answer without it."""


class NotReady(ServerError):
    """The server is starting or stopping."""


Breach = Literal["agreement", "recent agreement", "exit rates", "confidences"]
"""What the watch of the quality raises an alarm about."""
