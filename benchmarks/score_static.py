"""Score a file by the static stage of a cascade alone, and tell memory and the clock; used by inference.py.

python benchmarks/score_static.py CASCADE IN.csv OUT.csv
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from cascadebert import Cascade, OperatingPoint, Stage
from cascadebert.data.table import Chunk
from cascadebert.environment import peak_memory_mb
from cascadebert.inference import predict_file
from cascadebert.inference.predict_chunks import PredictRun
from cascadebert.timing import now


def main() -> None:
    """Score, and keep each chunk's seconds."""
    folder, source, output = map(Path, sys.argv[1:])
    stage = Stage.from_pretrained(folder / "stage-1")  # the others' memory would hide what grows
    cascade = Cascade((stage,), (1.0,), OperatingPoint(()))
    marks, rows, start = list[float](), [0], now()
    done, store = PredictRun.done, PredictRun.store

    def begun(run: PredictRun, number: int, sha256: str) -> dict[str, Any] | None:
        if not marks:
            marks.append(now())
        return done(run, number, sha256)

    def stored(run: PredictRun, number: int, chunk: Chunk, *given: Any) -> dict[str, Any]:
        report = store(run, number, chunk, *given)
        marks.append(now())
        rows.append(rows[-1] + len(chunk.numbers))
        return report

    # batch sizes are not measured: only the first stage runs
    with (
        patch.object(PredictRun, "done", begun),
        patch.object(PredictRun, "store", stored),
        patch.object(predict_file, "MEASURE_FROM_ROWS", sys.maxsize),
    ):
        predict_file.predict_file(cascade, source, output)
    values = {"seconds": np.diff(marks).tolist(), "rows": rows[1:], "whole": now() - start}
    print(json.dumps({**values, "memory_mb": peak_memory_mb()}))


if __name__ == "__main__":
    main()
