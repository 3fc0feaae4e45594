"""How long does the search for thresholds take with 1,000,000 rows and three stages, on one core?

python benchmarks/search.py

Results: results/trust/search.json.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np

from cascadebert.environment import peak_memory_mb
from cascadebert.thresholds.operating_point import Target
from cascadebert.thresholds.select import TuningArrays, pareto_front, select_thresholds
from cascadebert.timing import interleaved
from stored import ROOT, current_commit, write_result

ROWS, REPEATS = 1_000_000, 7


def main() -> None:
    """Time the search and the whole Pareto set."""
    commit = current_commit()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {0})
    rng = np.random.default_rng(0)
    sure = rng.random((3, ROWS))
    right = np.stack([0.5 + 0.5 * sure[0], 0.6 + 0.4 * sure[1], np.full(ROWS, 0.97)])
    wrong = (rng.random((3, ROWS)) > right).astype(np.float64)
    costs = rng.uniform(0.5, 2.0, ROWS) * np.array([[1.0], [3.0], [10.0]])
    target = Target(max_accuracy_drop=0.01)
    found = interleaved(
        [
            lambda: select_thresholds(sure, wrong, costs, target=target),
            lambda: pareto_front(TuningArrays(sure, wrong, costs)),
        ],
        repeats=REPEATS,
    )
    values = {
        "rows": ROWS,
        "stages": 3,
        "seconds": float(np.median(found[0])),
        "range": [min(found[0]), max(found[0])],
        "pareto_seconds": float(np.median(found[1])),
        "peak_mb": peak_memory_mb(),
    }
    write_result(ROOT / "results" / "trust" / "search.json", values, data=[], commit=commit)
    print(values)


if __name__ == "__main__":
    main()
