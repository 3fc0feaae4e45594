"""From existing classifiers to a saved cascade: calibrate, select thresholds, write the folder."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cascadebert.data.columns import ColumnNames, Columns, named
from cascadebert.data.dataset import DataSource, Examples, load_examples
from cascadebert.environment import versions
from cascadebert.errors import explain_full_disk, show_paths_as
from cascadebert.evaluation.evaluate import check_has_tokens
from cascadebert.inference.cascade import Cascade
from cascadebert.inference.engines.load import engine_options
from cascadebert.inference.stage import Stage
from cascadebert.paths import check_roles
from cascadebert.persistence.checkpoint_config import config_label_names, read_config
from cascadebert.persistence.folder import UsedRows, ensure_writable_directory, file_hashes, write_folder
from cascadebert.persistence.schema import SCHEMA_VERSION, CascadeSpec, StageSpec, TimedEngine
from cascadebert.thresholds.operating_point import OperatingPoint, Target
from cascadebert.training.checkpoints import (
    check_stages,
    copy_checkpoint,
    weight_files,
)
from cascadebert.training.open_stage import opened_classifiers
from cascadebert.training.stage_check import StageFiles, load_checked
from cascadebert.training.stage_limits import write_limits
from cascadebert.training.trainer import log
from cascadebert.tuning.engine_choice import EngineChoice, choose_engine
from cascadebert.tuning.tune import calibrated_outputs, needs_labels, select_operating_point, spec_fields
from cascadebert.types import CostUnit, ScoreChoice


@dataclass(frozen=True)
class BuildConfig:
    """Options of making a cascade of trained stages; see `assemble`."""

    target: Target
    cost_unit: CostUnit
    score: ScoreChoice
    engines: Sequence[tuple[str, str]]  # and precisions to choose from, see `engine_options`; one if chosen
    max_length: int | None
    overwrite: bool
    columns: ColumnNames | None  # that later calls look for first
    timed: tuple[TimedEngine, ...] = ()  # by which the engine was chosen


@explain_full_disk()
def assemble(
    stages: Sequence[str | Path],
    *,
    data: DataSource,
    target: Target,
    output: str | Path,
    columns: Columns | None = None,
    max_length: int | None = None,
    cost_unit: CostUnit = "flops",
    score: ScoreChoice = "max_probability",
    engine: str = "auto",
    precision: str = "auto",
    overwrite: bool = False,
) -> Cascade:
    """Take fine-tuned classifiers as they are, select thresholds on held-out examples, and save one folder.

    Args:
        stages: Two or more fine-tuned checkpoints from small to large: folders or repositories of the Hub,
            whose labels have the same names, in any order.
        data: Examples that no stage was trained on (see `load_examples`). Without labels the target must be a
            speed-up or agreement with the last stage.
        target: The requirement to meet on those examples.
        output: The folder to write.
        columns: Names of the columns, if they are not the usual ones; the cascade remembers them.
        max_length: Maximum tokens per text; by default 128.
        cost_unit: The unit of cost that the speed-up refers to.
        score: The score to compare with thresholds; "auto" selects one on the examples.
        engine: The engine to run on: "openvino", "onnxruntime", "torch", or "auto": the fastest here of those
            that are installed, but torch where there is a CUDA device.
        precision: "float32", "bfloat16", "int8", or "auto": the fastest here that keeps the last stage's
            labels (see `choose_engine`).
        overwrite: Replace an existing output folder.

    Returns:
        The saved cascade, loaded.

    Raises:
        CascadeError: If data, stages or target cannot be used; nothing is written.
    """
    output, names = Path(output), [str(stage) for stage in stages]
    check_roles({"--output": output}, {"--stage": names, "--data": data})
    ensure_writable_directory(output, overwrite=overwrite)
    engines = engine_options(engine, precision)
    config = BuildConfig(target, cost_unit, score, engines, max_length, overwrite, named(columns))
    examples = load_examples(data, columns=columns, labels=needs_labels(target), split="validation")
    with opened_classifiers(names) as sources, show_paths_as(dict(zip(sources, names, strict=True))):
        for source in sources:
            weight_files(source)
        check_stages(names, sources)
        label_names = config_label_names(read_config(sources[-1]), sources[-1])
        examples = examples.match_labels(label_names, required=needs_labels(target))
        return _build_of_copies(sources, names, examples, config, output)


def _build_of_copies(
    sources: Sequence[Path], names: Sequence[str], examples: Examples, config: BuildConfig, output: Path
) -> Cascade:
    with tempfile.TemporaryDirectory(dir=output.absolute().parent, prefix=f".{output.name}-") as temporary:
        copies = [Path(temporary) / f"stage-{number}" for number in range(1, len(sources) + 1)]
        for source, copy in zip(sources, copies, strict=True):
            copy.mkdir()
            copy_checkpoint(source, copy)
            write_limits(copy)
        empty = np.empty(0, dtype=np.uint64)
        used = UsedRows(empty, examples.hashes(), empty)
        provenance = {"made_by": "assemble", "rows": {"tune": len(examples)}}
        made = [StageFiles(*files) for files in zip(names, copies, sources, sources, strict=True)]
        with show_paths_as(dict(zip(copies, names, strict=True))):
            return build_cascade(made, examples, config, output, used, provenance)


def build_cascade(
    made: Sequence[StageFiles],
    tuning_set: Examples,
    config: BuildConfig,
    output: Path,
    used: UsedRows,
    provenance: Mapping[str, Any],
    notices: tuple[str, ...] = (),
    files: Sequence[Path] = (),
) -> Cascade:
    """Make a cascade of fine-tuned checkpoints, from small to large.

    Writes the engine's file into each of their folders. `notices` are kept with the operating point, and
    `files` are copied into the output. Raises StageError if a checkpoint is not complete, cannot be run by
    the engine, has other labels or answers otherwise than in transformers, and
    InfeasibleTarget if no thresholds meet the target; nothing is written.
    """
    choice = _choose_engine(made[-1], tuning_set, config)
    stages = _load_stages(made, tuning_set, config, choice)
    check_has_tokens(tuning_set, (stage.tokenizer for stage in stages))
    cascade = Cascade(stages, (1.0,) * len(stages), OperatingPoint((1.0,) * (len(stages) - 1)))
    log.info("tuning on %d examples", len(tuning_set))
    cascade, cached, parity_notices = calibrated_outputs(cascade, tuning_set)
    notices = (*notices, *parity_notices)
    tuned = select_operating_point(
        cascade, cached, config.target, config.cost_unit, notices, score=config.score
    )
    spec = CascadeSpec(
        format="cascadebert",
        schema_version=SCHEMA_VERSION,
        label_names=cascade.label_names,
        texts_per_row=1 if isinstance(tuning_set.texts[0], str) else 2,
        stages=_stage_specs(cascade),
        columns=config.columns,
        engines=choice.timed,
        provenance={**provenance, "versions": versions()},
        **spec_fields(cascade, tuned, tuning_set),
    )
    sources = {entry.path: stage.path for entry, stage in zip(spec.stages, stages, strict=True)}
    sources |= {file.name: file for file in files}
    write_folder(output, spec, sources, used, overwrite=config.overwrite)
    return Cascade.from_pretrained(output)


def _choose_engine(last: StageFiles, tuning_set: Examples, config: BuildConfig) -> EngineChoice:
    """The engine and precision of the cascade, by its last stage."""
    engine, precision = config.engines[0]
    if len(config.engines) == 1:
        return EngineChoice(engine, precision, config.timed)
    texts, limit = tuning_set.texts, config.max_length
    stage = load_checked(last, texts, engine=engine, precision=precision, max_length=limit)
    return choose_engine(stage, config.engines, texts)


def _load_stages(
    made: Sequence[StageFiles], tuning_set: Examples, config: BuildConfig, choice: EngineChoice
) -> tuple[Stage, ...]:
    """The stages, checked against transformers, with the label order of the last one."""
    stages: list[Stage] = []
    for number, files in enumerate(made, start=1):
        log.info("stage %d/%d: preparing for %s, %s", number, len(made), choice.engine, choice.precision)
        stage = load_checked(
            files,
            tuning_set.texts,
            engine=choice.engine,
            precision=choice.precision,
            max_length=config.max_length,
        )
        stages.append(stage)
    return tuple(stage.with_labels(stages[-1].label_names) for stage in stages)


def _stage_specs(cascade: Cascade) -> tuple[StageSpec, ...]:
    stages = enumerate(zip(cascade.stages, cascade.temperatures, strict=True), start=1)
    return tuple(
        StageSpec(
            path=f"stage-{number}",
            name=stage.name,
            layers=stage.layers,
            hidden=stage.hidden,
            max_length=stage.tokenizer.max_length,
            padding_side=stage.tokenizer.padding.side,
            temperature=temperature,
            flops=stage.flops,
            sha256=file_hashes(stage.path),
        )
        for number, (stage, temperature) in stages
    )
