"""Files as people have them: formats and encodings that are read, and what is refused."""

from __future__ import annotations

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cascadebert.data.arrow_cells import python_cells
from cascadebert.data.cells import check_texts
from cascadebert.data.columns import Columns
from cascadebert.data.readers import read_chunks, read_layout, read_table
from cascadebert.errors import DataError
from file_samples import CSV, ROWS, put, zstd

NOT_UTF8 = "bytes that are not UTF-8: save the file as UTF-8, or name its encoding with --encoding"


# ---- formats
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("rows.csv", ["text,label", "one,yes", "two,no"]),
        ("rows.csv", ['"text","label"', '"one","yes"', "", '"two","no"', ""]),
        ("rows.CSV", ["text;label", "one;yes", "two;no"]),
        ("rows.csv", ["text|label", "one|yes", "two|no"]),
        ("rows.csv", ["text\tlabel", "one\tyes", "two\tno"]),
        ("rows.csv", ["sep=;", "text;label", "one;yes", "two;no"]),
        ("rows.csv", ["text,label,,", "one,yes,,", "two,no,,", ",,,", ",,,"]),
        ("rows.csv", ["text,label", "one,yes,", "two,no"]),
        ("rows.csv", ["\ufeff\ufefftext,label", "one,yes", "two,no"]),
        ("rows.tsv", ["text\tlabel", "one\tyes", "two\tno"]),
        ("rows.jsonl", ['{"text": "one", "label": "yes"}', "", '{"label": "no", "text": "two"}']),
        ("rows.ndjson", ['\ufeff{"text": "one", "label": "yes"}', '{"label": "no", "text": "two"}']),
        ("rows.json", ['{"text": "one", "label": "yes"}', '{"label": "no", "text": "two"}']),
        ("rows.json", ['[{"text": "one", "label": "yes"},', '{"label": "no", "text": "two"}]']),
        ("rows.jsonl", ['[{"text": "one", "label": "yes"}, {"label": "no", "text": "two"}]']),
        (
            "rows.json",
            ["[", "{", '"text": "one",', '"label": "yes"},', '{"label": "no", "text": "two"}', "]"],
        ),
        ("rows.json", ['{"data": [{"text": "one", "label": "yes"}, {"label": "no", "text": "two"}]}']),
    ],
)
def test_every_form_of_text_file_gives_the_same_columns(tmp_path, name, lines, line_end):
    content = line_end.join(lines) + line_end
    assert read_table(put(tmp_path, name, content)).columns == ROWS
    assert read_table(put(tmp_path, f"{name}.gz", gzip.compress(content.encode()))).columns == ROWS
    assert read_table(put(tmp_path, f"{name}.zst", zstd(content.encode()))).columns == ROWS


def test_parquet_and_arrow_files_give_their_columns_in_order(tmp_path):
    pq.write_table(pa.table(ROWS), tmp_path / "rows.parquet")
    assert list(read_table(tmp_path / "rows.parquet").columns.items()) == list(ROWS.items())
    for new in (pa.ipc.new_stream, pa.ipc.new_file):
        with new(str(tmp_path / "rows.arrow"), pa.table(ROWS).schema) as target:
            target.write_table(pa.table(ROWS))
        assert read_table(tmp_path / "rows.arrow").columns == ROWS


