"""The experiment: train, store outputs, time, compare, draw."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascadebert.atomic import write_text_atomically
from cascadebert.errors import CascadeError, DataError
from cascadebert.inference.tokenizer import StageTokenizer
from cascadebert.paper.analyses import (
    complete_against_shallow,
    confidence_by_difficulty,
    confidence_by_exit,
    objective_effects,
)
from cascadebert.paper.comparison import (
    DRAWS,
    ResultsTable,
    best_cascades,
    compare_cascades,
    comparisons,
    out_of_reach,
    run_lines,
    score_runs,
)
from cascadebert.paper.model_specs import model_specs, small_name
from cascadebert.paper.operating_points import TOLERANCE
from cascadebert.paper.plots import draw_confidence, draw_difficulty, draw_scores, draw_shallow
from cascadebert.paper.protocol import BASES, EARLY_EXITS, HUB, LARGE, ExperimentProtocol, ObjectiveName
from cascadebert.paper.results import RULES, TRUNCATED, ResultStore, cascade_name
from cascadebert.paper.task_data import load_task
from cascadebert.persistence.checkpoint_config import resolve_checkpoint

if TYPE_CHECKING:
    from cascadebert.paper.training import Experiment, PretrainedEncoder


def reproduce(
    protocol: ExperimentProtocol,
    *,
    output: Path,
    work: Path,
    models: Mapping[str, str] | None = None,
    data: Path | None = None,
    only: Sequence[str] = (),
    keep_models: bool = False,
    timed: bool = True,
    draws: int = DRAWS,
) -> dict[str, Any] | None:
    """Run the experiment, or the part of it that is missing.

    Outputs and timings that exist are not made again, so an interrupted run resumes, with its models or
    without; an interrupted training resumes from its last checkpoint in `work`.

    Args:
        protocol: configuration, with the names of the models.
        output: folder of the results.
        work: folder of trained models; those of a task and seed are deleted once their outputs are stored.
        models: folder or Hub repository of each model by name; the presets' own are known.
        data: folder of data sets; None for the Hub.
        only: tasks to train now; tables are made when all tasks are complete.
        keep_models: do not delete trained models.
        timed: time what has no timings yet; else a later run does, with the first seed's models, which stay.
        draws: bootstrap samples.

    Returns:
        The content of summary.json, or None while tasks or timings are missing.

    Raises:
        CascadeError: if data, models or earlier results do not match the protocol.
    """
    from cascadebert.paper.training import Experiment

    tasks = [protocol.task(name) for name in only] or protocol.tasks
    store = ResultStore(protocol, output)
    store.create_folders()
    _write_protocol(store)
    encoders = _resolve_encoders(protocol, models or {})
    tokenizer = StageTokenizer(encoders[protocol.large].folder, max_length=protocol.tokens)
    for task in tasks:
        examples = load_task(task, data, seed=protocol.split_seed, tokenizer=tokenizer)
        for seed in protocol.seeds:
            experiment = Experiment(protocol, task, examples, seed, encoders, work / task.name)
            _run(experiment, store, keep_models=keep_models, timed=timed)
    return None if store.missing() else report(output, draws=draws)


def report(output: Path, *, draws: int = DRAWS) -> dict[str, Any]:
    """Make tables, analyses and charts from the stored outputs and timings in a folder, without models.

    Returns the content of summary.json. Raises DataError if there is no experiment, or it is incomplete.
    """
    protocol = _read_protocol(output)
    store = ResultStore(protocol, output)
    store.check_complete()
    table = score_runs(store, draws=draws)
    lines = run_lines(table)
    summary = {"comparisons": comparisons(table), "dar": []}
    if {"dar", "plain"} <= set(protocol.objectives):
        summary["dar"] = objective_effects(store, "dar", draws=draws)
    analyses = _analyses(store, table, draws)
    write_text_atomically(output / "runs.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    write_text_atomically(output / "summary.json", json.dumps(summary, indent=1) + "\n")
    write_text_atomically(output / "analyses.json", json.dumps(analyses, indent=1) + "\n")
    _draw(protocol, lines, analyses, output / "pictures")
    return summary


def _run(experiment: Experiment, store: ResultStore, *, keep_models: bool, timed: bool) -> None:
    from cascadebert.paper.timing_runs import time_models
    from cascadebert.paper.training import delete_models, store_predictions

    store_predictions(experiment, store)
    path = store.timings_path(experiment.task.name)
    if timed and not path.is_file():
        time_models(experiment, store).save(path)
    timed_later = not path.is_file() and experiment.seed == experiment.protocol.seeds[0]
    if not keep_models and not timed_later:
        delete_models(experiment)


def _write_protocol(store: ResultStore) -> None:
    path = store.output / "protocol.json"
    if not path.is_file():
        write_text_atomically(path, json.dumps(store.protocol.to_json(), indent=1) + "\n")
    elif _read_protocol(store.output) != store.protocol:
        raise CascadeError(
            f"{store.output} holds an experiment of other settings or models (protocol.json). Give another "
            "--output, or delete it."
        )


def _read_protocol(output: Path) -> ExperimentProtocol:
    try:
        return ExperimentProtocol.from_json(json.loads((output / "protocol.json").read_text("utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{output}: no readable protocol.json of an experiment ({error})") from error


def _resolve_encoders(
    protocol: ExperimentProtocol, models: Mapping[str, str]
) -> dict[str, PretrainedEncoder]:
    from cascadebert.paper.training import PretrainedEncoder

    known, encoders = {**HUB, **models}, {}
    for name in dict.fromkeys(spec.source for spec in model_specs(protocol)):
        if name not in known:
            raise CascadeError(f"no folder or repository is known for the model {name}. Give its folder.")
        encoders[name] = PretrainedEncoder.from_folder(resolve_checkpoint(known[name]))
    return encoders


def _analyses(store: ResultStore, table: ResultsTable, draws: int) -> dict[str, Any]:
    protocol = store.protocol
    timings = {task.name: store.timings(task.name) for task in protocol.tasks}
    large_scores = table.scores(LARGE, "flops", 1.0)[:, 0].tolist()
    checks = [
        {"task": task, "method": check.method, "modelled": check.modelled, "measured": check.measured,
         "low": check.low, "high": check.high, "factor": timing.correction(check.method)}
        for task, timing in timings.items()
        for check in timing.checks
    ]  # fmt: skip
    effects = [
        {"small": small, "term": objective, **line}
        for small in protocol.small
        for objective in protocol.objectives
        if objective != "plain"
        for line in objective_effects(store, objective, small=small, draws=draws)
    ]
    return {
        "protocol": protocol.to_json(),
        "large": dict(zip(timings, large_scores, strict=True)),
        "chance": table.chances,
        "tolerance": TOLERANCE,
        "draws": draws,
        "picked": best_cascades(table),
        "out_of_reach": out_of_reach(table),
        "against_large": compare_cascades(table, LARGE),
        "against_plain": compare_cascades(table, None),
        "effects": effects,
        "trust_by_exit": confidence_by_exit(store),
        "complete_against_shallow": complete_against_shallow(store, table),
        "confidence_by_difficulty": confidence_by_difficulty(store),
        "clock": checks,
        "where": {task: timing.where for task, timing in timings.items()},
    }


def _draw(
    protocol: ExperimentProtocol, lines: list[dict[str, Any]], analyses: dict[str, Any], folder: Path
) -> None:
    folder.mkdir(exist_ok=True)
    objective: ObjectiveName = "dar" if "dar" in protocol.objectives else "plain"
    drawn = [name for name in protocol.objectives if name in ("plain", "dar")]
    cascades = [cascade_name(small, objective) for small in protocol.stage_lists]
    tasks, methods = [task.name for task in protocol.tasks], [*cascades, TRUNCATED, *RULES, LARGE]
    for basis in BASES:
        draw_scores(folder / f"scores-{basis}.svg", lines, basis=basis, tasks=tasks, methods=methods)
    methods = [*(small_name(protocol.small[0], name) for name in drawn), *EARLY_EXITS]
    for metric in ("dis", "ece"):
        rows = analyses["trust_by_exit"]
        draw_confidence(folder / f"{metric}.svg", rows, metric=metric, methods=methods)
    rows = analyses["complete_against_shallow"]
    if rows:
        draw_shallow(folder / "shallow.svg", rows, target=max(protocol.targets))
    rows = analyses["confidence_by_difficulty"]
    if rows:
        draw_difficulty(folder / "difficulty.svg", rows, methods=methods)
