"""From trained stages to a saved cascade: calibrate, pick thresholds, write the folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cascadebert.data.dataset import Examples
from cascadebert.environment import versions
from cascadebert.inference.cascade import Cascade
from cascadebert.inference.stage import Stage
from cascadebert.persistence.folder import UsedRows, file_hashes, write_folder
from cascadebert.persistence.schema import SCHEMA_VERSION, CascadeSpec, StageSpec, TunedOn
from cascadebert.thresholds.operating_point import OperatingPoint, Target
from cascadebert.training.checkpoints import count_flops, display_name
from cascadebert.training.export import write_engine_file
from cascadebert.training.trainer import log
from cascadebert.tuning.engine_parity import check_engine_parity
from cascadebert.tuning.tune import TuningResult, cache_outputs, recalibrate, select_operating_point
from cascadebert.types import CostUnit, ScoreChoice


def prepare_stages(
    folders: Sequence[Path], names: Sequence[str], *, max_length: int | None, engine: str, precision: str
) -> tuple[Stage, ...]:
    """Load fine-tuned checkpoints as stages that agree on their labels, in the order of the last one's.

    Args:
        folders: from small to large; the engine's own file is written into each.
        names: what each was made from.
        max_length: longest row in tokens.
        engine: that will run them.
        precision: of its matrix products.

    Raises:
        StageError: if one is not complete or cannot be run by the engine, or their labels differ.
    """
    stages = []
    for number, folder in enumerate(folders, start=1):
        log.info("stage %d/%d: made ready for %s, %s", number, len(folders), engine, precision)
        write_engine_file(folder, engine)
        opened = Stage.from_pretrained(folder, engine=engine, precision=precision, max_length=max_length)
        stages.append(opened)
    labels = stages[-1].label_names
    return tuple(
        _named(stage.with_labels(labels), name, folder)
        for stage, name, folder in zip(stages, names, folders, strict=True)
    )


def build_cascade(
    stages: tuple[Stage, ...],
    tune_rows: Examples,
    *,
    target: Target,
    cost_unit: CostUnit,
    output: Path,
    rows: UsedRows,
    provenance: Mapping[str, Any],
    notices: tuple[str, ...] = (),
    files: Mapping[str, Path] | None = None,
    score: ScoreChoice = "max_probability",
    overwrite: bool = False,
) -> Cascade:
    """Calibrate on the tune rows, pick thresholds there, and write everything as one folder.

    Args:
        stages: from small to large, with the same label order.
        tune_rows: rows that no stage was trained on.
        target: what must hold on them.
        cost_unit: what speed-up is counted in.
        output: the folder to write.
        rows: fingerprints of the rows used, by purpose.
        provenance: how the stages were made.
        notices: kept with the operating point.
        files: further files for the folder, by name.
        score: what to compare with thresholds; "auto" picks one.
        overwrite: replace an existing folder.

    Raises:
        InfeasibleTarget: if no thresholds meet the target; nothing is written.
    """
    never = OperatingPoint((1.0,) * (len(stages) - 1))
    cascade = Cascade(stages, (1.0,) * len(stages), never)
    log.info("tuning on %d rows", len(tune_rows))
    cached = cache_outputs(cascade, tune_rows)
    said = check_engine_parity(stages, tune_rows.texts, cached.logits)
    cascade = recalibrate(cascade, cached)
    tuned = select_operating_point(cascade, cached, target, cost_unit, (*notices, *said), score=score)
    spec = _spec(cascade, tuned, tune_rows, provenance)
    folders = {entry.path: stage.path for entry, stage in zip(spec.stages, stages, strict=True)}
    write_folder(output, spec, folders, rows, files=files, overwrite=overwrite)
    return Cascade.from_pretrained(output)


def _spec(
    cascade: Cascade, tuned: TuningResult, tune_rows: Examples, provenance: Mapping[str, Any]
) -> CascadeSpec:
    engine = cascade.stages[-1].engine
    return CascadeSpec(
        format="cascadebert",
        schema_version=SCHEMA_VERSION,
        label_names=cascade.label_names,
        texts_per_row=1 if isinstance(tune_rows.texts[0], str) else 2,
        score=tuned.score,
        stages=tuple(
            _entry(number, stage, temperature)
            for number, (stage, temperature) in enumerate(
                zip(cascade.stages, cascade.temperatures, strict=True), start=1
            )
        ),
        operating_point=tuned.point,
        tuned_on=TunedOn(
            engine=engine.name,
            precision=engine.precision,
            device=engine.device,
            source=tune_rows.source,
            data_sha256=tune_rows.sha256(),
        ),
        measured=tuned.report,
        timing=tuned.timing,
        calibration=tuned.calibration,
        provenance={**provenance, "versions": versions()},
    )


def _entry(number: int, stage: Stage, temperature: float) -> StageSpec:
    return StageSpec(
        path=f"stage-{number}",
        name=stage.name,
        layers=stage.layers,
        hidden=stage.hidden,
        max_length=stage.tokenizer.max_length,
        temperature=temperature,
        flops=stage.flops,
        sha256=file_hashes(stage.path),
    )


def _named(stage: Stage, name: str, folder: Path) -> Stage:
    return replace(stage, name=display_name(name), flops=count_flops(folder))
