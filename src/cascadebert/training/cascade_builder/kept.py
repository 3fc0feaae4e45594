"""The earlier stages of a saved cascade, which stay while its last stage is replaced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cascadebert.data.labels import same_labels, shorten
from cascadebert.errors import StageError
from cascadebert.inference.engines.load import STATIC, stage_kind
from cascadebert.inference.stage import Stage
from cascadebert.persistence.folder import UsedRows, read_folder, read_used_rows
from cascadebert.persistence.schema import CascadeSpec
from cascadebert.training.cascade_builder.candidates import Candidate, Kind, given_candidate
from cascadebert.training.checkpoints import display_name, fingerprint


@dataclass(frozen=True)
class KeptStages:
    """All stages of a saved cascade but the last, and the texts that it was made from."""

    path: Path
    spec: CascadeSpec
    used: UsedRows
    retrain: bool  # on the predictions of the new last stage

    @classmethod
    def read(cls, path: Path, *, retrain: bool) -> KeptStages:
        """Those of a folder, whose last stage may be missing. Raises FolderError if it is no cascade."""
        spec = read_folder(path, skip_last_stage=True)
        if len(spec.stages) < 2:
            raise StageError(f"{path}: a cascade of one stage, so there is none to keep. Use `build MODEL`.")
        return cls(path, spec, read_used_rows(path), retrain)

    @property
    def key(self) -> str:
        """Fingerprint of the stages and of the texts that cannot be used again."""
        rows = [array.tolist() for array in vars(self.used).values()]
        return fingerprint([entry.sha256 for entry in self.spec.stages[:-1]], rows)

    def folders(self, model: str, label_names: Sequence[str]) -> dict[str, Path]:
        """The stages' folders by name, before the classifier `model`. Raises StageError for other labels."""
        if not same_labels(label_names, self.spec.label_names):
            raise StageError(
                f"{model} has other labels than {self.path}: {shorten(label_names)}; expected, in any order, "
                f"{shorten(self.spec.label_names)}."
            )
        earlier = self.spec.stages[:-1]
        all_names = [*(entry.name for entry in earlier), display_name(model)]
        return {
            entry.name if all_names.count(entry.name) == 1 else f"{entry.name} (stage {number})": self.path
            / entry.path
            for number, entry in enumerate(earlier, start=1)
        }

    def candidates(self, classifier: Stage, folders: Mapping[str, Path]) -> list[Candidate]:
        """The stages in their order, to be used as they are or trained again."""
        found = []
        for name, folder in folders.items():
            candidate = given_candidate(name, folder, classifier)
            retrained = self.retrain and stage_kind(folder) is STATIC
            kind: Kind = "static" if retrained else "classifier"
            found.append(replace(candidate, name=name, kind=kind, is_retrained=self.retrain))
        return found
