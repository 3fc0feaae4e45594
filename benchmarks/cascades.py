"""Four cascades to measure: a static stage and complete students before MiniLM (6 layers, 384 wide).

Per task the large model learns the labels, and the small ones its logits as well; SST-2's small ones learn
its logits on film sentences without labels too. Then every choice of one or two small stages is tried on
held-out rows of the train set: the fastest by the clock whose answers are the large model's own as often as
asked for. More and more is asked for until this whole choice, made on nine tenths of these rows, loses at
most half a point of accuracy on the other tenth. The validation sets are not looked at. From the repository's
root, after `benchmarks/shrink.py make`; a killed run goes on where it was:

    python benchmarks/cascades.py train --data ../shared/data     # two hours of two cores
    python benchmarks/cascades.py choose --data ../shared/data    # a quarter of an hour, nothing beside it

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

from cascadebert import Cascade, assemble
from cascadebert.cli.render import configure_logging
from cascadebert.data.dataset import Examples, load_examples
from cascadebert.data.label_names import label_names
from cascadebert.evaluation.evaluate import scaled_probabilities
from cascadebert.thresholds.operating_point import Target
from cascadebert.thresholds.stage_choice import CandidateStages, StageChoice, choose_stages
from cascadebert.training.config import FitConfig
from cascadebert.training.losses import NO_LABEL
from cascadebert.training.static_model import create_static_checkpoint
from cascadebert.training.train_stage import TrainingData, train_stage
from cascadebert.tuning.tune import cache_outputs, recalibrate
from main import minilm
from stored import ROOT, current_commit, write_result
from taught import answers

BUILD = ROOT / "build" / "inference"
STUDENTS = ROOT / "build" / "shrink" / "students"
RATES = {"static": None, "2x128": 6e-4, "3x192": 4e-4, "2x384": 3e-4}
LARGE = "6x384"
LOSS = 0.005


@dataclass(frozen=True)
class Task:
    """How its models are trained. The log tells what came before.

    `rows`: of the train set at most, the rest is held out too; `sentences`: film sentences for small stages.
    """

    epochs: float
    learning_rate: float
    batch_size: int
    max_length: int
    held_out: int
    small_epochs: float
    rows: int | None = None
    sentences: int = 0


TASKS = {
    "sst2": Task(2, 1.2e-4, 128, 64, 1200, 4, sentences=60_000),
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
    configure_logging()
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


def train(name: str, data: Path) -> None:
    """Every stage of one task, in build/inference/TASK/stages."""
    task, stages = TASKS[name], BUILD / name / "stages"
    rows, _ = parts(name, data)
    names, work = label_names(rows), BUILD / name / "work"
    work.mkdir(parents=True, exist_ok=True)
    stages.mkdir(exist_ok=True)
    ids = rows.label_ids(names)
    large = train_stage(
        minilm(), TrainingData(rows.texts, ids, names), config(task, task.learning_rate, task.epochs),
        work=work, description=f"{name}: {LARGE}",
    )  # fmt: skip
    link(stages / LARGE, large)
    texts = [*rows.texts, *film_sentences(data, task.sentences)]
    labels = np.concatenate([ids, np.full(task.sentences, NO_LABEL)])
    lesson = TrainingData(texts, labels, names, teacher=answers(large, texts, task.max_length))
    for small, rate in RATES.items():
        source = STUDENTS / small
        if rate is None:
            source = BUILD / "static"
            if not source.is_dir():
                create_static_checkpoint(minilm(), source)
        recipe = config(task, rate or task.learning_rate, task.small_epochs)
        made = train_stage(source, lesson, recipe, work=work, description=f"{name}: {small}")
        link(stages / small, made)


def config(task: Task, rate: float, epochs: float) -> FitConfig:
    """A recipe; without the difficulty-aware term, which the paper's experiment measures."""
    return FitConfig(
        max_length=task.max_length,
        epochs=epochs,
        batch_size=task.batch_size,
        learning_rate=rate,
        warmup_ratio=0.05,
        dar_weight=0.0,
        distill_weight=1.0,
    )


def link(path: Path, folder: Path) -> None:
    """Give a trained stage its name."""
    path.unlink(missing_ok=True)
    path.symlink_to(folder.absolute())


def choose(name: str) -> dict[str, Any]:
    """Assemble the fastest choice of small stages on the held-out rows, and say what the others came to."""
    folder, length = BUILD / name, TASKS[name].max_length
    rows = load_examples(folder / "held_out.parquet")
    every = [folder / "stages" / stage for stage in (*RATES, LARGE)]
    whole = assemble(
        every, data=rows, target=Target(speedup=1.0), output=folder / "all", max_length=length,
        cost_unit="measured", overwrite=True,
    )  # fmt: skip
    found = choose_stages(candidates(whole, rows), Target(max_accuracy_drop=LOSS))
    made = assemble(
        [every[i] for i in found.choice.stages], data=rows, target=Target(min_agreement=found.level),
        output=folder / "cascade", max_length=length, cost_unit="measured", score="auto", overwrite=True,
    )  # fmt: skip
    expected = made.operating_point.metrics
    assert expected is not None
    return {
        "held_out_rows": len(rows),
        "chosen": names_of(found.choice),
        "score": made.score.name,
        "min_agreement": found.level,
        "held_out": asdict(found.held_out),
        "expected_speedup": expected.speedup,
        "notices": expected.notices,
        "tried": [
            {
                "stages": names_of(choice),
                "expected_speedup": choice.selection.speedup,
                "agreement": 1 - choice.selection.loss,
                "exit_rates": choice.selection.exit_rates,
            }
            for choice in found.tried
        ],
    }


def names_of(choice: StageChoice) -> list[str]:
    """The small stages of a choice."""
    return [list(RATES)[i] for i in choice.stages[:-1]]


def candidates(cascade: Cascade, rows: Examples) -> CandidateStages:
    """What every stage says of the held-out rows and costs there."""
    cached = cache_outputs(cascade, rows)
    probabilities = scaled_probabilities(recalibrate(cascade, cached), cached.logits)
    return CandidateStages(
        probabilities, *cached.latency.parts(cached.encoded), cached.latency.keys, cached.labels
    )


if __name__ == "__main__":
    main()
