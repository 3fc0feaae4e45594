"""Does a certificate hold as often as it says, and what does it cost in speed?

A pool of rows is the population: its risk at every operating point is known. Certify rows are drawn from it
with replacement, 1,000 times; a violation is a draw in which a certified point of the path breaks its promise
in the pool. The path is frozen on rows outside the pool. The control picks, without a correction, the fastest
point of the path that keeps the promise on the certify rows. From the repository's root:

    python benchmarks/coverage.py answers --data ../shared/data   # after benchmarks/cascades.py; keeps arrays
    python benchmarks/coverage.py draws                           # from these arrays; minutes

Results: results/trust/answers/TASK.npz and results/trust/coverage.json.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cascadebert import Cascade
from cascadebert.cli.render import configure_logging
from cascadebert.data.dataset import load_examples
from cascadebert.evaluation.cost_model import measure_latency
from cascadebert.evaluation.evaluate import scaled_probabilities
from cascadebert.thresholds.confidence import max_probability
from cascadebert.thresholds.operating_point import Guarantee
from cascadebert.thresholds.risk_control import (
    StageOutputs,
    certify,
    operating_path,
    point_losses,
    stage_losses,
)
from cascadebert.thresholds.select import TuningArrays, pareto_front
from cascadebert.types import Floats
from stored import ROOT, current_commit, write_result

RESULTS = ROOT / "results" / "trust"
BUILD = ROOT / "build" / "inference"
TASKS = ("sst2", "clinc150", "agnews")
STAGES = {2: ("2x384", "6x384"), 3: ("static", "2x384", "6x384")}
PROMISES = (Guarantee("min_agreement", 0.95), Guarantee("max_accuracy_drop", 0.01))
DELTAS = (0.05, 0.2)
N, RUNS = 2000, 1000
POOL, TUNE = 100_000, 1500


@dataclass(frozen=True)
class World:
    """A population and rows outside it, with what stages cost, and the last one alone."""

    pool: StageOutputs
    tune: StageOutputs
    costs: Floats
    alone: float


def main() -> None:
    """Run one step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=("answers", "draws"))
    parser.add_argument("--data", type=Path, help="folder of data sets")
    asked = parser.parse_args()
    configure_logging()
    if asked.step == "answers":
        for task in TASKS:
            keep_answers(task, asked.data)
        return
    commit = current_commit()
    rows = []
    for data in ("synthetic", *TASKS):
        for stages in STAGES:
            world = synthetic(stages) if data == "synthetic" else stored(data, stages)
            for guarantee in PROMISES:
                for delta in DELTAS:
                    found = coverage(world, guarantee, delta)
                    rows.append({"data": data, "stages": stages, "delta": delta, **found})
                    print(rows[-1], flush=True)
    files = [RESULTS / "answers" / f"{task}.npz" for task in TASKS]
    write_result(RESULTS / "coverage.json", {"rows": rows}, data=files, commit=commit)


def keep_answers(task: str, data: Path) -> None:
    """What every trained stage says of the held-out and of the test rows, as small arrays."""
    cascade = Cascade.from_pretrained(BUILD / task / "all")
    arrays: dict[str, Any] = {"stages": np.array([stage.name for stage in cascade.stages])}
    for name, file in (
        ("tune", BUILD / task / "held_out.parquet"),
        ("pool", data / task / "validation.parquet"),
    ):
        rows = load_examples(file)
        probabilities = scaled_probabilities(cascade, cascade.stage_logits(rows.texts))
        arrays[f"{name}_confidences"] = max_probability(probabilities).astype(np.float32)
        arrays[f"{name}_labels"] = probabilities.argmax(axis=2).astype(np.int16)
        arrays[f"{name}_truth"] = rows.label_ids(cascade.label_names).astype(np.int16)
        encoded = cascade.encode(rows.texts)
        clock = measure_latency(cascade.stages, rows.texts, encoded)
        arrays["seconds"] = np.array(
            [one.cost_of(part.padded_lengths).mean() for one, part in zip(clock.stages, encoded, strict=True)]
        )
        arrays["tokenising"] = clock.tokenizing[0].cost_of(encoded[0].lengths).mean()
    (RESULTS / "answers").mkdir(parents=True, exist_ok=True)
    np.savez_compressed(RESULTS / "answers" / f"{task}.npz", **arrays)


