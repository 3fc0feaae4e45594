"""Files of any size: answered in order, chunk by chunk; a kill, a bad row or a late column loses nothing."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cascadebert import Cascade, CascadeError, OperatingPoint, Target, assemble
from cascadebert.data.columns import Columns
from cascadebert.data.readers import read_table
from cascadebert.errors import DataError
from cascadebert.inference.predict_file import predict_file
from cascadebert.inference.predict_work import Job, Work
from cascadebert.inference.shard import Shard
from killing import run_killed
from samples import reviews, sentences, write_csv


@pytest.fixture(scope="module")
def cascade(saved):
    return Cascade.from_pretrained(saved)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr("cascadebert.inference.predict_file.CHUNK_ROWS", 40)


TEXTS = sentences(150, seed=9)


def write_rows(path: Path) -> Path:
    """150 rows with a number, in the format of the ending."""
    numbers = list(range(len(TEXTS)))
    if path.suffix == ".parquet":
        table = pa.table({"n": pa.array(numbers, pa.int16()), "text": TEXTS})
        pq.write_table(table, path)
    elif path.suffix == ".jsonl":
        rows = (json.dumps({"n": n, "text": t}) for n, t in zip(numbers, TEXTS, strict=True))
        path.write_text("".join(f"{row}\n" for row in rows))
    else:
        separator = "\t" if path.suffix == ".tsv" else ","
        rows = (f"{n}{separator}{t}\n" for n, t in zip(numbers, TEXTS, strict=True))
        path.write_text(f"n{separator}text\n" + "".join(rows))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("given", ["in.csv", "in.tsv", "in.jsonl", "in.parquet"])
@pytest.mark.parametrize("wanted", ["out.csv", "out.tsv", "out.jsonl", "out.parquet"])
def test_every_format_in_and_out_holds_the_same_answers_in_order(cascade, tmp_path, given, wanted):
    done = predict_file(cascade, write_rows(tmp_path / given), tmp_path / wanted)
    table, answers = read_table(tmp_path / wanted), cascade.predict(TEXTS)
    assert list(table.columns) == ["n", "text", "label", "confidence", "stage"]
    assert table.columns["text"] == TEXTS and table.columns["label"] == answers.labels.tolist()
    assert [int(n) for n in table.columns["n"]] == list(range(150))
    assert [float(c) for c in table.columns["confidence"]] == np.round(answers.confidences, 6).tolist()
    assert (done.n, done.rejected) == (150, 0)
    assert done.exit_counts == tuple(np.bincount(answers.stages - 1, minlength=2))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([given, wanted])


def test_parquet_columns_keep_their_types(cascade, tmp_path):
    predict_file(cascade, write_rows(tmp_path / "in.parquet"), tmp_path / "out.parquet")
    assert pq.read_schema(tmp_path / "out.parquet").field("n").type == pa.int16()


def test_a_folder_of_parquet_files_is_one_input(cascade, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name, rows in (("b", TEXTS[100:]), ("a", TEXTS[:100])):
        pq.write_table(pa.table({"text": rows}), folder / f"{name}.parquet")
    predict_file(cascade, folder, tmp_path / "out.csv")
    assert read_table(tmp_path / "out.csv").columns["text"] == TEXTS


KILLED = """
from pathlib import Path
import cascadebert.inference.predict_file as module
from cascadebert import Cascade
module.CHUNK_ROWS = 40
kill_at(Cascade, "predict", 3)
module.predict_file(Cascade.from_pretrained(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_killed_run_goes_on_and_writes_the_same_bytes(cascade, saved, tmp_path, monkeypatch, ending):
    source = write_rows(tmp_path / f"in.{ending}")
    predict_file(cascade, source, tmp_path / f"whole.{ending}")
    output = tmp_path / f"out.{ending}"
    run_killed(KILLED, saved, source, output)
    assert not output.exists() and len(list((tmp_path / f"out.{ending}.work").glob("0*.json"))) == 2
    rows, original = [], Cascade.predict
    monkeypatch.setattr(
        Cascade, "predict", lambda self, texts: (rows.extend(texts), original(self, texts))[1]
    )
    predict_file(cascade, source, output)
    assert len(rows) == 70
    assert output.read_bytes() == (tmp_path / f"whole.{ending}").read_bytes()


def begun(cascade: Cascade, source: Path, output: Path, monkeypatch, **options: object) -> None:
    """Leave all chunks done and nothing written, as if the run had been interrupted at its end."""
    with monkeypatch.context() as patch:
        patch.setattr("cascadebert.inference.predict_chunks.PredictRun.finish", lambda *_: None)
        predict_file(cascade, source, output, **options)


def counted(monkeypatch) -> list[str]:
    """The texts that are predicted from now on."""
    texts, original = [], Cascade.predict
    monkeypatch.setattr(
        Cascade, "predict", lambda self, given: (texts.extend(given), original(self, given))[1]
    )
    return texts


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        ({"rejects": "bad.csv"}, {}, r"--rejects \(then given, now not given\)"),
        ({}, {"truncate": False, "rejects": "bad.csv"}, r"--truncate \(then on, now off\)"),
        ({}, {"columns": Columns(("n",))}, r"--text-column"),
        ({"shard": Shard(1, 2)}, {"shard": Shard(2, 2)}, r"--shard \(then 1/2, now 2/2\)"),
        ({}, {"output": "out.csv.gz"}, None),
    ],
)
def test_a_rerun_with_other_options_says_which_differ(cascade, tmp_path, monkeypatch, before, now, said):
    def absolute(options: dict[str, object]) -> dict[str, object]:
        return {k: tmp_path / v if k == "rejects" else v for k, v in options.items() if k != "output"}

    source = write_rows(tmp_path / "in.csv")
    begun(cascade, source, tmp_path / "out.csv", monkeypatch, **absolute(before))
    if said is None:  # another output has a work folder of its own
        assert predict_file(cascade, source, tmp_path / "out.csv.gz").n == 150
        return
    with pytest.raises(CascadeError, match=rf"out\.csv\.work is unfinished work of another run, .*{said}"):
        predict_file(cascade, source, tmp_path / "out.csv", **absolute(now))
    assert not (tmp_path / "out.csv").exists()


