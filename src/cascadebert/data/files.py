"""Finds the files of an input: a file, a folder, a pattern or standard input; their formats by name."""

from __future__ import annotations

import glob
import re
import shutil
import sys
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

from cascadebert.data.columns import USUAL_TEXT_COLUMNS
from cascadebert.errors import DataError

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
STANDARD_STREAM = Path("-")  # as an input or an output
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


def is_input(path: Path) -> bool:
    """True for a file or pattern that `find_files` takes, and for a folder without a card of the Hub."""
    if path.is_dir():
        return not (path / "README.md").is_file()
    return path.exists() or path == STANDARD_STREAM or split_format(path) is not None


def find_files(source: Path, *, split: str | None = None, text_columns: Sequence[str] = ()) -> DataFiles:
    """The files of an input: one, those of a folder or a pattern, or a copy of standard input or a pipe.

    With `split`, a folder whose files are named for splits gives those of this one. The first line of
    standard input is a header if it holds one of `text_columns` or a usual name.

    Raises DataError if there is none, or the format of a single file is unknown.
    """
    if source == STANDARD_STREAM or source.is_fifo() or source.is_char_device():
        return _copied_stream(source, text_columns)
    if source.is_dir():
        return _folder_files(source, split)
    if source.is_file():
        return DataFiles((_data_file(source, source.name),), source.name)
    matches = sorted(map(Path, glob.glob(str(source))))  # noqa: PTH207 - Path has none for absolute patterns
    visible = [path for path in matches if path.is_file() and not _is_hidden(path.name)]
    files = tuple(_data_file(path, str(path)) for path in visible)
    if files:
        return DataFiles(files, str(source))
    raise DataError(f"{source}: no such file or folder")


def _data_file(path: Path, name: str, partition: Mapping[str, str | None] | None = None) -> DataFile:
    found = split_format(path)
    if found is None:
        hint = " Save the sheet as CSV." if path.suffix.lower() in (".xlsx", ".xls", ".ods") else ""
        raise DataError(f"{path}: expected {EXPECTED}.{hint}")
    return DataFile(path, name, *found, partition or {})


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "_")) or name.endswith(".crc")


def _folder_files(folder: Path, split: str | None) -> DataFiles:
    if (folder / SAVED_SPLITS).is_file():
        return _saved_split(folder, split)
    if (folder / SAVED_DATASET).is_file():
        files = sorted(folder.glob("*.arrow"))
        return DataFiles(tuple(DataFile(file, file.name, "arrow") for file in files), str(folder))
    found, skipped = list[DataFile](), list[str]()
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if not path.is_file() or any(map(_is_hidden, relative.parts)):
            continue
        name = f"{folder.name}/{relative.as_posix()}"
        if split_format(path) is None:
            skipped.append(name)
        else:
            found.append(_data_file(path, name, _partition(relative)))
    if split is not None:
        found = _of_split(found, folder, split)
    if not found:
        other = f" It holds {', '.join(skipped[:3])}." if skipped else ""
        raise DataError(f"{folder} is a folder without data: expected in it {EXPECTED}.{other}")
    return DataFiles(tuple(found), str(folder), tuple(skipped))


def _saved_split(folder: Path, split: str | None) -> DataFiles:
    splits = sorted(path.name for path in folder.iterdir() if (path / SAVED_DATASET).is_file())
    wanted = split if split is not None or len(splits) != 1 else splits[0]
    if wanted not in splits:
        example = f"{folder}/{splits[0]}" if splits else folder
        raise DataError(f"{folder}: choose one of its splits ({', '.join(splits)}), such as {example}")
    return _folder_files(folder / wanted, None)


def _partition(relative: Path) -> dict[str, str | None]:
    pairs = [part.split("=", 1) for part in relative.parts[:-1] if "=" in part]
    return {key: None if value == "__HIVE_DEFAULT_PARTITION__" else unquote(value) for key, value in pairs}


def _of_split(files: Sequence[DataFile], folder: Path, split: str) -> list[DataFile]:
    """The files that are named for a split; all if none is named for any."""
    relative = [(file, file.path.relative_to(folder).as_posix().lower()) for file in files]
    named = [(match, file) for file, name in relative if (match := _SPLIT.search(name))]
    if not named:
        return list(files)
    splits = [(_SPLITS.get(match[1], match[1]), file) for match, file in named]
    found = [file for name, file in splits if name == _SPLITS.get(split, split)]
    if not found:
        names = ", ".join(sorted({name for name, _ in splits}))
        raise DataError(
            f"{folder} has no files of the split '{split}' (found: {names}). Choose: {folder}@SPLIT"
        )
    return found


def _copied_stream(source: Path, text_columns: Sequence[str]) -> DataFiles:
    """A copy of a stream, which can be read only once; it is removed with the result."""
    is_standard = source == STANDARD_STREAM
    name = "standard input" if is_standard else source.name
    folder = Path(tempfile.mkdtemp(prefix="cascadebert-"))
    copy = folder / "stream"
    with copy.open("wb") as target:
        if is_standard:
            shutil.copyfileobj(sys.stdin.buffer, target)
        else:
            with source.open("rb") as stream:
                shutil.copyfileobj(stream, target)
    found = split_format(source) or (_guess_format(copy, text_columns), "")
    result = DataFiles((DataFile(copy, name, *found),), name)
    weakref.finalize(result, shutil.rmtree, folder, ignore_errors=True)
    return result


def _guess_format(file: Path, text_columns: Sequence[str]) -> Format:
    """Format of a stream by its first bytes: JSON, a table with a header, or lines of text."""
    with file.open("rb") as raw:
        start = raw.read(1 << 16).removeprefix(b"\xef\xbb\xbf").lstrip()
    if start[:4] == b"PAR1":
        return "parquet"
    if start[:1] in (b"{", b"["):
        return "json"
    header = start.decode("utf-8", "replace").partition("\n")[0].lower()
    cells = {cell.strip(" \r\"'") for cell in re.split(r"[,;|\t]", header)}
    names = {*map(str.lower, text_columns), *chain(*USUAL_TEXT_COLUMNS)}
    return "csv" if cells & names or header.startswith("sep=") else "txt"
