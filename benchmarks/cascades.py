"""Four cascades to measure: a static stage and complete students before MiniLM (6 layers, 384 wide).

Per task the large model learns the labels, and the small ones its logits as well; then every choice of small
stages is tried on held-out rows of the train set, and the fastest by the clock that loses at most half a
point there is assembled. The validation sets are not looked at. From the repository's root, after
`benchmarks/shrink.py make`; a killed run goes on where it was:

    python benchmarks/cascades.py train --data ../shared/data     # an hour and a half of two cores
    python benchmarks/cascades.py choose --data ../shared/data    # a few minutes, nothing beside it

Results: results/inference/cascades.json; the cascades lie in build/inference/TASK/cascade.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cascadebert import Cascade, assemble
from cascadebert.cli.output import show_log
from cascadebert.confidence import max_probability
from cascadebert.data import Examples, label_names, load_examples
from cascadebert.evaluation import scaled_probabilities
from cascadebert.thresholds import select_thresholds
from cascadebert.training.config import FitConfig
from cascadebert.training.stage_training import Lesson, train_stage
from cascadebert.training.static import make_static
from cascadebert.tuning import cache, recalibrated
from cascadebert.types import Target
from main import minilm
from stored import ROOT, current_commit, write_result
from taught import answers

BUILD = ROOT / "build" / "inference"
STUDENTS = ROOT / "build" / "shrink" / "students"
RATES = {"static": None, "2x128": 6e-4, "3x192": 4e-4, "2x384": 3e-4}
LARGE = "6x384"
TARGET = Target(max_accuracy_drop=0.005)


@dataclass(frozen=True)
class Task:
    """How its models are trained; `rows` of the train set at most. The log tells what came before."""

    epochs: float
    learning_rate: float
    batch_size: int
    max_length: int
    held_out: int
    small_epochs: float
    rows: int | None = None


TASKS = {
    "sst2": Task(2, 1.2e-4, 128, 64, 1200, 4),
    "agnews": Task(2, 2e-4, 64, 64, 1500, 4),
    "clinc150": Task(6, 3e-4, 64, 48, 2000, 10),
    "imdb": Task(2, 1e-4, 32, 128, 2500, 3, rows=5000),
}


def main() -> None:
    """Run one step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=("train", "choose"))
    parser.add_argument("--data", type=Path, required=True, help="folder of data sets")
    asked = parser.parse_args()
    show_log()
    commit = current_commit()
    if asked.step == "train":
        for name in TASKS:
            train(name, asked.data)
        return
    values = {name: {"recipe": asdict(task), **choose(name)} for name, task in TASKS.items()}
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
    folder = BUILD / name
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.take(pa.array(np.sort(chosen))), folder / "held_out.parquet")
    held_out = load_examples(folder / "held_out.parquet")
    rest = table.filter(pc.invert(pa.array(np.isin(groups, groups[chosen]))))
    pq.write_table(rest, folder / "train.parquet")
    rows = load_examples(folder / "train.parquet")
    free = np.flatnonzero(~np.isin(rows.hashes(), held_out.hashes()))
    if task.rows is not None:
        free = np.sort(np.random.default_rng(0).permutation(free)[: task.rows])
    return rows.take(free), held_out


def train(name: str, data: Path) -> None:
    """Every stage of one task, in build/inference/TASK/stages."""
    task, stages = TASKS[name], BUILD / name / "stages"
    rows, _ = parts(name, data)
    names, work = label_names(rows), BUILD / name / "work"
    work.mkdir(parents=True, exist_ok=True)
    stages.mkdir(exist_ok=True)
    ids = rows.label_ids(names)
    large = train_stage(
        minilm(), Lesson(rows.texts, ids, names), config(task, task.learning_rate, task.epochs),
        work=work, what=f"{name}: {LARGE}",
    )  # fmt: skip
    link(stages / LARGE, large)
    lesson = Lesson(rows.texts, ids, names, teacher=answers(large, rows.texts, task.max_length))
    for small, rate in RATES.items():
        source = STUDENTS / small
        if rate is None:
            source = BUILD / "static"
            if not source.is_dir():
                make_static(minilm(), source)
        recipe = config(task, rate or task.learning_rate, task.small_epochs)
        made = train_stage(source, lesson, recipe, work=work, what=f"{name}: {small}")
        link(stages / small, made)


def config(task: Task, rate: float, epochs: float) -> FitConfig:
    """A recipe; without the difficulty-aware term, which the paper's experiment measures."""
    return FitConfig(
        max_length=task.max_length,
        epochs=epochs,
        batch_size=task.batch_size,
        learning_rate=rate,
        warmup=0.05,
        dar_weight=0.0,
        distill_weight=1.0,
    )


def link(path: Path, folder: Path) -> None:
    """Give a trained stage its name."""
    path.unlink(missing_ok=True)
    path.symlink_to(folder.absolute())


def choose(name: str) -> dict[str, Any]:
    """Assemble the fastest choice of small stages on the held-out rows, and say what the others came to."""
    folder = BUILD / name
    rows = load_examples(folder / "held_out.parquet")
    every = [folder / "stages" / stage for stage in (*RATES, LARGE)]
    work = folder / "all"
    whole = assemble(
        every, data=rows, target=Target(speedup=1.0), output=work, max_length=TASKS[name].max_length,
        cost="measured", overwrite=True,
    )  # fmt: skip
    tried = compare(whole, rows)
    best = max(tried, key=lambda one: one["expected_speedup"])
    kept = [folder / "stages" / stage for stage in (*best["stages"], LARGE)]
    made = assemble(
        kept, data=rows, target=TARGET, output=folder / "cascade", max_length=TASKS[name].max_length,
        cost="measured", score="auto", overwrite=True,
    )  # fmt: skip
    expected = made.operating_point.expected
    assert expected is not None
    found = {"chosen": best["stages"], "score": made.score.name, "expected_speedup": expected.speedup}
    return {"held_out_rows": len(rows), **found, "notices": expected.notices, "tried": tried}


def compare(cascade: Cascade, rows: Examples) -> list[dict[str, Any]]:
    """For every choice of small stages, the most speed-up within the target on these rows."""
    cached = cache(cascade, rows)
    cascade = recalibrated(cascade, cached)
    probabilities = scaled_probabilities(cascade, cached.logits)
    confidences, wrong = max_probability(probabilities), probabilities.argmax(axis=2) != cached.labels
    costs = cached.seconds.costs(cached.encoded)
    tokenising = cached.seconds.tokenising[0].of(cached.encoded[0].lengths)
    rows_costs = costs.rows.copy()
    rows_costs[0] -= tokenising
    small, found = list(RATES), []
    for count in range(1, len(small) + 1):
        for chosen in combinations(range(len(small)), count):
            picked = [*chosen, len(small)]
            paid = rows_costs[picked]
            paid[0] += tokenising
            choice = select_thresholds(
                confidences[picked], wrong[picked].astype(float), paid, target=TARGET, alone=costs.alone
            )
            found.append(
                {
                    "stages": [small[i] for i in chosen],
                    "expected_speedup": choice.speedup,
                    "drop": choice.loss - choice.last_loss,
                    "exit_rates": choice.exit_rates,
                }
            )
    return found


if __name__ == "__main__":
    main()
