"""The operating points that a server may move along. Pure: a certificate in, some of its points out."""

from __future__ import annotations

from collections.abc import Sequence

from cascadebert.cascade import Cascade
from cascadebert.types import CertifiedPoint

STEP = 1.25


def certified_ladder(cascade: Cascade) -> tuple[CertifiedPoint, ...]:
    """The rungs of a cascade's certificate; none where nothing is certified here."""
    certificate = cascade.operating_point.certificate
    return () if certificate is None or cascade.uncertified is not None else rungs(certificate.points)


def rungs(points: Sequence[CertifiedPoint]) -> tuple[CertifiedPoint, ...]:
    """Points that differ enough for a move to be felt, from safest to fastest; the fastest is always one.

    Points slower than the last stage alone are left out: they pay for stages that answer next to nothing.
    Of the others each is at least a quarter faster than the one before.

    Args:
        points: from safest to fastest, speed-ups rising.

    >>> found = rungs([CertifiedPoint((0.5,), (0.5, 0.5), speedup) for speedup in (0.7, 1.1, 1.2, 1.5)])
    >>> [point.speedup for point in found]
    [1.2, 1.5]
    """
    kept = [points[-1]]
    for point in reversed(points[:-1]):
        if point.speedup >= 1 and STEP * point.speedup <= kept[-1].speedup:
            kept.append(point)
    return tuple(kept[::-1])