def test_a_rerun_with_another_cascade_is_refused(cascade, tmp_path, monkeypatch):
    source = write_rows(tmp_path / "in.csv")
    begun(cascade, source, tmp_path / "out.csv", monkeypatch)
    other = cascade.with_operating_point(OperatingPoint((0.123,) * (len(cascade.stages) - 1)))
    with pytest.raises(CascadeError, match=r"with other options: the cascade\."):
        predict_file(other, source, tmp_path / "out.csv")


def test_rejects_may_be_added_where_no_row_was_set_aside(cascade, tmp_path, monkeypatch):
    source = write_rows(tmp_path / "in.csv")
    begun(cascade, source, tmp_path / "out.csv", monkeypatch)
    texts = counted(monkeypatch)
    assert predict_file(cascade, source, tmp_path / "out.csv", rejects=tmp_path / "bad.csv").n == 150
    assert texts == []


def test_unfinished_work_of_another_version_is_refused(cascade, tmp_path, monkeypatch):
    source = write_rows(tmp_path / "in.csv")
    monkeypatch.setattr("cascadebert.inference.predict_work.VERSION", 4)
    begun(cascade, source, tmp_path / "out.csv", monkeypatch)
    monkeypatch.setattr("cascadebert.inference.predict_work.VERSION", 5)
    with pytest.raises(CascadeError, match=r"unfinished work of another run, of another version"):
        predict_file(cascade, source, tmp_path / "out.csv")


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_only_rows_that_were_mended_are_predicted_again(cascade, tmp_path, monkeypatch, ending):
    source = write_rows(tmp_path / f"in.{ending}")
    begun(cascade, source, tmp_path / "out.csv", monkeypatch)
    if ending == "parquet":
        texts = ["mended", *TEXTS[1:]]
        pq.write_table(pa.table({"n": pa.array(range(150), pa.int16()), "text": texts}), source)
    else:
        source.write_text(source.read_text().replace(TEXTS[0], "mended", 1))
    texts = counted(monkeypatch)
    predict_file(cascade, source, tmp_path / "out.csv")
    assert texts == ["mended", *TEXTS[1:40]]
    assert read_table(tmp_path / "out.csv").columns["text"] == ["mended", *TEXTS[1:]]


def test_a_row_that_stopped_a_run_can_be_mended_without_removing_anything(cascade, tmp_path, monkeypatch):
    source = write_rows(tmp_path / "in.csv")
    whole = source.read_text()
    source.write_text(whole.replace(f"100,{TEXTS[100]}", "100,"))
    with pytest.raises(
        DataError, match=r"row 101, column 'text': empty text \(line 102 of the file\)\. Mend"
    ):
        predict_file(cascade, source, tmp_path / "out.csv")
    source.write_text(whole)
    texts = counted(monkeypatch)
    predict_file(cascade, source, tmp_path / "out.csv")
    assert texts == TEXTS[80:] and read_table(tmp_path / "out.csv").columns["text"] == TEXTS


