"""Which thresholds meet a target. Pure: arrays in, a choice out; no model is run here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cascadebert.errors import CascadeError
from cascadebert.thresholds.grid import evaluate_grid, threshold_candidates
from cascadebert.thresholds.operating_point import Target
from cascadebert.thresholds.routing import exits_at_stage
from cascadebert.types import Floats, Ints

FEW_ROWS, FOLDS = 100, 10


@dataclass(frozen=True)
class ThresholdSelection:
    """Thresholds and what they give on the rows they were picked on.

    Attributes:
        thresholds: (num_stages - 1,).
        n: number of rows.
        loss: mean loss of the cascade.
        last_loss: mean loss of the last stage alone.
        exit_rates: (num_stages,) share of rows answered at each stage.
        speedup: cost of the last stage alone over the cost of the cascade.
        notices: what a user must hear about these thresholds, one sentence each.
    """

    thresholds: tuple[float, ...]
    n: int
    loss: float
    last_loss: float
    exit_rates: tuple[float, ...]
    speedup: float
    notices: tuple[str, ...]

    @property
    def words(self) -> str:
        """The figures of this point in words."""
        drop = 100 * (self.loss - self.last_loss)
        return f"speed-up {self.speedup:.2f}x with {1 - self.loss:.3f} right ({-drop:+.1f} points)"


class InfeasibleTarget(CascadeError):
    """No thresholds meet the target; `nearest` is the closest point there is."""

    def __init__(self, target: Target, nearest: ThresholdSelection, *, unit: str = "") -> None:
        self.target = target
        self.nearest = nearest
        if target.name == "speedup":
            self.nearest_value = np.floor(nearest.speedup * 100) / 100
            most = f"{nearest.speedup:.2f}x {unit}".strip()
            reached = f"speed-up {target.value:g}x cannot be reached: at most it is {most}"
        else:
            self.nearest_value = np.floor((1 - nearest.loss) * 1e4) / 1e4
            most = f"at most it is {1 - nearest.loss:.4f}"
            reached = f"{target.name} {target.value:g} cannot be reached: {most}"
        super().__init__(f"{reached}. Nearest: {target.option} {self.nearest_value:g} ({nearest.words}).")

    def as_dict(self) -> dict[str, Any]:
        """The refusal as plain values: `feasible` is false and `nearest` is what can be had."""
        return {
            "feasible": False,
            "thresholds": None,
            "n": self.nearest.n,
            "accuracy": None,
            "exit_rates": None,
            "expected_speedup": None,
            "nearest": {
                "target": self.target.name,
                "value": float(self.nearest_value),
                "thresholds": self.nearest.thresholds,
                "right": 1 - self.nearest.loss,
                "exit_rates": self.nearest.exit_rates,
                "speedup": self.nearest.speedup,
            },
        }


def exit_stages(confidences: Floats, thresholds: tuple[float, ...]) -> Ints:
    """The stage, counted from 0, at which each row leaves if every stage saw every row.

    The rule is `exits_at_stage`.

    Args:
        confidences: (num_stages, n).
        thresholds: (num_stages - 1,).

    >>> exit_stages(np.array([[0.9, 0.6], [0.5, 0.5]]), (0.8,)).tolist()
    [0, 1]
    """
    out = [exits_at_stage(row, t) for row, t in zip(confidences, (*thresholds, None), strict=True)]
    return np.asarray(np.argmax(out, axis=0))


def cumulative_cost(exits: Ints, costs: Floats) -> Floats:
    """Cost of each row: every stage up to the one it left at (Li et al. 2021, section 4).

    Args:
        exits: (n,) from `exit_stages`.
        costs: (num_stages, n) of one row at one stage.
    """
    return np.asarray(np.cumsum(costs, axis=0)[exits, np.arange(len(exits))])


def speedup(exits: Ints, costs: Floats, last_stage_cost: float | None = None) -> float:
    """Cost of the last stage alone over the cost paid, both summed over the rows.

    Args:
        exits: (n,) from `exit_stages`.
        costs: (num_stages, n), or (num_stages,) where every row costs the same.
        last_stage_cost: mean cost of a row at the last stage alone, where it is not its part of `costs`.

    >>> leave = np.repeat([0, 1], [377, 31])
    >>> round(speedup(leave, np.array([2.0, 12.0])), 4)
    4.1212
    """
    costs = _per_row(costs, len(exits))
    return float(
        (costs[-1].mean() if last_stage_cost is None else last_stage_cost)
        / cumulative_cost(exits, costs).mean()
    )


def select_thresholds(
    confidences: Floats,
    losses: Floats,
    costs: Floats,
    *,
    target: Target,
    last_stage_cost: float | None = None,
) -> ThresholdSelection:
    """The thresholds that meet `target`: lowest loss for a speed-up, else the highest speed-up.

    Args:
        confidences: (num_stages, n) in [0, 1]; the last stage's are not looked at.
        losses: (num_stages, n) of the answer of each stage, 0 right and 1 wrong. For agreement:
            1 where the answer differs from the last stage's.
        costs: (num_stages, n), or (num_stages,) where every row costs the same; any unit.
        target: what must hold on these rows.
        last_stage_cost: mean cost of a row at the last stage alone, where it is not its part of `costs`: work that
            stages share, such as tokenising, is in the first one's.

    Raises:
        InfeasibleTarget: if no thresholds meet it; carries the nearest point.
        CascadeError: if shapes differ, n is 0, or a value is not finite.

    >>> choice = select_thresholds(
    ...     np.array([[0.9, 0.8, 0.6, 0.5], [1.0, 1.0, 1.0, 1.0]]),
    ...     np.array([[0, 0, 1, 1], [0, 0, 0, 0]]), np.array([1.0, 6.0]), target=Target(speedup=1.5))
    >>> choice.thresholds, choice.loss, choice.speedup
    ((0.7,), 0.0, 1.5)
    """
    confidences, losses, costs = _checked(confidences, losses, costs)
    grids = threshold_candidates(confidences[:-1])
    loss, cost = evaluate_grid(confidences, losses, costs, grids)
    gains = (costs[-1].mean() if last_stage_cost is None else last_stage_cost) / cost
    last_loss = float(losses[-1].mean())
    best = _pick(loss, gains, last_loss, target)
    point = tuple(float(grid[i]) for grid, i in zip(grids, np.unravel_index(best, loss.shape), strict=True))
    choice = _measured(point, confidences, losses, costs, last_stage_cost)
    if not _meets(np.array(choice.loss), np.array(choice.speedup), last_loss, target):
        raise InfeasibleTarget(target, choice)
    return choice


def cross_validate(
    confidences: Floats,
    losses: Floats,
    costs: Floats,
    *,
    target: Target,
    last_stage_cost: float | None = None,
) -> float | None:
    """Mean loss on rows that thresholds were not picked on: ten folds, each by thresholds of the other nine.

    What `select_thresholds` says of its own rows flatters, as it is the best of many points there; thresholds
    picked anew on nine tenths, and read on the last tenth, show by how much. Where a fold's rows cannot meet
    the target, its nearest point stands in. The folds are the same in every call.

    Args:
        confidences: (num_stages, n).
        losses: (num_stages, n).
        costs: (num_stages, n) or (num_stages,).
        target: as for `select_thresholds`.
        last_stage_cost: likewise.

    Returns:
        The mean, or None for fewer than ten rows.

    >>> rows = np.random.default_rng(0).uniform(size=(3, 200))
    >>> wrong = np.stack([rows[1] > rows[0], rows[2] > 0.9]).astype(float)
    >>> given = (np.stack([rows[0], np.ones(200)]), wrong, np.array([1.0, 6.0]))
    >>> asked = Target(max_accuracy_drop=0.0)
    >>> select_thresholds(*given, target=asked).loss, cross_validate(*given, target=asked)
    (0.075, 0.09)
    """
    confidences, losses, costs = _checked(confidences, losses, costs)
    n = confidences.shape[1]
    if n < FOLDS:
        return None
    lost = np.empty(n)
    for fold in np.array_split(np.random.default_rng(0).permutation(n), FOLDS):
        others = np.setdiff1d(np.arange(n), fold)
        kept = (array[:, others] for array in (confidences, losses, costs))
        try:
            point = select_thresholds(*kept, target=target, last_stage_cost=last_stage_cost).thresholds
        except InfeasibleTarget as refused:
            point = refused.nearest.thresholds
        lost[fold] = losses[exit_stages(confidences[:, fold], point), fold]
    return float(lost.mean())


@dataclass(frozen=True)
class ParetoFront:
    """Every operating point that no other beats in both cost and loss, from slow to fast.

    Attributes:
        thresholds: (points, num_stages - 1).
        speedups: (points,) rising.
        losses: (points,) rising.
    """

    thresholds: Floats
    speedups: Floats
    losses: Floats


def evaluate_thresholds(
    thresholds: tuple[float, ...],
    confidences: Floats,
    losses: Floats,
    costs: Floats,
    *,
    last_stage_cost: float | None = None,
) -> ThresholdSelection:
    """What given thresholds come to; the other arguments are those of `select_thresholds`.

    Args:
        thresholds: (num_stages - 1,).
        confidences: (num_stages, n).
        losses: (num_stages, n).
        costs: (num_stages, n) or (num_stages,).
        last_stage_cost: mean cost of a row at the last stage alone, where it is not its part of `costs`.
    """
    return _measured(thresholds, *_checked(confidences, losses, costs), last_stage_cost)


def pareto_front(
    confidences: Floats, losses: Floats, costs: Floats, *, last_stage_cost: float | None = None
) -> ParetoFront:
    """Every operating point that no other beats in both (the Pareto set over the candidates).

    Args:
        confidences: (num_stages, n).
        losses: (num_stages, n).
        costs: (num_stages, n) or (num_stages,).
        last_stage_cost: as for `select_thresholds`.

    >>> found = pareto_front(np.array([[0.9, 0.6], [1, 1]]), np.array([[0, 1], [0, 0]]), np.array([1, 4]))
    >>> found.speedups.tolist(), found.losses.tolist()
    ([1.3333333333333333, 4.0], [0.0, 0.5])
    """
    confidences, losses, costs = _checked(confidences, losses, costs)
    grids = threshold_candidates(confidences[:-1])
    loss, cost = evaluate_grid(confidences, losses, costs, grids)
    gains = ((costs[-1].mean() if last_stage_cost is None else last_stage_cost) / cost).ravel()
    lost = np.round(loss, 12).ravel()
    order = np.lexsort((lost, -gains))
    best = lost[order] < np.concatenate([[np.inf], np.minimum.accumulate(lost[order])[:-1]])
    kept = order[best][::-1]
    places = np.unravel_index(kept, loss.shape)
    points = np.stack([grid[i] for grid, i in zip(grids, places, strict=True)], axis=1)
    return ParetoFront(points, gains[kept], lost[kept])


def _per_row(costs: Floats, n: int) -> Floats:
    costs = np.asarray(costs, dtype=np.float64)
    return np.broadcast_to(costs[:, None], (len(costs), n)) if costs.ndim == 1 else costs


def _checked(confidences: Floats, losses: Floats, costs: Floats) -> tuple[Floats, Floats, Floats]:
    confidences = np.asarray(confidences, dtype=np.float64)
    if confidences.ndim != 2 or confidences.shape[1] == 0:
        raise CascadeError(
            f"confidences must have shape (num_stages, n) with n of at least 1, not {confidences.shape}"
        )
    losses = np.asarray(losses, dtype=np.float64)
    costs = _per_row(costs, confidences.shape[1])
    for name, array in (("confidences", confidences), ("losses", losses), ("costs", costs)):
        if array.shape != confidences.shape:
            raise CascadeError(f"{name} have shape {array.shape}, expected {confidences.shape}")
        if not np.isfinite(array).all():
            stage, row = np.argwhere(~np.isfinite(array))[0]
            bad = array[stage, row]
            raise CascadeError(f"{name} of stage {stage + 1}, row {row + 1}: {bad} is not a finite number")
    return confidences, losses, costs


def _meets(loss: Floats, gains: Floats, last_loss: float, target: Target) -> NDArray[np.bool_]:
    slack = 1e-12
    if target.name == "speedup":
        return np.asarray(gains >= target.value * (1 - slack))
    allowed = last_loss + target.value if target.name == "max_accuracy_drop" else 1 - target.value
    return np.asarray(loss <= allowed + slack)


def _pick(loss: Floats, gains: Floats, last_loss: float, target: Target) -> int:
    """Flat index of the best combination, or of the nearest one where none meets the target."""
    meets = _meets(loss, gains, last_loss, target).ravel()
    rounded = np.round(loss, 12).ravel()
    gain = gains.ravel()
    by_speed = target.name != "speedup"
    if not meets.any():
        by_speed = not by_speed
        meets = np.ones_like(meets)
    keys = (rounded, -gain) if by_speed else (-gain, rounded)
    where = np.flatnonzero(meets)
    return int(where[np.lexsort(tuple(key[where] for key in keys))[0]])


def _measured(
    point: tuple[float, ...],
    confidences: Floats,
    losses: Floats,
    costs: Floats,
    last_stage_cost: float | None,
) -> ThresholdSelection:
    """What the thresholds give, by routing the rows rather than from the table."""
    exits = exit_stages(confidences, point)
    rates = np.bincount(exits, minlength=len(confidences)) / len(exits)
    gain = speedup(exits, costs, last_stage_cost)
    return ThresholdSelection(
        thresholds=point,
        n=len(exits),
        loss=float(losses[exits, np.arange(len(exits))].mean()),
        last_loss=float(losses[-1].mean()),
        exit_rates=tuple(float(rate) for rate in rates),
        speedup=gain,
        notices=_notices(rates, gain, len(exits)),
    )


def _notices(rates: Floats, gain: float, n: int) -> tuple[str, ...]:
    said = []
    if n < FEW_ROWS:
        said.append(
            f"thresholds were picked on {n} rows only: a share read off so few is uncertain by about "
            f"{100 / np.sqrt(n):.0f} points (95 %). Give {FEW_ROWS} rows or more."
        )
    for number, rate in enumerate(rates[:-1], start=1):
        if rate == 0:
            said.append(f"no row leaves at stage {number}: it costs time and answers nothing. Drop it.")
    last_used = int(np.flatnonzero(rates)[-1]) + 1
    if last_used < len(rates):
        said.append(
            f"every row leaves by stage {last_used}: on these rows later stages are not needed. A row less "
            "sure than all of these is still passed on; check the exit rates on your own traffic."
        )
    if gain < 1:
        said.append(f"do not cascade here: at {gain:.2f}x it is slower than the last stage alone.")
    return tuple(said)
