"""The experiment on one page: train, reduce to arrays, time, compare, draw."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascadebert.errors import CascadeError, DataError
from cascadebert.inference.tokenizer import StageTokenizer
from cascadebert.paper.analyses import (
    complete_against_shallow,
    confidence_by_difficulty,
    effect_of,
    trust_by_exit,
)
from cascadebert.paper.comparison import (
    DRAWS,
    ResultsTable,
    against,
    comparisons,
    out_of_reach,
    picked,
    run_lines,
    score_runs,
)
from cascadebert.paper.model_specs import ResultStore, model_specs, stage
from cascadebert.paper.operating_points import TOLERANCE
from cascadebert.paper.plots import draw_difficulty, draw_scores, draw_shallow, draw_trust
from cascadebert.paper.protocol import BASES, EARLY_EXITS, HUB, LARGE, ExperimentProtocol
from cascadebert.paper.results import RULES, TRUNCATED, ExperimentResults, cascade_name
from cascadebert.paper.task_data import load_task
from cascadebert.persistence.checkpoint_config import resolve_checkpoint

if TYPE_CHECKING:
    from cascadebert.paper.training import Encoders, Experiment


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
    """Run the whole experiment, or what of it is missing.

    Arrays and timings that are there are not made again, so a killed run goes on, with its models or without;
    a training that was killed goes on from its last checkpoint in `work`.

    Args:
        protocol: what to run; its models have names.
        output: folder of the results.
        work: folder of trained models; each task's and seed's are deleted once they are arrays.
        models: folder or Hub repository of each model by name; the presets' own are known.
        data: folder of data sets; None for the Hub.
        only: tasks to train now; the tables wait until all are there.
        keep_models: do not delete them.
        timed: time what was not timed yet; else a later run does, with the first seed's models, which stay.
        draws: bootstrap samples.

    Returns:
        What summary.json holds, or None where tasks or timings are still missing.

    Raises:
        CascadeError: if data, models or earlier results do not fit.
    """
    from cascadebert.paper.training import Experiment

    plans = [protocol.task(name) for name in only] or list(protocol.tasks)
    store = ResultStore(output, protocol.name)
    store.make_folders()
    _keep_protocol(protocol, store)
    sources = _sources(protocol, models or {})
    for plan in plans:
        large = sources.folders[protocol.large]
        encoder = StageTokenizer(large, max_length=protocol.tokens) if plan.both_ends else None
        rows = load_task(plan, data, seed=protocol.split_seed, encoder=encoder)
        for seed in protocol.seeds:
            folder = work / plan.name
            cell = Experiment(
                protocol, plan, rows, seed, sources, folder / f"seed-{seed}", folder / "difficulty"
            )
            _run_cell(cell, store, keep_models, timed)
    missing = ExperimentResults(protocol, store).missing()
    return report(output, draws=draws) if not missing else None


def report(output: Path, *, draws: int = DRAWS) -> dict[str, Any]:
    """Compute tables, analyses and pictures from the arrays and timings in a folder; models are not needed.

    Args:
        output: folder of the results.
        draws: bootstrap samples.

    Returns:
        What summary.json holds.

    Raises:
        DataError: if there is no experiment, or it is not complete.
    """
    protocol = _read_protocol(output)
    evidence = ExperimentResults(protocol, ResultStore(output, protocol.name))
    evidence.refuse_missing()
    table = score_runs(evidence, draws=draws)
    lines = run_lines(table)
    summary = {"comparisons": comparisons(table), "dar": []}
    if {"dar", "plain"} <= set(protocol.objectives):
        summary["dar"] = effect_of(evidence, "dar", draws=draws)
    analyses = _analyses(evidence, table, draws)
    _write(output / "runs.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    _write(output / "summary.json", json.dumps(summary, indent=1) + "\n")
    _write(output / "analyses.json", json.dumps(analyses, indent=1) + "\n")
    _draw(protocol, lines, analyses, output / "pictures")
    return summary


def _run_cell(cell: Experiment, store: ResultStore, keep_models: bool, timed: bool) -> None:
    from cascadebert.paper.timing_runs import time_cell
    from cascadebert.paper.training import fill, forget

    fill(cell, store)
    missing = not store.timings(cell.plan.name).is_file()
    if timed and missing:
        time_cell(cell, store).save(store.timings(cell.plan.name))
    to_be_timed = missing and not timed and cell.seed == cell.protocol.seeds[0]
    if not keep_models and not to_be_timed:
        forget(cell)


def _keep_protocol(protocol: ExperimentProtocol, store: ResultStore) -> None:
    """Write what is run; another experiment in the same folder is refused."""
    if not store.protocol.is_file():
        _write(store.protocol, json.dumps(protocol.to_json(), indent=1) + "\n")
    elif _read_protocol(store.output) != protocol:
        raise CascadeError(
            f"{store.output} holds an experiment of other settings or models (protocol.json). Give another "
            "--output, or delete it."
        )


def _read_protocol(output: Path) -> ExperimentProtocol:
    try:
        return ExperimentProtocol.from_json(json.loads((output / "protocol.json").read_text("utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{output}: no readable protocol.json of an experiment ({error})") from error


def _sources(protocol: ExperimentProtocol, models: Mapping[str, str]) -> Encoders:
    from cascadebert.paper.training import Encoders

    found = {}
    for name in dict.fromkeys(one.source for one in model_specs(protocol)):
        where = models.get(name, HUB.get(name))
        if where is None:
            raise CascadeError(f"it is not known where the model {name} lies. Give its folder.")
        found[name] = resolve_checkpoint(where)
    return Encoders(found)


def _analyses(evidence: ExperimentResults, table: ResultsTable, draws: int) -> dict[str, Any]:
    protocol = evidence.protocol
    timings = {plan.name: evidence.timings(plan.name) for plan in protocol.tasks}
    large = {
        plan.name: float(table.scores(LARGE, "flops", 1.0)[i, 0]) for i, plan in enumerate(protocol.tasks)
    }
    checks = [
        {"task": task, "method": one.method, "modelled": one.modelled, "measured": one.measured,
         "low": one.low, "high": one.high, "factor": timing.correction(one.method)}
        for task, timing in timings.items()
        for one in timing.checks
    ]  # fmt: skip
    others = [one for one in protocol.objectives if one != "plain"]
    effects = [
        {"small": small, "term": term, **row}
        for small in protocol.small
        for term in others
        for row in effect_of(evidence, term, small=small, draws=draws)
    ]
    return {
        "protocol": protocol.to_json(),
        "large": large,
        "chance": table.chances,
        "tolerance": TOLERANCE,
        "draws": draws,
        "picked": picked(table),
        "out_of_reach": out_of_reach(table),
        "against_large": against(table, LARGE),
        "against_plain": against(table, None),
        "effects": effects,
        "trust_by_exit": trust_by_exit(evidence),
        "complete_against_shallow": complete_against_shallow(evidence, table),
        "confidence_by_difficulty": confidence_by_difficulty(evidence),
        "clock": checks,
        "where": {task: timing.where for task, timing in timings.items()},
    }


def _draw(
    protocol: ExperimentProtocol, lines: list[dict[str, Any]], analyses: dict[str, Any], folder: Path
) -> None:
    folder.mkdir(exist_ok=True)
    small, chosen = protocol.small[0], [one for one in ("plain", "dar") if one in protocol.objectives]
    cascades = [cascade_name(one, chosen[-1]) for one in protocol.stage_lists] if chosen else []
    stages = [stage(small, one) for one in protocol.objectives if one in chosen]
    tasks = [plan.name for plan in protocol.tasks]
    for basis in BASES:
        methods = [*cascades, TRUNCATED, *RULES, LARGE]
        draw_scores(folder / f"scores-{basis}.svg", lines, basis=basis, tasks=tasks, methods=methods)
    for name in ("dis", "ece"):
        rows = analyses["trust_by_exit"]
        draw_trust(folder / f"{name}.svg", rows, figure_name=name, methods=[*stages, *EARLY_EXITS])
    if analyses["complete_against_shallow"]:
        rows = analyses["complete_against_shallow"]
        draw_shallow(folder / "shallow.svg", rows, target=max(protocol.targets))
    if analyses["confidence_by_difficulty"]:
        rows = analyses["confidence_by_difficulty"]
        draw_difficulty(folder / "difficulty.svg", rows, methods=[*stages, *EARLY_EXITS])


def _write(path: Path, text: str) -> None:
    aside = path.with_name(f"{path.name}.part")
    aside.write_text(text, "utf-8")
    aside.replace(path)