def test_an_input_with_other_columns_is_predicted_afresh(cascade, tmp_path, monkeypatch):
    source = write_rows(tmp_path / "in.csv")
    begun(cascade, source, tmp_path / "out.csv", monkeypatch)
    source.write_text(source.read_text().replace("n,text", "number,text"))
    predict_file(cascade, source, tmp_path / "out.csv")
    assert list(read_table(tmp_path / "out.csv").columns)[:2] == ["number", "text"]


BAD = 'n,text\n0,fine\n1,\n2,"caf\udce9"\n3,great,film\n4,"open\n5,dull\n'


def test_bad_rows_are_set_aside_with_number_and_reason(cascade, tmp_path):
    source = tmp_path / "in.csv"
    source.write_text(BAD, errors="surrogateescape")
    done = predict_file(cascade, source, tmp_path / "out.csv", rejects=tmp_path / "bad.csv")
    assert (done.n, done.rejected) == (2, 4)
    with (tmp_path / "out.csv").open(newline="") as file:
        assert [row["n"] for row in csv.DictReader(file)] == ["0", "5"]
    bad = read_table(tmp_path / "bad.csv").columns
    assert bad["row"] == ["2", "3", "4", "5"] and set(bad["file"]) == {"in.csv"}
    assert bad["line"] == ["3", "4", "5", "6"]
    wanted = ("empty text", "not UTF-8", "3 cells", "a quotation mark is not closed")
    assert all(told in reason for told, reason in zip(wanted, bad["reason"], strict=True))


def test_a_file_of_nothing_but_bad_rows_gives_no_answers_and_says_why(cascade, tmp_path):
    (tmp_path / "in.csv").write_text("n,text\n1,\n2,\n")
    done = predict_file(cascade, tmp_path / "in.csv", tmp_path / "out.csv", rejects=tmp_path / "bad.jsonl")
    assert (done.n, done.rejected) == (0, 2)
    assert (tmp_path / "out.csv").read_text() == "n,text,label,confidence,stage\n"


def test_a_bad_row_stops_the_run_where_no_file_is_given_for_it_and_work_done_is_kept(cascade, tmp_path):
    source = write_rows(tmp_path / "in.csv")
    source.write_text(source.read_text() + "150,\n")
    with pytest.raises(DataError, match=r"in\.csv, row 151, column 'text': empty text.*--rejects"):
        predict_file(cascade, source, tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()
    done = predict_file(cascade, source, tmp_path / "out.csv", rejects=tmp_path / "bad.csv")
    assert (done.n, done.rejected) == (150, 1)


def test_answers_and_bad_rows_in_one_file_are_refused(cascade, tmp_path):
    source = write_rows(tmp_path / "in.csv")
    with pytest.raises(DataError, match=r"--output .* is also --rejects"):
        predict_file(cascade, source, tmp_path / "out.csv", rejects=tmp_path / "out.csv")


@pytest.mark.parametrize("wanted", ["out.csv", "out.jsonl", "out.parquet"])
def test_the_names_of_columns_are_settled_before_the_first_row(cascade, tmp_path, wanted):
    rows = [{"text": text, "label": f"L{i}"} for i, text in enumerate(TEXTS)]
    rows[100] |= {"late": 1, "input_label": "I"}
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    predict_file(cascade, tmp_path / "in.jsonl", tmp_path / wanted)
    columns = read_table(tmp_path / wanted).columns
    assert columns["input_input_label"] == [f"L{i}" for i in range(150)]
    assert (columns["input_label"][100], str(columns["late"][100])) == ("I", "1")
    assert not any(columns["late"][:100])


@pytest.mark.parametrize("names", [("a.csv", "b.csv"), ("b.csv", "a.csv")])
def test_the_files_of_a_folder_may_have_different_columns(cascade, tmp_path, names):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / names[0]).write_text("text,label\nfine,L1\n")
    (tmp_path / "in" / names[1]).write_text("input_label,text,label\nI2,dull,L2\n")
    predict_file(cascade, tmp_path / "in", tmp_path / "out.csv")
    found = read_table(tmp_path / "out.csv").columns
    rows = set(zip(found["text"], found["input_input_label"], found["input_label"], strict=True))
    assert rows == {("fine", "L1", ""), ("dull", "L2", "I2")}


