"""Trains a cascade from labeled examples."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from cascadebert.atomic import check_work_directory, work_directory, work_directory_path
from cascadebert.data.columns import Columns, named
from cascadebert.data.dataset import DataSource, Examples, load_examples
from cascadebert.data.labels import without_prefix
from cascadebert.data.splits import Splits, assign_folds, split_examples
from cascadebert.errors import CascadeError, DataError, StageError, explain_full_disk, show_paths_as
from cascadebert.evaluation.evaluate import check_has_tokens
from cascadebert.inference.cascade import Cascade
from cascadebert.inference.engines.load import engine_options
from cascadebert.inference.engines.static import MODEL_TYPE
from cascadebert.inference.tokenizer import StageTokenizer, resolve_max_length
from cascadebert.paths import WORK, check_roles
from cascadebert.persistence.checkpoint_config import config_int, config_label_names, read_config
from cascadebert.persistence.folder import UsedRows, ensure_writable_directory
from cascadebert.thresholds.operating_point import Target
from cascadebert.training.assemble import BuildConfig, build_cascade
from cascadebert.training.checkpoints import check_stages, read_max_positions
from cascadebert.training.config import FitConfig
from cascadebert.training.difficulty import DifficultyLabels, label_difficulty
from cascadebert.training.export import check_export
from cascadebert.training.losses import NO_LABEL
from cascadebert.training.open_stage import open_checkpoint
from cascadebert.training.processes import run_all
from cascadebert.training.stage_check import MAX_TOKENIZED, StageFiles, compare_tokens, sample_texts
from cascadebert.training.static_model import create_static_checkpoint
from cascadebert.training.tokenizer_files import copy_tokenizer, open_tokenizer
from cascadebert.training.train_stage import TrainingData, open_trained, stage_config, train_stage
from cascadebert.training.trainer import log
from cascadebert.types import CostUnit, Logits, ScoreChoice, Texts


@explain_full_disk()
def fit(
    train: DataSource,
    *,
    stages: Sequence[str | Path],
    target: Target,
    output: str | Path,
    validation: DataSource | None = None,
    unlabeled: DataSource | None = None,
    columns: Columns | None = None,
    difficulty: Sequence[str | Path] = (),
    cost_unit: CostUnit = "flops",
    score: ScoreChoice = "max_probability",
    engine: str = "auto",
    precision: str = "auto",
    overwrite: bool = False,
    config: FitConfig | None = None,
) -> Cascade:
    """Train every stage, calibrate, select thresholds and save the cascade as one folder.

    Unfinished work lies beside the output, in `OUTPUT.work`, and is removed at the end: the same call after
    an interruption (or with another target after an infeasible one) resumes from there.

    Args:
        train: Labeled examples: a file, data in memory, or the name of a data set on the Hub (see
            `load_examples`).
        stages: Two or more checkpoints from small to large: folders or repositories of the Hub; the first
            may be "static", a bag of token embeddings from the last one's table.
        target: The requirement to meet on the tuning set.
        output: The folder to write.
        validation: Labeled examples like those that the cascade will meet, for tuning and certifying; by
            default they are split off `train`.
        unlabeled: More examples of the task without labels: the earlier stages learn the last stage's
            logits on them (and on the training set). Those that are in another split, or in a group of the
            tuning or certification set, are left out.
        columns: Names of the columns, if they are not the usual ones; the cascade remembers them.
        difficulty: Files of difficulty labels from an earlier run, one per stage but the last.
        cost_unit: The unit of cost that the speed-up refers to.
        score: The score to compare with thresholds; "auto" selects one on the tuning set.
        engine: The engine to run on: "openvino", "onnxruntime", "torch", or "auto": the fastest here of those
            that are installed, but torch where there is a CUDA device.
        precision: "float32", "bfloat16", "int8", or "auto": the fastest here that keeps the last stage's
            labels (see `choose_engine`).
        overwrite: Replace an existing output folder.
        config: Training options.

    Returns:
        The saved cascade, loaded.

    Raises:
        CascadeError: If data, stages or target cannot be used; nothing is written.
    """
    output, names = Path(output), [str(stage) for stage in stages]
    config = _resolve_distill_weight(config or FitConfig(), unlabeled is not None)
    inputs = {"--train": train, "--validation": validation, "--unlabeled": unlabeled}
    inputs |= {"--difficulty": list(difficulty), "--stage": names}
    check_roles({"--output": output, WORK: work_directory_path(output)}, inputs)
    ensure_writable_directory(output, overwrite=overwrite)
    check_work_directory(output)
    engines = engine_options(engine, precision)
    build = BuildConfig(target, cost_unit, score, engines, config.max_length, overwrite, named(columns))
    examples, held_out = _load_labeled(train, validation, columns)
    with tempfile.TemporaryDirectory() as temporary:
        sources = _resolve_sources(names, Path(temporary))
        splits = _split(examples, held_out, _known_labels(sources[-1]), config)
        parts = {"train": splits.train, "tune": splits.tune, "certify": splits.certify}
        notices = splits.notices
        if unlabeled is not None:
            parts["unlabeled"], more_notices = _load_unlabeled(unlabeled, columns, splits)
            notices += more_notices
        reused = _load_difficulty(difficulty, splits.train, len(names) - 1, config)
        with show_paths_as(dict(zip(sources, names, strict=True))):
            _check_stages(names, sources, splits, build, config)
            _check_tokenizers(names, sources, parts, config)
            return _fit_stages(names, sources, splits, parts, reused, notices, build, output, config)


def _fit_stages(
    names: Sequence[str],
    sources: Sequence[Path],
    splits: Splits,
    parts: Mapping[str, Examples],
    reused: Sequence[DifficultyLabels],
    notices: tuple[str, ...],
    build: BuildConfig,
    output: Path,
    config: FitConfig,
) -> Cascade:
    """Train the stages, and build the cascade of them."""
    work = work_directory(output)
    folders, labels = _train_stages(sources, splits, parts.get("unlabeled"), reused, config, work)
    files = [work / f"difficulty-{i + 1}.npz" for i in range(len(labels))]
    for difficulty_labels, file in zip(labels, files, strict=True):
        difficulty_labels.save(file)
    hashes = {name: part.hashes() for name, part in parts.items()}
    trained = np.concatenate([hashes[name] for name in ("train", "unlabeled") if name in hashes])
    used = UsedRows(trained, hashes["tune"], hashes["certify"])
    provenance = {
        "made_by": "fit",
        "config": asdict(config),
        "stages": [_stage_recipe(config, folder) for folder in folders],
        "rows": {name: len(part) for name, part in parts.items()},
        "data_sha256": {name: part.sha256() for name, part in parts.items()},
        "difficulty": [difficulty_labels.provenance for difficulty_labels in labels],
    }
    made = [_stage_files(*given) for given in zip(names, sources, folders, strict=True)]
    cascade = build_cascade(made, splits.tune, build, output, used, provenance, notices, files)
    shutil.rmtree(work)
    return cascade


def _stage_files(name: str, source: Path, folder: Path) -> StageFiles:
    return StageFiles(name, folder, tokenizer=folder if name == MODEL_TYPE else source, model=folder)


def _stage_recipe(config: FitConfig, folder: Path) -> dict[str, float]:
    recipe = stage_config(config, folder)
    return {"epochs": recipe.epochs, "learning_rate": recipe.learning_rate}


def _resolve_sources(names: Sequence[str], temporary: Path) -> list[Path]:
    """The checkpoint folder of each stage; that of a static first stage is made from the last stage."""
    if MODEL_TYPE in names[1:] or list(names) == [MODEL_TYPE]:
        raise StageError(f"a {MODEL_TYPE} stage is the first of two or more; given: {', '.join(names)}")
    sources = [
        open_checkpoint(name, temporary / str(number))
        for number, name in enumerate(names)
        if name != MODEL_TYPE
    ]
    if len(sources) < len(names):
        sources.insert(0, create_static_checkpoint(sources[-1], temporary / MODEL_TYPE))
    return sources


def _load_labeled(
    train: DataSource, validation: DataSource | None, columns: Columns | None
) -> tuple[Examples, Examples | None]:
    examples = load_examples(train, columns=columns)
    if validation is None:
        return examples, None
    return examples, load_examples(validation, columns=columns, groups=False, split="validation")


def _known_labels(source: Path) -> tuple[str, ...]:
    """The labels of a checkpoint that is a classifier already and names them; otherwise none."""
    with suppress(StageError):  # reported where it matters
        names = config_label_names(read_config(source), source)
        if without_prefix(names) == names:
            return names
    return ()


def _split(examples: Examples, held_out: Examples | None, known: Sequence[str], config: FitConfig) -> Splits:
    splits = split_examples(
        examples,
        held_out,
        tune_fraction=config.tune_fraction,
        certify_fraction=config.certify_fraction,
        seed=config.seed,
        known=known,
    )
    counts = [len(part) for part in (splits.train, splits.tune, splits.certify)]
    log.info("examples: train %d, tune %d, certify %d; %d labels", *counts, len(splits.label_names))
    return splits


def _resolve_distill_weight(config: FitConfig, unlabeled: bool) -> FitConfig:
    if config.distill_weight is None:
        return replace(config, distill_weight=float(unlabeled))
    if unlabeled and not config.distill_weight:
        raise CascadeError(
            "unlabeled examples are used for distillation only: leave out --unlabeled, or give "
            "--distill-weight above 0"
        )
    return config


def _load_unlabeled(
    source: DataSource, columns: Columns | None, splits: Splits
) -> tuple[Examples, tuple[str, ...]]:
    """Distinct unlabeled examples that are in no split yet, and a notice about the others."""
    examples = load_examples(source, columns=columns, labels=False, groups=False)
    examples = examples.match_labels(splits.label_names, ids=False, required=False)
    if isinstance(examples.texts[0], str) != isinstance(splits.train.texts[0], str):
        expected = f"one text per example, or pairs, as in {splits.train.source}"
        raise DataError(f"{examples.source}: expected {expected}")
    hashes = examples.hashes()
    _, first = np.unique(hashes, return_index=True)
    used = np.concatenate([part.hashes() for part in (splits.train, splits.tune, splits.certify)])
    unused = ~np.isin(hashes, used)
    if examples.groups is not None:
        held_out = {*(splits.tune.groups or ()), *(splits.certify.groups or ())}
        unused &= np.array([group not in held_out for group in examples.groups])
    index = np.sort(first[unused[first]])
    if not len(index):
        raise DataError(
            f"{examples.source}: all {len(examples):,} examples are in the train, tune or certify split, or "
            "in their groups. Give examples that are in none of them."
        )
    log.info("unlabeled examples: %d", len(index))
    if len(index) == len(examples):
        return examples, ()
    counts = f"{len(examples) - len(index):,} of {len(examples):,} unlabeled examples"
    return examples.take(index), (f"{counts} left out: duplicates, or in another split.",)


def _train_stages(
    sources: Sequence[Path],
    splits: Splits,
    more: Examples | None,
    reused: Sequence[DifficultyLabels],
    config: FitConfig,
    work: Path,
) -> tuple[list[Path], list[DifficultyLabels]]:
    """Train the last stage first, because the earlier ones may learn from its logits."""
    train, names, count = splits.train, splits.label_names, len(sources)
    ids = train.label_ids(names)
    data = TrainingData(train.texts, ids, names)
    last = train_stage(sources[-1], data, config, work=work, description=f"stage {count}/{count}")
    texts = [*train.texts, *(() if more is None else more.texts)]
    unlabeled = len(texts) - len(train)
    ids = np.concatenate([ids, np.full(unlabeled, NO_LABEL)])
    teacher = _teacher_logits(last, texts, config) if config.distill_weight else None
    labels = list(reused)
    if config.dar_weight and not reused:
        options: Any = {"config": config, "names": names, "work": work}
        labels = [label_difficulty(train, stage=source, **options) for source in sources[:-1]]
    arguments = []
    for i, source in enumerate(sources[:-1]):
        hard = None
        if labels:
            hard = np.concatenate([labels[i].of(train), np.zeros(unlabeled, dtype=np.bool_)])
        data = TrainingData(texts, ids, names, hard, teacher)
        arguments.append((source, data, config, f"stage {i + 1}/{count}"))
    return [*run_all(_train_earlier, arguments, work=work), last], labels


def _train_earlier(
    source: Path, data: TrainingData, config: FitConfig, description: str, *, work: Path
) -> Path:
    return train_stage(source, data, config, work=work, description=description)


def _teacher_logits(folder: Path, texts: Texts, config: FitConfig) -> Logits:
    stage = open_trained(folder, config, texts)
    return stage.logits(stage.encode(texts))


def _check_stages(
    names: Sequence[str], sources: Sequence[Path], splits: Splits, build: BuildConfig, config: FitConfig
) -> None:
    """Detect before any training what would fail after it."""
    costs = check_stages(names, sources, num_labels=len(splits.label_names))
    widths, depths = set(), []
    for source in sources:
        checkpoint = read_config(source)
        limit = read_max_positions(source, num_labels=len(splits.label_names))
        resolve_max_length(checkpoint, config.max_length, source, limit)
        check_export(source, build.engines[0][0], num_labels=len(splits.label_names))
        widths.add(config_int(checkpoint, "hidden_size", source))
        depths.append(float(config_int(checkpoint, "num_hidden_layers", source)))
    if config.dar_weight:
        assign_folds(splits.train, config.difficulty_folds, np.random.default_rng(config.seed))
    if build.cost_unit == "layers":
        if len(widths) > 1 or not all(depths):
            raise CascadeError(
                "layers do not compare stages of different widths, or without layers. Use --cost-unit flops "
                "or measured."
            )
        costs = depths
    speedup, highest = build.target.speedup or 0, costs[-1] / costs[0]
    # the ratio varies with text length; close cases are left to tuning
    if build.cost_unit != "measured" and speedup > highest * 1.2:
        raise CascadeError(
            f"speed-up {speedup:g}x cannot be reached: with every text exiting at stage 1 it is about "
            f"{highest:.1f}x by {build.cost_unit}. Ask for less, or give a smaller first stage."
        )


def _check_tokenizers(
    names: Sequence[str], sources: Sequence[Path], parts: Mapping[str, Examples], config: FitConfig
) -> None:
    """Detect rows without tokens, and tokens other than those of transformers, before any training."""
    for name, source in zip(names, sources, strict=True):
        checkpoint = read_config(source)
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            copy_tokenizer(source, folder)
            shutil.copyfile(source / "config.json", folder / "config.json")
            own = StageTokenizer(folder, max_length=resolve_max_length(checkpoint, config.max_length, source))
        for part in parts.values():
            check_has_tokens(part, [own])
        texts = sample_texts(parts["train"].texts, MAX_TOKENIZED)
        compare_tokens(name, own, open_tokenizer(source), texts)


def _load_difficulty(
    files: Sequence[str | Path], train: Examples, count: int, config: FitConfig
) -> list[DifficultyLabels]:
    """Difficulty labels of an earlier run, checked against the training set."""
    if files and (len(files) != count or not config.dar_weight):
        raise CascadeError(
            f"{count} files of difficulty labels are needed, one per stage but the last, and a dar_weight "
            f"above 0; given: {len(files)} and {config.dar_weight:g}"
        )
    loaded = [DifficultyLabels.load(Path(file)) for file in files]
    for labels in loaded:
        labels.of(train)
    return loaded
