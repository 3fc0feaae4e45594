"""Four cascades to measure: a static stage and complete students before MiniLM (6 layers, 384 wide).

Per task MiniLM learns the labels of the train set, less held-out rows; then `build` makes the fastest cascade
before it that loses at most half a point on the held-out rows, with students that `benchmarks/shrink.py make`
made. They learn its logits on the train texts too, those of SST-2 also on film sentences.
The validation sets are not looked at. From the repository's root; a killed run goes on where it was:

    python benchmarks/cascades.py --data ../shared/data     # some two hours of two cores, nothing beside it

Results: results/inference/cascades.json; the cascades lie in build/inference/TASK/cascade.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cascadebert import Target, build
from cascadebert.cli.render import configure_logging
from cascadebert.data.dataset import Examples, load_examples
from cascadebert.data.label_names import label_names
from cascadebert.training.config import FitConfig
from cascadebert.training.train_stage import TrainingData, train_stage
from main import minilm
from stored import ROOT, current_commit, write_result

BUILD = ROOT / "build" / "inference"
STUDENTS = ROOT / "build" / "shrink" / "students"
SMALL = ("2x128", "3x192", "2x384")
LARGE = "6x384"
LOSS, MINUTES = 0.005, 60.0


@dataclass(frozen=True)
class Task:
    """How its large model is trained.

    `rows`: of the train set at most, the rest is held out too; `sentences`: film sentences for small models.
    """

    epochs: float
    learning_rate: float
    batch_size: int
    max_length: int
    held_out: int
    rows: int | None = None
    sentences: int = 0


TASKS = {
    "sst2": Task(2, 1.2e-4, 128, 64, 1200, sentences=60_000),
    "agnews": Task(2, 2e-4, 64, 64, 1500),
    "clinc150": Task(6, 3e-4, 64, 48, 2000),
    "imdb": Task(2, 1e-4, 32, 128, 2500, rows=5000),
}


def main() -> None:
    """Train the large models, and build a cascade before each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of data sets")
    asked = parser.parse_args()
    configure_logging()
    commit = current_commit()
    values = {name: {"recipe": asdict(task), **cascade(name, asked.data)} for name, task in TASKS.items()}
    files = [asked.data / name / "train.parquet" for name in TASKS]
    write_result(ROOT / "results" / "inference" / "cascades.json", values, data=files, commit=commit)


def parts(name: str, data: Path) -> tuple[Examples, Examples]:
    """Train rows, and held-out rows of the train set; none is in the validation set, none in both.

    Of SST-2's phrases whole sentences are held out, and with each all phrases of its group.
    """
    task, file = TASKS[name], data / name / "train.parquet"
    table = pq.read_table(file)
    test = load_examples(data / name / "validation.parquet").hashes()
    table = table.filter(pa.array(~np.isin(load_examples(file).hashes(), test)))
    order = np.random.default_rng(0).permutation(len(table))
    groups = np.arange(len(table))
    if name == "sst2":
        groups = table["group"].to_numpy()
        order = order[table["is_sentence"].to_numpy()[order]]
    chosen = order[: task.held_out]
    held_out = saved(table.take(pa.array(np.sort(chosen))), name, "held_out")
    rest = table.filter(pc.invert(pa.array(np.isin(groups, groups[chosen]))))
    rows = saved(rest, name, "train")
    free = np.flatnonzero(~np.isin(rows.hashes(), held_out.hashes()))
    if task.rows is None:
        return rows.take(free), held_out
    mixed = np.random.default_rng(0).permutation(free)
    trained = rows.take(np.sort(mixed[: task.rows]))
    left = mixed[task.rows :][~np.isin(rows.hashes()[mixed[task.rows :]], trained.hashes())]
    both = pa.concat_tables([table.take(pa.array(np.sort(chosen))), rest.take(pa.array(np.sort(left)))])
    return trained, saved(both, name, "held_out")


def saved(table: pa.Table, name: str, part: str) -> Examples:
    """Rows of a task, written where the later steps find them."""
    path = BUILD / name / f"{part}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return load_examples(path)


def film_sentences(data: Path, count: int) -> list[str]:
    """Sentences of 4 to 40 words from the corpus's film reviews, which are its documents of one line."""
    texts = pq.read_table(data / "corpus" / "unlabelled.parquet")["text"].to_pylist()
    reviews = [text for text in texts if "\n" not in text]
    sentences = [one for text in reviews for one in re.split(r"(?<=[.!?])\s+", text)]
    fit = sorted({one for one in sentences if 4 <= len(one.split()) <= 40})
    return [fit[i] for i in np.sort(np.random.default_rng(0).permutation(len(fit))[:count])]


def cascade(name: str, data: Path) -> dict[str, Any]:
    """Train the large model of a task, build a cascade before it, and say what came out."""
    task, folder = TASKS[name], BUILD / name
    rows, held_out = parts(name, data)
    names, work = label_names(rows), folder / "work"
    work.mkdir(parents=True, exist_ok=True)
    large = train_stage(
        minilm(), TrainingData(rows.texts, rows.label_ids(names), names), config(task),
        work=work, description=f"{name}: {LARGE}",
    )  # fmt: skip
    result = build(
        large,
        data=held_out,
        corpus={"text": [*rows.texts, *film_sentences(data, task.sentences)]},
        small=[STUDENTS / size for size in SMALL],
        target=Target(max_accuracy_drop=LOSS),
        minutes=MINUTES,
        max_length=task.max_length,
        output=folder / "cascade",
        overwrite=True,
    )
    assert result.chosen is not None
    return {
        "held_out_rows": len(held_out),
        "pays": result.cascades,
        "chosen": result.chosen.stages,
        "score": result.chosen.score,
        "min_agreement": result.chosen.level,
        "held_out": asdict(result.chosen.held_out),
        "candidates": [asdict(one) for one in result.candidates],
        "tried": [asdict(one) for one in result.chosen.tried],
    }


def config(task: Task) -> FitConfig:
    """A recipe for labels alone."""
    return FitConfig(
        max_length=task.max_length,
        epochs=task.epochs,
        batch_size=task.batch_size,
        learning_rate=task.learning_rate,
        warmup_ratio=0.05,
        dar_weight=0.0,
    )


if __name__ == "__main__":
    main()
