"""Does the demo reach what it promises, on several seeds? Writes results/demo/demo.json.

python benchmarks/demo.py
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path

from cascadebert.demo.run import demo
from stored import ROOT, current_commit, write_result

SEEDS = (0, 1, 2)


def main() -> None:
    """Run the demo once per seed."""
    commit, runs = current_commit(), []
    for seed in SEEDS:
        with tempfile.TemporaryDirectory() as folder:
            found = asdict(demo(Path(folder) / "demo", seed=seed))
        del found["output"]
        runs.append({"seed": seed, **found})
        print(runs[-1])
    write_result(ROOT / "results" / "demo" / "demo.json", {"runs": runs}, data=[], commit=commit)


if __name__ == "__main__":
    main()
