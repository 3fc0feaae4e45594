"""Files of every kind from a seed, each with what a right reader finds, worked out without any reader."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa

from samples import BAD, GOOD, PLAIN

Rng = np.random.Generator
T = TypeVar("T")
ADDED = ("label", "confidence", "stage")
LABELS = ("negative", "positive")
TEXT_OUTPUTS = ("out.csv", "out.tsv", "out.jsonl", "out.ndjson", "out.csv.gz", "out.jsonl.zst")
OUTPUTS = (*TEXT_OUTPUTS, "out.parquet", "out.parquet")


class Cell(NamedTuple):
    """A cell in every form that an output may have."""

    text: str  # in csv; surrogates stand for bytes that are not UTF-8
    json: str | None  # None: its key is left out
    value: Any = None  # in parquet, where the input is of text
    is_json: bool = False  # the text is JSON, equal whatever its spaces


@dataclass(frozen=True)
class Row:
    """A row of a file: its cells, or why it is bad."""

    cells: Mapping[str, Cell]
    text: str = ""
    fault: str = ""  # words of the reason
    line: int | None = None
    number: int = 0  # in its file
    file: str = ""
    fault_in_full: str = ""  # words of the message where bad rows end the run, but for the reason


@dataclass(frozen=True)
class Case:
    """An input, how it is given to the commands, and what is to come out."""

    kind: str
    files: Mapping[str, bytes]
    source: str
    rows: tuple[Row, ...] = ()
    columns: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    stdin: bytes = b""
    refused: tuple[str, ...] | None = None  # words of the error, if no row can be predicted
    output: str = "out.csv"
    rejects: str | None = None
    chunk_rows: int = 16_384
    labels: tuple[str | None, ...] | None = None  # of the rows; None where a name is not known
    evaluate: str | None = None  # its data, if not the source; "" for none
    evaluated: Sequence[int] | None = None  # the rows that it reads, if not all
    predict_options: tuple[str, ...] = ()  # of this command alone
    arrow: pa.Table | None = None  # of all rows, where parquet is to hold the same types
    kinds: Mapping[str, pa.DataType] = field(default_factory=dict)  # in parquet, for text; default string
    links: Mapping[str, str] = field(default_factory=dict)
    says: tuple[str, ...] = ()  # words of the notes
    is_free: bool = False  # either end is right


def pick(rng: Rng, of: Sequence[T]) -> T:
    """One of some."""
    return of[int(rng.integers(len(of)))]


def chance(rng: Rng, share: float) -> bool:
    """True in this share of draws."""
    return bool(rng.random() < share)


def sentence(rng: Rng) -> str:
    """Some words."""
    words = (*GOOD, *BAD, *PLAIN)
    return " ".join(pick(rng, words) for _ in range(int(rng.integers(1, 9))))


ENDINGS = (
    ' "quoted"', '"', ", and; so | on", "\tafter a tab", "\nnext line", "\r\nnext line", " é ü ß",
    " \U0001f3ac", "  ", " \\n", " 'single'", " \x00", " \u2028", " <b>", " =1+1", " \ufeff", '","', " ☃",
)  # fmt: skip
CELLS = (
    "", " ", "1", "01", "1.0", "NaN", "null", "None", "true", "a,b", "a;b", "a|b", "a\tb", "a\nb", "a\r\nb",
    '"', 'a "b" c', "\\", "\\t", "'", "é", "\u200b", "#", "=1+1", "-1", "1e999", "2020-01-01", "sep=;",
    "\ufeff", "x" * 300, "[1, 2]", '{"a": 1}', "🎬", "\x00", "a\rb",
)  # fmt: skip
NAMES = ("id", "n", "note", "Größe", "x.y", "a b", "input_label", "confidence", "stage", "input_stage",
         "name", "0", "-")  # fmt: skip


def odd_text(rng: Rng) -> str:
    """Some words, often with something that readers stumble over."""
    return sentence(rng) + (pick(rng, ENDINGS) if chance(rng, 0.4) else "")


def names_of(rng: Rng, most: int = 4) -> list[str]:
    """Distinct names of columns, none of them that of texts or labels."""
    return [str(name) for name in rng.permutation(NAMES)[: int(rng.integers(most + 1))]]


SPELLINGS: Mapping[str, Callable[[str], str]] = {
    "names": str,
    "capitals": str.upper,
    "spaces": lambda name: f" {name} ",
    "ids": lambda name: str(LABELS.index(name)),
    "unknown": str,
    "missing": str,
}


def draw_labels(rng: Rng, n: int) -> tuple[list[str], tuple[str | None, ...]]:
    """Labels of n rows as they are written, and the stages' names of them; None if one has none."""
    form = pick(rng, ("names", "names", "names", "capitals", "spaces", "ids", "unknown", "missing"))
    names = [pick(rng, LABELS) for _ in range(n)]
    if names and form == "ids":
        names[0] = "negative"  # ids begin with 0
    written, known = [SPELLINGS[form](name) for name in names], list[str | None](names)
    if names and form in ("unknown", "missing"):
        place = int(rng.integers(n))
        written[place], known[place] = ("meh" if form == "unknown" else ""), None
    return written, tuple(known)


