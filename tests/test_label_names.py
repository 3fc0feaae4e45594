"""Label names of a new classifier: those of the last stage if they fit, else the data's own."""

from __future__ import annotations

import unicodedata

import pytest

from cascadebert.data.dataset import Examples
from cascadebert.data.label_names import label_names
from cascadebert.data.splits import split_examples
from cascadebert.errors import DataError
from cascadebert.training.fit import _known_labels
from test_label_matching import rows


@pytest.mark.parametrize(
    ("given", "known", "expected"),
    [
        (("1.0", "2.0"), ("2.0", "1.0"), ("2.0", "1.0")),
        (("+1", "-1"), ("+1", "-1"), ("+1", "-1")),
        (("1", "-1"), ("+1", "-1"), ("+1", "-1")),
        (("spam ", "ham"), ("spam ", "ham"), ("spam ", "ham")),
        (("nan", "ok"), ("ok", "nan"), ("ok", "nan")),
        (("1", "2"), ("2.0", "1.0"), ("2.0", "1.0")),
        (("yes", "no"), ("YES", "NO"), ("YES", "NO")),
        (("0.5", "1.5"), ("1.5", "0.5"), ("1.5", "0.5")),
        (("a", "b"), ("c", "b", "a"), ("a", "b")),  # not all of the classifier's labels
        (("a", "b", "c"), ("b", "a"), ("a", "b", "c")),
        (("0", "1"), ("b", "a"), ("0", "1")),  # ids of another classifier say nothing
        (("1.0", "2.0"), (), ("1.0", "2.0")),
        (("1", "1.0"), (), ("1", "1.0")),
        ((" spam", "ham "), (), ("ham", "spam")),
        (("1", "other", "1e5", "0.5"), (), ("0.5", "1", "1e5", "other")),
        (("2", "1e5"), (), ("2", "1e5")),
        (("+1", "-1"), (), ("-1", "+1")),
        (("1.0", "-1.0"), (), ("-1.0", "1.0")),
    ],
)
def test_known_names_are_used_if_the_data_has_these_labels_and_else_its_own(given, known, expected):
    assert label_names(rows(*given), known) == expected
    assert set(rows(*given).match_labels(expected, ids=False).labels) == set(expected)


def test_known_names_win_over_declared_ones():
    declared = Examples(["a", "b"], ("x", "y"), label_order=("x", "y"))
    assert label_names(declared) == ("x", "y") and label_names(declared, ("y", "x")) == ("y", "x")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("1", "0", "0.5"), "rows.csv, column 'label': the label 0.5 has a fraction"),
        (("1e-3", "2", "-1", None, "nan"), "the label 1e-3 has a fraction"),
        (("a", "nan"), r"row 2, column 'label': no label \(empty or NaN\)"),
        (("a", None), r"row 2, column 'label': no label \(empty or NaN\)"),
        (("1", "0", "-1"), r"row 3, column 'label': no label \(-1 marks a missing one\)"),
        (("-1", "-1"), r"row 1, column 'label': no label \(-1 marks a missing one\) \(1 more such row"),
        (("a", " a"), "at least two labels"),
        (
            [f"id{i}" for i in range(11)] + ["x"] * 8 + [None],
            r"12 different labels in 20 rows.*--label-col",
        ),
    ],
)
def test_what_is_no_class_is_refused(given, message):
    with pytest.raises(DataError, match=message) as caught:
        label_names(rows(*given))
    assert "Give more" not in str(caught.value)


def test_as_many_labels_as_half_of_the_rows_or_of_few_rows_are_taken():
    assert len(label_names(rows(*(f"class {i % 10}" for i in range(20))))) == 10
    assert len(label_names(rows("class 0", *(f"class {i}" for i in range(18))))) == 18
    assert len(label_names(rows(*(f"class {i}" for i in range(5))))) == 5


def test_as_many_labels_as_rows_are_ids():
    with pytest.raises(DataError, match=r"6 different labels in 6 rows: it seems to hold ids or texts"):
        label_names(rows(*(f"user {i}" for i in range(6))))


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (("Spam", "spam"), r"'Spam', 'spam'"),
        (("very good", "very  good"), r"'very  good', 'very good'"),
        (("spam", "spam ", "x"), r"'spam', 'spam '"),
        (("1", "1.0"), r"'1', '1.0'"),
        (("0", "0.0"), r"'0', '0.0'"),
        (("café", unicodedata.normalize("NFD", "café")), r"'cafe\u0301', 'caf\xe9'"),
        (("ham", "\uff48am"), r"'ham', '\uff48am'"),
        (("a b", "a\xa0b"), r"'a b', 'a\xa0b'"),
    ],
)
def test_labels_that_look_alike_are_shown_escaped(given, shown, caplog):
    label_names(rows(*given))
    assert len(caplog.messages) == 1 and f"or as numbers: {shown}. They are different" in caplog.messages[0]


def test_other_labels_are_not_worth_a_warning(caplog):
    label_names(rows("1", "other", "2", "one"))
    assert not caplog.messages


def test_the_parts_of_a_split_have_the_known_names_and_validation_may_write_them_otherwise():
    train = Examples([f"t{i}" for i in range(40)], ("1", "2") * 20)
    held_out = Examples([f"v{i}" for i in range(40)], ("1.0", " 2") * 20)
    parts = split_examples(
        train, held_out, tune_fraction=0.1, certify_fraction=0.1, seed=0, known=("2.0", "1.0")
    )
    assert parts.label_names == ("2.0", "1.0")
    assert {label for part in (parts.train, parts.tune, parts.certify) for label in part.labels} == {
        "1.0",
        "2.0",
    }


def test_ids_in_the_validation_data_are_not_guessed_from_the_names_of_the_training_data():
    train, held_out = (Examples(list("abcdefgh"), labels * 4) for labels in (("no", "yes"), ("0", "1")))
    with pytest.raises(DataError, match="unknown label '0'"):
        split_examples(train, held_out, tune_fraction=0.1, certify_fraction=0.1, seed=0)


@pytest.mark.parametrize(
    ("labels", "known"),
    [(("x", "y"), ("x", "y")), (("0", "1"), ("0", "1")), (("LABEL_0", "LABEL_1"), ()), (None, ())],
)
def test_only_a_classifier_with_names_has_known_labels(make_model, labels, known):
    assert _known_labels(make_model(layers=1, labels=labels)) == known
