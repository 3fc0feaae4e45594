"""Data in memory: tables of any library give the rows of a file; lists of texts are checked by place."""

from __future__ import annotations

import json
import shutil
from decimal import Decimal

import datasets
import numpy as np
import pandas
import polars
import pyarrow
import pytest
import typer

from cascadebert import Cascade, Target, assemble, evaluate, fit, tune
from cascadebert.cli.app import app
from cascadebert.data.cells import as_texts
from cascadebert.data.columns import ColumnNames, Columns
from cascadebert.data.dataset import Examples, load_examples
from cascadebert.errors import DataError
from cascadebert.evaluation.drift import detect_drift
from cascadebert.evaluation.evaluate import load_for
from cascadebert.training.config import FitConfig
from cascadebert.tuning.tune import tune_folder
from samples import reviews

TEXTS, LABELS = ["a good film", "naïve ☃", "dull"], ["good", "bad", "bad"]
COLUMNS = {"id": [7, 8, 9], "text": TEXTS, "label": LABELS}
CLASSES = datasets.Features(
    {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["x", "y"])}
)


def arrow_backed(columns: dict[str, list[object]]) -> pandas.DataFrame:
    """A DataFrame of which every column has an Arrow type."""
    return pyarrow.table(columns).to_pandas(types_mapper=pandas.ArrowDtype)


def filtered(columns: dict[str, list[object]]) -> pandas.DataFrame:
    """A DataFrame whose index has gaps and does not begin with 0."""
    rows = pandas.DataFrame({name: [None, *cells] for name, cells in columns.items()}, index=[9, 5, 2, 7])
    return rows[rows.text.notna()]


def selected(columns: dict[str, list[object]]) -> datasets.Dataset:
    """A data set with indices and a format."""
    rows = datasets.Dataset.from_dict({name: [cells[0], *cells] for name, cells in columns.items()})
    return rows.select([1, 2, 3]).with_format("numpy")


TABLES = {
    "pandas": pandas.DataFrame,
    "pandas, filtered": filtered,
    "pandas, categories": lambda columns: pandas.DataFrame(columns).astype("category"),
    "pandas, Arrow": arrow_backed,
    "pandas, objects": lambda columns: pandas.DataFrame(columns, dtype=object),
    "polars": polars.DataFrame,
    "polars, categories": lambda columns: (
        polars.DataFrame(columns).cast({"label": polars.String}).cast({"label": polars.Categorical})
    ),
    "datasets": datasets.Dataset.from_dict,
    "datasets, selected": selected,
    "Arrow": pyarrow.table,
    "Arrow, a batch": lambda columns: pyarrow.RecordBatch.from_pydict(columns),
    "dict": dict,
    "dict of arrays": lambda columns: {name: np.array(cells) for name, cells in columns.items()},
}


@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize("labels", [LABELS, [3, 1, 1]])
def test_every_table_gives_the_same_examples(kind, labels):
    table = TABLES[kind]({**COLUMNS, "id": list("789"), "label": labels})
    examples = load_examples(table, columns=Columns(group="id"))
    assert list(examples.texts) == TEXTS
    assert examples.labels == tuple(map(str, labels)) and examples.groups == ("7", "8", "9")


@pytest.mark.parametrize("missing", [None, float("nan"), pandas.NA, pandas.NaT, Decimal("NaN")])
@pytest.mark.parametrize("kind", ["dict", "pandas, objects"])
def test_a_missing_value_is_an_empty_text_or_label(kind, missing):
    with pytest.raises(DataError, match=r"^data set, row 2, column 'text': empty text"):
        load_examples(TABLES[kind]({"text": ["a", missing, "c"], "label": LABELS}))
    examples = load_examples(TABLES[kind]({"text": TEXTS, "label": ["x", missing, "y"]}), labels=False)
    assert examples.labels == ("x", None, "y")


