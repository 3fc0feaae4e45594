"""From labelled rows to a saved cascade: the whole flow on one page."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cascadebert.atomic import work_directory
from cascadebert.data.columns import Columns
from cascadebert.data.dataset import Examples, Hashes, load_examples
from cascadebert.data.splits import Splits, assign_folds, split_examples
from cascadebert.errors import CascadeError, DataError, StageError
from cascadebert.inference.cascade import Cascade
from cascadebert.inference.engines.load import resolve_engine
from cascadebert.inference.stage import Stage
from cascadebert.inference.stage_kind import STATIC, stage_kind
from cascadebert.inference.tokenizer import resolve_max_length
from cascadebert.persistence.checkpoint_config import config_int, read_config, resolve_checkpoint
from cascadebert.persistence.folder import UsedRows, ensure_writable_directory
from cascadebert.thresholds.operating_point import Target
from cascadebert.training.build_cascade import build_cascade, prepare_stages
from cascadebert.training.checkpoints import check_stage_order, check_tokenizer, count_flops, depth
from cascadebert.training.config import FitConfig
from cascadebert.training.difficulty import DifficultyLabels, label_difficulty
from cascadebert.training.losses import NO_LABEL
from cascadebert.training.static_model import create_static_checkpoint
from cascadebert.training.train_stage import TrainingData, train_stage
from cascadebert.training.trainer import log
from cascadebert.types import CostUnit, Logits, ScoreChoice, Texts

if TYPE_CHECKING:
    import datasets


def fit(
    train: str | Path | datasets.Dataset | Examples,
    *,
    stages: Sequence[str | Path],
    target: Target,
    output: str | Path,
    validation: str | Path | datasets.Dataset | Examples | None = None,
    unlabelled: str | Path | datasets.Dataset | Examples | None = None,
    columns: Columns | None = None,
    difficulty: Sequence[str | Path] = (),
    cost_unit: CostUnit = "flops",
    score: ScoreChoice = "max_probability",
    engine: str = "auto",
    precision: str = "auto",
    overwrite: bool = False,
    config: FitConfig | None = None,
) -> Cascade:
    """Train every stage, calibrate, pick thresholds and save the cascade as one folder.

    Half-finished work lies beside the output, in `OUTPUT.work`, and goes when all is done: the same call
    after a kill (or with another target after an infeasible one) goes on from there.

    Args:
        train: labelled rows: a file, a data set, or the name of one on the Hub (see `load_examples`).
        stages: two or more checkpoints from small to large: folders or repositories of the Hub; the first
            may be "static", a bag of token embeddings from the last one's table.
        target: what must hold on the tune rows.
        output: the folder to write.
        validation: labelled rows like those the cascade will meet, for tuning and certifying; default:
            carved from `train`.
        unlabelled: more rows of the task without labels: the earlier stages learn the last stage's logits
            on them (and on the train rows). Rows that are in another part, or of a tune or certify group, are
            left out.
        columns: names of the columns, where not the usual ones.
        difficulty: files of difficulty labels from an earlier run, one per stage but the last.
        cost_unit: what speed-up is counted in.
        score: what to compare with thresholds; "auto" picks one on the tune rows.
        engine: what will run it: "openvino", "onnxruntime", "torch", or "auto": the first that is
            installed, but torch where there is a CUDA device.
        precision: "float32", "bfloat16", or "auto" for the engine's own choice on this processor.
        overwrite: replace an existing output folder.
        config: how to train.

    Raises:
        CascadeError: one of its kinds, for data, stages or targets that cannot be used; nothing is written.

    Returns:
        The saved cascade, loaded.
    """
    config = _with_distillation(config or FitConfig(), unlabelled is not None)
    output = Path(output)
    ensure_writable_directory(output, overwrite=overwrite)
    engine, precision = resolve_engine(engine, precision)
    parts = _parts(train, validation, columns, config)
    more, notices = _more_rows(unlabelled, columns, parts)
    names = [str(stage) for stage in stages]
    reused = _reused(difficulty, parts, len(stages) - 1, config)
    with tempfile.TemporaryDirectory() as made:
        sources = _sources(names, Path(made))
        ensure_writable_directory(output, overwrite=overwrite, sources=sources)
        _refuse_stages(names, sources, parts, target, cost_unit, config)
        recipes = [
            replace(config, **stage_kind(source).recipe_overrides(config.epochs)) for source in sources
        ]
        work = work_directory(output)
        folders, labels = _train_all(sources, parts, more, reused, config, work)
    cascade = build_cascade(
        prepare_stages(folders, names, max_length=config.max_length, engine=engine, precision=precision),
        parts.tune,
        target=target,
        cost_unit=cost_unit,
        score=score,
        output=output,
        rows=UsedRows(_hashes(parts.train, more), parts.tune.hashes(), parts.certify.hashes()),
        provenance=_provenance(parts, more, config, labels, recipes),
        notices=(*parts.notices, *notices),
        files=_save_difficulty(labels, work),
        overwrite=overwrite,
    )
    shutil.rmtree(work)
    return cascade


def _sources(names: Sequence[str], made: Path) -> list[Path]:
    """The folder of each stage's checkpoint; a static first stage is made from the last stage's.

    Raises:
        StageError: if there is none, or a static stage is not the first of several.
    """
    if STATIC.name in names[1:] or list(names) == [STATIC.name]:
        raise StageError(f"a {STATIC.name} stage is the first of two or more; given: {', '.join(names)}")
    found = [resolve_checkpoint(name) for name in names if name != STATIC.name]
    return (
        found
        if len(found) == len(names)
        else [create_static_checkpoint(found[-1], made / STATIC.name), *found]
    )


def _parts(
    train: str | Path | datasets.Dataset | Examples,
    validation: str | Path | datasets.Dataset | Examples | None,
    columns: Columns | None,
    config: FitConfig,
) -> Splits:
    rows = load_examples(train, columns=columns)
    held_out = None
    if validation is not None:
        held_out = load_examples(validation, columns=columns, groups=False, split="validation")
    parts = split_examples(
        rows,
        held_out,
        tune_fraction=config.tune_fraction,
        certify_fraction=config.certify_fraction,
        seed=config.seed,
    )
    log.info(
        "rows: train %d, tune %d, certify %d; %d labels",
        len(parts.train),
        len(parts.tune),
        len(parts.certify),
        len(parts.label_names),
    )
    return parts


def _with_distillation(config: FitConfig, unlabelled: bool) -> FitConfig:
    """The configuration with its distillation weight decided."""
    if config.distill_weight is None:
        return replace(config, distill_weight=float(unlabelled))
    if unlabelled and not config.distill_weight:
        raise CascadeError(
            "rows without labels teach by the last stage's logits alone: leave out --unlabelled, or give "
            "--distill-weight above 0"
        )
    return config


def _more_rows(
    source: str | Path | datasets.Dataset | Examples | None, columns: Columns | None, parts: Splits
) -> tuple[Examples | None, tuple[str, ...]]:
    """Unlabelled rows that are in no part yet, each once; and what to say about the others."""
    if source is None:
        return None, ()
    rows = load_examples(
        source, columns=replace(columns or Columns(), label=None), labels=False, groups=False
    )
    if isinstance(rows.texts[0], str) != isinstance(parts.train.texts[0], str):
        raise DataError(f"{rows.source}: expected one text a row, or pairs, as in {parts.train.source}")
    hashes = rows.hashes()
    _, first = np.unique(hashes, return_index=True)
    used = np.concatenate([part.hashes() for part in (parts.train, parts.tune, parts.certify)])
    free = ~np.isin(hashes, used)
    if rows.groups is not None:
        held_out = {*(parts.tune.groups or ()), *(parts.certify.groups or ())}
        free &= np.array([group not in held_out for group in rows.groups])
    kept = np.sort(first[free[first]])
    if not len(kept):
        raise DataError(
            f"{rows.source}: all {len(rows):,} rows are among the train, tune or certify rows, or of their "
            "groups. Give rows that are in none of them."
        )
    log.info("unlabelled rows: %d", len(kept))
    left_out = len(rows) - len(kept)
    said = f"{left_out:,} of {len(rows):,} unlabelled rows left out: in another part, or there twice"
    return rows.take(kept), (said,) if left_out else ()


def _hashes(train: Examples, more: Examples | None) -> Hashes:
    return train.hashes() if more is None else np.concatenate([train.hashes(), more.hashes()])


def _train_all(
    sources: Sequence[Path],
    parts: Splits,
    more: Examples | None,
    reused: Sequence[DifficultyLabels],
    config: FitConfig,
    work: Path,
) -> tuple[list[Path], list[DifficultyLabels]]:
    """Each stage by itself, the last first: the earlier ones may learn from its logits."""
    count = len(sources)
    ids = parts.train.label_ids(parts.label_names)
    plain = TrainingData(parts.train.texts, ids, parts.label_names)
    last = train_stage(sources[-1], plain, config, work=work, what=f"stage {count}/{count}")
    texts, extra_ids = [*parts.train.texts], np.full(0 if more is None else len(more), NO_LABEL)
    texts.extend(() if more is None else more.texts)
    teacher = _teacher(last, texts, config) if config.distill_weight else None
    folders, labels = [], []
    for number, source in enumerate(sources[:-1], start=1):
        hard = None
        if config.dar_weight:
            made = reused[number - 1] if reused else _difficulty(parts, source, config, work)
            labels.append(made)
            hard = np.concatenate([made.of(parts.train), np.zeros(len(extra_ids), dtype=np.bool_)])
        lesson = TrainingData(texts, np.concatenate([ids, extra_ids]), parts.label_names, hard, teacher)
        folders.append(train_stage(source, lesson, config, work=work, what=f"stage {number}/{count}"))
    return [*folders, last], labels


def _difficulty(parts: Splits, source: Path, config: FitConfig, work: Path) -> DifficultyLabels:
    return label_difficulty(parts.train, stage=source, config=config, names=parts.label_names, work=work)


def _teacher(folder: Path, texts: Texts, config: FitConfig) -> Logits:
    stage = Stage.from_pretrained(folder, engine="torch", precision="float32", max_length=config.max_length)
    return stage.logits(stage.encode(texts))


def _refuse_stages(
    names: Sequence[str],
    sources: Sequence[Path],
    parts: Splits,
    target: Target,
    cost_unit: CostUnit,
    config: FitConfig,
) -> None:
    """Refuse before any training what would only come out after it."""
    flops = []
    for source in sources:
        check_tokenizer(source)
        resolve_max_length(read_config(source), config.max_length, source)
        flops.append(count_flops(source, num_labels=len(parts.label_names)))
    check_stage_order(names, flops)
    widths = {config_int(read_config(source), "hidden_size", source) for source in sources}
    if cost_unit == "layers" and (len(widths) > 1 or STATIC.name in names):
        raise CascadeError(
            "layers do not compare stages of different widths, or without layers. Use --cost-unit flops or "
            "measured."
        )
    if config.dar_weight:
        assign_folds(parts.train, config.difficulty_folds, np.random.default_rng(config.seed))
    if target.speedup is not None and cost_unit != "measured":
        length = np.array([32])
        sizes = (
            [depth(s) for s in sources]
            if cost_unit == "layers"
            else [float(f.cost_of(length)[0]) for f in flops]
        )
        _refuse_speedup(target.speedup, sizes[-1] / sizes[0], cost_unit)


def _refuse_speedup(wanted: float, most: float, cost_unit: CostUnit) -> None:
    if wanted > most * 1.2:  # the ratio varies with the rows' lengths; what is close is left to tuning
        raise CascadeError(
            f"speed-up {wanted:g}x cannot be reached: with every row leaving at stage 1 it is about "
            f"{most:.1f}x by {cost_unit}. Ask for less, or give a smaller first stage."
        )


def _reused(
    files: Sequence[str | Path], parts: Splits, count: int, config: FitConfig
) -> list[DifficultyLabels]:
    """Difficulty labels of an earlier run, checked against the train rows."""
    if files and (len(files) != count or not config.dar_weight):
        raise CascadeError(
            f"{count} files of difficulty labels are needed, one per stage but the last, and a dar_weight "
            f"above 0; given: {len(files)} and {config.dar_weight:g}"
        )
    labels = [DifficultyLabels.load(Path(file)) for file in files]
    for one in labels:
        one.of(parts.train)
    return labels


def _save_difficulty(labels: Sequence[DifficultyLabels], work: Path) -> dict[str, Path]:
    files = {}
    for number, one in enumerate(labels, start=1):
        name = f"difficulty-{number}.npz"
        one.save(work / name)
        files[name] = work / name
    return files


def _provenance(
    parts: Splits,
    more: Examples | None,
    config: FitConfig,
    labels: Sequence[DifficultyLabels],
    recipes: Sequence[FitConfig],
) -> dict[str, Any]:
    named = {name: getattr(parts, name) for name in ("train", "tune", "certify")}
    named |= {} if more is None else {"unlabelled": more}
    return {
        "made_by": "fit",
        "config": asdict(config),
        "stages": [{"epochs": one.epochs, "learning_rate": one.learning_rate} for one in recipes],
        "rows": {name: len(part) for name, part in named.items()},
        "data_sha256": {name: part.sha256() for name, part in named.items()},
        "difficulty": [one.provenance for one in labels],
    }