def test_a_file_of_a_folder_without_texts_is_named_before_the_first_row(cascade, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.csv").write_text("text\nfine\n")
    (tmp_path / "in/b.csv").write_text("body\nfine\n")
    with pytest.raises(DataError, match=r"b\.csv has no column 'text' \(columns found: body\)"):
        predict_file(cascade, tmp_path / "in", tmp_path / "out.csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_types_that_no_type_unites_are_refused_for_parquet_before_the_first_row(cascade, tmp_path):
    (tmp_path / "in").mkdir()
    for name, cells in (("a", pa.array([1])), ("b", pa.array([[1]]))):
        pq.write_table(pa.table({"text": ["fine"], "n": cells}), tmp_path / f"in/{name}.parquet")
    with pytest.raises(DataError, match=r"b\.parquet: the column 'n' has the type .* Write jsonl"):
        predict_file(cascade, tmp_path / "in", tmp_path / "out.parquet")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]
    assert predict_file(cascade, tmp_path / "in", tmp_path / "out.jsonl").n == 2


def test_json_of_several_kinds_in_a_column_becomes_json_in_parquet(cascade, tmp_path):
    rows = [{"text": text, "n": 1 if i < 120 else "many"} for i, text in enumerate(TEXTS)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    predict_file(cascade, tmp_path / "in.jsonl", tmp_path / "out.parquet")
    assert read_table(tmp_path / "out.parquet").columns["n"] == ["1"] * 120 + ['"many"'] * 30


def test_names_that_are_added_are_kept_from_the_input_under_another(cascade, tmp_path):
    (tmp_path / "in.csv").write_text("text,label,stage,input_stage\nfine,a,b,c\n")
    predict_file(cascade, tmp_path / "in.csv", tmp_path / "out.csv")
    found = read_table(tmp_path / "out.csv").columns
    assert found["input_label"] == ["a"] and found["input_stage"] == ["c"]
    assert found["input_input_stage"] == ["b"]


def test_a_run_that_resumes_keeps_the_batch_sizes_it_began_with(tmp_path):
    job = Job({"--rejects": None}, {"names": []})
    known = iter([[512, 512], [8192, 8192]])
    for _ in range(2):
        assert Work(tmp_path / "out.csv").begin_or_resume(job, lambda: next(known)) == [512, 512]


def test_equal_texts_are_predicted_once(cascade, tmp_path, monkeypatch):
    texts, seen, predict = [TEXTS[i % 3] for i in range(40)], [], Cascade.predict
    expected = cascade.predict(texts)
    monkeypatch.setattr(Cascade, "predict", lambda self, given: seen.extend(given) or predict(self, given))
    (tmp_path / "in.csv").write_text("text\n" + "".join(f"{text}\n" for text in texts))
    done = predict_file(cascade, tmp_path / "in.csv", tmp_path / "out.csv")
    assert seen == TEXTS[:3] and done.exit_counts == tuple(np.bincount(expected.stages - 1, minlength=2))
    found = read_table(tmp_path / "out.csv").columns
    assert found["text"] == texts and found["label"] == expected.labels.tolist()
    assert [float(c) for c in found["confidence"]] == np.round(expected.confidences, 6).tolist()


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 3, 7])
def test_the_shards_of_a_file_are_in_turn_the_whole(cascade, run, saved, tmp_path, count):
    (tmp_path / "in").mkdir()
    for name in ("a.csv", "b.csv"):  # 4 chunks each
        write_rows(tmp_path / "in" / name)
    predict_file(cascade, tmp_path / "in", tmp_path / "whole.csv")
    lines = []
    for number in range(1, count + 1):
        output = tmp_path / f"part-{number}.csv"
        code, *_ = run("predict", saved, tmp_path / "in", "--shard", f"{number}/{count}", "--output", output)
        assert code == 0
        header, *rows = output.read_text().splitlines(keepends=True)
        lines += rows
    assert header + "".join(lines) == (tmp_path / "whole.csv").read_text()


def test_a_shard_without_rows_writes_the_header(cascade, tmp_path):
    done = predict_file(cascade, write_rows(tmp_path / "in.csv"), tmp_path / "out.csv", shard=Shard(8, 8))
    assert (done.n, done.exit_counts) == (0, (0, 0))
    assert (tmp_path / "out.csv").read_text() == "n,text,label,confidence,stage\n"


