"""Which columns hold what: exact names first, then alike ones; what an error says about the others."""

from __future__ import annotations

import pytest

from cascadebert.data.columns import (
    ColumnNames,
    Columns,
    find_column,
    find_label_column,
    find_text_columns,
    named,
    or_remembered,
)
from cascadebert.errors import DataError, printable

OR_HEADER = ", or add a header line such as text,label if that is a row."
NONE = Columns()


def error_of(names: list[str], columns: Columns = NONE, source: str = "a.csv") -> str:
    """The message for a header without the text column."""
    with pytest.raises(DataError) as caught:
        find_text_columns(names, columns, source)
    return str(caught.value)


# ---- names


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["text", "label"], ("text",)),
        (["Text", "Label"], ("Text",)),
        ([" TEXT ", "x"], (" TEXT ",)),
        (["\ufefftext"], ("\ufefftext",)),
        (["Text", "text"], ("text",)),
        (["Text", "sentence"], ("sentence",)),
        (["Sentence1", "SENTENCE2"], ("Sentence1", "SENTENCE2")),
        (["Premise", "text"], ("text",)),
        (["question", "sentence"], ("question", "sentence")),
    ],
)
def test_the_usual_columns_are_found_exactly_or_else_in_another_case(names, expected):
    assert find_text_columns(names, NONE, "a.csv") == expected


@pytest.mark.parametrize(
    ("name", "expected"), [("Review", "review"), ("BODY", "BODY"), ("body", "body"), (" stars", "Stars")]
)
def test_a_named_column_is_found_exactly_or_else_in_another_case(name, expected):
    assert find_text_columns(["review", "body", "BODY", "Stars"], Columns(name), "a.csv") == (expected,)


def test_several_columns_alike_are_not_chosen_from():
    message = error_of(["Text", "TEXT"])
    assert message == (
        "a.csv has several columns like 'text': 'Text', 'TEXT'. Name one of them exactly with --text-column."
    )


def test_labels_and_groups_are_found_in_another_case_too():
    assert find_label_column(["text", "LABEL"], NONE, "a.csv") == "LABEL"
    assert find_label_column(["Stars"], Columns(label="stars"), "a.csv") == "Stars"
    assert find_column(["User"], "user", "a.csv", "--group-column") == "User"


def test_a_label_column_is_required_or_not():
    assert find_label_column(["text"], NONE, "a.csv", required=False) is None
    assert find_label_column(["text", "label"], NONE, "a.csv", ["label"], required=False) is None
    with pytest.raises(DataError, match=r"a\.csv has no column 'label'.*--label-column"):
        find_label_column(["text"], NONE, "a.csv")


@pytest.mark.parametrize("columns", [NONE, Columns("text"), Columns("Text")])
def test_a_column_that_the_header_names_twice_is_refused(columns):
    with pytest.raises(DataError, match=r"a.csv names the column '[Tt]ext' twice"):
        find_text_columns(["text", "text.1"], columns, "a.csv", {"text"})


def test_one_name_of_a_text_column_may_be_a_string():
    assert Columns("review").text == ("review",) and Columns(["a", "b"]).text == ("a", "b")


# ---- remembered names


@pytest.mark.parametrize(
    ("columns", "names", "expected"),
    [
        (NONE, ["review", "text"], ("review",)),
        (NONE, ["Review", "text"], ("Review",)),
        (NONE, ["other", "text"], ("text",)),
        (Columns("text"), ["review", "text"], ("text",)),
        (None, ["review", "text"], ("review",)),
    ],
)
def test_remembered_columns_come_after_named_ones_and_before_the_usual(columns, names, expected):
    together = or_remembered(columns, ColumnNames(("review",), "stars"))
    assert find_text_columns(names, together, "a.csv") == expected


def test_a_remembered_label_column_is_used_where_it_is():
    together = or_remembered(NONE, ColumnNames((), "stars"))
    assert find_label_column(["label", "stars"], together, "a.csv") == "stars"
    assert find_label_column(["label"], together, "a.csv") == "label"
    assert find_label_column(["x"], together, "a.csv", required=False) is None


def test_only_names_of_texts_and_labels_are_remembered():
    assert named(Columns(group="user", label_map={"a": "b"}, delimiter=";")) is None and named(None) is None
    assert named(Columns("review", "stars", "user")) == ColumnNames(("review",), "stars")


# ---- errors


