"""Loss and cost of every combination of thresholds at once.

Confidences are binned, and cumulative sums over a table of bins give the loss and the cost of each
combination without routing the examples again. With one threshold every distinct confidence is a candidate,
so the search is exact; with more, candidates are quantiles, as many per stage as a table of about a million
cells allows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cascadebert.errors import CascadeError
from cascadebert.types import Floats

TABLE_CELLS = 2**20
MAX_THRESHOLDS = 6


def threshold_candidates(confidences: Floats) -> list[Floats]:
    """Rising thresholds per stage, from "all exit" over midpoints between neighbours to "none exits".

    The lowest lies just under the least confidence instead of at 0: a new text with a confidence below all
    that were tuned on is still deferred. Raises CascadeError for more than 6 of the (num_thresholds, n) rows.
    """
    stages = len(confidences)
    if stages > MAX_THRESHOLDS:
        raise CascadeError(
            f"thresholds for at most {MAX_THRESHOLDS + 1} stages can be searched, not {stages + 1}"
        )
    size = int(TABLE_CELLS ** (1 / max(stages, 1)))
    grids = []
    for row in confidences:
        values = np.sort(row)
        if stages > 1:
            values = values[np.linspace(0, len(row) - 1, min(len(row), size)).astype(np.int64)]
        values = np.unique(values)
        middle = values[:-1] + (values[1:] - values[:-1]) / 2
        grids.append(np.concatenate([[np.nextafter(values[0], 0.0)], middle, [1.0]]))
    return grids


def evaluate_grid(
    confidences: Floats, losses: Floats, costs: Floats, grids: list[Floats]
) -> tuple[Floats, Floats]:
    """Mean loss and mean cost of every combination of thresholds, one axis per stage but the last.

    Arrays are (num_stages, n); `grids` are the rising thresholds of each stage but the last.
    """
    n, sizes = confidences.shape[1], tuple(len(grid) for grid in grids)
    loss, cost = np.zeros(sizes), np.zeros(sizes)
    cells: NDArray[np.intp] = np.zeros(n, dtype=np.intp)
    for stage in range(len(confidences)):
        expand = (...,) + (None,) * (len(sizes) - stage)
        cost += _deferred_sums(cells, sizes[:stage], costs[stage])[expand]
        loss += _deferred_sums(cells, sizes[:stage], losses[stage])[expand]
        if stage < len(sizes):
            bins = np.searchsorted(grids[stage], confidences[stage], side="left")
            cells = cells * (sizes[stage] + 1) + bins
            deferred = _deferred_sums(cells, sizes[: stage + 1], losses[stage])
            loss -= deferred[(...,) + (None,) * (len(sizes) - stage - 1)]
    return loss / n, cost / n


def _deferred_sums(cells: NDArray[np.intp], sizes: tuple[int, ...], weights: Floats) -> Floats:
    """Sum of the (n,) weights of the examples that the first stages defer, per combination of thresholds.

    `cells` are the bins at these stages as (n,) flat indices of a table that is one longer on every axis.
    Bin b exceeds exactly the thresholds 0 .. b - 1, so threshold t defers it if t >= b.
    """
    shape = tuple(size + 1 for size in sizes)
    table = np.bincount(cells, weights=weights, minlength=int(np.prod(shape))).reshape(shape)
    for axis in range(table.ndim):
        np.cumsum(table, axis=axis, out=table)
    return np.asarray(table[tuple(slice(0, size) for size in sizes)])