@pytest.mark.parametrize("given", ["0/2", "3/2", "2", "/", "1/0", "a/b", "-1/2", "1/2/3"])
def test_a_shard_that_is_none_is_refused(given):
    with pytest.raises(CascadeError, match=r"--shard .*expected a number and the number of all shards"):
        Shard.parse(given)


def test_texts_that_would_be_truncated_are_bad_rows_where_asked_for(cascade, run, saved, tmp_path):
    (tmp_path / "in.csv").write_text("text\na good film\n" + "really good " * 200 + "\nbad\n", "utf-8")
    code, _, said = run(
        "predict", saved, tmp_path / "in.csv", "--output", tmp_path / "out.csv", "--no-truncate"
    )
    assert code == 2 and "row 2: more tokens in its text than the stage that answers reads (line 3" in said
    done = predict_file(
        cascade, tmp_path / "in.csv", tmp_path / "out.csv", truncate=False, rejects=tmp_path / "bad.csv"
    )
    assert (done.n, done.rejected, done.truncated) == (2, 1, 0)
    assert read_table(tmp_path / "out.csv").columns["text"] == ["a good film", "bad"]


def test_truncated_texts_are_counted_and_the_remedy_is_named(run, saved, tmp_path):
    (tmp_path / "in.csv").write_text("text\na good film\n" + "really good " * 200 + "\nbad\n", "utf-8")
    code, values, said = run(
        "predict", saved, tmp_path / "in.csv", "--output", tmp_path / "out.csv", "--json"
    )
    assert code == 0 and values["truncated"] == 1
    cut = "1 of 3 texts (33.3 %) have more tokens than the stage that answered reads (64), and were cut."
    assert f"{cut} These stages cannot be given a larger --max-length." in said


def test_assembling_says_which_share_is_truncated_and_what_max_length_could_be(make_model, tmp_path):
    texts, labels = reviews(60, seed=5)
    texts[3] = texts[4] = "really good " * 30
    write_csv(tmp_path / "data.csv", texts, labels)
    stages = [make_model(layers=i, hidden=16 * i, seed=i) for i in (1, 3)]
    cascade = assemble(
        stages, data=tmp_path / "data.csv", target=Target(speedup=1.5), output=tmp_path / "c", engine="torch",
        max_length=32,
    )  # fmt: skip
    (notice,) = [line for line in cascade.operating_point.metrics.notices if "tokens" in line]
    assert notice.startswith(
        "2 of 60 texts (3.3 %) have more tokens than the last stage reads (32), and were cut."
    )
    assert notice.endswith("To read more, run fit or assemble with --max-length up to 64.")
    predictions = cascade.predict(["good", "really good " * 30])
    assert predictions.truncated.tolist() == [False, True]


STREAMED = """
import sys
from cascadebert.cli import main
sys.argv[0] = "cascadebert"
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("id;text\n1;a good film\n", "id,text,label,confidence,stage\n1,a good film,"),
        ('{"text": "a good film", "n": 1.50}\n', '{"text": "a good film", "n": 1.50, "label": '),
        ("a good film\n", '{"text": "a good film", "label": '),
    ],
)
def test_standard_input_and_output(saved, given, wanted):
    command = [sys.executable, "-c", STREAMED, "predict", str(saved), "-", "--output", "-"]
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(wanted) and done.stdout.count("\n") == given.count("\n")
    assert "1 prediction written to standard output" in done.stderr


VIEWS = pa.array(["a", "b", None] * 30, pa.string_view())


@pytest.mark.parametrize(
    ("column", "wanted"),
    [
        (VIEWS, "out.csv"),
        (VIEWS, "out.parquet"),
        (pa.StructArray.from_arrays([VIEWS], ["a"]), "out.parquet"),
        (pa.RunEndEncodedArray.from_arrays([50, 90], ["a", "b"]), "out.csv"),
    ],
)
def test_bad_rows_may_stand_among_columns_of_any_layout(cascade, tmp_path, column, wanted):
    texts = [text if i % 7 else None for i, text in enumerate(TEXTS[:90])]
    table = pa.table({"text": texts, "odd": column})
    with pa.ipc.new_file(str(tmp_path / "in.arrow"), table.schema) as target:
        target.write_table(table)
    predict_file(cascade, tmp_path / "in.arrow", tmp_path / wanted, rejects=tmp_path / "bad.csv")
    kept = [cell for text, cell in zip(texts, column.to_pylist(), strict=True) if text is not None]
    found = read_table(tmp_path / wanted).columns["odd"]
    assert found == (kept if wanted == "out.parquet" else [cell or "" for cell in kept])
