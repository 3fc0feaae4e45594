"""Which rows are hard for a stage: cross-prediction, so that no row is judged by a model trained on it."""

from __future__ import annotations

import json
import shutil
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np

from cascadebert.data.columns import Columns
from cascadebert.data.dataset import Examples, Hashes, label_names, load_examples
from cascadebert.data.splits import assign_folds
from cascadebert.errors import DataError
from cascadebert.inference.stage import Stage
from cascadebert.persistence.checkpoint_config import resolve_checkpoint
from cascadebert.training.checkpoints import checkpoint_fingerprint, fingerprint
from cascadebert.training.config import FitConfig
from cascadebert.training.train_stage import TrainingData, recipe, train_stage
from cascadebert.training.trainer import log
from cascadebert.types import Bools, Floats, Ints

if TYPE_CHECKING:
    import datasets


@dataclass(frozen=True)
class DifficultyLabels:
    """Easy or hard, for every train row, relative to one stage.

    Attributes:
        hard: (n,) True where too few of the repeats predicted the row rightly.
        votes: (n,) share of the repeats that did.
        hashes: (n,) fingerprint of each row's texts and label, to find it again.
        provenance: stage, folds, seeds, vote share and data they come from.
    """

    hard: Bools
    votes: Floats
    hashes: Hashes
    provenance: dict[str, Any]

    def save(self, path: Path) -> None:
        """Write them to one .npz file (arrays and text only, no pickle)."""
        aside = path.with_suffix(".part.npz")
        np.savez(
            aside,
            hard=self.hard,
            votes=self.votes,
            hashes=self.hashes,
            provenance=np.array(json.dumps(self.provenance, sort_keys=True)),
        )
        aside.replace(path)

    @classmethod
    def load(cls, path: Path) -> DifficultyLabels:
        """Read what `save` wrote.

        Raises:
            DataError: if it cannot be read.
        """
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                provenance = json.loads(str(stored["provenance"]))
                return cls(stored["hard"], stored["votes"], stored["hashes"], provenance)
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise DataError(f"{path}: not a file of difficulty labels ({error})") from error

    def of(self, examples: Examples) -> Bools:
        """(n,) the labels of the given rows.

        Raises:
            DataError: if a row has none.
        """
        order = np.argsort(self.hashes, kind="stable")
        wanted = examples.hashes(labels=True)
        if np.array_equal(self.hashes, wanted):
            return self.hard
        place = np.minimum(np.searchsorted(self.hashes, wanted, sorter=order), len(order) - 1)
        found = self.hashes[order[place]] == wanted
        if not found.all():
            raise DataError(
                f"{int((~found).sum()):,} of {len(examples):,} train rows have no difficulty label in the "
                "file given. Make it from the same rows, or leave it out to have it made."
            )
        return np.asarray(self.hard[order[place]])


def label_difficulty(
    train: str | Path | datasets.Dataset | Examples,
    *,
    stage: str | Path,
    config: FitConfig | None = None,
    columns: Columns | None = None,
    names: tuple[str, ...] | None = None,
    work: Path | None = None,
) -> DifficultyLabels:
    """Call a row hard if models like the stage, trained on other rows, get it wrong.

    For each of `difficulty_seeds` repeats the rows are cut into `difficulty_folds` folds (groups stay
    together, every row is in one), the stage is trained on all folds but one by plain cross-entropy, and
    predicts the one left out. A row is easy if at least `difficulty_votes` of the repeats were right
    (Li et al. 2021, section 3.2; how the paper combines its five seeds is not known).

    Args:
        train: labelled rows.
        stage: checkpoint to start from: the small stage.
        config: training and difficulty settings.
        columns: names of the columns, where not the usual ones.
        names: the labels in order; default those of the rows.
        work: folder for half-finished work, so that a killed run goes on; default a temporary one.

    Raises:
        DataError: if rows cannot be used, or there are fewer groups than folds.
    """
    config = config or FitConfig()
    examples = load_examples(train, columns=columns)
    names = names or label_names(examples)
    source = resolve_checkpoint(stage)
    with ExitStack() as stack:
        folder = work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        settings = (config.difficulty_folds, config.difficulty_seeds, config.difficulty_votes, config.seed)
        rows = (examples.sha256(), examples.groups, names)
        key = fingerprint(checkpoint_fingerprint(source), rows, recipe(config), settings)
        file = folder / f"difficulty-{key}.npz"
        if file.is_file():
            log.info("difficulty labels: made already")
            return DifficultyLabels.load(file)
        labels = _cross_predict(examples, names, source, config, folder, str(stage))
        labels.save(file)
        return labels


def _cross_predict(
    examples: Examples, names: tuple[str, ...], source: Path, config: FitConfig, work: Path, stage: str
) -> DifficultyLabels:
    ids = examples.label_ids(names)
    right = np.zeros((config.difficulty_seeds, len(examples)), dtype=np.bool_)
    for repeat in range(config.difficulty_seeds):
        seed = config.seed + repeat
        fold = assign_folds(examples, config.difficulty_folds, np.random.default_rng(seed))
        for held_out in range(config.difficulty_folds):
            what = f"difficulty, repeat {repeat + 1}/{config.difficulty_seeds}, fold {held_out + 1}"
            what = f"{what}/{config.difficulty_folds}"
            inside, outside = np.flatnonzero(fold != held_out), np.flatnonzero(fold == held_out)
            lesson = TrainingData(examples.take(inside).texts, ids[inside], names)
            answers = _predict_once(source, lesson, examples.take(outside), config, work, what, seed)
            right[repeat, outside] = answers == ids[outside]
    votes = right.mean(axis=0)
    hard = votes < config.difficulty_votes - 1e-9
    log.info("difficulty: %.1f %% of %d rows are hard", 100 * hard.mean(), len(hard))
    return DifficultyLabels(
        hard, votes, examples.hashes(labels=True), _provenance(examples, config, stage, hard)
    )


def _predict_once(
    source: Path,
    lesson: TrainingData,
    held_out: Examples,
    config: FitConfig,
    work: Path,
    what: str,
    seed: int,
) -> Ints:
    """Label ids for the rows left out; the model goes, its answers stay."""
    key = fingerprint(checkpoint_fingerprint(source), lesson.key(), held_out.sha256(), recipe(config), seed)
    file = work / f"fold-{key}.npy"
    if file.is_file():
        return np.asarray(np.load(file, allow_pickle=False))
    folder = train_stage(source, lesson, config, work=work, what=what, seed=seed)
    stage = Stage.from_pretrained(folder, engine="torch", precision="float32", max_length=config.max_length)
    stage = stage.with_labels(lesson.label_names)
    answers = stage.predict(held_out.texts).label_ids
    aside = file.with_suffix(".part.npy")
    np.save(aside, answers)
    aside.replace(file)
    shutil.rmtree(folder)
    return answers


def _provenance(examples: Examples, config: FitConfig, stage: str, hard: Bools) -> dict[str, Any]:
    return {
        "stage": Path(stage).name,
        "folds": config.difficulty_folds,
        "seeds": [config.seed + i for i in range(config.difficulty_seeds)],
        "votes": config.difficulty_votes,
        "epochs": config.epochs,
        "learning_rate": config.learning_rate,
        "rows": len(examples),
        "data_sha256": examples.sha256(),
        "hard_share": round(float(hard.mean()), 6),
    }
