"""Every combination of thresholds at once. Pure: arrays in, tables out.

Confidences are binned, and cumulative sums over a table of bins give the loss and the cost of each
combination without going through the rows again. With one threshold every distinct confidence is a candidate,
so nothing is lost; with more, candidates are quantiles, as many per stage as a table of about a million cells
allows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cascadebert.errors import CascadeError
from cascadebert.types import Floats

TABLE_CELLS = 2**20
MOST_THRESHOLDS = 6


def threshold_candidates(confidences: Floats) -> list[Floats]:
    """Per stage, thresholds in rising order: all rows leave, midpoints between neighbours, none leaves.

    The lowest lies just under the least confidence seen, not at 0: a row less sure than all rows that
    were tuned on is still passed on.
    """
    stages = len(confidences)
    if stages > MOST_THRESHOLDS:
        raise CascadeError(
            f"thresholds for at most {MOST_THRESHOLDS + 1} stages can be searched, not {stages + 1}"
        )
    most = TABLE_CELLS if stages < 2 else int(TABLE_CELLS ** (1 / stages))
    grids = []
    for row in confidences:
        seen = np.sort(row) if stages > 1 else np.unique(row)
        if stages > 1:
            seen = np.unique(seen[np.linspace(0, len(seen) - 1, min(len(seen), most)).astype(np.int64)])
        middle = seen[:-1] + (seen[1:] - seen[:-1]) / 2
        grids.append(np.concatenate([[np.nextafter(seen[0], 0.0)], middle, [1.0]]))
    return grids


def evaluate_grid(
    confidences: Floats, losses: Floats, costs: Floats, grids: list[Floats]
) -> tuple[Floats, Floats]:
    """Mean loss and mean cost of every combination of thresholds, one axis per non-final stage.

    Args:
        confidences: (num_stages, n).
        losses: (num_stages, n).
        costs: (num_stages, n).
        grids: per non-final stage its thresholds in rising order.
    """
    n, sizes = confidences.shape[1], tuple(len(grid) for grid in grids)
    loss, cost = np.zeros(sizes), np.zeros(sizes)
    cells: NDArray[np.intp] = np.zeros(n, dtype=np.intp)
    for stage in range(len(confidences)):
        spread = (...,) + (None,) * (len(sizes) - stage)
        cost += _reaching(cells, sizes[:stage], costs[stage])[spread]
        loss += _reaching(cells, sizes[:stage], losses[stage])[spread]
        if stage < len(sizes):
            bins = np.searchsorted(grids[stage], confidences[stage], side="left")
            cells = cells * (sizes[stage] + 1) + bins
            passed_on = _reaching(cells, sizes[: stage + 1], losses[stage])
            loss -= passed_on[(...,) + (None,) * (len(sizes) - stage - 1)]
    return loss / n, cost / n


def _reaching(cells: NDArray[np.intp], sizes: tuple[int, ...], weights: Floats) -> Floats:
    """Sum of the weights of the rows passed on by the first stages, for every combination of theirs.

    A row with bin b exceeds exactly the thresholds 0 .. b - 1, so threshold t passes it on if t >= b.

    Args:
        cells: (n,) each row's bins at these stages, as a flat index of a table one longer on every axis.
        sizes: thresholds per stage.
        weights: (n,).
    """
    shape = tuple(size + 1 for size in sizes)
    table = np.bincount(cells, weights=weights, minlength=int(np.prod(shape))).reshape(shape)
    for axis in range(table.ndim):
        np.cumsum(table, axis=axis, out=table)
    return np.asarray(table[tuple(slice(0, size) for size in sizes)])
