"""How often does the interval of the expected calibration error hold the true value?

Confidences between 0.5 and 1; answers are right as often as the confidence says, less a gap. The true value
is the error of 4,000,000 such rows. A few minutes of one core:

    python benchmarks/ece_interval.py

Results: results/trust/ece_interval.json.
"""

from __future__ import annotations

from itertools import product
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cascadebert.evaluation.metrics import BINS, bin_indices, calibration_error, mean_gap
from cascadebert.types import Bools, Floats
from stored import ROOT, current_commit, write_result

RUNS, MANY = 300, 4_000_000
EQUAL: tuple[Literal["width", "mass"], ...] = ("width", "mass")


def main() -> None:
    """Every number of rows, gap and kind of bins."""
    commit = current_commit()
    rows = [one_setting(*setting) for setting in product((200, 1000, 4000), (0.0, 0.02, 0.05, 0.1), EQUAL)]
    values = {"runs": RUNS, "bins": BINS, "rows": rows}
    write_result(ROOT / "results" / "trust" / "ece_interval.json", values, data=[], commit=commit)


def one_setting(n: int, gap: float, equal: Literal["width", "mass"]) -> dict[str, float | str]:
    """Share of the runs whose interval holds the true value."""
    sure, right = drawn(np.random.default_rng(0), MANY, gap)
    true = mean_gap(bin_indices(sure, BINS, equal), right - sure) if gap else 0.0
    held = 0
    for run in range(RUNS):
        found = calibration_error(*drawn(np.random.default_rng(1 + run), n, gap), equal=equal)
        held += found.low <= true <= found.high
    made: dict[str, float | str] = {"n": n, "gap": gap, "bins": equal, "true": true, "held": held / RUNS}
    print(made, flush=True)
    return made


def drawn(rng: np.random.Generator, n: int, gap: float) -> tuple[Floats, Bools]:
    """Confidences, and whether each answer is right."""
    sure: NDArray[np.float64] = 0.5 + 0.5 * rng.beta(2.0, 1.0, n)
    return sure, rng.random(n) < sure - gap


if __name__ == "__main__":
    main()