def test_an_arrow_stream_that_breaks_off_is_refused(tmp_path):
    path = tmp_path / "a.arrow"
    with pa.ipc.new_stream(str(path), pa.schema([("text", pa.string())])) as target:
        for text in ("one", "two"):
            target.write_table(pa.table({"text": [text]}))
    whole = path.read_bytes()
    path.write_bytes(whole[: -8 - (len(whole) - 8) // 3])
    with pytest.raises(DataError, match=r"a\.arrow: not a readable Arrow file"):
        read_table(path)
    path.write_bytes(whole[:-8])  # at the end of a message
    with pytest.raises(DataError, match="it breaks off before its end"):
        read_table(path)


def test_each_line_of_a_txt_file_is_a_text(tmp_path):
    path = put(tmp_path, "a.txt", "\ufeffone, two\r\n\n  \nthree\n")
    assert read_table(path).columns == {"text": ["one, two", "three"]}
    (chunk,) = read_chunks(read_layout(path))
    assert (chunk.numbers, chunk.lines) == ([1, 2], [1, 4])


def test_a_long_array_is_read_in_pieces(tmp_path):
    rows = [{"text": f"text {i} " + "x" * (i % 7000)} for i in range(300)]
    table = read_table(put(tmp_path, "a.json", json.dumps(rows, indent=1)))
    assert table.columns["text"] == [row["text"] for row in rows]


# ---- encodings
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.txt"])
def test_a_utf16_file_is_named_as_such_and_read_where_it_is_named(tmp_path, name, encoding):
    content = {"a.csv": CSV, "a.tsv": CSV.replace(",", "\t"), "a.txt": "one\ntwo\n"}.get(name)
    content = content or "".join(
        f"{json.dumps(dict(zip(ROWS, row, strict=True)))}\n" for row in zip(*ROWS.values(), strict=True)
    )
    path = put(tmp_path, name, content.encode(encoding))
    with pytest.raises(DataError, match=rf"{name} is UTF-16 or UTF-32\. Save it as UTF-8, or add --encoding"):
        read_table(path)
    assert read_table(path, Columns(encoding=encoding)).columns["text"] == ["one", "two"]


def test_another_encoding_is_read_where_it_is_named(tmp_path):
    path = put(tmp_path, "a.csv", "text,größe\ncafé,1\n".encode("latin-1"))
    assert read_table(path, Columns(encoding="latin-1")).columns == {"text": ["café"], "größe": ["1"]}
    assert read_table(path).columns["text"] == ["caf\udce9"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (gzip.compress(CSV.encode(), mtime=0), r"a\.csv is compressed with gzip: its name must end in \.gz"),
        (zstd(CSV.encode()), r"compressed with zstd"),
        (b"PK\x03\x04...", r"a zip archive or a spreadsheet"),
        (b"PAR1...", r"is a parquet file"),
    ],
    ids=["gzip", "zstd", "zip", "parquet"],
)
def test_a_file_under_the_name_of_another_format_is_recognized(tmp_path, content, said):
    with pytest.raises(DataError, match=said):
        read_table(put(tmp_path, "a.csv", content))


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("a.csv", b"text\ncaf\xe9\n", NOT_UTF8),
        ("a.jsonl", b'{"text": "caf\\ud83c"}', "half of a surrogate pair"),
    ],
)
def test_a_text_that_is_not_utf8_says_what_to_do(tmp_path, name, content, fault):
    (chunk,) = read_chunks(read_layout(put(tmp_path, name, content)))
    assert check_texts(chunk.table, ["text"])[2] == {0: f"column 'text': {fault}"}


@pytest.mark.parametrize("encoding", [None, "utf-8", "UTF8", "utf-8-sig"])
def test_byte_order_marks_are_no_text_in_utf8_however_it_is_named(tmp_path, encoding):
    path = put(tmp_path, "a.csv", f"\ufeff\ufeff{CSV}")
    assert read_table(path, Columns(encoding=encoding)).columns == ROWS


@pytest.mark.parametrize(
    ("kind", "value"),
    [(pa.timestamp("us", "Mars/Phobos"), 0), (pa.timestamp("s"), 10**12), (pa.date32(), 2**31 - 1)],
)
def test_texts_of_arrow_that_python_cannot_hold_are_bad_rows(tmp_path, kind, value):
    raw = pa.array([b"caf\xe9", b"fine"], pa.binary())
    text = pa.Array.from_buffers(pa.string(), 2, raw.buffers())
    pq.write_table(pa.table({"text": text, "far": pa.array([value, None], kind)}), tmp_path / "a.parquet")
    (chunk,) = read_chunks(read_layout(tmp_path / "a.parquet"))
    assert check_texts(chunk.table, ["text"])[1:] == (
        [1],
        {0: f"column 'text': {NOT_UTF8}"},
    )
    far = check_texts(chunk.table, ["far"])[2]
    assert "expected text" in far[0] and far[1].endswith("empty text")


