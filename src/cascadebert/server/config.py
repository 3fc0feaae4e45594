"""What a server is told when it starts; every default stands here."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from cascadebert.errors import CascadeError


@dataclass(frozen=True)
class ServerConfig:
    """How a server behaves.

    Attributes:
        latency_target: seconds from arrival to answer that are aimed at under load; the deadline of a
            request that names none is ten times this.
        queue_rows: rows that may wait at each stage; what does not fit is refused.
        max_rows: of one request.
        max_characters: of one text, or of both of a pair.
        max_bytes: of one request's body.
        follow_load: move along the certified operating points with the load.
        without_last: what to do while the last stage cannot be had: answer from the stage before, or refuse.
        stage_timeout: seconds after which a stage that has not answered a batch counts as hanging.
        probe_every: seconds between attempts to have a failed stage back.
        audit_rate: share of the arriving rows that the last stage checks as well.
        audit_queue: audited rows that may wait; the rate is lowered before they are more.
        on_breach: what to do when the watch of the quality raises an alarm: nothing but say so, or move to
            the safest operating point and stay there.
        drain_seconds: time to answer what is in flight when told to stop.
        token: what a request must bear, or None for anyone.
        seed: of the audit's draws.
    """

    latency_target: float = 0.1
    max_queue_size: int = 2048
    max_client_batch_size: int = 256
    max_characters: int = 20_000
    max_bytes: int = 2_000_000
    adaptive: bool = True
    on_last_stage_failure: Literal["answer", "refuse"] = "refuse"
    stage_timeout: float = 10.0
    probe_every: float = 5.0
    shadow_rate: float = 0.01
    shadow_queue_size: int = 1024
    on_alarm: Literal["say", "safest"] = "say"
    shutdown_timeout: float = 30.0
    token: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in ("shadow_rate", "seed") or not isinstance(value, (int, float)):
                continue
            if not isinstance(value, bool) and value <= 0:
                raise CascadeError(f"{field.name} must be above 0, not {value}")
        if not 0 <= self.shadow_rate <= 1:
            raise CascadeError(f"audit_rate is a share between 0 and 1, not {self.shadow_rate}")
        if self.max_client_batch_size > self.max_queue_size:
            raise CascadeError(
                f"a request of max_rows ({self.max_client_batch_size}) would never fit into queue_rows ({self.max_queue_size})"
            )
