"""The operating points that a server may move along. Pure: a certificate in, some of its points out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cascadebert.inference.cascade import Cascade
from cascadebert.thresholds.certificate import CertifiedPoint

STEP = 1.25


def certified_operating_points(cascade: Cascade) -> tuple[CertifiedPoint, ...]:
    """The rungs of a cascade's certificate; none where nothing is certified here."""
    certificate = cascade.operating_point.certificate
    return (
        ()
        if certificate is None or cascade.uncertified_reason is not None
        else distinct_points(certificate.points)
    )


def distinct_points(points: Sequence[CertifiedPoint]) -> tuple[CertifiedPoint, ...]:
    """Points that differ enough for a move to be felt, from safest to fastest; the fastest is always one.

    Points slower than the last stage alone are left out: they pay for stages that answer next to nothing.
    Of the others each is at least a quarter faster than the one before.

    Args:
        points: from safest to fastest, speed-ups rising.

    >>> found = distinct_points([CertifiedPoint((0.5,), (0.5, 0.5), speedup) for speedup in (0.7, 1.1, 1.2, 1.5)])
    >>> [point.speedup for point in found]
    [1.2, 1.5]
    """
    kept = [points[-1]]
    for point in reversed(points[:-1]):
        if point.speedup >= 1 and STEP * point.speedup <= kept[-1].speedup:
            kept.append(point)
    return tuple(kept[::-1])


PRESSED_SECONDS = 0.25
CALM_SECONDS, LONGEST_CALM = 5.0, 60.0
CLEAR = 0.25


@dataclass(frozen=True)
class LoadState:
    """A place on the ladder, and what led there.

    Attributes:
        operating_point: 0 is the safest.
        switches: so far.
        pressed: when the delay began to exceed the limit without a break; None where it does not.
        calm: when the delay began to be far below the limit without a break; None where it is not.
        patience: seconds of calm before a move back to a safer point.
        back: when the last move was made, if it was one back.
    """

    operating_point: int
    switches: int = 0
    overloaded_since: float | None = None
    idle_since: float | None = None
    cooldown: float = CALM_SECONDS
    last_step_back: float | None = None


def next_state(
    state: LoadState, delay: float, at: float, *, points: int, limit: float, pinned: bool = False
) -> LoadState:
    """The place on the ladder after one more look at the queues.

    A delay above the limit for a quarter of a second leads one point faster, one below a quarter of the
    limit for some seconds one point back. A move back that the load soon undoes was made too early: the
    next one takes twice the calm, up to a minute.

    Args:
        state: before.
        delay: seconds that a request that arrives now is expected to wait.
        at: the time, in seconds.
        points: on the ladder.
        limit: seconds of delay that are too many.
        pinned: the safest point is wanted, whatever the load.

    >>> pressed = next_state(LoadState(0), 0.2, 10.0, points=3, limit=0.1)
    >>> next_state(pressed, 0.2, 10.3, points=3, limit=0.1).operating_point
    1
    """
    if pinned:
        return state if state.operating_point == 0 else LoadState(0, state.switches + 1)
    if delay > limit:
        pressed = at if state.overloaded_since is None else state.overloaded_since
        if at - pressed < PRESSED_SECONDS or state.operating_point + 1 >= points:
            return replace(state, overloaded_since=pressed, idle_since=None)
        undone = state.last_step_back is not None and at - state.last_step_back < state.cooldown
        patience = min(2 * state.cooldown, LONGEST_CALM) if undone else CALM_SECONDS
        return LoadState(
            state.operating_point + 1, state.switches + 1, overloaded_since=at, cooldown=patience
        )
    if delay < CLEAR * limit:
        calm = at if state.idle_since is None else state.idle_since
        if at - calm < state.cooldown or state.operating_point == 0:
            return replace(state, overloaded_since=None, idle_since=calm)
        return LoadState(
            state.operating_point - 1,
            state.switches + 1,
            idle_since=at,
            cooldown=state.cooldown,
            last_step_back=at,
        )
    return replace(state, overloaded_since=None, idle_since=None)
