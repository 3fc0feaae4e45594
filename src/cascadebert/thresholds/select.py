"""Threshold search on cached outputs: no model is run.

Loss and cost of every combination of thresholds come from cumulative sums over a table of binned confidences.
With one threshold every distinct confidence is a candidate, so the search is exact; with more, candidates are
quantiles, as many per stage as a table of about a million cells allows.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cascadebert.errors import CascadeError
from cascadebert.thresholds.operating_point import Target
from cascadebert.thresholds.routing import exits_at_stage
from cascadebert.types import Bools, Floats, Ints

FEW_EXAMPLES, FOLDS, TOLERANCE = 100, 10, 1e-12
TABLE_CELLS, MAX_THRESHOLDS, COST_BINS = 2**20, 6, 2**12


@dataclass(frozen=True)
class TuningArrays:
    """Outputs of every stage for n examples: all that a search for thresholds reads.

    Raises CascadeError if shapes differ, n is 0, or a value is not finite.
    """

    confidences: Floats  # (num_stages, n) in [0, 1]; those of the last stage are not used
    losses: Floats  # (num_stages, n)
    costs: Floats  # (num_stages, n), expanded from (num_stages,) where every example costs the same
    last_stage_cost: float | None = None  # mean of the last stage alone, if it is not that of `costs[-1]`

    def __post_init__(self) -> None:
        confidences = np.asarray(self.confidences, dtype=np.float64)
        if confidences.ndim != 2 or confidences.shape[1] == 0:
            raise CascadeError(
                f"confidences must have shape (num_stages, n) with n of at least 1, not {confidences.shape}"
            )
        losses = np.asarray(self.losses, dtype=np.float64)
        costs = _cost_per_example(self.costs, confidences.shape[1])
        for name, array in (("confidences", confidences), ("losses", losses), ("costs", costs)):
            if array.shape != confidences.shape:
                raise CascadeError(f"{name} have shape {array.shape}, expected {confidences.shape}")
            check_finite(array, name)
            object.__setattr__(self, name, array)

    @property
    def mean_last_stage_cost(self) -> float:
        """Mean cost of an example when the last stage runs alone."""
        return float(self.costs[-1].mean()) if self.last_stage_cost is None else self.last_stage_cost

    def take(self, indices: Ints) -> TuningArrays:
        """The examples at these indices."""
        arrays = (self.confidences, self.losses, self.costs)
        confidences, losses, costs = (array[:, indices] for array in arrays)
        return TuningArrays(confidences, losses, costs, self.last_stage_cost)


@dataclass(frozen=True)
class ThresholdSelection:
    """Selected thresholds and their metrics on the tuning set."""

    thresholds: tuple[float, ...]  # (num_stages - 1,)
    n: int  # examples
    loss: float  # mean loss of the cascade
    last_stage_loss: float  # mean loss of the last stage alone
    exit_rates: tuple[float, ...]  # (num_stages,) fraction of the examples that exit at each stage
    speedup: float  # cost of the last stage alone over the cost of the cascade
    notices: tuple[str, ...]  # warnings, one sentence each


class InfeasibleTarget(CascadeError):
    """No thresholds meet the target; `nearest` is the closest selection."""

    def __init__(self, target: Target, nearest: ThresholdSelection, *, unit: str = "") -> None:
        self.target = target
        self.nearest = nearest
        if target.name == "speedup":
            name, best = "speed-up", f"{nearest.speedup:.2f}x {unit}".strip()
            value, self.nearest_value = f"{target.value:g}x", np.floor(nearest.speedup * 100) / 100
        else:
            name, best = target.name, f"{1 - nearest.loss:.4f}"
            value, self.nearest_value = f"{target.value:g}", np.floor((1 - nearest.loss) * 1e4) / 1e4
        gain = 100 * (nearest.last_stage_loss - nearest.loss)
        super().__init__(
            f"{name} {value} cannot be reached; the highest value is {best}. "
            f"Nearest: {target.option} {self.nearest_value:g} (speed-up {nearest.speedup:.2f}x with "
            f"{1 - nearest.loss:.3f} correct ({gain:+.1f} points))."
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON: `feasible` is false, and `nearest` is the closest selection."""
        undefined = dict.fromkeys(("thresholds", "accuracy", "exit_rates", "expected_speedup"))
        nearest = {"target": self.target.name, "value": float(self.nearest_value), **asdict(self.nearest)}
        return {"feasible": False, "n": self.nearest.n, **undefined, "nearest": nearest}


