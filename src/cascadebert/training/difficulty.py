"""Difficulty labels by cross-prediction: no example is predicted by a model that was trained on it."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from cascadebert.atomic import atomic_file
from cascadebert.data.columns import Columns
from cascadebert.data.dataset import DataSource, Examples, Hashes, load_examples
from cascadebert.data.label_names import label_names
from cascadebert.data.splits import assign_folds
from cascadebert.errors import DataError
from cascadebert.paths import check_roles
from cascadebert.persistence.checkpoint_config import resolve_checkpoint
from cascadebert.training.checkpoints import checkpoint_fingerprint, fingerprint
from cascadebert.training.config import FitConfig
from cascadebert.training.processes import run_all
from cascadebert.training.train_stage import TrainingData, open_trained, train_stage, training_recipe
from cascadebert.training.trainer import log
from cascadebert.types import Bools, Floats, Ints


@dataclass(frozen=True)
class DifficultyLabels:
    """Easy or hard, for every training example, relative to one stage."""

    hard: Bools  # (n,) True where too few of the repeats predicted the example correctly
    votes: Floats  # (n,) fraction of the repeats that did
    hashes: Hashes  # (n,) fingerprint of text and label, to find the example again
    provenance: dict[str, Any]  # stage, folds, seeds, votes and data

    def save(self, path: Path) -> None:
        """Write one .npz file (arrays and text only, no pickle)."""
        provenance = np.array(json.dumps(self.provenance, sort_keys=True))
        with atomic_file(path) as file:
            np.savez(file, hard=self.hard, votes=self.votes, hashes=self.hashes, provenance=provenance)

    @classmethod
    def load(cls, path: Path) -> DifficultyLabels:
        """Read what `save` wrote. Raises DataError if the file cannot be read."""
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                provenance = json.loads(str(stored["provenance"]))
                return cls(stored["hard"], stored["votes"], stored["hashes"], provenance)
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise DataError(f"{path}: not a file of difficulty labels ({error})") from error

    def of(self, examples: Examples) -> Bools:
        """(n,) the labels of the given examples. Raises DataError if one has none."""
        hashes = examples.hashes(labels=True)
        if np.array_equal(self.hashes, hashes):
            return self.hard
        order = np.argsort(self.hashes, kind="stable")
        index = order[np.minimum(np.searchsorted(self.hashes, hashes, sorter=order), len(order) - 1)]
        missing = int((self.hashes[index] != hashes).sum())
        if missing:
            raise DataError(
                f"{missing:,} of {len(examples):,} training examples have no difficulty label in the "
                "given file. Make it from the same examples, or leave it out to have it made."
            )
        return np.asarray(self.hard[index])


def label_difficulty(
    train: DataSource,
    *,
    stage: str | Path,
    config: FitConfig | None = None,
    columns: Columns | None = None,
    names: tuple[str, ...] | None = None,
    work: Path | None = None,
) -> DifficultyLabels:
    """Label examples as hard if models like the stage, trained on other examples, predict them wrongly.

    For each of `difficulty_seeds` repeats the examples are split into `difficulty_folds` folds (groups stay
    together, every example is in one), the stage is trained on all folds but one by plain cross-entropy, and
    predicts the one left out. An example is easy if at least `difficulty_votes` of the repeats were right
    (Li et al. 2021, section 3.2; how the paper combines its five seeds is not known).

    Args:
        train: Labeled examples.
        stage: The checkpoint to start from: the small stage.
        config: Training and difficulty options.
        columns: Names of the columns, if they are not the usual ones.
        names: The labels in order; by default those of the examples.
        work: Folder for unfinished work, from which an interrupted run resumes; by default a temporary one.

    Returns:
        The labels, with the fraction of correct repeats and the provenance.

    Raises:
        DataError: If examples cannot be used, or there are fewer groups than folds.
    """
    check_roles({"work": work}, {"train": train, "stage": stage})
    config = config or FitConfig()
    examples = load_examples(train, columns=columns)
    names = names or label_names(examples)
    examples = examples.match_labels(names, ids=False)
    ids, source = examples.label_ids(names), resolve_checkpoint(stage)
    seeds = [(config.seed + i) % 2**32 for i in range(config.difficulty_seeds)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = work or Path(temporary)
        parts = [part for i in seeds for part in _parts(examples, names, replace(config, seed=i))]
        arguments = [(source, data, held_out, *rest) for _, data, held_out, *rest in parts]
        found = run_all(_predict_fold, arguments, work=folder)
    predicted = np.empty((len(seeds), len(ids)), dtype=np.int64)
    for number, ((place, *_), label_ids) in enumerate(zip(parts, found, strict=True)):
        predicted[number // config.difficulty_folds, place] = label_ids
    votes = np.mean(predicted == ids, axis=0)
    hard = votes < config.difficulty_votes - 1e-9
    log.info("difficulty: %.1f %% of %d examples are hard", 100 * hard.mean(), len(hard))
    provenance = {
        "stage": Path(stage).name,
        "folds": config.difficulty_folds,
        "seeds": seeds,
        "votes": config.difficulty_votes,
        "epochs": config.epochs,
        "learning_rate": config.learning_rate,
        "rows": len(examples),
        "data_sha256": examples.sha256(),
        "hard_share": round(float(hard.mean()), 6),
    }
    return DifficultyLabels(hard, votes, examples.hashes(labels=True), provenance)


def _parts(
    examples: Examples, names: tuple[str, ...], config: FitConfig
) -> Iterator[tuple[Ints, TrainingData, Examples, FitConfig, str]]:
    """For each fold its positions, the examples of the others to train on and its own to predict."""
    ids, count = examples.label_ids(names), config.difficulty_folds
    folds = assign_folds(examples, count, np.random.default_rng(config.seed))
    for fold in range(count):
        train, held_out = (examples.take(np.flatnonzero(part)) for part in (folds != fold, folds == fold))
        data = TrainingData(train.texts, ids[folds != fold], names)
        description = f"difficulty, seed {config.seed}, fold {fold + 1}/{count}"
        yield np.flatnonzero(folds == fold), data, held_out, config, description


def _predict_fold(
    source: Path, data: TrainingData, held_out: Examples, config: FitConfig, description: str, *, work: Path
) -> Ints:
    """Label ids of the held-out examples. They are stored in the work folder, the model is deleted."""
    recipe = (training_recipe(config), config.seed)
    key = fingerprint(checkpoint_fingerprint(source), data.key(), held_out.sha256(), *recipe)
    file = work / f"fold-{key}.npy"
    if file.is_file():
        return np.asarray(np.load(file, allow_pickle=False))
    folder = train_stage(source, data, config, work=work, description=description)
    stage = open_trained(folder, config, held_out.texts).with_labels(data.label_names)
    label_ids = stage.predict(held_out.texts).label_ids
    with atomic_file(file) as temporary:
        np.save(temporary, label_ids)
    shutil.rmtree(folder)
    return label_ids
