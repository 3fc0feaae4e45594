"""Load-adaptive operating points: which ones a server uses, and when it switches. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cascadebert.inference.cascade import Cascade
from cascadebert.thresholds.operating_point import CertifiedPoint

MIN_SPEEDUP_RATIO = 1.25  # between neighboring points
OVERLOADED_SECONDS = 0.25
COOLDOWN_SECONDS, MAX_COOLDOWN_SECONDS = 5.0, 60.0
IDLE_FRACTION = 0.25  # of the limit; a delay below it counts as idle


def certified_operating_points(cascade: Cascade) -> tuple[CertifiedPoint, ...]:
    """The points between which a server may switch; empty if nothing is certified here."""
    certificate = cascade.operating_point.certificate
    if certificate is None or cascade.uncertified_reason is not None:
        return ()
    return distinct_points(certificate.points)


def why_uncertified(reason: str | None, *, max_stage: int | None, degraded: bool) -> str | None:
    """Why the certificate does not cover a request; None if it does.

    `reason` is why it covers none, `max_stage` what the request asked for, if that is not the last stage.
    """
    reasons = [] if reason is None else [f"nothing is certified here: {reason}"]
    if max_stage is not None:
        reasons.append(f"the request set max_stage to {max_stage}")
    if degraded:
        reasons.append("an earlier stage predicted for some texts, as a later one is unavailable")
    return "; ".join(reasons) or None


def distinct_points(points: Sequence[CertifiedPoint]) -> tuple[CertifiedPoint, ...]:
    """The points that differ noticeably in speed, from most conservative to fastest, as `points` are.

    Each is at least a quarter faster than the one before; the fastest is always included. Points slower than
    the last stage alone are left out: they pay for stages where hardly any text exits.

    >>> points = [CertifiedPoint((0.5,), (0.5, 0.5), speedup) for speedup in (0.7, 1.1, 1.2, 1.5)]
    >>> [point.speedup for point in distinct_points(points)]
    [1.2, 1.5]
    """
    selected = [points[-1]]
    for point in reversed(points[:-1]):
        if point.speedup >= 1 and MIN_SPEEDUP_RATIO * point.speedup <= selected[-1].speedup:
            selected.append(point)
    return tuple(selected[::-1])


@dataclass(frozen=True)
class LoadState:
    """State of the load controller; times are in seconds."""

    operating_point: int  # 0 is the most conservative
    switches: int = 0
    overloaded_since: float | None = None  # start of the current run of delays above the limit
    idle_since: float | None = None  # start of the current run of delays far below the limit
    cooldown: float = COOLDOWN_SECONDS  # idle time before a step back
    last_step_back: float | None = None  # None if the last switch was to a faster point


def next_state(
    state: LoadState, delay: float, now: float, *, points: int, limit: float, pinned: bool = False
) -> LoadState:
    """The state after one observation of the queueing delay (seconds), with hysteresis.

    A delay above `limit` for a quarter of a second switches to the next faster point, a delay below a quarter
    of it for the cooldown steps back. A step back that the load soon undoes was too early: it doubles the
    cooldown, up to a minute. With `pinned` the most conservative point is used whatever the load.

    >>> overloaded = next_state(LoadState(0), 0.2, 10.0, points=3, limit=0.1)
    >>> next_state(overloaded, 0.2, 10.3, points=3, limit=0.1).operating_point
    1
    """
    point, switches = state.operating_point, state.switches + 1
    if pinned:
        return state if point == 0 else LoadState(0, switches)
    if delay > limit:
        since = now if state.overloaded_since is None else state.overloaded_since
        if now - since < OVERLOADED_SECONDS or point + 1 >= points:
            return replace(state, overloaded_since=since, idle_since=None)
        undone = state.last_step_back is not None and now - state.last_step_back < state.cooldown
        cooldown = min(2 * state.cooldown, MAX_COOLDOWN_SECONDS) if undone else COOLDOWN_SECONDS
        return LoadState(point + 1, switches, overloaded_since=now, cooldown=cooldown)
    if delay < IDLE_FRACTION * limit:
        since = now if state.idle_since is None else state.idle_since
        if now - since < state.cooldown or point == 0:
            return replace(state, overloaded_since=None, idle_since=since)
        return LoadState(point - 1, switches, idle_since=now, cooldown=state.cooldown, last_step_back=now)
    return replace(state, overloaded_since=None, idle_since=None)