@pytest.mark.parametrize(
    "dtype", ["object", "string", "str", "category", pandas.ArrowDtype(pyarrow.string())]
)
def test_a_missing_value_of_any_dtype_is_an_empty_text(dtype):
    frame = pandas.DataFrame({"text": pandas.Series(["a", None], dtype=dtype), "label": [0, 1]})
    with pytest.raises(DataError, match="row 2, column 'text': empty text"):
        load_examples(frame)


def test_whole_numbers_beside_a_missing_one_stay_the_same_labels():
    frame = pandas.DataFrame({"text": TEXTS, "label": [1, None, 0]})  # read by pandas as 1.0 and 0.0
    assert load_examples(frame, labels=False).labels == ("1", None, "0")


def test_numpy_scalars_in_object_columns_are_plain_values():
    frame = pandas.DataFrame(
        {"text": np.array(TEXTS, dtype=object), "label": [np.int64(1), np.str_("b"), "b"]}
    )
    assert load_examples(frame).labels == ("1", "b", "b")


@pytest.mark.parametrize(("cell", "found"), [(3, "int 3"), (["a"], "list ['a']"), (b"a", "bytes b'a'")])
def test_an_object_column_of_mixed_types_is_refused_by_row(cell, found):
    frame = pandas.DataFrame({"text": ["a", cell, "c"], "label": LABELS})
    with pytest.raises(DataError) as caught:
        load_examples(frame)
    assert f"row 2, column 'text': expected text, found {found}" in str(caught.value)


def test_names_of_columns_need_not_be_strings():
    frame = pandas.DataFrame([["a", 1], ["b", 0]])
    assert load_examples(frame, columns=Columns("0", label="1")).labels == ("1", "0")
    with pytest.raises(DataError, match=r"data set has no column 'text' \(columns found: 0, 1\)"):
        load_examples(frame)


def test_a_name_that_is_used_twice_is_an_error_only_where_it_is_needed():
    frame = pandas.DataFrame([["a", 1, 5, 6]], columns=["text", "label", "note", "note"])
    assert load_examples(frame).labels == ("1",)
    with pytest.raises(DataError, match="data set names the column 'note' twice"):
        load_examples(frame, columns=Columns("note"))


def test_columns_that_are_not_needed_are_not_converted():
    class Unreadable(list):
        def __iter__(self):
            raise AssertionError("read")

    assert len(load_examples({"text": ["a"], "label": [1], "image": Unreadable([0])})) == 1


@pytest.mark.parametrize("table", [datasets.Dataset, pyarrow.Table])
def test_ids_with_declared_names_are_these_names(table):
    rows = datasets.Dataset.from_dict({"text": TEXTS, "label": [1, 0, -1]}, features=CLASSES)
    examples = load_examples(rows if table is datasets.Dataset else rows.data.table)
    assert examples.labels == ("y", "x", None) and examples.label_order == ("x", "y")


def test_pairs_are_read_from_memory():
    frame = polars.DataFrame({"premise": ["a", "b"], "hypothesis": ["c", "d"], "label": [0, 1]})
    assert load_examples(frame).texts == [("a", "c"), ("b", "d")]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (TEXTS, "expected a file, .* or a dict of columns; got list"),
        ([{"text": "a", "label": 1}], "got list"),
        (pandas.Series(TEXTS, name="text"), "got Series"),
        (3, "got int 3"),
        ({"text": "a", "label": 1}, "got dict"),
        ({"text": iter("a"), "label": [1]}, "got dict"),
        (datasets.Dataset.from_dict(COLUMNS).to_iterable_dataset(), "got IterableDataset"),
        (polars.LazyFrame(COLUMNS), "got LazyFrame"),
        ({"text": ["a", "b"], "label": [1]}, "different numbers of rows: 'text' has 2, 'label' has 1"),
        ({}, "has no column 'text' .columns found: none"),
        (pandas.DataFrame(columns=["text", "label"]), "data set is empty"),
    ],
)
def test_what_is_no_table_is_refused_with_what_would_be(data, message):
    with pytest.raises(DataError, match=message):
        load_examples(data)


