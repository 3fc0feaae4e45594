"""`build` on five real tasks: the fastest cascade before a fine-tuned all-mpnet-base-v2.

Each task is built with labels for half a point of accuracy, without any label for agreement of 0.98, and with
labels but without MiniLM as a small model. `make` makes the candidates of all three; `measure` chooses,
certifies and times (nothing beside it), and then measures on the validation set, which nothing else reads.
Runs after `build_models.py`; a killed run goes on where it was:

    python benchmarks/build.py make --data ../shared/data
    python benchmarks/build.py measure --data ../shared/data

Results: results/build/TASK-VARIANT.json, each as soon as it is measured, and summary.json of the tasks that
have all three; cascades and reports lie in build/cascade/TASK.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import pyarrow.parquet as pq

from build_models import BUILD, TASKS
from cascadebert import Cascade, Target
from cascadebert.atomic import work_directory, work_directory_path
from cascadebert.cli.render import configure_logging
from cascadebert.data.dataset import load_examples
from cascadebert.training.cascade_builder.build import BuildRequest, finish, opened
from cascadebert.training.cascade_builder.finish import measure
from cascadebert.training.cascade_builder.result import BuildResult, ReportMetrics
from cascadebert.training.cascade_builder.search import search
from main import minilm
from stored import ROOT, current_commit, write_result

RESULTS = ROOT / "results" / "build"
VARIANTS = ("labeled", "unlabeled", "without_small")
MINUTES = 60.0
LABELED, UNLABELED = Target(max_accuracy_drop=0.005), Target(min_agreement=0.98)
MEASURED = ("lost", "over_model", "over_pipeline", "agreement")


def main() -> None:
    """Run one step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=("make", "measure"))
    parser.add_argument("--data", type=Path, required=True, help="folder of data sets")
    parser.add_argument("--task", choices=tuple(TASKS), help="only this one")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="for each task")
    asked = parser.parse_args()
    configure_logging()
    commit, names = current_commit(), [asked.task] if asked.task else list(TASKS)
    for name in names:
        folder = BUILD / name
        if asked.step == "make":
            with opened(request(name, asked.minutes), partial(work_directory, folder / "labeled")) as job:
                search(job)
            continue
        for variant in VARIANTS:
            file, result = asked.data / name / "validation.parquet", RESULTS / f"{name}-{variant}.json"
            if not result.is_file():
                values = measured(name, variant, asked.minutes, file)
                write_result(result, values, data=[file], commit=commit)
    if asked.step == "measure":
        summarize(asked.data, commit)


def request(name: str, minutes: float, variant: str = "labeled") -> BuildRequest:
    """What a build of a task is given."""
    folder = BUILD / name
    data = folder / "data.parquet"
    if variant == "unlabeled":
        table = pq.read_table(data)
        data = folder / "unlabeled.parquet"
        pq.write_table(table.drop_columns(["label"]), data)
    return BuildRequest(
        folder / "model",
        data,
        UNLABELED if variant == "unlabeled" else LABELED,
        minutes,
        small=() if variant == "without_small" else (small(),),
        corpus=folder / "texts.parquet",
        max_length=TASKS[name].max_length,
    )


def small() -> Path:
    """MiniLM, under a name that tells what it is."""
    link = BUILD / "minilm-6x384"
    if not link.is_symlink():
        link.symlink_to(minilm())
    return link


def measured(name: str, variant: str, minutes: float, validation: Path) -> dict[str, Any]:
    """Build one variant from the candidates that were made, and measure it on the validation set."""
    output, made = BUILD / name / variant, work_directory_path(BUILD / name / "labeled")
    if variant != "labeled" and not work_directory_path(output).exists():
        shutil.copytree(made, work_directory_path(output), copy_function=os.link)
    asked = request(name, minutes, variant)
    with opened(asked, partial(work_directory, output)) as job:
        result = finish(job, search(job), asked.confidence_level, None, output)
    values = {
        "pays": result.cascades,
        "reasons": result.reasons,
        "minutes": result.seconds / 60,
        "candidates": [
            {
                key: getattr(one, key)
                for key in ("name", "state", "reason", "relative_cost", "agreement", "seconds")
            }
            for one in result.candidates
        ],
    }
    if not result.cascades:
        return values
    cascade = Cascade.from_pretrained(output)
    return values | figures(result, measure(cascade, load_examples(validation)))


def figures(result: BuildResult, found: ReportMetrics) -> dict[str, Any]:
    """The figures of a saved cascade on the validation set."""
    drop, timing, certified = found.accuracy_drop, found.timing, result.certification
    assert drop is not None and certified is not None and result.chosen is not None
    pipeline = next(other for other in timing.others if other.name.endswith("pipeline, batch 32"))
    return {
        "stages": result.chosen.stages,
        "score": result.chosen.score,
        "level": result.chosen.level,
        "engine": f"{timing.cascade.engine} {timing.cascade.precision}",
        "exit_rates": timing.exit_rates,
        "n": found.n,
        "accuracy": found.accuracy,
        "model_accuracy": found.classifier_accuracy,
        "lost": drop.value,
        "lost_ci": (drop.low, drop.high),
        "over_model": timing.measured_speedup,
        "over_model_range": timing.range,
        "over_pipeline": timing.cascade.examples_per_second / pipeline.examples_per_second,
        "agreement": found.agreement.value,
        "certified": {
            "guarantee": certified.guarantee,
            "bound": certified.bound,
            "n": certified.n,
            "reason": certified.reason,
        },
        "oracle_share": found.oracle_share,
    }


def summarize(data: Path, commit: str) -> None:
    """Write the summary of all tasks that were measured."""
    tasks: dict[str, Any] = {}
    for name in TASKS:
        files = [RESULTS / f"{name}-{variant}.json" for variant in VARIANTS]
        if all(file.is_file() for file in files):
            labeled, *others = (json.loads(file.read_text("utf-8")) for file in files)
            tasks[name] = {**labeled, **dict(zip(VARIANTS[1:], others, strict=True))}
    means = {key: mean(task.get(key, default(key)) for task in tasks.values()) for key in MEASURED}
    unlabeled = [task["unlabeled"] for task in tasks.values()]
    means["unlabeled"] = {key: mean(task.get(key, default(key)) for task in unlabeled) for key in MEASURED}
    values = {"tasks": tasks, "mean": means}
    read = [data / name / f"{split}.parquet" for name in tasks for split in ("train", "validation")]
    write_result(RESULTS / "summary.json", values, data=read, commit=commit)


def default(key: str) -> float:
    """The figure of a task where no cascade pays and the model answers alone."""
    return {"lost": 0.0, "agreement": 1.0}.get(key, 1.0)


if __name__ == "__main__":
    main()
