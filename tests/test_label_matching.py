"""Labels of data against the names of existing stages: exact spelling first, then ever more freely."""

from __future__ import annotations

import unicodedata

import pytest

from cascadebert.data.dataset import Examples
from cascadebert.errors import DataError

SIGNS, NUMBERS, WORDS = ("+1", "-1"), ("1.0", "2.0"), ("negative", "positive")


def rows(*labels: str | None) -> Examples:
    """One example of each label."""
    return Examples(["text"] * len(labels), labels, source="rows.csv")


@pytest.mark.parametrize(
    ("given", "names", "expected"),
    [
        (("2.0", "1.0"), NUMBERS, ("2.0", "1.0")),
        (("-1", "+1"), SIGNS, ("-1", "+1")),
        (("spam ", "ham"), ("spam ", "ham"), ("spam ", "ham")),
        (("nan", "ok"), ("nan", "ok"), ("nan", "ok")),
        (("spam", "spam "), ("spam", "spam "), ("spam", "spam ")),
        (("1", "1.0"), ("1", "1.0"), ("1", "1.0")),
        (("1", "-1"), SIGNS, ("+1", "-1")),
        (("-1.0", "1.0"), SIGNS, ("-1", "+1")),
        (("1", "2"), NUMBERS, ("1.0", "2.0")),
        (("1.0", "+2"), ("1", "2"), ("1", "2")),
        (("01", "1e0"), ("1", "2"), ("1", "1")),
        ((" spam", "ham\t"), ("spam", "ham"), ("spam", "ham")),
        (("spam",), ("spam ", "ham"), ("spam ",)),
        (("100000", "1e5"), ("1e5", "x"), ("1e5", "1e5")),
        (("1", "other"), ("1", "other"), ("1", "other")),
        (("1.0", "0.0"), WORDS, ("positive", "negative")),
        ((" 1", "+0"), WORDS, ("positive", "negative")),
        (("true", "TRUE", "False"), ("True", "False"), ("True", "True", "False")),
        (("us", "US"), ("us", "US"), ("us", "US")),
    ],
)
def test_a_label_is_matched_with_the_name_it_is_nearest_to(given, names, expected):
    assert rows(*given).match_labels(names).labels == expected


@pytest.mark.parametrize(
    ("label", "names"),
    [
        ("+1", ("1", "1.0")),  # both are equal as numbers
        ("Us", ("us", "US")),  # both are equal but for case
        (" a", ("a ", "a\t")),
        ("1_0", ("10", "20")),
        ("0.5", ("1", "2")),
    ],
)
def test_a_label_that_could_be_two_names_or_none_is_unknown(label, names):
    with pytest.raises(DataError, match=r"rows.csv, row 1, column 'label': unknown label .*--label-map FILE"):
        rows(label).match_labels(names)


def test_ignored_case_is_told(caplog):
    rows("TRUE", "true", "false").match_labels(("true", "false"))
    assert caplog.messages == ["rows.csv: labels are matched ignoring case: TRUE = true"]


@pytest.mark.parametrize("given", [("1.0", "2.0"), (" 1", "2")])
def test_spaces_and_digits_are_not_worth_a_notice(given, caplog):
    rows(*given).match_labels(("1", "2"))
    assert not caplog.messages


@pytest.mark.parametrize("label", [None, "nan", "NaN", " NAN ", "-1", "-1.0", " "])
def test_a_missing_label_is_named_as_such_and_counted(label):
    fault = (
        r"rows.csv, row 2, column 'label': no label \((empty or NaN|-1 marks a missing one)\) \(1 more such"
    )
    with pytest.raises(DataError, match=fault):
        rows("positive", label, "negative", label).match_labels(WORDS)


def test_a_missing_label_does_not_keep_the_others_from_being_ids():
    with pytest.raises(DataError, match=r"row 3, column 'label': no label \(-1 marks a missing one\)\. Fix"):
        rows("0", "1", "-1").match_labels(WORDS)


def test_a_name_in_another_unicode_form_is_suggested_escaped():
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    with pytest.raises(DataError, match=r"Unicode form: 'cafe\\u0301' from 'caf\\xe9'"):
        rows(decomposed).match_labels((composed, "other"))


def test_long_labels_do_not_make_a_long_message():
    names = [f"{i} {'a long name ' * 20}" for i in range(40)]
    with pytest.raises(DataError) as caught:
        rows(*(name.upper() + "!" for name in names), *(f" {name}-" for name in names)).match_labels(names)
    assert len(str(caught.value)) < 600


# ---- where no label is needed


@pytest.mark.parametrize(
    ("given", "usable", "unknown"),
    [
        (("-1", "-1"), 0, ""),
        ((None, "positive"), 1, ""),
        (("0.5", "0.25"), 0, " Unknown: 0.25, 0.5; known: negative, positive."),
        (("positive", "bad", "1"), 1, " Unknown: 1, bad; known: negative, positive."),
        (("0", "1", "-1"), 2, ""),
    ],
)
def test_labels_are_left_out_and_counted_if_a_row_has_none_that_can_be_used(given, usable, unknown, caplog):
    assert rows(*given).match_labels(WORDS, required=False).labels is None
    assert caplog.messages == [
        f"rows.csv: {usable} of {len(given)} rows have a usable label; none is needed here, so labels are "
        f"not used.{unknown}"
    ]


def test_labels_that_need_not_be_there_are_used_if_every_row_has_one(caplog):
    assert rows("1", "0").match_labels(WORDS, required=False).labels == ("positive", "negative")
    assert Examples(["a"], None).match_labels(WORDS, required=False).labels is None
    assert len(caplog.messages) == 1 and "read as the stages' ids" in caplog.messages[0]
