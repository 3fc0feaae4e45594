"""`predict` on 2,000,000 short rows, of which the static stage answers 99 %: where the time goes, and before.

    git worktree add build/before COMMIT
    python benchmarks/end_to_end.py --data ../shared/data --before build/before

Rows are the first half of one sentence of SST-2 and the second half of another, hardly one of them twice.
Both versions predict them in turn, each time in a process of its own, with a static stage and a MiniLM that
are fine-tuned on SST-2 first, and on the engine and in the precision that each takes of itself: this one by
measuring them. Results: results/inference/end_to_end.json.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow.parquet as pq

from cascadebert import Cascade, FitConfig, OperatingPoint, Stage, Target, fit
from cascadebert.data.dataset import load_examples
from cascadebert.inference import predict_file
from cascadebert.inference.tokenizer import StageTokenizer
from cascadebert.timing import now

try:
    from cascadebert.inference import predict_chunks as chunks
except ImportError:  # a version before it was a module of its own
    chunks = predict_file  # type: ignore[misc]

ROOT = Path(__file__).resolve().parents[1]
ROWS, ROUNDS, SAMPLE = 2_000_000, 3, 20_000
EXITS = 0.99  # of the rows at the static stage
LEAST_WORDS = 8  # of a sentence
TRAINED = 1000  # sentences; how good they are does not matter
MADE = ROOT / "build" / "inference" / "end-to-end"
PARTS = ("read", "tokenize", "static", "engine", "write")
PART_OF = {
    "read_chunks": "read", "rows_sha256": "read", "check_texts": "read",
    "write_table": "write", "join_parts": "write",
}  # fmt: skip


def main() -> None:
    """Run both versions in turn, or one of them in this process."""
    if sys.argv[1] == "--one":
        print(json.dumps(predict(Path(sys.argv[2]), float(sys.argv[3]), sys.argv[4], sys.argv[5])))
        return
    from stored import current_commit, write_result  # which the version before may not be able to import

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of data sets")
    parser.add_argument("--before", type=Path, required=True, help="checkout of the commit to compare with")
    asked = parser.parse_args()
    commit, source = current_commit(), asked.data / "sst2" / "train.parquet"
    before = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=asked.before, text=True).strip()
    found: dict[str, list[dict[str, Any]]] = {"before": [], "now": []}
    make_stages(source)
    chosen = Cascade.from_pretrained(MADE).stages[-1].engine
    engines = {"before": ("auto", "auto"), "now": (chosen.name, chosen.precision)}
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.csv"
        texts = write_rows(rows, source)
        threshold = float(np.quantile(stages(*engines["now"])[0].predict(texts).confidences, 1 - EXITS))
        for _ in range(ROUNDS):
            for name, checkout in (("before", asked.before), ("now", ROOT)):
                found[name].append(in_process(checkout / "src", rows, threshold, *engines[name]))
    parts = {name: median(one["parts"][name] for one in found["now"]) for name in PARTS}
    whole = {name: [one["whole"] for one in runs] for name, runs in found.items()}
    values = {
        "rows": ROWS,
        "exit_rates": found["now"][0]["exit_rates"],
        "seconds": {**parts, "other": median(whole["now"]) - sum(parts.values())},
        "before": {name: median(one["parts"][name] for one in found["before"]) for name in PARTS},
        "whole": whole,
        "over_before": median(a / b for a, b in zip(whole["before"], whole["now"], strict=True)),
        "engines": {name: runs[0]["engine"] for name, runs in found.items()},
        "before_commit": before,
    }
    write_result(ROOT / "results" / "inference" / "end_to_end.json", values, data=[source], commit=commit)


def write_rows(file: Path, source: Path, count: int = ROWS) -> list[str]:
    """Write so many rows; return the first of them."""
    rng, first = random.Random(0), list[str]()
    sentences = [str(text).split() for text in load_examples(source).texts]
    sentences = [words for words in sentences if len(words) >= LEAST_WORDS]
    with file.open("w", encoding="utf-8", newline="") as lines:
        writer = csv.writer(lines)
        writer.writerow(["text"])
        for _ in range(count):
            one, other = rng.choice(sentences), rng.choice(sentences)
            text = " ".join([*one[: len(one) // 2], *other[len(other) // 2 :]])
            writer.writerow([text])
            if len(first) < SAMPLE:
                first.append(text)
    return first


def in_process(source: Path, rows: Path, threshold: float, engine: str, precision: str) -> dict[str, Any]:
    """Predict with the package at `source`, in a new process."""
    command = [sys.executable, str(Path(__file__)), "--one", str(rows), str(threshold), engine, precision]
    path = os.pathsep.join([str(source), str(Path(__file__).parent)])
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(source.parent.name, found, flush=True)
    return found


def predict(rows: Path, threshold: float, engine: str, precision: str) -> dict[str, Any]:
    """Predict the rows; seconds of each part and of the whole."""
    static, small = stages(engine, precision)
    seconds = dict.fromkeys(PARTS, 0.0)

    def timed(part: str, run: Callable[..., Any]) -> Callable[..., Any]:
        def measured(*arguments: Any, **options: Any) -> Any:
            start = now()
            found = run(*arguments, **options)
            seconds[part] += now() - start
            return found

        return measured

    def read(*arguments: Any, **options: Any) -> Iterator[Any]:
        chunks = iter(real["read_chunks"](*arguments, **options))
        following = timed("read", lambda: next(chunks, None))
        while (chunk := following()) is not None:
            yield chunk

    def logits(stage: Stage, *arguments: Any, **options: Any) -> Any:
        return timed("engine" if stage.layers else "static", run_stage)(stage, *arguments, **options)

    run_stage, real = Stage.logits, {name: getattr(chunks, name) for name in PART_OF}
    cascade = Cascade((static, small), (1.0, 1.0), OperatingPoint((threshold,)))
    with ExitStack() as patches:
        for name, part in PART_OF.items():
            replacement = read if name == "read_chunks" else timed(part, real[name])
            patches.enter_context(patch.object(chunks, name, replacement))
        tokenize = timed("tokenize", StageTokenizer.encode)
        patches.enter_context(patch.object(StageTokenizer, "encode", tokenize))
        patches.enter_context(patch.object(Stage, "logits", logits))
        patches.enter_context(patch.object(predict_file, "MEASURE_FROM_ROWS", sys.maxsize))
        start = now()
        done = predict_file.predict_file(cascade, rows, rows.with_suffix(".out.csv"), overwrite=True)
        whole, used = now() - start, f"{small.engine.name} {small.engine.precision}"
        return {"whole": whole, "parts": seconds, "exit_rates": done.exit_rates, "engine": used}


def stages(engine: str, precision: str) -> tuple[Stage, Stage]:
    """A static stage and MiniLM, fine-tuned on SST-2."""
    static, small = (
        Stage.from_pretrained(MADE / f"stage-{number}", engine=engine, precision=precision)
        for number in (1, 2)
    )
    return static, small.with_labels(static.label_names)


def make_stages(source: Path) -> None:
    """Fine-tune both on some of the training sentences, if that was not done yet."""
    if MADE.exists():
        return
    from main import minilm

    rows = pq.read_table(source)
    sentences = rows.filter(rows["is_sentence"])
    chosen = np.random.default_rng(0).permutation(len(sentences))[:TRAINED]
    with tempfile.TemporaryDirectory() as folder:
        train = Path(folder) / "train.parquet"
        pq.write_table(sentences.take(np.sort(chosen)).select(["sentence", "label"]), train)
        config = FitConfig(max_length=64, epochs=1.0, learning_rate=2e-4, dar_weight=0.0)
        target = Target(speedup=2.0)
        fit(train, stages=["static", minilm()], target=target, output=MADE, config=config)


if __name__ == "__main__":
    main()
