"""Health of a stage."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class StageHealth:
    """Health of one stage; times are in seconds on the dispatcher's clock."""

    reason: str | None = None  # why it is down; None while it is up
    warmed_up: bool = True
    probes: int = 0  # running attempts to reach it while it is down
    next_probe: float = 0.0