def stored(task: str, stages: int) -> World:
    """A task's pool (its test rows) and held-out rows, of some of its stages."""
    with np.load(RESULTS / "answers" / f"{task}.npz") as kept:
        found = {name: kept[name] for name in kept.files}
    places = [list(found["stages"]).index(name) for name in STAGES[stages]]
    names = tuple(str(i) for i in range(int(max(found["pool_truth"].max(), found["pool_labels"].max())) + 1))
    pool, tune = (
        StageOutputs(
            found[f"{part}_confidences"][places].astype(np.float64),
            found[f"{part}_labels"][places].astype(np.int64),
            found[f"{part}_truth"].astype(np.int64),
            names,
        )
        for part in ("pool", "tune")
    )
    costs, tokenising = found["seconds"][places], float(found["tokenising"])
    costs[0] += tokenising  # all stages share a tokenizer
    return World(pool, tune, costs, float(found["seconds"][places[-1]]) + tokenising)


def synthetic(stages: int) -> World:
    """Rows of random difficulty; later stages err less, and all are surer of easy rows."""
    costs = np.array([1.0, 6.0]) if stages == 2 else np.array([1.0, 3.0, 10.0])
    return World(drawn(POOL, 1, stages), drawn(TUNE, 2, stages), costs, float(costs[-1]))


def drawn(n: int, seed: int, stages: int) -> StageOutputs:
    """Rows of a synthetic task."""
    rng = np.random.default_rng(seed)
    hard, truth = rng.random(n) ** 4, rng.integers(0, 2, n)
    sure, said = [], []
    for stage in range(stages):
        right = (
            np.clip(1 - hard * (0.9 - 0.3 * stage), 0.3, 0.999) if stage < stages - 1 else np.full(n, 0.97)
        )
        sure.append(np.clip(right + rng.normal(0, 0.05, n), 0.01, 0.999))
        said.append(np.where(rng.random(n) < right, truth, 1 - truth))
    return StageOutputs(np.array(sure), np.array(said), truth, ("0", "1"))


def coverage(world: World, guarantee: Guarantee, delta: float) -> dict[str, Any]:
    """How often the promise is broken in the pool, with and without the correction; and the speed kept."""
    path = operating_path(world.tune, [guarantee], world.costs, delta, last_stage_cost=world.alone)
    true = np.array([point_losses(world.pool, guarantee, point).mean() for point in path.thresholds])
    losses = stage_losses(world.pool, guarantee)
    every = pareto_front(TuningArrays(world.pool.confidences, losses, world.costs, world.alone))
    possible = max(float(every.speedups[every.losses <= guarantee.max_risk].max(initial=1.0)), 1.0)
    rng, broken, naive, kept, refused = np.random.default_rng(0), 0, 0, [], 0
    for _ in range(RUNS):
        rows = taken(world.pool, rng.integers(0, len(world.pool.confidences[0]), N))
        tested = certify(rows, path.thresholds, [guarantee], delta=delta)
        broken += bool((true[: tested.accepted] > guarantee.max_risk).any())
        refused += not tested.accepted
        kept.append((path.speedups[tested.accepted - 1] if tested.accepted else 1.0) / possible)
        seen = np.array([point_losses(rows, guarantee, point).mean() for point in path.thresholds])
        good = np.flatnonzero(seen <= guarantee.max_risk)
        naive += bool(len(good)) and bool(true[good[-1]] > guarantee.max_risk)
    return {
        "guarantee": guarantee.name,
        "level": guarantee.level,
        "n": N,
        "runs": RUNS,
        "violations": broken / RUNS,
        "control_violations": naive / RUNS,
        "power": float(np.median(kept)),
        "refused": refused / RUNS,
        "oracle_speedup": possible,
        "points": len(true),
    }


def taken(answers: StageOutputs, rows: np.ndarray) -> StageOutputs:
    """Some of the rows."""
    assert answers.labels is not None
    return StageOutputs(
        answers.confidences[:, rows], answers.predictions[:, rows], answers.labels[rows], answers.label_names
    )


if __name__ == "__main__":
    main()