@dataclass(frozen=True)
class ParetoFront:
    """Operating points that no other beats in both cost and loss, from slow to fast."""

    thresholds: Floats  # (points, num_stages - 1)
    speedups: Floats  # (points,) rising
    losses: Floats  # (points,) rising


def exit_stages(confidences: Floats, thresholds: tuple[float, ...]) -> Ints:
    """(n,) stage, counted from 0, at which each example exits, from (num_stages, n) confidences.

    >>> exit_stages(np.array([[0.9, 0.6], [0.5, 0.5]]), (0.8,)).tolist()
    [0, 1]
    """
    exits = [exits_at_stage(row, t) for row, t in zip(confidences, (*thresholds, None), strict=True)]
    return np.asarray(np.argmax(exits, axis=0))


def cumulative_cost(exits: Ints, costs: Floats) -> Floats:
    """(n,) cost of all stages up to the exit (Li et al. 2021, section 4), from (num_stages, n) costs."""
    return np.asarray(np.cumsum(costs, axis=0)[exits, np.arange(len(exits))])


def _cost_per_example(costs: Floats, n: int) -> Floats:
    costs = np.asarray(costs, dtype=np.float64)
    return np.broadcast_to(costs[:, None], (len(costs), n)) if costs.ndim == 1 else costs


def speedup(exits: Ints, costs: Floats, last_stage_cost: float | None = None) -> float:
    """Total cost of the last stage alone over the total cost of the cascade.

    `exits` are (n,) from `exit_stages`; the costs are those of `select_thresholds`.

    >>> exits = np.repeat([0, 1], [377, 31])
    >>> round(speedup(exits, np.array([2.0, 12.0])), 4)
    4.1212
    """
    costs = _cost_per_example(costs, len(exits))
    last_stage = float(costs[-1].mean()) if last_stage_cost is None else last_stage_cost
    return float(last_stage / cumulative_cost(exits, costs).mean())


def select_thresholds(
    confidences: Floats,
    losses: Floats,
    costs: Floats,
    *,
    target: Target,
    last_stage_cost: float | None = None,
) -> ThresholdSelection:
    """Thresholds that meet `target`: lowest loss for a speed-up, otherwise the highest speed-up.

    Args:
        confidences: (num_stages, n) in [0, 1]; those of the last stage are not used.
        losses: (num_stages, n) loss of each stage's prediction, 0 if correct and 1 if wrong. For agreement:
            1 where the prediction differs from the last stage's.
        costs: (num_stages, n), or (num_stages,) where every example costs the same; any unit.
        target: constraint on these examples.
        last_stage_cost: mean cost of the last stage alone, where it is not the mean of `costs[-1]`: work that
            stages share, such as tokenization, is included in the cost of the first stage.

    Returns:
        The thresholds with their loss, exit rates and speed-up on these examples.

    Raises:
        InfeasibleTarget: if no thresholds meet the target; its `nearest` is the closest selection.
        CascadeError: if shapes differ, n is 0, or a value is not finite.

    >>> selection = select_thresholds(
    ...     np.array([[0.9, 0.8, 0.6, 0.5], [1.0, 1.0, 1.0, 1.0]]),
    ...     np.array([[0, 0, 1, 1], [0, 0, 0, 0]]), np.array([1.0, 6.0]), target=Target(speedup=1.5))
    >>> selection.thresholds, selection.loss, selection.speedup
    ((0.7,), 0.0, 1.5)
    """
    return search_thresholds(TuningArrays(confidences, losses, costs, last_stage_cost), target)


def search_thresholds(arrays: TuningArrays, target: Target) -> ThresholdSelection:
    """`select_thresholds` on arrays that are validated already."""
    return select_on_front(arrays, pareto_front(arrays), target)


def select_on_front(arrays: TuningArrays, front: ParetoFront, target: Target) -> ThresholdSelection:
    """`search_thresholds` where the Pareto front of the arrays is known."""
    last_stage_loss = float(arrays.losses[-1].mean())
    feasible = np.flatnonzero(_meets(front.losses, front.speedups, last_stage_loss, target))
    # of the feasible points, the one of lowest loss is the slowest; without any, the nearest is at an end
    first, last = (feasible[0], feasible[-1]) if len(feasible) else (-1, 0)
    index = first if target.name == "speedup" else last
    selection = evaluate_thresholds(arrays, tuple(front.thresholds[index].tolist()))
    if not _meets(np.array(selection.loss), np.array(selection.speedup), last_stage_loss, target):
        raise InfeasibleTarget(target, selection)
    return selection


