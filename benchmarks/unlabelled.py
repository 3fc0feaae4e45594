"""What do texts of the task without labels add to a small stage (`fit --unlabelled`)?

The large stage learns from 1,000 labelled rows. The small stage learns from these rows' labels alone; from
labels and the large stage's logits on them; and from its logits on further rows without labels as well. Run
from the repository's root after `benchmarks/shrink.py make`, nothing beside it; a killed run goes on:

    python benchmarks/unlabelled.py --data ../shared/data

Results: results/shrink/unlabelled.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from cascadebert.cli.render import configure_logging
from cascadebert.data.dataset import Examples
from cascadebert.data.label_names import label_names
from cascadebert.inference.stage import Stage
from cascadebert.training.config import FitConfig
from cascadebert.training.losses import NO_LABEL
from cascadebert.training.train_stage import TrainingData, train_stage
from shrink import BUILD, RESULTS, SEEDS, TASKS, TEACHER, files_of, judged, rows_of, write_aside
from stored import current_commit, write_result

LABELLED = 1000
CHOSEN = ("sst2", "agnews")
ARMS = ("labels", "labels and logits", "and unlabelled rows")


def main() -> None:
    """Every task and seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of data sets")
    asked = parser.parse_args()
    configure_logging()
    commit = current_commit()
    runs = [
        {"task": task, "seed": seed, **one_run(asked.data, task, seed)} for task in CHOSEN for seed in SEEDS
    ]
    values = {"labelled": LABELLED, "small": "2x384", "runs": runs}
    write_result(RESULTS / "unlabelled.json", values, data=files_of(asked.data, CHOSEN), commit=commit)


def one_run(data: Path, task: str, seed: int) -> dict[str, Any]:
    """The large stage and the three small ones, or what was found before."""
    said = BUILD / "unlabelled" / f"{task}-{seed}.json"
    if said.is_file():
        found: dict[str, Any] = json.loads(said.read_text("utf-8"))
        return found
    recipe, (train, test) = TASKS[task], rows_of(data, task, False)
    names, length = label_names(train), recipe.max_length
    order = np.random.default_rng(seed).permutation(len(train))
    labelled, more = train.take(order[:LABELLED]), train.take(order[LABELLED:])
    ids, unknown = labelled.label_ids(names), np.full(len(more), NO_LABEL)
    work = said.with_suffix(".work")
    work.mkdir(parents=True, exist_ok=True)
    plain = FitConfig(
        epochs=recipe.epochs,
        learning_rate=recipe.learning_rate,
        batch_size=32,
        max_length=length,
        warmup_ratio=0.05,
        seed=seed,
    )
    taught = FitConfig(**{**vars(plain), "distill_weight": 1.0})
    lesson = TrainingData(labelled.texts, ids, names)
    large = train_stage(TEACHER, lesson, plain, work=work, description=f"{task}-{seed}, large")
    teacher = Stage.from_pretrained(large, max_length=length)
    texts = [*labelled.texts, *more.texts]
    logits = teacher.logits(teacher.encode(texts))
    lessons = (
        (lesson, plain),
        (TrainingData(labelled.texts, ids, names, teacher=logits[:LABELLED]), taught),
        (TrainingData(texts, np.concatenate([ids, unknown]), names, teacher=logits), taught),
    )
    small = BUILD / "students" / "2x384"
    values: dict[str, Any] = {"unlabelled": len(more), "large": figures(large, length, names, test)}
    for arm, (one, config) in zip(ARMS, lessons, strict=True):
        folder = train_stage(small, one, config, work=work, description=f"{task}-{seed}, {arm}")
        values[arm] = figures(folder, length, names, test)
    write_aside(said, values)
    shutil.rmtree(work)
    return values


def figures(folder: Path, length: int, names: tuple[str, ...], test: Examples) -> dict[str, float]:
    """Accuracy and difficulty inversion on the test rows."""
    right, dis = judged(folder, length, names, test)
    return {"accuracy": float(right.mean()), "dis": dis}


if __name__ == "__main__":
    main()
