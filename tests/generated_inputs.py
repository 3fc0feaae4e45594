"""Generated folders, patterns, streams, and files in the wrong place or role."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import datasets
import datasets.utils.logging
import pyarrow as pa
import pyarrow.parquet as pq

from generated import Case, Cell, Rng, Row, chance, compressed, pick, sentence, text_cell

datasets.utils.logging.disable_progress_bar()
LABEL_FORMS = ("label", "input_label", "stage", "confidence")
FORMATS = ("csv", "tsv", "jsonl", "parquet", "arrow")


def records_file(name: str, records: Sequence[Mapping[str, str]]) -> bytes:
    """A file of strings in the format of its name."""
    if name.endswith(".jsonl"):
        return "".join(json.dumps(record) + "\n" for record in records).encode()
    if name.endswith((".csv", ".tsv")):
        mark = "\t" if name.endswith(".tsv") else ","
        lines = [list(records[0]), *(list(record.values()) for record in records)]
        return "".join(mark.join(line) + "\n" for line in lines).encode()
    table, sink = pa.Table.from_pylist(list(map(dict, records))), io.BytesIO()
    if name.endswith(".parquet"):
        pq.write_table(table, sink)
    else:
        with pa.ipc.new_file(sink, table.schema) as target:
            target.write_table(table)
    return sink.getvalue()


def draw_records(rng: Rng, columns: Sequence[str]) -> list[dict[str, str]]:
    """Records of plain strings; labels are names."""
    labels = ("negative", "positive")
    values = {"text": sentence, "Text": sentence, "label": lambda rng: pick(rng, labels)}
    other = ("x", "1", "a b", "é", "true")
    n = int(rng.integers(1, 5))
    return [{c: values.get(c, lambda rng: pick(rng, other))(rng) for c in columns} for _ in range(n)]


def rows_of(
    name: str, records: Sequence[Mapping[str, str]], more: Mapping[str, Cell] | None = None
) -> list[Row]:
    """What is read of a file of strings, with columns in the names of its folders."""
    is_text, has_header = not name.endswith((".parquet", ".arrow")), name.endswith((".csv", ".tsv"))
    rows = []
    for i, record in enumerate(records):
        cells = {column: text_cell(value) for column, value in record.items()}
        line = i + 1 + has_header if is_text else None
        rows.append(
            Row(
                {**cells, **{n: c for n, c in (more or {}).items() if n not in cells}},
                record.get("text") or record["Text"],
                "",
                line,
                i + 1,
                name,
            )
        )
    return rows


def of_rows(case: Case, rows: Sequence[Row]) -> Case:
    """The case with these rows, and their labels where all have some."""
    columns = tuple(dict.fromkeys(name for row in rows for name in row.cells))
    labels = tuple(row.cells["label"].text if "label" in row.cells else None for row in rows)
    return replace(case, rows=tuple(rows), columns=columns, labels=labels if "label" in columns else None)


HIDDEN = {
    "_SUCCESS": b"",
    "._in.csv": b"\x00\x05\x16\x07",
    ".in.csv.swp": b"x",
    "a.csv.crc": b"crc\x00",
    "_meta/a.csv": b"x\n",
}
OTHER = {"notes.docx": b"PK", "picture.png": b"\x89PNG", "readme.md": b"# Data"}


def folder_case(rng: Rng) -> Case:
    """A folder of files with different columns, among files that are none of the data."""
    files, rows = dict[str, bytes](), list[Row]()
    formats = (pick(rng, FORMATS),) if chance(rng, 0.6) else FORMATS
    for number in range(int(rng.integers(1, 4))):
        others = [name for name in (*LABEL_FORMS, "x", "y") if chance(rng, 0.35)]
        text = "Text" if chance(rng, 0.1) else "text"
        names = [str(name) for name in rng.permutation([text, *others])]
        name = f"{pick(rng, ('', '', 'more/'))}part-{number}.{pick(rng, formats)}"
        records = draw_records(rng, names)
        files[f"data/{name}"] = records_file(name, records)
        rows += rows_of(name, records)
    rows.sort(key=lambda row: Path(row.file))
    noise = {**HIDDEN, **OTHER}
    added = [name for name in noise if chance(rng, 0.15)]
    files |= {f"data/{name}": noise[name] for name in added}
    skipped = sorted(name for name in added if name in OTHER)
    case = Case(
        "folder", files, pick(rng, ("data", "data/", "./data")), says=("skipped", *skipped) if skipped else ()
    )
    return of_rows(case, rows)


def partition_case(rng: Rng) -> Case:
    """A folder with columns in the names of its folders."""
    files, rows = dict[str, bytes](), list[Row]()
    ending = pick(rng, FORMATS)
    values = {
        "2024": text_cell("2024"),
        "a%20b": text_cell("a b"),
        "__HIVE_DEFAULT_PARTITION__": Cell("", "null"),
    }
    for part in sorted({pick(rng, list(values)) for _ in range(3)}):
        key = "year"
        name = f"{key}={part}/kind=a/rows.{ending}"
        records = draw_records(rng, ["text", "label", *["kind"] * chance(rng, 0.2)])
        files[f"data/{name}"] = records_file(name, records)
        rows += rows_of(name, records, {key: values[part], "kind": text_cell("a")})
    return of_rows(Case("partitioned folder", files, "data"), rows)


def pattern_case(rng: Rng) -> Case:
    """A pattern that some files match."""
    files, rows = dict[str, bytes](), list[Row]()
    ending, columns = pick(rng, FORMATS), ["text", *["label"] * chance(rng, 0.6)]
    for number in range(int(rng.integers(1, 4))):
        name = f"data/part-{number}.{ending}"
        records = draw_records(rng, columns)
        files[name] = records_file(name, records)
        rows += rows_of(name, records)
    files |= {"data/other.txt": b"not this\n", f"data/.part-9.{ending}": b"nor this"}
    pattern = pick(rng, (f"data/*.{ending}", f"data/part-[0-9].{ending}", f"d*/part-?.{ending}"))
    return of_rows(Case("pattern", files, pattern), rows)


def saved_case(rng: Rng) -> Case:
    """A folder that `datasets` wrote, of one split or of several."""
    records = draw_records(rng, ["text", "label"])
    data = datasets.Dataset.from_list(list(map(dict, records)))
    is_several = chance(rng, 0.4)
    with tempfile.TemporaryDirectory() as folder:
        whole = datasets.DatasetDict({"train": data, "test": data}) if is_several else data
        whole.save_to_disk(folder)
        paths = [path for path in Path(folder).rglob("*") if path.is_file()]
        files = {f"data/{path.relative_to(folder).as_posix()}": path.read_bytes() for path in paths}
    source = pick(rng, ("data", "data/test")) if is_several else "data"
    case = Case("folder of datasets", files, source, evaluate="")
    if is_several and source == "data":
        return replace(case, refused=("choose one of its splits", "data/test"))
    return replace(of_rows(case, rows_of("data-00000-of-00001.arrow", records)), evaluate=None)


def split_case(rng: Rng) -> Case:
    """A folder whose files are named for splits: `evaluate` reads one of them."""
    files, rows, of_split = dict[str, bytes](), list[Row](), dict[str, list[Row]]()
    for split in ("test", "train", "validation"):
        records = draw_records(rng, ["text", "label"])
        files[f"data/{split}.csv"] = records_file("x.csv", records)
        of_split[split] = rows_of(f"{split}.csv", records)
        rows += of_split[split]
    split = pick(rng, ("validation", "test", "train"))
    evaluated = [i for i, row in enumerate(rows) if row.file == f"{split}.csv"]
    source = "data" if split == "validation" and chance(rng, 0.5) else f"data@{split}"
    return of_rows(Case("folder of splits", files, "data", evaluate=source, evaluated=evaluated), rows)


def label_folder_case(rng: Rng) -> Case:
    """A folder for each label."""
    files, rows, ending = dict[str, bytes](), list[Row](), pick(rng, FORMATS)
    for label in ("negative", "positive"):
        name, records = f"label={label}/rows.{ending}", draw_records(rng, ["text", "x"])
        files[f"data/{name}"] = records_file(name, records)
        rows += rows_of(name, records, {"label": text_cell(label)})
    return of_rows(Case("partitioned folder", files, "data"), rows)


TYPES: Sequence[tuple[pa.DataType, pa.DataType, pa.DataType | None]] = (  # of two files; of both in parquet
    (pa.int8(), pa.int64(), pa.int64()),
    (pa.int32(), pa.float64(), pa.float64()),
    (pa.float32(), pa.float64(), pa.float64()),
    (pa.string(), pa.large_string(), pa.large_string()),
    (pa.null(), pa.int16(), pa.int16()),
    (pa.string(), pa.null(), pa.string()),
    (pa.string(), pa.int64(), None),
    (pa.bool_(), pa.int64(), None),
    (pa.list_(pa.int64()), pa.int64(), None),
)
TYPED: Mapping[str, tuple[object, Cell]] = {  # a value of each type; of the others 7
    "string": ("a", Cell("a", '"a"')),
    "large_string": ("a", Cell("a", '"a"')),
    "bool": (True, Cell("true", "true")),
    "null": (None, Cell("", "null")),
    "float": (2.5, Cell("2.5", "2.5")),
    "double": (2.5, Cell("2.5", "2.5")),
    "list<item: int64>": ([1], Cell("[1]", "[1]", is_json=True)),
}


def types_case(rng: Rng) -> Case:
    """A folder of files in which a column has two types."""
    one, other, both = pick(rng, TYPES)
    files, rows, values = dict[str, bytes](), list[Row](), list[object]()
    for number, kind in enumerate((one, other) if chance(rng, 0.5) else (other, one)):
        value, cell = TYPED.get(str(kind), (7, Cell("7", "7")))
        text, name, sink = sentence(rng), f"{number}.parquet", io.BytesIO()
        pq.write_table(pa.table({"text": [text], "x": pa.array([value], kind)}), sink)
        files[f"data/{name}"] = sink.getvalue()
        rows.append(Row({"text": text_cell(text), "x": cell}, text, "", None, 1, name))
        values.append(value)
    case = of_rows(Case("folder of types", files, "data"), rows)
    if both is not None:
        return replace(
            case, arrow=pa.table({"text": [row.text for row in rows], "x": pa.array(values, both)})
        )
    if chance(rng, 0.5):
        return replace(case, output=pick(rng, ("out.jsonl", "out.tsv", "out.csv.gz")))
    words = (str(kind).partition("<")[0] for kind in (one, other))
    return replace(case, output="out.parquet", refused=("'x'", "jsonl", *words))


def stream_case(rng: Rng) -> Case:
    """Standard input, and sometimes standard output."""
    ending = pick(rng, ("csv", "jsonl", "txt"))
    records = draw_records(rng, ["text"] if ending == "txt" else ["id", "text", "label"])
    content = records_file(f"in.{ending}", records) if ending != "txt" else b""
    if ending == "txt":
        content = "".join(f"{record['text']}\n" for record in records).encode()
    rows = [replace(row, file="standard input") for row in rows_of(f"in.{ending}", records)]
    case = of_rows(Case("standard input", {}, "-", stdin=content), rows)
    return replace(case, output=pick(rng, ("-", "out.jsonl", "out.parquet")))


def misplaced_case(rng: Rng) -> Case:
    """Inputs that are not there, empty, or of a format that their name does not say."""
    rows = f"text,label\n{sentence(rng)},positive\n".encode()
    table = records_file("in.parquet", [{"text": sentence(rng)}])
    files: dict[str, bytes]
    files, source, words = pick(
        rng,
        (
            ({}, "absent.csv", ("absent.csv", "no such file")),
            ({}, "absent/*.csv", ("no file matches",)),
            ({"in.csv": b""}, "in.csv", ("empty",)),
            ({"in.csv": b"text,label\n"}, "in.csv", ("empty",)),
            ({"in.csv": b"\n\n"}, "in.csv", ("empty",)),
            ({"in.tsv": b""}, "in.tsv", ("empty",)),
            ({"in.txt": b""}, "in.txt", ("empty",)),
            ({"in.xlsx": b"PK\x03\x04"}, "in.xlsx", ("in.xlsx", "CSV")),
            ({"in.csv": b"PK\x03\x04" + bytes(40)}, "in.csv", ("spreadsheet",)),
            ({"in.csv": table}, "in.csv", (".parquet",)),
            ({"in.jsonl": b"\x1f\x8b" + rows}, "in.jsonl", (".gz",)),
            ({"in.csv.gz": rows}, "in.csv.gz", ("cannot be read",)),
            ({"in.csv.zst": rows}, "in.csv.zst", ("cannot be read",)),
            ({"in.parquet": rows}, "in.parquet", ("parquet",)),
            ({"in.weird": rows}, "in.weird", ("expected",)),
            ({"data/a.docx": b"x"}, "data", ("a.docx",)),
            ({"data/_a.csv": rows}, "data", ("without data",)),
            ({"data/a.csv": rows, "data/b.csv": b"id\n1\n"}, "data", ("b.csv", "'text'")),
            ({"data/a.csv": rows, "data/b.parquet": b"PAR1"}, "data", ("b.parquet",)),
            ({"in.csv": b"id,note\n1,x\n"}, "in.csv", ("no column 'text'",)),
            ({"in.csv": f"{sentence(rng)}\n{sentence(rng)}\n".encode()}, "in.csv", ("no column 'text'",)),
        ),
    )
    return Case("wrong input", files, source, refused=words)


def role_case(rng: Rng) -> Case:
    """An output that must not be written."""
    files = {"in.csv": f"text,label\n{sentence(rng)},positive\n".encode(), "data/a.csv": b"text\nfine film\n"}
    source, output, more, links, words = pick(
        rng,
        (
            ("in.csv", "in.csv", ("--overwrite",), {}, ("in.csv",)),
            ("in.csv", "data/../in.csv", ("--overwrite",), {}, ("in.csv",)),
            ("in.csv", "link.csv", ("--overwrite",), {"link.csv": "in.csv"}, ("link.csv",)),
            ("link.csv", "in.csv", ("--overwrite",), {"link.csv": "in.csv"}, ("in.csv",)),
            ("data", "data/out.csv", (), {}, ("data",)),
            ("data", "links/out.csv", (), {"links": "data"}, ("data",)),
            ("in.csv", "out.csv", ("--rejects", "out.csv"), {}, ("out.csv",)),
            ("in.csv", "out.csv", ("--rejects", "data/../out.csv"), {}, ("out.csv",)),
            ("in.csv", "out.csv", ("--rejects", "in.csv", "--overwrite"), {}, ("in.csv",)),
            ("in.csv", "out.csv", ("--rejects", "out.csv.work/bad.csv"), {}, ("out.csv.work",)),
            ("data/*.csv", "data/out.csv", ("--rejects", "data/a.csv", "--overwrite"), {}, ("a.csv",)),
            ("in.csv", "data/a.csv", (), {}, ("exists", "--overwrite")),
            ("in.csv", "out.csv", ("--rejects", "data/a.csv"), {}, ("exists", "--overwrite")),
            ("in.csv", "absent/out.csv", (), {}, ("absent",)),
            ("in.csv", "out.csv", ("--rejects", "absent/out.csv"), {}, ("absent",)),
            ("in.csv", "out.xlsx", (), {}, ("out.xlsx", "expected")),
            ("in.csv", "out.csv", ("--rejects", "bad.docx"), {}, ("bad.docx", "expected")),
            ("in.csv", "data", (), {}, ("data",)),
            ("in.csv", "x" * 300 + ".csv", (), {}, ("xxx",)),
            ("in.csv", "in.csv/out.csv", (), {}, ("in.csv",)),
        ),
    )
    return Case(
        "wrong output", files, source, (), (), more, refused=words, output=output, links=links, evaluate=""
    )


def option_case(rng: Rng) -> Case:
    """Options that do not fit."""
    files = {"in.csv": f"text,label\n{sentence(rng)},positive\n".encode()}
    options, words = pick(
        rng,
        (
            (("--encoding", "klingon"), ("klingon",)),
            (("--delimiter", "ab"), ("delimiter",)),
            (("--delimiter", ""), ("delimiter",)),
            (("--delimiter", '"'), ("delimiter",)),
            (("--text-column", "body"), ("no column 'body'",)),
            (("--text-column", "text", "--text-column", "text", "--text-column", "text"), ("at most two",)),
            (("--encoding", "utf-16"), ("utf-16",)),
            (("--delimiter", ";"), ("no column 'text'",)),
        ),
    )
    return Case("wrong options", files, "in.csv", options=options, refused=words)


def noise_case(rng: Rng) -> Case:
    """Any bytes, or a file of which some bytes were changed."""
    records = draw_records(rng, ["text", "label", "x"])
    name = f"in.{pick(rng, FORMATS)}"
    content = bytearray(records_file(name, records))
    if chance(rng, 0.5):
        content = bytearray(
            pick(rng, (b"", b"text\n", b"text,x\n", b'{"text": "', b"PAR1"))
            + rng.bytes(int(rng.integers(1, 200)))
        )
    for _ in range(int(rng.integers(1, 5))):
        content[int(rng.integers(len(content)))] = int(rng.integers(256))
    file = (
        compressed(rng, name, bytes(content))
        if name[3:] in ("csv", "tsv", "jsonl")
        else (name, bytes(content))
    )
    return Case("noise", dict([file]), file[0], is_free=True)


MAKERS = (
    (10, folder_case),
    (3, partition_case),
    (3, pattern_case),
    (1, saved_case),
    (2, split_case),
    (1, label_folder_case),
    (3, types_case),
    (6, stream_case),
    (6, misplaced_case),
    (6, role_case),
    (3, option_case),
    (8, noise_case),
)