def cross_validate(arrays: TuningArrays, target: Target) -> float | None:
    """Mean loss by ten-fold cross-validation of `search_thresholds`; None for n < 10.

    The loss of a selection on its own examples is optimistically biased, as it is the best of many points
    there. A fold whose rest cannot meet the target uses the nearest selection. The folds are the same in
    every call.

    >>> uniform = np.random.default_rng(0).uniform(size=(3, 200))
    >>> wrong = np.stack([uniform[1] > uniform[0], uniform[2] > 0.9])
    >>> arrays = TuningArrays(np.stack([uniform[0], np.ones(200)]), wrong, np.array([1.0, 6.0]))
    >>> target = Target(max_accuracy_drop=0.0)
    >>> search_thresholds(arrays, target).loss, cross_validate(arrays, target)
    (0.075, 0.09)
    """
    n = arrays.losses.shape[1]
    if n < FOLDS:
        return None
    held_out_loss = np.empty(n)
    for fold in np.array_split(np.random.default_rng(0).permutation(n), FOLDS):
        try:
            selection = search_thresholds(arrays.take(np.setdiff1d(np.arange(n), fold)), target)
        except InfeasibleTarget as error:
            selection = error.nearest
        exits = exit_stages(arrays.confidences[:, fold], selection.thresholds)
        held_out_loss[fold] = arrays.losses[exits, fold]
    return float(held_out_loss.mean())


def evaluate_thresholds(arrays: TuningArrays, thresholds: tuple[float, ...]) -> ThresholdSelection:
    """Metrics of given thresholds."""
    exits = exit_stages(arrays.confidences, thresholds)
    rates = np.bincount(exits, minlength=len(arrays.losses)) / len(exits)
    gain = speedup(exits, arrays.costs, arrays.last_stage_cost)
    return ThresholdSelection(
        thresholds=thresholds,
        n=len(exits),
        loss=float(arrays.losses[exits, np.arange(len(exits))].mean()),
        last_stage_loss=float(arrays.losses[-1].mean()),
        exit_rates=tuple(rates.tolist()),
        speedup=gain,
        notices=_notices(rates, gain, len(exits)),
    )


def pareto_front(arrays: TuningArrays) -> ParetoFront:
    """Pareto-optimal points among the candidates of every combination of thresholds.

    >>> arrays = TuningArrays(np.array([[0.9, 0.6], [1, 1]]), np.array([[0, 1], [0, 0]]), np.array([1, 4]))
    >>> front = pareto_front(arrays)
    >>> front.speedups.tolist(), front.losses.tolist()
    ([1.3333333333333333, 4.0], [0.0, 0.5])
    """
    grids = _threshold_candidates(arrays.confidences[:-1])
    loss, cost = _evaluate_grid(arrays, grids)
    speedups, rounded = (arrays.mean_last_stage_cost / cost).ravel(), np.round(loss, 12).ravel()
    # most points lose to one of a cheaper bin, and only the others need sorting
    bins = (COST_BINS * (cost.ravel() / (cost.max() or 1.0))).astype(np.int64)
    best = np.full(COST_BINS + 2, np.inf)
    np.minimum.at(best, bins + 1, rounded)
    candidates = np.flatnonzero(rounded < np.minimum.accumulate(best)[bins])
    order = candidates[np.lexsort((rounded[candidates], -speedups[candidates]))]
    best_faster = np.concatenate([[np.inf], np.minimum.accumulate(rounded[order])[:-1]])
    front = order[rounded[order] < best_faster][::-1]
    if not grids:  # a single stage has no threshold
        return ParetoFront(np.empty((1, 0)), speedups, rounded)
    indices = np.unravel_index(front, loss.shape)
    thresholds = np.stack([grid[i] for grid, i in zip(grids, indices, strict=True)], axis=1)
    return ParetoFront(thresholds, speedups[front], rounded[front])


