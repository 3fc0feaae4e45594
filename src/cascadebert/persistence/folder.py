"""The saved cascade: one folder, written atomically and checked when it is opened.

The format is specified in docs/folder.md. No file in it is code and none is a pickle.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal
from zipfile import BadZipFile

import numpy as np
from pydantic import ValidationError

from cascadebert.atomic import temporary_path
from cascadebert.data.dataset import Hashes
from cascadebert.data.labels import shorten, without_prefix
from cascadebert.errors import FolderError
from cascadebert.paths import ensure_creatable, shown
from cascadebert.persistence.checkpoint_config import check_downloaded, config_label_names, read_config
from cascadebert.persistence.model_card import render_card
from cascadebert.persistence.schema import SCHEMA_VERSION, CascadeSpec, StageSpec

SPEC_FILE = "cascade.json"
ROWS_FILE = "rows.npz"
CARD_FILE = "README.md"
REPORT_FILE = "report.html"  # of `build`; alone where no cascade pays
UPDATED_FILES = (ROWS_FILE, CARD_FILE, SPEC_FILE)  # by `update_folder`, in this order
MODEL_SUFFIXES = (".json", ".safetensors", ".model")
MODEL_NAMES = ("vocab.txt", "merges.txt", CARD_FILE)
Kind = Literal["cascade", "model"]


@dataclass(frozen=True)
class UsedRows:
    """Fingerprints of the examples that made a cascade, by purpose."""

    train: Hashes
    tune: Hashes  # on which thresholds were selected
    certify: Hashes  # reserved for guarantees
    consumed: Hashes = field(default_factory=lambda: np.empty(0, dtype=np.uint64))
    """Examples that a guarantee was tested on; they cannot be used for another."""

    @property
    def all(self) -> Hashes:
        """Examples used for any purpose."""
        return np.concatenate([self.train, self.tune, self.certify, self.consumed])

    def union(self, other: UsedRows) -> UsedRows:
        """Examples that made either of two cascades."""
        names = [entry.name for entry in fields(self)]
        return UsedRows(*(np.union1d(getattr(self, name), getattr(other, name)) for name in names))

    def count_overlap(self, hashes: Hashes) -> dict[str, int]:
        """Number of the examples used for each purpose; reserved and consumed ones count as "certify"."""
        used = {"train": self.train, "tune": self.tune, "certify": np.union1d(self.certify, self.consumed)}
        return {purpose: int(np.isin(hashes, rows).sum()) for purpose, rows in used.items()}


def file_hashes(folder: Path, include: Callable[[Path], bool] = Path.exists) -> dict[str, str]:
    """sha256 of the files of a folder, by name. Raises FolderError if there is a folder among them."""
    hashes = {}
    for file in sorted(filter(include, folder.iterdir())):
        if file.is_dir():
            raise FolderError(
                f"{file} is a folder inside a model folder, where only files belong. Remove it."
            )
        digest = hashlib.sha256()
        with file.open("rb") as content:
            while block := content.read(1 << 20):
                digest.update(block)
        hashes[file.name] = digest.hexdigest()
    return hashes


def read_folder(path: Path, *, check_files: bool = True, skip_last_stage: bool = False) -> CascadeSpec:
    """Read and check a saved cascade.

    `check_files` compares the hash of every file of a stage; `skip_last_stage` accepts a missing or changed
    last stage. Raises FolderError if the folder is not a cascade, has another schema version, or a file of a
    stage is missing, changed or added.
    """
    spec = _read_spec(path)
    for entry in spec.stages[:-1] if skip_last_stage else spec.stages:
        _check_stage(path, entry, check_files)
    if not skip_last_stage:
        labels = config_label_names(read_config(path / spec.stages[-1].path), path)
        if without_prefix(labels) != without_prefix(spec.label_names):
            raise FolderError(
                f"{path}: the label order of {SPEC_FILE} ({shorten(spec.label_names)}) is not that of the "
                f"last stage ({shorten(labels)})"
            )
    return spec


def _read_spec(path: Path) -> CascadeSpec:
    file = path / SPEC_FILE
    try:
        values = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise FolderError(f"{path} is not a saved cascade: no readable {SPEC_FILE} ({error})") from error
    version = values.get("schema_version") if isinstance(values, dict) else None
    if version != SCHEMA_VERSION:
        raise FolderError(
            f"{file}: schema version {version!r}; this release reads {SCHEMA_VERSION}. "
            "Install the release that wrote it, or fit again."
        )
    try:
        return CascadeSpec.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        location = "".join(f"{part}: " for part in first["loc"])
        problem = first["msg"].removeprefix("Value error, ")
        raise FolderError(f"{file}: {location}{problem}. The file was damaged or edited.") from error


def _check_stage(path: Path, entry: StageSpec, check_files: bool) -> None:
    folder, saved = path / entry.path, entry.sha256
    if Path(entry.path).name != entry.path or not folder.is_dir():
        raise FolderError(f"{path}: the stage folder {entry.path!r} is missing")
    check_downloaded(folder)
    current = file_hashes(folder) if check_files else saved
    for name in sorted({*current, *saved}):
        if current.get(name) != saved.get(name):
            change = "removed" if name not in current else "added" if name not in saved else "changed"
            raise FolderError(
                f"{folder / name} was {change} since the cascade was saved; its thresholds belong to the "
                "saved files. Restore the file, or make a new cascade with `cascadebert assemble`."
            )


def write_folder(
    path: Path,
    spec: CascadeSpec,
    sources: Mapping[str, Path],
    rows: UsedRows | None = None,
    *,
    overwrite: bool = False,
) -> None:
    """Write a new cascade folder from files and folders, by name in the new folder.

    Without `rows`, their file is one of the sources. Raises FolderError if `path` may not be written.
    """
    with atomic_directory(path, overwrite=overwrite) as new:
        for name, source in sources.items():
            (shutil.copytree if source.is_dir() else shutil.copyfile)(source, new / name)
        _write_description(new, spec, rows)


def read_used_rows(path: Path) -> UsedRows:
    """The fingerprints in a saved cascade. Raises FolderError if they are missing or unreadable."""
    try:
        with (path / ROWS_FILE).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return UsedRows(**{entry.name: arrays[entry.name] for entry in fields(UsedRows)})
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise FolderError(f"{path}: no readable {ROWS_FILE} ({error})") from error


def update_folder(path: Path, spec: CascadeSpec, rows: UsedRows) -> None:
    """Replace the operating point of a saved cascade: its description, model card and fingerprints."""
    with tempfile.TemporaryDirectory(dir=path, prefix=".update-") as name:
        new = Path(name)
        _write_description(new, spec, rows)
        for file in UPDATED_FILES:
            (new / file).replace(path / file)


def _write_description(folder: Path, spec: CascadeSpec, rows: UsedRows | None = None) -> None:
    if rows is not None:
        np.savez(folder / ROWS_FILE, **vars(rows))
    (folder / CARD_FILE).write_text(render_card(spec), "utf-8")
    (folder / SPEC_FILE).write_text(spec.model_dump_json(indent=2) + "\n", "utf-8")


@contextmanager
def atomic_directory(path: Path, *, overwrite: bool, kind: Kind = "cascade") -> Iterator[Path]:
    """A temporary folder beside `path`, renamed to `path` if the block raises nothing.

    An existing folder is moved away first and removed last, so that an interruption loses neither. Raises
    FolderError if `path` may not be written, see `ensure_writable_directory`.
    """
    ensure_writable_directory(path, overwrite=overwrite, kind=kind)
    path = Path(os.path.realpath(path))
    new, old = temporary_path(path), temporary_path(path)
    new.mkdir()
    try:
        yield new
        _share(new)
        if path.exists():
            path.replace(old)
        new.replace(path)
    finally:
        if old.exists() and not path.exists():
            old.replace(path)
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _share(folder: Path) -> None:
    """Give files the permissions that new ones get, as the folder did; safetensors makes its own private."""
    mode = folder.stat().st_mode & 0o666
    for file in folder.rglob("*"):
        if file.is_file():
            file.chmod(mode)


def ensure_writable_directory(path: Path, *, overwrite: bool, kind: Kind = "cascade") -> None:
    """Check, before costly work, that an output folder can be written.

    An existing folder is replaced only if `overwrite` is set and it is empty, a saved cascade, or (with
    `kind="model"`) holds nothing but the files of a model or several such folders. Raises FolderError if it
    may not be replaced, and DataError if it cannot be created.
    """
    ensure_creatable(path)
    if path.is_symlink():
        raise FolderError(f"{shown(path)} is a link. Give the folder that it leads to, or another --output.")
    if not path.exists():
        return
    if not overwrite:
        raise FolderError(
            f"{shown(path)} exists already. Choose another --output, or replace it with --overwrite."
        )
    if not path.is_dir() or not _is_replaceable(path, kind):
        raise FolderError(
            f"{shown(path)} is not a saved {kind}: it is not replaced. Choose another --output."
        )


def _is_replaceable(path: Path, kind: Kind) -> bool:
    content = list(path.iterdir())
    if kind == "cascade":
        return (path / SPEC_FILE).is_file() or all(entry.name == REPORT_FILE for entry in content)
    return _is_model(path) or all(map(_is_model, content))


def _is_model(path: Path) -> bool:
    """True for a folder that holds the files of a model and nothing else."""
    return (
        (path / "config.json").is_file()
        and any(path.glob("model*.safetensors"))
        and all(
            file.is_file() and (file.suffix in MODEL_SUFFIXES or file.name in MODEL_NAMES)
            for file in path.iterdir()
        )
    )
