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
        point: 0 is the safest.
        moves: so far.
        pressed: when the delay began to exceed the limit without a break; None where it does not.
        calm: when the delay began to be far below the limit without a break; None where it is not.
        patience: seconds of calm before a move back to a safer point.
        back: when the last move was made, if it was one back.
    """

    point: int
    moves: int = 0
    pressed: float | None = None
    calm: float | None = None
    patience: float = CALM_SECONDS
    back: float | None = None


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
    >>> next_state(pressed, 0.2, 10.3, points=3, limit=0.1).point
    1
    """
    if pinned:
        return state if state.point == 0 else LoadState(0, state.moves + 1)
    if delay > limit:
        pressed = at if state.pressed is None else state.pressed
        if at - pressed < PRESSED_SECONDS or state.point + 1 >= points:
            return replace(state, pressed=pressed, calm=None)
        undone = state.back is not None and at - state.back < state.patience
        patience = min(2 * state.patience, LONGEST_CALM) if undone else CALM_SECONDS
        return LoadState(state.point + 1, state.moves + 1, pressed=at, patience=patience)
    if delay < CLEAR * limit:
        calm = at if state.calm is None else state.calm
        if at - calm < state.patience or state.point == 0:
            return replace(state, pressed=None, calm=calm)
        return LoadState(state.point - 1, state.moves + 1, calm=at, patience=state.patience, back=at)
    return replace(state, pressed=None, calm=None)
