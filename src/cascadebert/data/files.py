"""Finds the files of an input: a file, a folder, a pattern or standard input; their formats by name."""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import IO, Any, Literal
from urllib.parse import unquote

from cascadebert.errors import DataError, reason
from cascadebert.remote_files import list_files, open_file, remote_url

Format = Literal["csv", "tsv", "json", "txt", "parquet", "arrow"]
FORMATS: Mapping[str, Format] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".txt": "txt",
    ".parquet": "parquet",
    ".arrow": "arrow",
}
TEXT_FORMATS = ("csv", "tsv", "json", "txt")
COMPRESSIONS = (".gz", ".zst")
SAVED_DATASET, SAVED_SPLITS = "state.json", "dataset_dict.json"  # files of datasets' save_to_disk
EXPECTED = f"a file ending in {', '.join(FORMATS)} (text formats also with {' or '.join(COMPRESSIONS)})"

_SPLIT = re.compile(
    r"(?:^|[-._/ ])(train(?:ing)?|validation|valid|val|dev|test(?:ing)?|eval(?:uation)?)(?=[-._/ ]|$)"
)
_SPLITS = {"training": "train", "valid": "validation", "val": "validation", "dev": "validation"}
_SPLITS |= {"testing": "test", "eval": "test", "evaluation": "test"}


@dataclass(frozen=True)
class DataFile:
    """One file of an input."""

    path: Path
    name: str  # in messages
    format: Format
    compression: str = ""  # ".gz", ".zst" or none
    partition: Mapping[str, str | None] = field(default_factory=dict)  # columns in the names of its folders
    url: str | None = None  # where it lies if not on this machine

    def open(self) -> IO[bytes]:
        """Its bytes as they are stored."""
        return self.path.open("rb") if self.url is None else open_file(self.url)


@dataclass(frozen=True, eq=False)
class DataFiles:
    """The files of an input in order, at least one."""

    files: tuple[DataFile, ...]
    name: str  # in messages
    skipped: tuple[str, ...] = ()  # files of other formats in a folder


def split_format(path: Path) -> tuple[Format, str] | None:
    """Format and compression by the endings of a name; None if they are unknown.

    >>> split_format(Path("a.CSV.gz")), split_format(Path("a.xlsx"))
    (('csv', '.gz'), None)
    """
    suffix = path.suffix.lower()
    compression = suffix if suffix in COMPRESSIONS else ""
    found = FORMATS.get(Path(path.stem).suffix.lower() if compression else suffix)
    return None if found is None or (compression and found not in TEXT_FORMATS) else (found, compression)


def is_input(name: str) -> bool:
    """True for what `find_files` reads: all but names of the Hub and local copies of its data sets."""
    path, base = Path(name), Path(name.rpartition("@")[0])
    if path.is_dir() or (not path.exists() and "@" in name and base.is_dir()):
        return not _has_card(path if path.is_dir() else base)
    exists = remote_url(path) is not None or os.path.lexists(path) or ("@" in name and base.exists())
    return exists or name == "-" or glob.has_magic(name) or split_format(path) is not None


def _has_card(folder: Path) -> bool:
    """True if a folder says how its files are to be loaded, as data sets of the Hub do."""
    card = folder / "README.md"
    if not card.is_file():
        return False
    with card.open(encoding="utf-8", errors="replace") as file:
        start = file.read(1 << 16)
    _, _, front = start.partition("---\n") if start.startswith("---\n") else ("", "", "")
    return re.search("^(configs|dataset_info):", front.partition("\n---")[0], re.MULTILINE) is not None


def find_files(source: Path, *, split: str | None = None) -> DataFiles:
    """The files of an input: a file, those of a folder, of `FOLDER@SPLIT` or of a pattern; also at a URL.

    With `split`, a folder whose files are named for splits gives those of this one.

    Raises DataError if there is none, one cannot be read, or the format of a single file is unknown.
    """
    name = str(source)
    if url := remote_url(source):
        return _remote_files(url, split)
    if source.is_dir():
        return _folder_files(source, split)
    if source.is_file():
        return DataFiles((_data_file(source, source.name),), source.name)
    base, _, named_split = name.rpartition("@")
    if base and Path(base).is_dir():
        return _folder_files(Path(base), named_split, must_have=True)
    if base and Path(base).is_file():
        raise DataError(f"{base} is one file, which has no splits: leave out '@{named_split}'")
    if glob.has_magic(name):
        return _matching_files(name)
    raise DataError(f"{source}: {'a broken link' if source.is_symlink() else 'no such file or folder'}")


