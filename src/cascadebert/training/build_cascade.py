"""From trained stages to a saved cascade: calibrate, select thresholds, write the folder."""

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
from cascadebert.persistence.schema import SCHEMA_VERSION, CascadeSpec, StageSpec
from cascadebert.thresholds.operating_point import OperatingPoint, Target
from cascadebert.training.checkpoints import count_flops, display_name
from cascadebert.training.export import write_engine_file
from cascadebert.training.trainer import log
from cascadebert.tuning.engine_parity import check_engine_parity
from cascadebert.tuning.tune import (
    TuningResult,
    cache_outputs,
    recalibrate,
    select_operating_point,
    spec_fields,
)
from cascadebert.types import CostUnit, ScoreChoice


def prepare_stages(
    folders: Sequence[Path], names: Sequence[str], *, max_length: int | None, engine: str, precision: str
) -> tuple[Stage, ...]:
    """Load fine-tuned checkpoints, from small to large, as stages with the label order of the last one.

    Writes the engine's file into each folder. `names` are the checkpoints that the stages were made from.
    Raises StageError if one is not complete or cannot be run by the engine, or if their labels differ.
    """
    stages: list[Stage] = []
    for number, (folder, name) in enumerate(zip(folders, names, strict=True), start=1):
        log.info("stage %d/%d: preparing for %s, %s", number, len(folders), engine, precision)
        write_engine_file(folder, engine)
        stage = Stage.from_pretrained(folder, engine=engine, precision=precision, max_length=max_length)
        stages.append(replace(stage, name=display_name(name), flops=count_flops(folder)))
    return tuple(stage.with_labels(stages[-1].label_names) for stage in stages)


def build_cascade(
    stages: tuple[Stage, ...],
    tuning_set: Examples,
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
    """Calibrate and select thresholds on a tuning set that no stage was trained on, and write one folder.

    `rows` are fingerprints of all examples used, `notices` are kept with the operating point, and `files`
    are copied into the folder by name. Raises InfeasibleTarget, and writes nothing, if no thresholds meet
    the target.
    """
    point = OperatingPoint((1.0,) * (len(stages) - 1))
    cascade = Cascade(stages, (1.0,) * len(stages), point)
    log.info("tuning on %d examples", len(tuning_set))
    cached = cache_outputs(cascade, tuning_set)
    notices = (*notices, *check_engine_parity(stages, tuning_set.texts, cached.logits))
    cascade = recalibrate(cascade, cached)
    tuned = select_operating_point(cascade, cached, target, cost_unit, notices, score=score)
    spec = _spec(cascade, tuned, tuning_set, provenance)
    folders = {entry.path: stage.path for entry, stage in zip(spec.stages, stages, strict=True)}
    write_folder(output, spec, {**folders, **(files or {})}, rows, overwrite=overwrite)
    return Cascade.from_pretrained(output)


def _spec(
    cascade: Cascade, tuned: TuningResult, tuning_set: Examples, provenance: Mapping[str, Any]
) -> CascadeSpec:
    return CascadeSpec(
        format="cascadebert",
        schema_version=SCHEMA_VERSION,
        label_names=cascade.label_names,
        texts_per_row=1 if isinstance(tuning_set.texts[0], str) else 2,
        stages=tuple(
            StageSpec(
                path=f"stage-{number}",
                name=stage.name,
                layers=stage.layers,
                hidden=stage.hidden,
                max_length=stage.tokenizer.max_length,
                temperature=temperature,
                flops=stage.flops,
                sha256=file_hashes(stage.path),
            )
            for number, (stage, temperature) in enumerate(
                zip(cascade.stages, cascade.temperatures, strict=True), start=1
            )
        ),
        provenance={**provenance, "versions": versions()},
        **spec_fields(cascade, tuned, tuning_set),
    )