# ---- texts


@pytest.mark.parametrize(
    "texts",
    [
        TEXTS,
        tuple(TEXTS),
        pandas.Series(["x", *TEXTS])[1:],
        pandas.Series(TEXTS, dtype="category"),
        pandas.Series(TEXTS, dtype=pandas.ArrowDtype(pyarrow.string())),
        pandas.Index(TEXTS),
        polars.Series(TEXTS),
        np.array(TEXTS),
        np.array(TEXTS, dtype=object),
        pyarrow.array(TEXTS),
        pyarrow.chunked_array([TEXTS[:1], TEXTS[1:]]),
        datasets.Dataset.from_dict(COLUMNS)["text"],
        selected(COLUMNS)["text"],
        (text for text in TEXTS),
        dict.fromkeys(TEXTS).keys(),
        *([np.array(TEXTS, dtype=np.dtypes.StringDType())] if hasattr(np.dtypes, "StringDType") else []),
    ],
    ids=lambda texts: f"{type(texts).__module__}.{type(texts).__name__}",
)
def test_texts_of_any_library_are_a_list_of_strings(texts):
    assert as_texts(texts) == TEXTS


@pytest.mark.parametrize(
    "pairs",
    [
        [("a", "b")],
        [["a", "b"]],
        np.array([["a", "b"]]),
        polars.Series([["a", "b"]]),
        zip("a", "b", strict=True),
    ],
)
def test_pairs_are_tuples_or_lists_of_two(pairs):
    assert as_texts(pairs) == [("a", "b")]


def test_no_text_is_an_empty_list_and_an_empty_text_a_text():
    assert as_texts(np.array([], dtype=str)) == [] and as_texts(["", "a"]) == ["", "a"]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["a", "b", 3], "texts[2]: expected a string, found int 3"),
        ([3], "texts[0]: expected a string or a pair of strings, found int 3"),
        ([b"a"], "texts[0]: expected a string or a pair of strings, found bytes b'a'"),
        (["a", None], "texts[1]: expected a string, found NoneType None"),
        (["a", float("nan")], "texts[1]: expected a string, found float nan"),
        (pandas.Series(["a", None], dtype="string"), "texts[1]: expected a string, found NAType <NA>"),
        (polars.Series(["a", None]), "texts[1]: expected a string, found NoneType None"),
        (["a", ("a", "b")], "texts[1]: expected a string, found tuple ('a', 'b')"),
        ([("a", "b"), "a"], "texts[1]: expected a pair of strings, found str 'a'"),
        ([("a", "b", "c")], "texts[0]: expected a pair of strings, found tuple ('a', 'b', 'c')"),
        ([("a",)], "texts[0]: expected a pair of strings, found tuple ('a',)"),
        ([("a", 3)], "texts[0]: expected a pair of strings, found tuple ('a', 3)"),
        (["a", "b\ud800"], r"texts[1]: expected text, found half of a surrogate pair in 'b\ud800'"),
        ([("a", "b\udfff")], r"texts[0]: expected text, found half of a surrogate pair in 'b\udfff'"),
        (["\ud83d", "\ude00"], r"texts[0]: expected text, found half of a surrogate pair in '\ud83d'"),
        ("a", "expected a list of texts (or of pairs), got one string: put it in a list"),
        (b"a", "expected a list of texts (or of pairs), got one string: put it in a list"),
        (3, "expected a list of texts (or of pairs), got int 3"),
        (None, "expected a list of texts (or of pairs), got NoneType None"),
        ({"a"}, "expected a list of texts (or of pairs), got set {'a'}"),
        (np.array("a"), "expected a list of texts (or of pairs), got ndarray array('a', dtype='<U1')"),
    ],
)
def test_what_is_no_text_is_refused_by_its_place(texts, message):
    with pytest.raises(DataError) as caught:
        as_texts(texts)
    assert str(caught.value) == message


