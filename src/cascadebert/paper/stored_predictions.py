"""Stored outputs of a trained model: a few numbers per text and exit, on the tuning and test sets."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from pydantic import ConfigDict, TypeAdapter

from cascadebert.atomic import atomic_file
from cascadebert.errors import DataError
from cascadebert.paper.early_exit.exits import ExitOutputs
from cascadebert.types import Floats, Flops, Ints

MAX_LOG_ODDS = 36.0  # float64 can still tell the probability from 1


@dataclass(frozen=True)
class ModelInfo:
    """Origin of stored outputs; the field names are those of `about` in the files."""

    task: str
    seed: int
    method: str  # name of the model, such as "deebert" or "1x384-dar"
    recipe: str  # fingerprint of all that decides the outputs
    tune_rows: int  # the first so many texts are the tuning set, the others the test set
    flops: tuple[Flops, ...]  # per exit, operations of a text that exits there; a stage has one exit
    layers: int
    hidden: int
    timed_as: str  # name in the timings of the task, shared by models of one shape
    notes: str = ""

    __pydantic_config__ = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class StoredPredictions:
    """Outputs of one trained model on the tuning set followed by the test set of a task."""

    outputs: ExitOutputs  # (m exits, n texts), with labels
    lengths: Ints  # (n,) padded tokens
    about: ModelInfo

    @property
    def test(self) -> ExitOutputs:
        """Outputs on the test set."""
        return self.outputs.take(np.arange(self.about.tune_rows, len(self.outputs)))

    def flops(self) -> Floats:
        """(m, n) operations of each text, by the exit that it takes."""
        return np.stack([flops.cost_of(self.lengths) for flops in self.about.flops])

    def save(self, path: Path) -> None:
        """Write an npz of 16-bit integers, float16 and one text; equal arrays give equal bytes.

        Confidences are stored as log odds: in float16 all above 0.9998 would be 1 and tie, which distorts
        inversion scores and high thresholds.
        """
        arrays = {
            "answers": self.outputs.predictions.astype(np.int16),
            "log_odds": log_odds(self.outputs.confidences).astype(np.float16),
            "entropies": self.outputs.entropies.astype(np.float16),
            "labels": self.outputs.labels.astype(np.int16),
            "lengths": self.lengths.astype(np.int16),
            "about": np.array(json.dumps(asdict(self.about), sort_keys=True)),
        }
        if self.outputs.lte is not None:
            arrays["lte"] = self.outputs.lte.astype(np.float16)
        with atomic_file(path) as temporary:
            np.savez_compressed(temporary, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path) -> StoredPredictions:
        """Read a saved file. Raises DataError if it is none, or its arrays do not belong together."""
        try:
            with np.load(path, allow_pickle=False) as file:
                stored = {name: file[name] for name in file.files}
            about = TypeAdapter(ModelInfo).validate_json(str(stored.pop("about")))
            predictions, labels, lengths = (
                stored.pop(name).astype(np.int64) for name in ("answers", "labels", "lengths")
            )
            floats = {name: array.astype(np.float64) for name, array in stored.items()}
            confidences = 1 / (1 + np.exp(-floats["log_odds"]))
            outputs = ExitOutputs(predictions, confidences, floats["entropies"], floats.get("lte"), labels)
            loaded = cls(outputs, lengths, about)
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(f"{path}: not readable as arrays of a model ({error})") from error
        shapes = {array.shape for array in (predictions, *floats.values())}
        if shapes != {(len(about.flops), len(labels))} or lengths.shape != labels.shape:
            raise DataError(f"{path}: its arrays are not of one shape")
        return loaded


def log_odds(confidences: Floats) -> Floats:
    """log(p / (1 - p)), clipped to plus and minus 36.

    >>> log_odds(np.array([0.5, 1.0])).tolist()
    [0.0, 36.0]
    """
    with np.errstate(divide="ignore"):
        odds = np.log(confidences) - np.log1p(-confidences)
    return np.asarray(np.clip(odds, -MAX_LOG_ODDS, MAX_LOG_ODDS))


def stack_stages(stages: Sequence[StoredPredictions]) -> ExitOutputs:
    """Outputs of models on the same texts as those of one model's exits, in the order given.

    Raises DataError if they were not run on the same texts.
    """
    first = stages[0]
    for stage in stages[1:]:
        same_texts = np.array_equal(stage.outputs.labels, first.outputs.labels)
        if not same_texts or stage.about.tune_rows != first.about.tune_rows:
            raise DataError(f"{stage.about.method} and {first.about.method} were not run on the same rows")
    return first.outputs.append(*(stage.outputs for stage in stages[1:]))
