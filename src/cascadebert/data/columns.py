"""What a table is about: which columns hold the texts, the label and the group."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from cascadebert.errors import DataError

PAIRS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question", "sentence"),
    ("question1", "question2"),
)
SINGLES = ("text", "sentence")


@dataclass(frozen=True)
class Columns:
    """Names of the columns to use; what is left empty is found by the usual names.

    Attributes:
        text: one name, or two for pairs of texts.
        label: the label's.
        group: rows with the same value never fall into different parts of the data.
    """

    text: tuple[str, ...] = ()
    label: str | None = None
    group: str | None = None

    def __post_init__(self) -> None:
        if len(self.text) > 2:
            raise DataError(f"at most two text columns (a pair) can be named; given: {', '.join(self.text)}")


def find_text_columns(found: Collection[str], columns: Columns, source: str) -> tuple[str, ...]:
    """The text columns of a table: those named, else the first usual name or pair that it has.

    Args:
        found: the columns of the table.
        columns: names given by the user.
        source: what to call the table in messages.

    Raises:
        DataError: if a named column, or every usual one, is missing.

    >>> find_text_columns(["idx", "premise", "hypothesis", "label"], Columns(), "nli.csv")
    ('premise', 'hypothesis')
    >>> find_text_columns(["review", "stars"], Columns(), "reviews.csv")
    Traceback (most recent call last):
    cascadebert.errors.DataError: reviews.csv has no column 'text' (columns found: review, stars). \
Name it with --text-column review.
    """
    for name in columns.text:
        require_column(found, name, source, "--text-column")
    if columns.text:
        return columns.text
    for pair in PAIRS:
        if set(pair) <= set(found):
            return pair
    for name in SINGLES:
        if name in found:
            return (name,)
    require_column(found, "text", source, "--text-column")
    raise AssertionError("unreachable: 'text' is one of the usual names")


def require_column(found: Collection[str], name: str, source: str, option: str) -> None:
    """Refuse a table that lacks a column, naming those it has.

    Raises:
        DataError: if `name` is not among `found`.
    """
    if name not in found:
        usual = {"label", *SINGLES, *(name for pair in PAIRS for name in pair)}
        example = next((other for other in found if other not in usual), "NAME")
        raise DataError(
            f"{source} has no column '{name}' (columns found: {', '.join(found) or 'none'}). "
            f"Name it with {option} {example}."
        )