@pytest.mark.parametrize("kind", ["pandas", "polars", "datasets", "Arrow", "Arrow, a batch", "dict"])
def test_a_table_instead_of_its_column_is_refused_with_its_columns(kind):
    with pytest.raises(DataError, match=r"expected texts, got a table .*: 'id', 'text', 'label'$"):
        as_texts(TABLES[kind](COLUMNS))


# ---- named columns are remembered


NAMES = {"text": ["review"], "label": "Stars"}


def review_rows() -> pandas.DataFrame:
    """Rows with other names than the usual ones, and a column of the usual one."""
    texts, labels = reviews(160, seed=5)
    return pandas.DataFrame({"Review": texts, "stars": labels, "text": "other", "user": range(160)})


@pytest.fixture(scope="module")
def reviewed(saved, tmp_path_factory):
    """A cascade that remembers columns, and rows with them."""
    path = tmp_path_factory.mktemp("reviewed") / "cascade"
    shutil.copytree(saved, path)
    spec = json.loads((path / "cascade.json").read_text("utf-8"))
    (path / "cascade.json").write_text(json.dumps({**spec, "columns": NAMES}), "utf-8")
    return Cascade.from_pretrained(path), review_rows()


@pytest.mark.slow
def test_names_of_texts_and_labels_are_stored_and_no_others(make_model, tmp_path):
    cascade = assemble(
        [make_model(layers=i, hidden=16 * i, seed=i) for i in (1, 3)],
        data=review_rows(),
        columns=Columns("review", "Stars", "user", {"a": "b"}),
        target=Target(speedup=1.5),
        output=tmp_path / "cascade",
        engine="torch",
    )
    assert json.loads((tmp_path / "cascade" / "cascade.json").read_text("utf-8"))["columns"] == NAMES
    assert cascade.remembered_columns == ColumnNames(("review",), "Stars")
    tune_folder(cascade.path, review_rows(), target=Target(speedup=1.2))
    assert Cascade.from_pretrained(cascade.path).remembered_columns == cascade.remembered_columns


@pytest.mark.slow
def test_fit_takes_tables_and_remembers_their_columns(make_model, tmp_path):
    stages = [make_model(layers=i, hidden=16 * i, labels=None) for i in (1, 2)]
    rows = pandas.concat([review_rows()] * 2).assign(
        Review=reviews(320, seed=6)[0], stars=reviews(320, seed=6)[1]
    )
    frame = polars.DataFrame(rows.to_dict("list"))
    columns, config = Columns("review", "stars"), FitConfig(epochs=1, dar_weight=0, max_length=32)
    options = {
        "stages": stages,
        "target": Target(speedup=1.2),
        "output": tmp_path / "made",
        "engine": "torch",
    }
    cascade = fit(frame[:240], validation=frame[240:].to_arrow(), columns=columns, config=config, **options)
    assert cascade.remembered_columns == ColumnNames(("review",), "stars")
    assert evaluate(cascade, frame[240:]).n == 80


def test_every_function_given_a_cascade_uses_the_remembered_columns(reviewed):
    cascade, frame = reviewed
    expected = Examples(frame.Review.tolist(), tuple(frame.stars))
    assert evaluate(cascade, frame) == evaluate(cascade, expected)
    assert load_for(cascade, frame).sha256() == expected.sha256()
    assert tune(cascade, frame, target=Target(speedup=1.5)) == tune(
        cascade, expected, target=Target(speedup=1.5)
    )
    assert detect_drift(cascade, frame, frame)[0] == detect_drift(cascade, expected, expected)[0]


def test_a_named_column_wins_and_data_without_the_remembered_ones_has_the_usual(reviewed):
    cascade, frame = reviewed
    assert set(load_for(cascade, frame, columns=Columns("text")).texts) == {"other"}
    usual = pandas.DataFrame({"text": frame.Review, "label": frame.stars})
    assert evaluate(cascade, usual) == evaluate(cascade, frame)