def _threshold_candidates(confidences: Floats) -> list[Floats]:
    """Rising thresholds per stage, from "all exit" over midpoints between neighbors to "none exits".

    The lowest lies just under the least confidence instead of at 0: a new text with a confidence below all
    that were tuned on is still deferred.
    """
    stages = len(confidences)
    if stages > MAX_THRESHOLDS:
        raise CascadeError(
            f"thresholds for at most {MAX_THRESHOLDS + 1} stages can be searched, not {stages + 1}"
        )
    size = int(TABLE_CELLS ** (1 / max(stages, 1)))
    grids = []
    for values in np.sort(confidences):
        if stages > 1:
            values = values[np.linspace(0, len(values) - 1, min(len(values), size)).astype(np.int64)]
        values = np.unique(values)
        middle = values[:-1] + (values[1:] - values[:-1]) / 2
        grids.append(np.concatenate([[np.nextafter(values[0], 0.0)], middle, [1.0]]))
    return grids


def _evaluate_grid(arrays: TuningArrays, grids: list[Floats]) -> tuple[Floats, Floats]:
    """Mean loss and mean cost of every combination of thresholds, one axis per stage but the last."""
    n, sizes = arrays.losses.shape[1], tuple(len(grid) for grid in grids)
    loss, cost = np.zeros(sizes), np.zeros(sizes)
    cells: NDArray[np.intp] = np.zeros(n, dtype=np.intp)
    for stage, losses in enumerate(arrays.losses):
        cost += _deferred_sums(cells, sizes, stage, arrays.costs[stage])
        loss += _deferred_sums(cells, sizes, stage, losses)
        if stage < len(grids):
            bins = np.searchsorted(grids[stage], arrays.confidences[stage], side="left")
            cells = cells * (sizes[stage] + 1) + bins
            loss -= _deferred_sums(cells, sizes, stage + 1, losses)
    return loss / n, cost / n


def _deferred_sums(cells: NDArray[np.intp], sizes: tuple[int, ...], stages: int, weights: Floats) -> Floats:
    """Sum of the (n,) weights of the examples that the first stages defer, per combination of thresholds.

    `cells` are the bins at these stages as (n,) flat indices of a table that is one longer on every axis.
    Bin b exceeds exactly the thresholds 0 .. b - 1, so threshold t defers it if t >= b. Later axes have
    length 1.
    """
    shape = tuple(size + 1 for size in sizes[:stages])
    table = np.bincount(cells, weights=weights, minlength=int(np.prod(shape))).reshape(shape)
    for axis in range(stages):
        np.cumsum(table, axis=axis, out=table)
    inner = table[tuple(slice(size) for size in sizes[:stages])]
    return np.asarray(inner[(...,) + (None,) * (len(sizes) - stages)])


def check_finite(array: Floats, name: str) -> None:
    """Raise CascadeError with stage and example if a value of the (num_stages, n) array is not finite."""
    if not np.isfinite(array).all():
        stage, i = np.argwhere(~np.isfinite(array))[0]
        raise CascadeError(
            f"{name} of stage {stage + 1}, example {i + 1}: {array[stage, i]} is not a finite number"
        )


def _meets(loss: Floats, speedups: Floats, last_stage_loss: float, target: Target) -> Bools:
    if target.name == "speedup":
        return np.asarray(speedups >= target.value * (1 - TOLERANCE))
    allowed = last_stage_loss + target.value if target.name == "max_accuracy_drop" else 1 - target.value
    return np.asarray(loss <= allowed + TOLERANCE)


def _notices(rates: Floats, gain: float, n: int) -> tuple[str, ...]:
    notices = []
    if n < FEW_EXAMPLES:
        notices.append(
            f"thresholds were selected on {n} examples only: a fraction of so few is uncertain by about "
            f"{100 / np.sqrt(n):.0f} points (95 %). Give {FEW_EXAMPLES} examples or more."
        )
    for number, rate in enumerate(rates[:-1], start=1):
        if rate == 0:
            notices.append(f"no text exits at stage {number}: it costs time and predicts nothing. Drop it.")
    last_used = int(np.flatnonzero(rates)[-1]) + 1
    if last_used < len(rates):
        notices.append(
            f"every text exits by stage {last_used}: on these examples later stages are not needed. A text "
            "of lower confidence than all of them is still deferred; check the exit rates on your traffic."
        )
    if gain < 1:
        notices.append(f"do not cascade here: at {gain:.2f}x it is slower than the last stage alone.")
    return tuple(notices)
