"""What is kept of a trained model: a few figures a row and exit, on tune and test rows. Pure."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from cascadebert.atomic import atomic_file
from cascadebert.errors import DataError
from cascadebert.paper.early_exit.exit_outputs import ExitOutputs
from cascadebert.types import Floats, Flops, Ints

MOST_ODDS = 36.0


@dataclass(frozen=True)
class ModelInfo:
    """What the arrays belong to.

    Attributes:
        task: name of the task.
        seed: of the training.
        method: name of the model, such as "deebert" or "1x384-dar".
        recipe: fingerprint of all that decides the arrays.
        tune_rows: so many rows are tune rows; the others, after them, are test rows.
        flops: per exit, operations of a row that leaves there; a stage has one exit.
        layers: of the model.
        hidden: their width.
        timed_as: name in the task's timings; models of one shape share it.
        notes: what else is worth keeping.
    """

    task: str
    seed: int
    method: str
    recipe: str
    tune_rows: int
    flops: tuple[Flops, ...]
    layers: int
    hidden: int
    timed_as: str
    notes: str = ""


@dataclass(frozen=True)
class StoredPredictions:
    """One trained model on the tune rows and, after them, the test rows of a task.

    Attributes:
        said: (m exits, n rows), with labels.
        lengths: (n,) padded tokens, as they are computed.
        about: what they belong to.
    """

    said: ExitOutputs
    lengths: Ints
    about: ModelInfo

    @property
    def labels(self) -> Ints:
        """(n,) the true label ids."""
        assert self.said.label_ids is not None
        return self.said.label_ids

    @property
    def test(self) -> ExitOutputs:
        """Of the test rows alone."""
        return self.said.take(np.arange(self.about.tune_rows, len(self.said)))

    @property
    def log_odds(self) -> Floats:
        """(m, n) log odds of the confidences."""
        return to_log_odds(self.said.confidences)

    def flops(self) -> Floats:
        """(m, n) operations of each row, by the exit that it leaves at."""
        return np.stack([one.cost_of(self.lengths) for one in self.about.flops])

    def save(self, path: Path) -> None:
        """Write an npz of integers in 16 bits, float16 and one text; equal arrays give equal bytes.

        The confidence is kept as its log odds: in float16 all above 0.9998 would be 1 and tie, and inversion
        scores and high thresholds would be wrong.
        """
        held = {
            "answers": self.said.answers.astype(np.int16),
            "log_odds": self.log_odds.astype(np.float16),
            "entropies": self.said.entropies.astype(np.float16),
            "labels": self.labels.astype(np.int16),
            "lengths": self.lengths.astype(np.int16),
            "about": np.array(json.dumps(asdict(self.about), sort_keys=True)),
        }
        if self.said.lte is not None:
            held["lte"] = self.said.lte.astype(np.float16)
        with atomic_file(path) as aside:
            np.savez_compressed(aside, **held)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path) -> StoredPredictions:
        """Read what `save` wrote.

        Raises:
            DataError: if it is no such file, or its arrays do not belong together.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                held = {name: file[name] for name in file.files}
            about = json.loads(str(held["about"]))
            flops = tuple(Flops(**one) for one in about.pop("flops"))
            measured = [held[name].astype(np.float64) for name in ("log_odds", "entropies")]
            answers, labels = (held[name].astype(np.int64) for name in ("answers", "labels"))
            lte = held["lte"].astype(np.float64) if "lte" in held else None
            said = ExitOutputs(answers, 1 / (1 + np.exp(-measured[0])), measured[1], lte, labels)
            made = cls(said, held["lengths"].astype(np.int64), ModelInfo(**about, flops=flops))
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(f"{path}: not readable as arrays of a model ({error})") from error
        shapes = {one.shape for one in (answers, *measured, *([] if lte is None else [lte]))}
        if shapes != {(len(flops), len(labels))} or made.lengths.shape != labels.shape:
            raise DataError(f"{path}: its arrays are not of one shape")
        return made


def to_log_odds(confidences: Floats) -> Floats:
    """log(p / (1 - p)), cut at plus and minus 36, which float64 can tell from 1.

    >>> to_log_odds(np.array([0.5, 1.0])).tolist()
    [0.0, 36.0]
    """
    with np.errstate(divide="ignore"):
        odds = np.log(confidences) - np.log1p(-confidences)
    return np.asarray(np.clip(odds, -MOST_ODDS, MOST_ODDS))


def stacked(stages: Sequence[StoredPredictions]) -> ExitOutputs:
    """Models that see the same rows, as the exits of one, in the order given.

    Raises:
        DataError: if they do not see the same rows.
    """
    first = stages[0]
    for one in stages[1:]:
        if not np.array_equal(one.labels, first.labels) or one.about.tune_rows != first.about.tune_rows:
            raise DataError(f"{one.about.method} and {first.about.method} were not run on the same rows")
    said = [one.said for one in stages]
    return ExitOutputs(
        np.concatenate([one.answers for one in said]),
        np.concatenate([one.confidences for one in said]),
        np.concatenate([one.entropies for one in said]),
        None,
        first.labels,
    )
