"""The columns of data: which hold texts, labels and groups."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import chain

from cascadebert.errors import DataError

_PAIRS = (("sentence1", "sentence2"), ("premise", "hypothesis"), ("question", "sentence"))
USUAL_TEXT_COLUMNS = (*_PAIRS, ("question1", "question2"), ("text",), ("sentence",))


@dataclass(frozen=True)
class Columns:
    """Names of the columns to use; by default the usual names.

    Attributes:
        text: one name, or two for pairs of texts.
        label: name of the label column.
        group: name of a column whose equal values are never split apart.
        label_map: the stages' name for labels of the data, where the data has another.
    """

    text: tuple[str, ...] = ()
    label: str | None = None
    group: str | None = None
    label_map: Mapping[str, str] | None = None
    delimiter: str | None = None
    encoding: str | None = None

    def __post_init__(self) -> None:
        if len(self.text) > 2:
            raise DataError(f"at most two text columns (a pair) can be named; given: {', '.join(self.text)}")


def find_text_columns(available: Collection[str], columns: Columns, source: str) -> tuple[str, ...]:
    """The text columns of a table: those named, otherwise the first usual name or pair.

    `source` names the table in errors. Raises DataError if a named column, or every usual one, is missing.

    >>> find_text_columns(["idx", "premise", "hypothesis", "label"], Columns(), "nli.csv")
    ('premise', 'hypothesis')
    >>> find_text_columns(["review", "stars"], Columns(), "reviews.csv")
    Traceback (most recent call last):
    cascadebert.errors.DataError: reviews.csv has no column 'text' (columns found: review, stars). \
Name it with --text-column review.
    """
    usual = (names for names in USUAL_TEXT_COLUMNS if set(names) <= set(available))
    text_columns = columns.text or next(usual, ("text",))
    for name in text_columns:
        require_column(available, name, source, "--text-column")
    return text_columns


def require_column(available: Collection[str], name: str, source: str, option: str) -> None:
    """Raise DataError with the available columns and the option to use, if `name` is not among them."""
    if name not in available:
        usual = {"label", *chain(*USUAL_TEXT_COLUMNS)}
        example = next((column for column in available if column not in usual), "NAME")
        raise DataError(
            f"{source} has no column '{name}' (columns found: {', '.join(available) or 'none'}). "
            f"Name it with {option} {example}."
        )
