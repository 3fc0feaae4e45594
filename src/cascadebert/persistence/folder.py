"""The saved cascade: one folder, written aside and renamed, checked when it is opened.

The format is specified in docs/folder.md. No file in it is code and none is a pickle.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal
from zipfile import BadZipFile

import numpy as np
from huggingface_hub import HfApi
from pydantic import ValidationError

from cascadebert.data.dataset import Hashes
from cascadebert.errors import FolderError
from cascadebert.persistence.checkpoint_config import config_label_names, read_config
from cascadebert.persistence.model_card import render_card
from cascadebert.persistence.schema import SCHEMA_VERSION, CascadeSpec, StageSpec
from cascadebert.thresholds.operating_point import OperatingPoint

SPEC_FILE = "cascade.json"
ROWS_FILE = "rows.npz"
CARD_FILE = "README.md"
MODEL_SUFFIXES = (".json", ".safetensors", ".model", ".md")
MODEL_NAMES = ("vocab.txt", "merges.txt")
Kind = Literal["cascade", "model"]


@dataclass(frozen=True)
class UsedRows:
    """Fingerprints of the rows that made a cascade, by what they were used for.

    Attributes:
        train: that stages were trained on.
        tune: that thresholds were picked on.
        certify: kept for guarantees.
        spent: that a guarantee was tested on; they cannot be used for another.
    """

    train: Hashes
    tune: Hashes
    certify: Hashes
    consumed: Hashes = field(default_factory=lambda: np.empty(0, dtype=np.uint64))

    def seen(self, hashes: Hashes) -> dict[str, int]:
        """How many of the given rows were used for each purpose; kept and spent ones count as one."""
        used = {"train": self.train, "tune": self.tune, "certify": np.union1d(self.certify, self.consumed)}
        return {name: int(np.isin(hashes, rows).sum()) for name, rows in used.items()}


def file_hashes(folder: Path, wanted: Callable[[Path], bool] = Path.exists) -> dict[str, str]:
    """sha256 of the wanted files of a folder, by name."""
    hashes = {}
    for file in sorted(filter(wanted, folder.iterdir())):
        if file.is_dir():
            raise FolderError(
                f"{file} is a folder inside a model folder, where only files belong. Remove it."
            )
        with file.open("rb") as content:
            whole = hashlib.sha256()
            while block := content.read(1 << 20):
                whole.update(block)
        hashes[file.name] = whole.hexdigest()
    return hashes


def read_folder(path: Path, *, check_files: bool = True, but_last: bool = False) -> CascadeSpec:
    """Read and check a saved cascade.

    Args:
        path: the folder.
        check_files: whether the files of the stages are hashed and compared.
        but_last: whether the last stage may be missing or changed.

    Raises:
        FolderError: if it is no cascade, has another schema version, or any file of a stage is missing,
            changed or added.
    """
    file = path / SPEC_FILE
    try:
        raw = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise FolderError(f"{path} is not a saved cascade: no readable {SPEC_FILE} ({error})") from error
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if version != SCHEMA_VERSION:
        raise FolderError(
            f"{file}: schema version {version!r}; this release reads {SCHEMA_VERSION}. "
            "Install the release that wrote it, or fit again."
        )
    try:
        spec = CascadeSpec.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise FolderError(f"{file}: {where}: {first['msg']}. The file was damaged or edited.") from error
    entries = spec.stages[:-1] if but_last else spec.stages
    for entry in entries:
        _check_stage(path, entry, check_files)
    if not but_last:
        _check_labels(path, spec)
    _check_certificate(file, spec)
    return spec


def stages_sha256(spec: CascadeSpec) -> str:
    """Fingerprint of all files of all stages."""
    return hashlib.sha256(json.dumps([entry.sha256 for entry in spec.stages]).encode()).hexdigest()


def _check_certificate(file: Path, spec: CascadeSpec) -> None:
    certificate, tuned = spec.operating_point.certificate, spec.tuned_on
    if certificate is None:
        return
    here = (
        certificate.stages_sha256 == stages_sha256(spec),
        certificate.temperatures == tuple(entry.temperature for entry in spec.stages),
        spec.operating_point.thresholds == certificate.points[-1].thresholds,
        tuned is not None
        and (certificate.engine, certificate.precision, certificate.device)
        == (tuned.engine, tuned.precision, tuned.device),
    )
    if not all(here):
        raise FolderError(
            f"{file}: the certificate belongs to other stages, temperatures, thresholds or another engine. "
            "The file was damaged or edited; certify again with `cascadebert tune --confidence-level`, on "
            "new rows."
        )


def _check_stage(path: Path, entry: StageSpec, check_files: bool) -> None:
    folder = path / entry.path
    if Path(entry.path).name != entry.path or not folder.is_dir():
        raise FolderError(f"{path}: the stage folder {entry.path!r} is missing")
    found = file_hashes(folder) if check_files else entry.sha256
    for name in sorted(set(found) | set(entry.sha256)):
        if found.get(name) != entry.sha256.get(name):
            state = "removed" if name not in found else "added" if name not in entry.sha256 else "changed"
            raise FolderError(
                f"{folder / name} was {state} since the cascade was saved; its thresholds belong to "
                "the files it was saved with. Restore the file, or make a new cascade with "
                "`cascadebert assemble`."
            )


def _check_labels(path: Path, spec: CascadeSpec) -> None:
    order = config_label_names(read_config(path / spec.stages[-1].path), path)
    if order != spec.label_names:
        raise FolderError(
            f"{path}: the label order of {SPEC_FILE} ({', '.join(spec.label_names)}) is not that of the last "
            f"stage ({', '.join(order)})"
        )


def write_folder(
    path: Path,
    spec: CascadeSpec,
    stages: Mapping[str, Path],
    rows: UsedRows,
    *,
    files: Mapping[str, Path] | None = None,
    overwrite: bool = False,
) -> None:
    """Write a new cascade folder.

    Args:
        path: where to.
        spec: what it says of itself.
        stages: sub-folder name to the folder it is copied from.
        rows: what was used for what.
        files: further files to copy in, by name.
        overwrite: replace an existing folder.
    """
    with atomic_directory(path, overwrite=overwrite) as new:
        for name, source in stages.items():
            shutil.copytree(source, new / name)
        for name, source in (files or {}).items():
            shutil.copyfile(source, new / name)
        np.savez(new / ROWS_FILE, **vars(rows))
        _write_spec(new, spec)


def read_used_rows(path: Path) -> UsedRows:
    """The fingerprints stored in a saved cascade.

    Raises:
        FolderError: if they are missing or unreadable.
    """
    try:
        with (path / ROWS_FILE).open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return UsedRows(**{entry.name: stored[entry.name] for entry in fields(UsedRows)})
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise FolderError(f"{path}: no readable {ROWS_FILE} ({error})") from error


def update_folder(path: Path, spec: CascadeSpec, rows: UsedRows) -> None:
    """Replace the operating point of a saved cascade: its description, card and row fingerprints."""
    with tempfile.TemporaryDirectory(dir=path, prefix=".update-") as name:
        new = Path(name)
        np.savez(new / ROWS_FILE, **vars(rows))
        _write_spec(new, spec)
        for file in (ROWS_FILE, CARD_FILE, SPEC_FILE):
            (new / file).replace(path / file)


def copy_folder(
    source: Path | None, spec: CascadeSpec | None, point: OperatingPoint, path: Path, *, overwrite: bool
) -> None:
    """Copy a saved cascade, with the given operating point.

    Raises:
        FolderError: if there is no source folder, or `path` exists.
    """
    if source is None or spec is None:
        raise FolderError("this cascade was never saved; make it with fit() or assemble()")
    with atomic_directory(path, overwrite=overwrite) as new:
        shutil.copytree(source, new, dirs_exist_ok=True)
        _write_spec(new, with_operating_point(spec, point))


def upload_folder(
    source: Path | None, spec: CascadeSpec | None, point: OperatingPoint, repo: str, *, private: bool | None
) -> str:
    """Copy a saved cascade to the Hugging Face Hub, with the given operating point.

    Returns:
        The address of the commit.
    """
    with tempfile.TemporaryDirectory() as name:
        new = Path(name) / "cascade"
        copy_folder(source, spec, point, new, overwrite=False)
        api = HfApi()
        api.create_repo(repo, private=private, exist_ok=True)
        commit = api.upload_folder(repo_id=repo, folder_path=new, commit_message="Upload a cascade")
    return str(commit.commit_url)


def with_operating_point(spec: CascadeSpec, point: OperatingPoint) -> CascadeSpec:
    """The description with another operating point; what is known of the old one goes."""
    if point == spec.operating_point:
        return spec
    gone = {"tuned_on": None, "measured": None, "timing": None, "calibration": None}
    return spec.model_copy(update={"operating_point": point, **gone})


@contextmanager
def atomic_directory(path: Path, *, overwrite: bool, kind: Kind = "cascade") -> Iterator[Path]:
    """A new folder beside `path` that takes its name when the block ends without an error.

    An existing folder is moved away first and removed last, so that a kill loses neither.

    Raises:
        FolderError: if `path` may not be written, see `ensure_writable_directory`.
    """
    ensure_writable_directory(path, overwrite=overwrite, kind=kind)
    mark = secrets.token_hex(4)
    new, old = (path.absolute().with_name(f".{path.name}.{mark}.{state}") for state in ("new", "old"))
    new.mkdir()
    try:
        yield new
        if path.exists():
            path.absolute().replace(old)
        new.replace(path.absolute())
    finally:
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def ensure_writable_directory(
    path: Path, *, overwrite: bool, kind: Kind = "cascade", sources: Sequence[Path] = ()
) -> None:
    """Refuse an output folder that could not be made later, before anything costly is done.

    Args:
        path: the folder to be.
        overwrite: whether an existing one may be replaced.
        kind: what it must be to be replaced: a saved cascade, or a folder of nothing but a
            model's files, or of several such folders.
        sources: folders that are read to make it, which must not lie in it.

    Raises:
        FolderError: if it exists and is not to be (or cannot safely be) replaced, or its parent is absent.
    """
    for source in sources:
        if path.resolve() in (source.resolve(), *source.resolve().parents):
            raise FolderError(f"{path} holds {source}, which is read. Choose another --output.")
    if not path.absolute().parent.is_dir():
        raise FolderError(f"{path}: the folder {path.absolute().parent} does not exist. Make it first.")
    if not path.exists():
        return
    if not overwrite:
        raise FolderError(f"{path} exists already. Choose another --output, or replace it with --overwrite.")
    if path.is_symlink() or not path.is_dir() or not _replaceable(path, kind):
        raise FolderError(f"{path} is not a saved {kind}: it is not replaced. Choose another --output.")


def _replaceable(path: Path, kind: Kind) -> bool:
    if not any(path.iterdir()):
        return True
    if kind == "cascade":
        return (path / SPEC_FILE).is_file()
    return _is_model(path) or all(_is_model(inner) for inner in path.iterdir())


def _is_model(path: Path) -> bool:
    """Whether a path is a folder of a model's files and of nothing else."""
    if not ((path / "config.json").is_file() and any(path.glob("model*.safetensors"))):
        return False
    return all(file.is_file() and _is_model_file(file) for file in path.iterdir())


def _is_model_file(file: Path) -> bool:
    named = file.suffix in MODEL_SUFFIXES or file.name in MODEL_NAMES
    return named and (file.suffix != ".md" or file.name == CARD_FILE)


def _write_spec(folder: Path, spec: CascadeSpec) -> None:
    (folder / CARD_FILE).write_text(render_card(spec), "utf-8")
    (folder / SPEC_FILE).write_text(spec.model_dump_json(indent=2) + "\n", "utf-8")