# ---- refusing
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_a_missing_file_is_named(tmp_path, suffix):
    with pytest.raises(DataError, match=rf"gone\{suffix}: no such file or folder"):
        read_table(tmp_path / f"gone{suffix}")


def test_an_unknown_ending_lists_the_known_ones(tmp_path):
    with pytest.raises(
        DataError, match=r"rows\.xlsx: expected a file ending in \.csv, .*Save the sheet as CSV"
    ):
        read_table(put(tmp_path, "rows.xlsx", "PK"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", ""),
        ("a.csv", "\n\n"),
        ("a.tsv", ""),
        ("a.jsonl", " \n"),
        ("a.json", "[]"),
        ("a.csv", "text,label\n"),
        ("a.csv", "text,label\n,\n"),
        ("a.tsv", "text\tlabel"),
        ("a.jsonl", "{}\n"),
        ("a.txt", "\n"),
    ],
)
def test_a_file_without_rows_is_empty(tmp_path, name, content):
    with pytest.raises(DataError, match=rf"{name} is empty: expected a header and rows"):
        read_table(put(tmp_path, name, content))


def test_a_parquet_file_without_rows_is_empty(tmp_path):
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet is empty"):
        read_table(tmp_path / "a.parquet")


@pytest.mark.parametrize("content", [b"", b"text,label\na,b\n", b"PAR1" * 20])
def test_a_damaged_parquet_file_is_rejected(tmp_path, content):
    with pytest.raises(DataError, match=r"a\.parquet: not a readable parquet file"):
        read_table(put(tmp_path, "a.parquet", content))


def test_a_time_zone_whose_name_is_damaged_spoils_no_time(tmp_path):
    table = pa.table({"text": ["a"], "when": pa.array([0], pa.timestamp("s", "Mars"))})
    with pa.ipc.new_file(str(tmp_path / "a.arrow"), table.schema) as target:
        target.write_table(table)
    path = put(tmp_path, "b.arrow", (tmp_path / "a.arrow").read_bytes().replace(b"Mars", b"M\xe4rs"))
    (chunk,) = read_chunks(read_layout(path))
    assert python_cells(chunk.table.columns["when"]) == ["1970-01-01T00:00:00Z"]


def test_an_arrow_file_that_points_outside_of_its_memory_is_rejected(tmp_path):
    with pa.ipc.new_file(str(tmp_path / "a.arrow"), pa.schema([("text", pa.string())])) as target:
        target.write_batch(pa.record_batch([pa.array(["fine", "film"])], ["text"]))
    right, wrong = (
        pa.array(offsets, pa.int32()).buffers()[1].to_pybytes() for offsets in ([0, 4, 8], [0, 10**6, 8])
    )
    content = (tmp_path / "a.arrow").read_bytes()
    assert content.count(right) == 1
    (tmp_path / "a.arrow").write_bytes(content.replace(right, wrong))
    with pytest.raises(
        DataError, match=r"a\.arrow: not a readable Arrow file \(ArrowInvalid: .*out of bounds"
    ):
        read_table(tmp_path / "a.arrow")


@pytest.mark.parametrize("name", ["a.csv.gz", "a.jsonl.zst"])
def test_a_damaged_compressed_file_is_rejected(tmp_path, name):
    whole = (gzip.compress if name.endswith("gz") else zstd)(CSV.encode() * 50)
    for content in (whole[:-9], whole[:5] + b"xx" + whole[7:-9], b"plain"):
        with pytest.raises(DataError, match=rf"{name}: cannot be read"):
            read_table(put(tmp_path, name, content))


def test_a_folder_without_data_says_what_it_holds(tmp_path):
    put(tmp_path, "in/a.md", "x")
    with pytest.raises(DataError, match=r"a folder without data: .* It holds in/a\.md"):
        read_table(tmp_path / "in")
