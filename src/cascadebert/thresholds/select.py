"""Threshold search on cached outputs: no model is run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cascadebert.errors import CascadeError
from cascadebert.thresholds.grid import evaluate_grid, threshold_candidates
from cascadebert.thresholds.operating_point import Target
from cascadebert.thresholds.routing import exits_at_stage
from cascadebert.types import Bools, Floats, Ints

FEW_EXAMPLES, FOLDS, TOLERANCE = 100, 10, 1e-12


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

    @property
    def description(self) -> str:
        """The metrics in words."""
        gain = 100 * (self.last_stage_loss - self.loss)
        return f"speed-up {self.speedup:.2f}x with {1 - self.loss:.3f} correct ({gain:+.1f} points)"


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
        super().__init__(
            f"{name} {value} cannot be reached; the highest value is {best}. "
            f"Nearest: {target.option} {self.nearest_value:g} ({nearest.description})."
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


def cost_per_example(costs: Floats, n: int) -> Floats:
    """(num_stages, n) costs, from these or from (num_stages,) costs that are the same for all examples."""
    costs = np.asarray(costs, dtype=np.float64)
    return np.broadcast_to(costs[:, None], (len(costs), n)) if costs.ndim == 1 else costs


def speedup(exits: Ints, costs: Floats, last_stage_cost: float | None = None) -> float:
    """Total cost of the last stage alone over the total cost of the cascade.

    Args:
        exits: (n,) from `exit_stages`.
        costs: (num_stages, n), or (num_stages,) where every example costs the same.
        last_stage_cost: as for `select_thresholds`.

    >>> exits = np.repeat([0, 1], [377, 31])
    >>> round(speedup(exits, np.array([2.0, 12.0])), 4)
    4.1212
    """
    costs = cost_per_example(costs, len(exits))
    return float(_mean_last_stage_cost(costs, last_stage_cost) / cumulative_cost(exits, costs).mean())


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
    confidences, losses, costs = _validated(confidences, losses, costs)
    grids = threshold_candidates(confidences[:-1])
    loss, cost = evaluate_grid(confidences, losses, costs, grids)
    speedups = _mean_last_stage_cost(costs, last_stage_cost) / cost
    last_stage_loss = float(losses[-1].mean())
    index = _best_index(loss, speedups, last_stage_loss, target)
    indices = np.unravel_index(index, loss.shape)
    thresholds = tuple(float(grid[i]) for grid, i in zip(grids, indices, strict=True))
    selection = evaluate_thresholds(thresholds, confidences, losses, costs, last_stage_cost=last_stage_cost)
    if not _meets(np.array(selection.loss), np.array(selection.speedup), last_stage_loss, target):
        raise InfeasibleTarget(target, selection)
    return selection


def cross_validate(
    confidences: Floats,
    losses: Floats,
    costs: Floats,
    *,
    target: Target,
    last_stage_cost: float | None = None,
) -> float | None:
    """Mean loss by ten-fold cross-validation of `select_thresholds`, with its arguments; None for n < 10.

    The loss of a selection on its own examples is optimistically biased, as it is the best of many points
    there. A fold whose rest cannot meet the target uses the nearest selection. The folds are the same in
    every call.

    >>> uniform = np.random.default_rng(0).uniform(size=(3, 200))
    >>> wrong = np.stack([uniform[1] > uniform[0], uniform[2] > 0.9]).astype(float)
    >>> arrays = (np.stack([uniform[0], np.ones(200)]), wrong, np.array([1.0, 6.0]))
    >>> target = Target(max_accuracy_drop=0.0)
    >>> select_thresholds(*arrays, target=target).loss, cross_validate(*arrays, target=target)
    (0.075, 0.09)
    """
    confidences, losses, costs = _validated(confidences, losses, costs)
    n = confidences.shape[1]
    if n < FOLDS:
        return None
    held_out_loss = np.empty(n)
    for fold in np.array_split(np.random.default_rng(0).permutation(n), FOLDS):
        rest = np.setdiff1d(np.arange(n), fold)
        arrays = (array[:, rest] for array in (confidences, losses, costs))
        try:
            selection = select_thresholds(*arrays, target=target, last_stage_cost=last_stage_cost)
        except InfeasibleTarget as error:
            selection = error.nearest
        held_out_loss[fold] = losses[exit_stages(confidences[:, fold], selection.thresholds), fold]
    return float(held_out_loss.mean())


def evaluate_thresholds(
    thresholds: tuple[float, ...],
    confidences: Floats,
    losses: Floats,
    costs: Floats,
    *,
    last_stage_cost: float | None = None,
) -> ThresholdSelection:
    """Metrics of given thresholds; the other arguments are those of `select_thresholds`."""
    confidences, losses, costs = _validated(confidences, losses, costs)
    exits = exit_stages(confidences, thresholds)
    rates = np.bincount(exits, minlength=len(confidences)) / len(exits)
    gain = speedup(exits, costs, last_stage_cost)
    return ThresholdSelection(
        thresholds=thresholds,
        n=len(exits),
        loss=float(losses[exits, np.arange(len(exits))].mean()),
        last_stage_loss=float(losses[-1].mean()),
        exit_rates=tuple(rates.tolist()),
        speedup=gain,
        notices=_notices(rates, gain, len(exits)),
    )


def pareto_front(
    confidences: Floats, losses: Floats, costs: Floats, *, last_stage_cost: float | None = None
) -> ParetoFront:
    """Pareto-optimal points among the candidates, with the arguments of `select_thresholds`.

    >>> front = pareto_front(np.array([[0.9, 0.6], [1, 1]]), np.array([[0, 1], [0, 0]]), np.array([1, 4]))
    >>> front.speedups.tolist(), front.losses.tolist()
    ([1.3333333333333333, 4.0], [0.0, 0.5])
    """
    confidences, losses, costs = _validated(confidences, losses, costs)
    grids = threshold_candidates(confidences[:-1])
    loss, cost = evaluate_grid(confidences, losses, costs, grids)
    speedups = (_mean_last_stage_cost(costs, last_stage_cost) / cost).ravel()
    rounded = np.round(loss, 12).ravel()
    order = np.lexsort((rounded, -speedups))
    best_faster = np.concatenate([[np.inf], np.minimum.accumulate(rounded[order])[:-1]])
    front = order[rounded[order] < best_faster][::-1]
    indices = np.unravel_index(front, loss.shape)
    thresholds = np.stack([grid[i] for grid, i in zip(grids, indices, strict=True)], axis=1)
    return ParetoFront(thresholds, speedups[front], rounded[front])


def _mean_last_stage_cost(costs: Floats, last_stage_cost: float | None) -> float:
    return float(costs[-1].mean()) if last_stage_cost is None else last_stage_cost


def _validated(confidences: Floats, losses: Floats, costs: Floats) -> tuple[Floats, Floats, Floats]:
    confidences = np.asarray(confidences, dtype=np.float64)
    if confidences.ndim != 2 or confidences.shape[1] == 0:
        raise CascadeError(
            f"confidences must have shape (num_stages, n) with n of at least 1, not {confidences.shape}"
        )
    losses = np.asarray(losses, dtype=np.float64)
    costs = cost_per_example(costs, confidences.shape[1])
    for name, array in (("confidences", confidences), ("losses", losses), ("costs", costs)):
        if array.shape != confidences.shape:
            raise CascadeError(f"{name} have shape {array.shape}, expected {confidences.shape}")
        check_finite(array, name)
    return confidences, losses, costs


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


def _best_index(loss: Floats, speedups: Floats, last_stage_loss: float, target: Target) -> int:
    """Flat index of the best combination, or of the nearest one where none meets the target."""
    candidates = np.flatnonzero(_meets(loss, speedups, last_stage_loss, target))
    feasible = len(candidates) > 0
    if not feasible:
        candidates = np.arange(loss.size)
    rounded, slowdown = np.round(loss, 12).ravel()[candidates], -speedups.ravel()[candidates]
    # the last key is the first criterion: the quantity that is free, or, if infeasible, the target's own
    loss_first = (target.name == "speedup") == feasible
    return int(candidates[np.lexsort((slowdown, rounded) if loss_first else (rounded, slowdown))[0]])


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
