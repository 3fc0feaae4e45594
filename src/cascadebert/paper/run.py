"""The experiment: train, store outputs, time, compare, draw."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

from cascadebert.atomic import (
    check_work_directory,
    work_directory,
    work_directory_path,
    write_text_atomically,
)
from cascadebert.errors import CascadeError, DataError
from cascadebert.inference.tokenizer import StageTokenizer
from cascadebert.paper import analyses, comparison, plots
from cascadebert.paper.operating_points import TOLERANCE
from cascadebert.paper.protocol import BASES, LARGE, ExperimentProtocol, small_name
from cascadebert.paper.results import STUDENT, TRUNCATED, ResultStore, cascade_name, early_exits
from cascadebert.paper.task_data import load_task
from cascadebert.paths import WORK, check_roles

PROTOCOL_FILE = "protocol.json"


def reproduce(
    protocol: ExperimentProtocol,
    *,
    output: Path,
    work: Path | None = None,
    models: Mapping[str, str] | None = None,
    data: Path | None = None,
    only: Sequence[str] = (),
    keep_models: bool = False,
    timed: bool = True,
    draws: int = comparison.DRAWS,
) -> dict[str, Any] | None:
    """Run the experiment, or the part of it that is missing; an interrupted run or training resumes.

    The models of a task and seed are deleted in `work` (by default `OUTPUT.work`) once their outputs are
    stored, unless `keep_models`.
    `models` maps names to folders or Hub repositories (the presets' own are known); data sets come from the
    folder `data`, or the Hub. With `only`, just these tasks are trained now. Without `timed` a later run
    times what has no timings yet, with the first seed's models, which stay.

    Returns the content of summary.json, or None while tasks or timings are missing. Raises CascadeError if
    data, models or earlier results do not match the protocol.
    """
    from cascadebert.paper.timing_runs import time_models
    from cascadebert.paper.training import Experiment, resolve_encoders, train_models
    from cascadebert.training.processes import run_all

    roles = {"--output": output, "--work": work, WORK: None if work else work_directory_path(output)}
    check_roles(roles, {"--data": data, "the encoder": list((models or {}).values())})
    if work is None:
        check_work_directory(output)
    tasks = [protocol.task(name) for name in only] or protocol.tasks
    store = ResultStore(protocol, output)
    for kind in ("arrays", "timings"):
        (output / kind / protocol.name).mkdir(parents=True, exist_ok=True)
    work = work or work_directory(output)
    path = output / PROTOCOL_FILE
    if not path.is_file():
        write_text_atomically(path, json.dumps(asdict(protocol), indent=1) + "\n")
    elif ExperimentProtocol.load(path) != protocol:
        raise CascadeError(
            f"{output} holds an experiment of other settings or models (protocol.json). Give another "
            "--output, or delete it."
        )
    encoders = resolve_encoders(protocol, models or {})
    for task in tasks:
        large = encoders[protocol.large]
        tokenizer = StageTokenizer(large, max_length=protocol.tokens) if task.both_ends else None
        examples = load_task(task, data, seed=protocol.split_seed, tokenizer=tokenizer)
        parts = (protocol, task, examples)
        experiments = [Experiment(*parts, seed, encoders, work / task.name) for seed in protocol.seeds]
        first, timings = experiments[0], store.timings_path(task.name)
        run_all(train_models, [(one, store, keep_models or one is first) for one in experiments])
        if timed and not timings.is_file():
            time_models(first, store).save(timings)
        if not keep_models and timings.is_file():
            shutil.rmtree(first.work, ignore_errors=True)
    return None if store.missing() else report(output, draws=draws)


def report(output: Path, *, draws: int = comparison.DRAWS) -> dict[str, Any]:
    """Make tables, analyses and charts from the stored outputs and timings in a folder, without models.

    Returns the content of summary.json. Raises DataError if there is no experiment, or it is incomplete.
    """
    protocol = ExperimentProtocol.load(output / PROTOCOL_FILE)
    store = ResultStore(protocol, output)
    missing = store.missing()
    if missing:
        raise DataError(
            f"{len(missing)} files of the experiment are missing, such as {missing[0]}. Run `cascadebert "
            "reproduce` again to complete it; it resumes where it stopped."
        )
    table = comparison.score_runs(store, draws=draws)
    lines = [asdict(scored.run) for scored in table.runs.values()]
    summary = {"comparisons": comparison.comparisons(table), "dar": []}
    if {"dar", "plain"} <= set(protocol.objectives):
        summary["dar"] = analyses.objective_effects(store, "dar", draws=draws)
    details = _details(store, table, draws)
    write_text_atomically(output / "runs.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    write_text_atomically(output / "summary.json", json.dumps(summary, indent=1) + "\n")
    write_text_atomically(output / "analyses.json", json.dumps(details, indent=1) + "\n")
    _draw(protocol, lines, details, output / "pictures")
    return summary


def _details(store: ResultStore, table: comparison.ResultsTable, draws: int) -> dict[str, Any]:
    protocol = store.protocol
    timings = {task.name: store.results(task.name, protocol.seeds[0]).timings for task in protocol.tasks}
    checks = []
    for task, timing in timings.items():
        for check in timing.checks:
            checks.append({"task": task, **asdict(check), "factor": timing.correction(check.method)})
            del checks[-1]["setting"]
    effects = []
    for small, objective in product(protocol.small, protocol.objectives):
        if objective != "plain":
            lines = analyses.objective_effects(store, objective, small=small, draws=draws)
            effects += [{"small": small, "term": objective, **line} for line in lines]
    return {
        "protocol": asdict(protocol),
        "large": dict(zip(timings, table.scores(LARGE, "flops", 1.0)[:, 0].tolist(), strict=True)),
        "chance": table.chances,
        "tolerance": TOLERANCE,
        "draws": draws,
        "picked": comparison.best_cascades(table),
        "out_of_reach": comparison.out_of_reach(table),
        "against_large": comparison.compare_cascades(table, LARGE),
        "against_plain": comparison.compare_cascades(table, None),
        "against_student": comparison.compare_cascades(table, STUDENT) if protocol.students else [],
        "gain_parts": comparison.gain_parts(table),
        "effects": effects,
        "trust_by_exit": analyses.confidence_by_exit(store),
        "complete_against_shallow": analyses.complete_against_shallow(store, table),
        "confidence_by_difficulty": analyses.confidence_by_difficulty(store),
        "clock": checks,
        "where": {task: timing.where for task, timing in timings.items()},
    }


def _draw(
    protocol: ExperimentProtocol, lines: list[dict[str, Any]], details: dict[str, Any], folder: Path
) -> None:
    folder.mkdir(exist_ok=True)
    tasks = [task.name for task in protocol.tasks]
    cascades = [cascade_name(small, protocol.main_objective) for small in protocol.stage_lists]
    singles = [TRUNCATED, *([STUDENT] if protocol.students else [])]
    for basis, (suffix, exits) in product(BASES, _drawn_exits(protocol).items()):
        file, methods = folder / f"scores-{basis}{suffix}.svg", [*cascades, *singles, *exits, LARGE]
        plots.draw_scores(file, lines, basis=basis, tasks=tasks, methods=methods)
    stages = [small_name(protocol.small[0], name) for name in protocol.objectives if name in ("plain", "dar")]
    models = [
        name for name, spec in protocol.multi_exit_models.items() if spec.reads == protocol.exits_read[-1]
    ]
    for metric in ("dis", "ece"):
        rows = details["trust_by_exit"]
        plots.draw_confidence(folder / f"{metric}.svg", rows, metric=metric, methods=[*stages, *models])
    if rows := details["complete_against_shallow"]:
        plots.draw_shallow(folder / "shallow.svg", rows, target=max(protocol.targets))
    if rows := details["confidence_by_difficulty"]:
        plots.draw_difficulty(folder / "difficulty.svg", rows, methods=[*stages, *models])


def _drawn_exits(protocol: ExperimentProtocol) -> dict[str, list[str]]:
    """The early exits of each chart of scores, by what its name ends in: those published, and the others."""
    published = list(early_exits(protocol, "published"))
    others = [name for name in early_exits(protocol) if name not in published]
    if not (published and others):
        return {"": published or others}
    return {"": published, "-strengthened": others}