def _matching_files(pattern: str) -> DataFiles:
    """The files that match a pattern, and those in folders that do."""
    parts = Path(pattern).parts
    root = Path(*takewhile(lambda part: not glob.has_magic(part), parts))
    found, skipped = dict[Path, DataFile](), dict[str, None]()
    for match in sorted(glob.glob(pattern, recursive=True)):  # noqa: PTH207 - Path has none for absolute ones
        path = Path(match)
        above = [folder for folder in reversed(path.parents) if folder.is_relative_to(root)]
        _check_no_loop(above)
        if any(_is_hidden(name) for name in path.relative_to(root).parts) and not _is_hidden(parts[-1]):
            continue
        others = list[str]()
        files = _walk(path, root, others) if path.is_dir() else _file_of(path, root, others)
        found |= {file.path: file for file in files}
        skipped |= dict.fromkeys(others)
    if not found:
        raise DataError(f"{pattern}: no file matches this pattern")
    return DataFiles(tuple(found[path] for path in sorted(found)), pattern, tuple(skipped))


def _remote_files(url: str, split: str | None) -> DataFiles:
    """The same of what lies at a URL."""
    folder, found = url, list_files(url)
    base, _, named_split = url.rpartition("@")
    asked = not found and bool(base)
    if asked:
        folder, split, found = base, named_split, list_files(base)
    if not found:
        raise DataError(f"{url}: no such file or folder, or no file matches this pattern")
    files, skipped = list[DataFile](), list[str]()
    for name, place in found.items():
        path, form = Path(name), split_format(Path(name))
        if path.name == SAVED_DATASET:
            raise DataError(f"{url} is a saved data set. Give its files: '{folder}/*.arrow'")
        if form is None and list(found.values()) == [url]:
            raise DataError(f"{url}: expected {EXPECTED}")
        if any(map(_is_hidden, path.parts)):
            continue
        if form is None:
            skipped.append(name)
        else:
            files.append(DataFile(path, name, *form, _partition(path), place))
    if split is not None and url not in found.values():
        files = _of_split(files, Path(), split, must_have=asked)
    if not files:
        raise DataError(f"{url} is a folder without data: expected in it {EXPECTED}.")
    return DataFiles(tuple(files), url, tuple(skipped))


def _check_no_loop(folders: Sequence[Path]) -> None:
    """Raise DataError if one of some folders, each in the one before, is one of those before it."""
    reals = [os.path.realpath(folder) for folder in folders]
    for i, folder in enumerate(folders):
        if reals[i] in reals[:i]:
            raise DataError(f"{folder} is a link to a folder that it lies in. Remove it.")


def _file_of(path: Path, root: Path, skipped: list[str]) -> Iterator[DataFile]:
    """A file, unless it is of another format or lies beside those of a saved data set."""
    relative = path.relative_to(root)
    name = f"{root.name}/{relative.as_posix()}".lstrip("/")
    if (path.parent / SAVED_DATASET).is_file():
        yield from (file for file in _saved_files(path.parent, root) if file.path == path)
    elif split_format(path) is None:
        skipped.append(name)
    elif not path.exists():
        raise DataError(f"{path} is a broken link. Fetch the file that it stands for, or remove it.")
    else:
        yield _data_file(path, name, _partition(relative))


def _data_file(path: Path, name: str, partition: Mapping[str, str | None] | None = None) -> DataFile:
    found = split_format(path)
    if found is None:
        hint = " Save the sheet as CSV." if path.suffix.lower() in (".xlsx", ".xls", ".ods") else ""
        raise DataError(f"{path}: expected {EXPECTED}.{hint}")
    return DataFile(path, name, *found, partition or {})


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "_")) or name.endswith(".crc")


