"""The label names of a new classifier, from the labels of its training data."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence

from cascadebert.data.dataset import Examples
from cascadebert.data.labels import is_missing_label, match_names, number, shorten, similar_labels
from cascadebert.errors import DataError

MIN_ROWS_OF_CLASSES = 20  # with fewer, most labels may well be distinct
MIN_ROWS_ALL_DISTINCT = 6  # fewer rows may each be the only one of its class

log = logging.getLogger("cascadebert")


def label_names(examples: Examples, known: Sequence[str] = ()) -> tuple[str, ...]:
    """The labels in order: those of an existing classifier, if the data has all of them and no others.

    Otherwise as declared by the source, else as written in the data, without spaces around them: numbers by
    size, then names by alphabet. Raises DataError if a label is missing, they are no classes, or fewer than
    two.

    >>> label_names(Examples(["a", "b", "c"], ("10", "9", "other")))
    ('9', '10', 'other')
    >>> label_names(Examples(["a", "b"], ("Yes", "no")), known=("yes", "no"))
    ('yes', 'no')
    """
    labels = {label for label in examples.labels or () if label is not None}
    found, _ = match_names(labels, known, ids=False)
    missing = {label for label in labels if is_missing_label(label)}
    if labels <= found.keys() | missing and set(found.values()) == set(known) != set():
        return tuple(known)
    if examples.label_order is not None and len(examples.label_order) > 1:
        return examples.label_order
    if {number(label) for label in labels - missing} == {1}:
        missing = {label for label in missing if number(label) is None}  # the two classes are 1 and -1
    names = {label.strip() for label in labels - missing}
    _check_classes(examples, names)
    if missing or None in (examples.labels or ()):
        raise examples.label_error(labels - missing, ())
    if len(names) < 2:
        raise DataError(
            f"{examples.source}, column '{examples.label_column}': at least two labels are needed to train a "
            f"classifier (found: {shorten(sorted(names)) or 'none'})"
        )
    similar = similar_labels(labels)
    if similar:
        log.warning(
            "%s, column '%s': labels that differ only in case, spaces, Unicode form or as numbers: %s. They "
            "are different labels, unless only the spaces around them differ.",
            *(examples.source, examples.label_column, "; ".join(similar[:4])),
        )
    return tuple(sorted(names, key=_order))


def _order(name: str) -> tuple[object, ...]:
    value = number(name)
    return (1, name) if value is None else (0, value, name)


def _check_classes(examples: Examples, names: Collection[str]) -> None:
    """Raise DataError if labels are measurements, or ids or texts."""
    place = f"{examples.source}, column '{examples.label_column}'"
    values = {name: number(name) for name in names}
    fractions = [name for name, value in values.items() if value and value != value.to_integral_value()]
    if fractions and None not in values.values():
        raise DataError(
            f"{place}: the label {min(fractions)} has a fraction: a classifier needs whole numbers or names. "
            "Name the column of the labels with --label-column."
        )
    is_mostly_distinct = len(examples) >= MIN_ROWS_OF_CLASSES and 2 * len(names) > len(examples)
    if is_mostly_distinct or len(names) == len(examples) >= MIN_ROWS_ALL_DISTINCT:
        raise DataError(
            f"{place}: {len(names):,} different labels in {len(examples):,} rows: it seems to hold ids or "
            "texts. Name the column of the labels with --label-column."
        )