def escaped(text: str) -> str:
    """Text in which bytes that are not UTF-8 and halves of pairs are spelled out."""
    text = re.sub("[\udc80-\udcff]", lambda match: f"\\x{ord(match[0]) - 0xDC00:02x}", text)
    return re.sub("[\ud800-\udfff]", lambda match: f"\\u{ord(match[0]):04x}", text)


def text_cell(text: str) -> Cell:
    """A cell of csv, tsv or txt."""
    return Cell(text, json_string(escaped(text)), escaped(text))


def json_string(text: str) -> str:
    """A string in JSON, escaped throughout."""
    return json.dumps(text)


def lines_in(text: str) -> int:
    """Line breaks of any kind."""
    return len(re.findall("\r\n|\r|\n", text))


def zstd(content: bytes) -> bytes:
    """The bytes, compressed."""
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as target:
        target.write(content)
    return bytes(sink.getvalue().to_pybytes())


def compressed(rng: Rng, name: str, content: bytes) -> tuple[str, bytes]:
    """A file as it is or, sometimes, compressed."""
    if chance(rng, 0.8):
        return name, content
    if chance(rng, 0.3):
        return f"{name}.zst", zstd(content)
    half = len(content) // 2 if chance(rng, 0.3) else 0  # gzip files may have several members
    return f"{name}.gz", gzip.compress(content[:half]) + gzip.compress(content[half:])


def finished(rng: Rng, case: Case) -> Case:
    """The case with an output, and a place for rejects or small chunks in some."""
    if case.kind == "wrong output":
        return case
    output = pick(rng, OUTPUTS) if case.output == "out.csv" else case.output
    rejects = pick(rng, (None, "bad.csv", "bad.jsonl", "bad.tsv", "bad.parquet")) if chance(rng, 0.5) else None
    chunk_rows = pick(rng, (1, 2, 3)) if chance(rng, 0.3) else case.chunk_rows
    case = replace(case, output=output, rejects=rejects, chunk_rows=chunk_rows)
    if output == "-" or chance(rng, 0.9):
        return case
    old = {name: b"old" for name in (output, rejects) if name is not None}
    return replace(case, files={**case.files, **old}, predict_options=(*case.predict_options, "--overwrite"))


def draw(seed: int) -> Case:
    """The case of a seed."""
    import generated_arrow
    import generated_csv
    import generated_inputs
    import generated_json

    rng = np.random.default_rng(seed)
    makers = [
        *generated_csv.MAKERS,
        *generated_json.MAKERS,
        *generated_arrow.MAKERS,
        *generated_inputs.MAKERS,
    ]
    shares = np.array([share for share, _ in makers])
    make = makers[int(rng.choice(len(makers), p=shares / shares.sum()))][1]
    return finished(rng, make(rng))