def _folder_files(folder: Path, split: str | None, *, must_have: bool = False) -> DataFiles:
    """The files of a folder, or of one of its splits; `must_have` if the split was asked for."""
    if (folder / SAVED_SPLITS).is_file():
        folder, split = folder / _saved_split(folder, split), None
    is_saved, skipped = (folder / SAVED_DATASET).is_file(), list[str]()
    if is_saved and must_have and split is not None:
        raise DataError(f"{folder} has no splits: leave out '@{split}'")
    found = list(_walk(folder, folder, skipped))
    if split is not None and not is_saved:
        found = _of_split(found, folder, split, must_have=must_have)
    if is_saved and not found:
        raise DataError(f"{folder} is a data set without rows")
    if not found:
        other = f" It holds {', '.join(skipped[:3])}." if skipped else ""
        raise DataError(f"{folder} is a folder without data: expected in it {EXPECTED}.{other}")
    return DataFiles(tuple(found), str(folder), tuple(skipped))


def _walk(folder: Path, root: Path, skipped: list[str], above: tuple[Path, ...] = ()) -> Iterator[DataFile]:
    """The files in a folder at any depth, in order of path and behind links; others go to `skipped`."""
    _check_no_loop((*above, folder))
    if (folder / SAVED_SPLITS).is_file():
        folder = folder / _saved_split(folder, None)
    if (folder / SAVED_DATASET).is_file():
        yield from _saved_files(folder, root)
        return
    for path in _entries(folder):
        inside = (
            _walk(path, root, skipped, (*above, folder)) if path.is_dir() else _file_of(path, root, skipped)
        )
        yield from inside


def _entries(folder: Path) -> list[Path]:
    """The files and folders in a folder that are not hidden, in order of name."""
    try:
        return sorted(path for path in folder.iterdir() if not _is_hidden(path.name))
    except OSError as error:
        raise DataError(f"{folder} cannot be read ({error.strerror}). Change its permissions.") from error


def _saved_files(folder: Path, root: Path) -> Iterator[DataFile]:
    """The files of a data set that `save_to_disk` wrote: those that it lists, not what lies beside them."""
    for entry in _read_json(folder / SAVED_DATASET, "_data_files"):
        path = folder / entry["filename"]
        if not path.is_file():
            raise DataError(f"{folder}: its file {path.name} is missing. Save the data set again.")
        relative = path.relative_to(root)
        yield DataFile(path, f"{root.name}/{relative.as_posix()}", "arrow", partition=_partition(relative))


def _saved_split(folder: Path, split: str | None) -> str:
    """The split to read of a folder that `save_to_disk` wrote for several; DataError if it is not there."""
    splits: list[str] = sorted(_read_json(folder / SAVED_SPLITS, "splits"))
    wanted = splits[0] if split is None and len(splits) == 1 else split
    if wanted is None or wanted not in splits:
        example = f", such as {folder}@{splits[0]}" if splits else ""
        raise DataError(f"{folder}: choose one of its splits ({', '.join(splits) or 'none'}){example}")
    if not (folder / wanted / SAVED_DATASET).is_file():
        raise DataError(f"{folder}: its split {wanted} is missing. Save the data set again.")
    return wanted


def _read_json(file: Path, key: str) -> list[Any]:
    try:
        return list(json.loads(file.read_text("utf-8"))[key])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file} is damaged ({reason(error)}). Save the data set again.") from error


def _partition(relative: Path) -> dict[str, str | None]:
    pairs = [part.split("=", 1) for part in relative.parts[:-1] if "=" in part]
    return {key: None if value == "__HIVE_DEFAULT_PARTITION__" else unquote(value) for key, value in pairs}


def _of_split(files: Sequence[DataFile], folder: Path, split: str, *, must_have: bool) -> list[DataFile]:
    """The files that are named for a split; all if none is named for any, unless it must be there."""
    relative = [(file, file.path.relative_to(folder).as_posix().lower()) for file in files]
    named = [(match, file) for file, name in relative if (match := _SPLIT.search(name))]
    if not named and not must_have:
        return list(files)
    splits = [(_SPLITS.get(match[1], match[1]), file) for match, file in named]
    found = [file for name, file in splits if name == _SPLITS.get(split, split)]
    if not found:
        names = ", ".join(sorted({name for name, _ in splits})) or "none"
        raise DataError(
            f"{folder} has no files of the split '{split}' (found: {names}). Choose: {folder}@SPLIT"
        )
    return found
