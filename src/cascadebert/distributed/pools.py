"""Actors of each stage, and rows that each gets at once: from what a row costs and how many reach it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cascadebert.persistence.schema import CascadeSpec, StageSpec

ROWS = 2048  # that a stage computes at once: enough for full batches of most lengths
MAX_ROWS = 65_536  # that an actor is given at once
LEAST_REACHED = 1e-6  # fraction of the rows, for a stage that no example reached
TOKENS = 32  # of a text whose cost is compared
READING = 1  # processors left to tasks that read and write


@dataclass(frozen=True)
class StagePool:
    """The actors of one stage."""

    actors: int
    rows: int  # that an actor is given at once; those that are settled pass through
    num_cpus: float  # of each actor
    num_gpus: float = 0.0


def stage_pools(
    costs: Sequence[float], reached: Sequence[float], *, cpus: float, gpus: float = 0.0
) -> tuple[StagePool, ...]:
    """Pools of fixed sizes for stages of these costs of a row, in proportion to their shares of the work.

    Args:
        costs: (num_stages,) of a row at each stage, in any unit.
        reached: (num_stages,) fraction of the rows that reach it.
        cpus: processors of the cluster. With too few for whole ones, actors reserve none and share them:
            parts would leave no whole one to the tasks that read, and Ray would wait for it without an end.
        gpus: of the cluster. With any, the last stage has one actor for each, and it alone.

    >>> [pool.actors for pool in stage_pools([1, 10], [1.0, 0.5], cpus=13)]
    [2, 10]
    >>> [pool.rows for pool in stage_pools([1, 10], [1.0, 0.5], cpus=13)]
    [2048, 4096]
    >>> [(pool.actors, pool.num_cpus) for pool in stage_pools([1, 10], [1.0, 0.5], cpus=2)]
    [(1, 0.0), (2, 0.0)]
    """
    count = len(costs)
    on_gpu = [bool(gpus) and stage == count - 1 for stage in range(count)]
    usable = cpus - READING
    each = 1.0 if usable >= count else 0.0
    actors = [1] * count
    if on_gpu[-1]:
        actors[-1] = max(1, int(gpus))
    loads = np.array([cost * share for cost, share in zip(costs, reached, strict=True)])
    loads[on_gpu] = 0  # its size is settled
    while each and loads.any() and sum(actors) < usable:
        actors[int(np.argmax(loads / actors))] += 1
    if not each and loads.any():
        shares = cpus * loads / loads.sum()
        actors = [max(one, round(share)) for one, share in zip(actors, shares.tolist(), strict=True)]
    return tuple(
        StagePool(
            actors[stage],
            min(MAX_ROWS, math.ceil(ROWS / max(LEAST_REACHED, reached[stage]))),
            each,
            1.0 if on_gpu[stage] else 0.0,
        )
        for stage in range(count)
    )


def costs_of(spec: CascadeSpec) -> list[float]:
    """(num_stages,) cost of a row at each stage: measured seconds, else operations, else layers by width."""
    if spec.timing is not None:
        return [latency.row + TOKENS * latency.token for latency in spec.timing.stages]
    flops = [stage.flops for stage in spec.stages]
    if all(one is not None for one in flops):
        return [float(one.cost_of(np.array([TOKENS]))[0]) for one in flops if one is not None]
    return [_size(stage) for stage in spec.stages]


def _size(stage: StageSpec) -> float:
    return float(max(1, stage.layers * stage.hidden**2))


def reached_shares(deferral_rates: Sequence[float]) -> list[float]:
    """(num_stages,) fraction of the rows that reach each stage, if each defers these fractions of its own.

    >>> reached_shares([0.5, 0.2])
    [1.0, 0.5, 0.1]
    """
    return [math.prod(deferral_rates[:stage], start=1.0) for stage in range(len(deferral_rates) + 1)]
