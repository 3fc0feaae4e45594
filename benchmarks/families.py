"""Which families of models can be stages, on which engine, and how they are padded?

Every family of `tests/tiny.py` on every engine, single texts and pairs: 50 odd texts against `transformers`,
each alone (see tests/matrix.py). Writes results/models/families.json, from which the table of docs/models.md
is made; some ten minutes. The first family that answers otherwise ends the run.

python benchmarks/families.py
"""

from __future__ import annotations

import sys
import tempfile
from importlib import import_module
from itertools import product
from pathlib import Path

from stored import ROOT, current_commit, write_result

sys.path.insert(0, str(ROOT / "tests"))


def main() -> None:
    """Fill the table."""
    matrix = import_module("matrix")
    commit, found = current_commit(), dict[str, dict[str, str]]()
    with tempfile.TemporaryDirectory() as folder:
        for family in matrix.FAMILIES:
            cells = product(matrix.ENGINES, matrix.KINDS)
            found[family] = {
                f"{engine} {kind}": matrix.outcome(family, engine, kind, Path(folder))
                for engine, kind in cells
            }
            print(family, found[family], flush=True)
    write_result(ROOT / "results" / "models" / "families.json", {"families": found}, data=[], commit=commit)


if __name__ == "__main__":
    main()
