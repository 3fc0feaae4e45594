"""Score a file by the first stage of a cascade alone, and tell memory and the clock; used by inference.py.

python benchmarks/score_static.py CASCADE IN.csv OUT.csv
"""

from __future__ import annotations

import json
import resource
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

from cascadebert import Cascade, OperatingPoint, stream
from cascadebert.timing import now


def main() -> None:
    """Every row leaves at the first stage; each chunk's seconds are kept."""
    folder, source, output = map(Path, sys.argv[1:])
    cascade = Cascade.from_pretrained(folder)
    cascade = cascade.with_operating_point(OperatingPoint((0.0,) * (len(cascade.stages) - 1)))
    ends, rows, answer_one = [now()], [0], stream._answer_one

    def timed(*given: Any) -> None:
        answer_one(*given)
        ends.append(now())
        rows.append(rows[-1] + len(given[1].numbers))

    stream._answer_one = timed
    stream.predict_file(cascade, source, output)
    seconds = [after - before for before, after in pairwise(ends)]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "rows": rows[1:], "memory_mb": memory}))


if __name__ == "__main__":
    main()
