"""Files of any size: answered in order, chunk by chunk; a kill, a bad row or a late column loses nothing."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cascadebert import Cascade, CascadeError, Target, assemble
from cascadebert.data.files import read_table
from cascadebert.errors import DataError
from cascadebert.inference import predict_file as predict_file_module
from cascadebert.inference.predict_file import predict_file
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
from dataclasses import replace
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


def test_half_finished_work_of_another_run_is_refused(cascade, tmp_path, monkeypatch):
    source = write_rows(tmp_path / "in.csv")
    monkeypatch.setattr("cascadebert.inference.predict_file._finish", lambda *_: None)
    predict_file(cascade, source, tmp_path / "out.csv")
    monkeypatch.undo()
    source.write_text(source.read_text() + "150,one more\n")
    with pytest.raises(CascadeError, match=r"out\.csv\.work is unfinished work of another run"):
        predict_file(cascade, source, tmp_path / "out.csv")


def test_half_finished_work_of_another_version_is_refused(cascade, tmp_path, monkeypatch):
    source = write_rows(tmp_path / "in.csv")
    monkeypatch.setattr("cascadebert.inference.predict_file._finish", lambda *_: None)
    monkeypatch.setattr("cascadebert.inference.predict_file.REPORT_VERSION", 1)
    predict_file(cascade, source, tmp_path / "out.csv")
    monkeypatch.undo()
    with pytest.raises(CascadeError, match=r"unfinished work of another run .*version of cascadebert"):
        predict_file(cascade, source, tmp_path / "out.csv")


BAD = 'n,text\n0,fine\n1,\n2,"caf\udce9"\n3,great,film\n4,' + "a" * 200_000 + "\n5,dull\n"


def test_bad_rows_are_set_aside_with_number_and_reason(cascade, tmp_path):
    source = tmp_path / "in.csv"
    source.write_text(BAD, errors="surrogateescape")
    done = predict_file(cascade, source, tmp_path / "out.csv", rejects=tmp_path / "bad.csv")
    assert (done.n, done.rejected) == (2, 4)
    with (tmp_path / "out.csv").open(newline="") as file:
        assert [row["n"] for row in csv.DictReader(file)] == ["0", "5"]
    bad = read_table(tmp_path / "bad.csv").columns
    assert bad["row"] == ["2", "3", "4", "5"] and set(bad["file"]) == {"in.csv"}
    wanted = ("empty text", "not UTF-8", "3 cells", "200,000 characters")
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


def test_a_column_that_comes_late_goes_into_jsonl_and_is_refused_elsewhere(cascade, tmp_path):
    rows = [{"text": text} for text in TEXTS]
    rows[100]["late"] = 1
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    predict_file(cascade, tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    assert read_table(tmp_path / "out.jsonl").columns["late"][100] == 1
    with pytest.raises(DataError, match=r"column 'late' first appears after row 80, too late for \.csv"):
        predict_file(cascade, tmp_path / "in.jsonl", tmp_path / "out.csv")


def test_a_column_whose_type_changes_is_refused_for_parquet(cascade, tmp_path):
    rows = [{"text": text, "n": 1 if i < 120 else "many"} for i, text in enumerate(TEXTS)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match="Write jsonl"):
        predict_file(cascade, tmp_path / "in.jsonl", tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()


def test_names_that_are_added_are_kept_from_the_input_under_another(cascade, tmp_path):
    (tmp_path / "in.csv").write_text("text,label,stage,input_stage\nfine,a,b,c\n")
    predict_file(cascade, tmp_path / "in.csv", tmp_path / "out.csv")
    found = read_table(tmp_path / "out.csv").columns
    assert found["input_label"] == ["a"] and found["input_stage"] == ["c"]
    assert found["input_input_stage"] == ["b"]


def test_a_run_that_goes_on_keeps_the_batch_sizes_it_began_with(make_cascade, tmp_path, monkeypatch):
    cascade = make_cascade(2)
    known = iter([512, 8192])

    def sized(cascade, *, measure):
        number = next(known)
        return replace(cascade, stages=tuple(replace(s, batch_tokens=number) for s in cascade.stages))

    monkeypatch.setattr(predict_file_module, "with_tuned_batch_sizes", sized)
    for _ in range(2):
        found = predict_file_module._begin_or_resume(cascade, tmp_path, "job", measure=False)
        assert [stage.batch_tokens for stage in found.stages] == [512, 512]


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