@pytest.mark.parametrize(
    "names",
    [
        [f"column {i} {'x' * 50}" for i in range(500)],
        ["x" * 10_000] * 3,
        ["\x1b[31m\n\t\0" * 100],
        ["\udce9" * 300, "\u202e" * 300],
    ],
)
@pytest.mark.parametrize("source", ["a.csv", "x" * 250 + ".csv"])
def test_a_message_is_short_whatever_the_header(names, source):
    message = error_of(names, Columns("y" * 10_000), source)
    assert len(message) < 600 and message.isprintable() and "columns found: " in message
    assert message.startswith(source[:200]) and message.endswith(".")


def test_at_most_twelve_columns_are_listed():
    message = error_of([f"c{i}" for i in range(500)], source="a.jsonl")
    assert "columns found: c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11 and 488 more)" in message


def test_control_characters_are_escaped_and_letters_are_not():
    assert printable("é☃\x1b[1m\n", 40) == r"é☃\x1b[1m\n"


@pytest.mark.parametrize(
    ("source", "names", "advice"),
    [
        ("a.csv", ["I liked this film", "1"], "looks like a row, not a header: add one, such as text,label."),
        ("a.csv", ["good", "4.5"], "looks like a row, not a header: add one, such as text,label."),
        ("a.csv.gz", ["review", "stars"], "Name it with --text-column review."),
        ("a.jsonl", ["I liked this film", "1"], "Name it with --text-column 'I liked this film'."),
        ("data set", ["0", "1"], "Name it with --text-column 0."),
        ("a.csv", ["review;stars"], "Cells may be separated by ';': --delimiter ';'."),
        ("a.csv", ["text|label"], "Cells may be separated by '|': --delimiter '|'."),
        ("a.csv", ["text\tlabel"], r"Cells may be separated by '\t': --delimiter '\t'."),
        ("a.csv", ["text^label"], "Cells may be separated by '^': --delimiter '^'."),
        ("a.tsv", ["review,stars"], "Cells may be separated by ',': --delimiter ','."),
        ("a.csv", ["text,n"], "Cells may be separated by ',': --delimiter ','."),
        ("a.csv", ["id,text", "x"], "Cells may be separated by ',': --delimiter ','."),
        ("a.csv", ["id", "body"], "Name it with --text-column body."),
        (
            "a.csv",
            ["hello there", "positive"],
            f"Name it with --text-column 'hello there'{OR_HEADER}",
        ),
        ("a.csv", ["", " ", "#n"], "Name it with --text-column '#n'."),
        (
            "a.csv",
            ["review, stars"],
            f"Name it with --text-column 'review, stars'{OR_HEADER}",
        ),
        (
            "a.csv",
            ["I liked this film;1"],
            "Cells may be separated by ';': --delimiter ';'. The first line looks like a row, not a header: "
            "add one, such as text,label.",
        ),
    ],
)
def test_a_suspected_delimiter_or_missing_header_is_said(source, names, advice):
    assert error_of(names, source=source).endswith(advice)


# ---- delimiters and encodings


def test_a_tab_may_be_typed():
    assert Columns(delimiter=r"\t").delimiter == Columns(delimiter="\t").delimiter == "\t"


@pytest.mark.parametrize("delimiter", ["", ";;", '"', "\n", "\r", "\0", "x" * 10_000])
def test_a_delimiter_is_one_character(delimiter):
    with pytest.raises(DataError, match="the delimiter must be one character") as caught:
        Columns(delimiter=delimiter)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("encoding", ["utf-8", "UTF8", "latin-1", "utf-16", "cp1252", "utf-8-sig"])
def test_encodings_are_known_by_any_of_their_names(encoding):
    assert Columns(encoding=encoding).encoding == encoding


@pytest.mark.parametrize("encoding", ["", "utf-9", "hex", "rot13", "base64", "a\0b", "é" * 10_000])
def test_an_encoding_that_is_none_of_texts_is_refused(encoding):
    with pytest.raises(DataError, match="unknown text encoding") as caught:
        Columns(encoding=encoding)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("verb", ["predict", "evaluate"])
def test_files_of_a_folder_may_write_their_names_in_other_case(saved, run, tmp_path, verb):
    folder = tmp_path / "rows"
    folder.mkdir()
    (folder / "a.csv").write_text("Text,label\nfine,positive\n")
    (folder / "b.csv").write_text("text,Label\ndull,negative\n")
    output = ("--output", tmp_path / "out.jsonl") if verb == "predict" else ()
    code, values, _ = run(verb, saved, folder, *output, "--json")
    assert code == 0 and values["n"] == 2
