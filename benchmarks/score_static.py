"""Score a file by the static stage of a cascade alone, and tell memory and the clock; used by inference.py.

python benchmarks/score_static.py CASCADE IN.csv OUT.csv
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

from cascadebert import Cascade, OperatingPoint, Stage
from cascadebert.data.table import Chunk
from cascadebert.environment import peak_memory_mb
from cascadebert.inference import predict_file
from cascadebert.timing import now


def main() -> None:
    """Score, and keep each chunk's seconds."""
    folder, source, output = map(Path, sys.argv[1:])
    stage = Stage.from_pretrained(folder / "stage-1")  # the others' memory would hide what grows
    cascade = Cascade((stage,), (1.0,), OperatingPoint(()))
    seconds: list[float] = []
    rows, predict_chunk, start = [0], predict_file._Run._predict_chunk, now()

    def timed(run: Any, number: int, chunk: Chunk, sha256: str) -> dict[str, Any]:
        before = now()
        report = predict_chunk(run, number, chunk, sha256)
        seconds.append(now() - before)
        rows.append(rows[-1] + len(chunk.numbers))
        return report

    # batch sizes are not measured: only the first stage runs
    with (
        patch.object(predict_file._Run, "_predict_chunk", timed),
        patch.object(predict_file, "MEASURE_FROM_ROWS", sys.maxsize),
    ):
        predict_file.predict_file(cascade, source, output)
    values = {"seconds": seconds, "rows": rows[1:], "whole": now() - start}
    print(json.dumps({**values, "memory_mb": peak_memory_mb()}))


if __name__ == "__main__":
    main()
