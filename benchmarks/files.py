"""Does every file end in the right table or in one message?

Files from seeds, of every format, delimiter, encoding, type and damage, each with what a right reader finds
in it (see tests/generated.py), through `predict` and `evaluate` of a tiny random cascade. Each must end in
the expected table, or in one error with exit code 2 and unchanged files; runs that are killed after a chunk
must go on and write the same bytes. Writes results/files/summary.json; some four minutes.

python benchmarks/files.py --count 2000
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

from cascadebert import Target, assemble
from cascadebert.progress import progress_bar
from stored import ROOT, current_commit, write_result

sys.path.insert(0, str(ROOT / "tests"))
ENDS = ("answered", "refused", "wrong")


def tiny_cascade(folder: Path) -> Path:
    """A saved cascade of two random stages."""
    samples, tiny = import_module("samples"), import_module("tiny")
    data = samples.write_csv(folder / "data.csv", *samples.reviews(160, seed=5))
    stages = [tiny.checkpoint(folder, layers=layers, hidden=16 * layers, seed=layers) for layers in (1, 3)]
    assemble(stages, data=data, target=Target(speedup=2.0), output=folder / "cascade", engine="torch")
    return folder / "cascade"


def run_all(seeds: range) -> dict[str, Any]:
    """Count how the cases of some seeds end, by kind."""
    generated, generated_run = import_module("generated"), import_module("generated_run")
    kinds: dict[str, dict[str, int]] = {}
    wrong, resumed, evaluated = list[str](), 0, 0
    with tempfile.TemporaryDirectory() as root, progress_bar("files", len(seeds), "files") as show:
        temporary = Path(root) / "temporary"
        temporary.mkdir()
        runner = generated_run.Runner(tiny_cascade(Path(root)), temporary)
        for done, seed in enumerate(seeds, start=1):
            case = generated.draw(seed)
            folder = Path(root) / f"case-{seed}"
            folder.mkdir()
            try:
                end, is_resumed, is_evaluated = runner.run(case, folder)
            except generated_run.Wrong as error:
                end, is_resumed, is_evaluated = "wrong", False, False
                wrong.append(f"seed {seed}, {case.kind}: {error}")
                print(wrong[-1], flush=True)
            kinds.setdefault(case.kind, dict.fromkeys(ENDS, 0))[end] += 1
            resumed += is_resumed
            evaluated += is_evaluated
            shutil.rmtree(folder)
            show(done, f"{len(wrong)} wrong")
    totals = {end: sum(counts[end] for counts in kinds.values()) for end in ENDS}
    by_kind = {kind: kinds[kind] for kind in sorted(kinds)}
    counts = {"files": len(seeds), **totals, "resumed": resumed, "evaluated": evaluated}
    return {**counts, "by_kind": by_kind, "wrong_cases": wrong}


def main() -> None:
    """Run the cases and store what came of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000, help="number of files")
    parser.add_argument("--start", type=int, default=0, help="first seed")
    arguments = parser.parse_args()
    commit = current_commit()
    values = run_all(range(arguments.start, arguments.start + arguments.count))
    write_result(ROOT / "results" / "files" / "summary.json", values, data=[], commit=commit)
    sys.exit(1 if values["wrong"] else 0)


if __name__ == "__main__":
    main()