def test_commands_use_the_remembered_columns(reviewed, run, tmp_path):
    cascade, frame = reviewed
    frame.to_csv(tmp_path / "rows.csv", index=False)
    code, report, _ = run("evaluate", cascade.path, tmp_path / "rows.csv", "--json")
    assert code == 0 and report["accuracy"] == evaluate(cascade, frame).accuracy
    assert run("predict", cascade.path, tmp_path / "rows.csv", "--output", tmp_path / "out.csv")[0] == 0
    predicted = pandas.read_csv(tmp_path / "out.csv")
    assert predicted.label.tolist() == cascade.predict(frame.Review).labels.tolist()


# ---- files with a delimiter and an encoding of their own


@pytest.mark.parametrize("verb", ["fit", "assemble", "tune", "predict", "evaluate", "drift", "bench"])
def test_every_command_that_reads_data_takes_a_delimiter_and_an_encoding(run, verb):
    command = typer.main.get_command(app)
    options = {option for parameter in command.commands[verb].params for option in parameter.opts}
    assert {"--text-column", "--delimiter", "--encoding"} <= options


def test_a_delimiter_and_an_encoding_are_used(saved, run, tmp_path):
    (tmp_path / "rows.csv").write_bytes("text~label\nété~good\n".encode("latin-1"))
    words = ("predict", saved, tmp_path / "rows.csv", "--output", tmp_path / "out.jsonl")
    assert run(*words, "--delimiter", "~", "--encoding", "latin-1")[0] == 0
    assert json.loads((tmp_path / "out.jsonl").read_text("utf-8"))["text"] == "été"


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--delimiter", ";;", "must be one character"),
        ("--encoding", "utf-9", "unknown text encoding 'utf-9'"),
    ],
)
def test_a_wrong_delimiter_or_encoding_is_one_message(saved, run, tmp_path, option, value, message):
    words = ("predict", saved, saved.parent / "data.csv", "--output", tmp_path / "out.csv")
    code, _, said = run(*words, option, value)
    assert code == 2 and message in said and not (tmp_path / "out.csv").exists()


# ---- messages


LONG = "\x1b[2J" + "x" * 10_000


@pytest.mark.parametrize(
    ("data", "columns"),
    [
        ({"text": [LONG], "label": [["a"]]}, None),
        ({"text": [[LONG]], "label": ["a"]}, None),
        ({LONG: [LONG], "label": ["a"]}, None),
        ({LONG: [3], "label": ["a"]}, Columns(LONG)),
        ({LONG: ["a"], "text": []}, None),
        ({LONG: ["a"], LONG.upper(): ["b"]}, Columns(LONG.title())),
        ({"text": ["a"], "label": ["b"], LONG: [None]}, Columns(group=LONG)),
        ({f"column {i} {LONG}": ["a"] for i in range(500)}, None),
        ([LONG] * 3, None),
        (f"{'folder/' * 500}rows.csv", None),
    ],
)
def test_a_message_about_data_is_short_and_printable_whatever_is_in_it(data, columns):
    with pytest.raises(DataError) as caught:
        load_examples(data, columns=columns)
    assert len(str(caught.value)) < 600 and str(caught.value).isprintable()


def test_a_message_about_a_path_is_short_and_printable(saved, run):
    code, _, said = run("evaluate", saved, f"/tmp/{LONG}")
    assert code == 2 and "Traceback" not in said and len(said) < 620 and said.strip().isprintable()


@pytest.mark.parametrize("labels", [[LONG, "a"], [f"label {i} {LONG}" for i in range(100)]])
def test_a_message_about_labels_is_short_and_printable(labels):
    examples = load_examples({"text": [f"text {i}" for i in range(len(labels))], "label": labels})
    for names in (["a", "b"], [f"name {i} {LONG}" for i in range(100)]):
        with pytest.raises(DataError, match="unknown label") as caught:
            examples.match_labels(names)
        assert len(str(caught.value)) < 600 and str(caught.value).isprintable()
