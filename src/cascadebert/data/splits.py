"""Train, tune and certify rows: disjoint by construction, by content and by group."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from cascadebert.data.dataset import Examples, label_names, shorten
from cascadebert.errors import DataError
from cascadebert.types import Bools, Ints


@dataclass(frozen=True)
class Splits:
    """Disjoint rows for three purposes; the fourth part, test rows, never comes near training.

    Attributes:
        train: the stages learn from these.
        tune: temperatures and thresholds are fitted on these.
        certify: read once, by guarantees.
        label_names: the labels of the task, in order.
        notices: what was dropped and why, one sentence each.
    """

    train: Examples
    tune: Examples
    certify: Examples
    label_names: tuple[str, ...]
    notices: tuple[str, ...]


def split_examples(
    train: Examples, validation: Examples | None, *, tune_fraction: float, certify_fraction: float, seed: int
) -> Splits:
    """Carve tune and certify rows out of `validation` if given, else out of `train`.

    Rows of one group, and rows with the same texts, fall into one part. Where a text occurs in several
    parts all the same (through groups, or in both files) it stays in the part that decides more:
    certify before tune before train.

    Args:
        train: labelled rows.
        validation: labelled rows like those the cascade will meet, or None.
        tune_share: share of `train` to tune on (of `validation`: half is).
        certify_share: share of `train` kept for guarantees (of `validation`: the other half).
        seed: decides which rows.

    Raises:
        DataError: if labels are missing, or a part would be left empty.
    """
    names = label_names(train)
    notices: list[str] = []
    if validation is None:
        rng = np.random.default_rng(seed)
        where = assign_splits(train, names, (tune_fraction, certify_fraction), rng)
        part, tune, certify = (train.take(np.flatnonzero(where == i)) for i in range(3))
    else:
        rng = np.random.default_rng(seed)
        for rows in (train, validation):
            rows.label_ids(names)  # names the first row with a label that the train rows do not have
        where = assign_splits(validation, names, (0.5,), rng)
        tune, certify = (validation.take(np.flatnonzero(where == i)) for i in range(2))
        part = _without_groups(train, validation, notices)
    tune = _without(tune, certify, "tune", notices)
    part = _without(_without(part, certify, "train", notices), tune, "train", notices)
    parts = Splits(part, tune, certify, names, ())
    _check(parts, notices)
    return Splits(part, tune, certify, names, tuple(notices))


def group_ids(examples: Examples) -> Ints:
    """(n,) number of the group of each row; without groups, rows with the same texts form one.

    >>> group_ids(Examples(["a", "b", "a"], ("0", "1", "0"))).tolist()
    [0, 1, 0]
    """
    keys = examples.groups if examples.groups is not None else examples.hashes().tolist()
    numbers: dict[str | int, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)


def assign_folds(examples: Examples, count: int, rng: np.random.Generator) -> Ints:
    """(n,) fold of each row, 0 .. count - 1: every row gets one, groups stay together, sizes balance.

    Args:
        examples: the rows.
        count: number of folds.
        rng: decides which group goes where.

    Raises:
        DataError: if there are fewer groups than folds.
    """
    group = group_ids(examples)
    sizes = np.bincount(group)
    if len(sizes) < count:
        raise DataError(f"{count} folds need at least as many groups of rows; there are {len(sizes)}")
    order = rng.permutation(len(sizes))
    fold_of = np.empty(len(sizes), dtype=np.int64)
    filled = np.zeros(count, dtype=np.int64)
    for number in order[np.argsort(-sizes[order], kind="stable")]:
        fold_of[number] = int(filled.argmin())
        filled[fold_of[number]] += sizes[number]
    return np.asarray(fold_of[group])


def assign_splits(
    examples: Examples, names: tuple[str, ...], shares: tuple[float, ...], rng: np.random.Generator
) -> Ints:
    """(n,) part of each row: 1, 2, ... hold about the given shares of the rows, 0 the others.

    A group goes whole, and only where it brings a part nearer to its share; a part that none suits gets
    the smallest. A group that holds the last rows of some label stays in part 0.
    """
    group = group_ids(examples)
    members = np.split(np.argsort(group, kind="stable"), np.cumsum(np.bincount(group))[:-1])
    labels = examples.label_ids(names)
    left = Counter(labels.tolist())
    part = np.zeros(len(examples), dtype=np.int64)

    def take(rows: Ints, target: int) -> int:
        """Move a group, unless it has a part already or holds the last rows of a label; rows moved."""
        needs = Counter(labels[rows].tolist())
        if part[rows[0]] or any(left[label] <= count for label, count in needs.items()):
            return 0
        part[rows] = target
        left.subtract(needs)
        return len(rows)

    order = [members[number] for number in rng.permutation(len(members))]
    for target, share in enumerate(shares, start=1):
        wanted = missing = round(share * len(examples))
        for rows in order:
            if len(rows) < 2 * missing:
                missing -= take(rows, target)
        if wanted and missing == wanted:
            any(take(rows, target) for rows in sorted(order, key=len))
    return part


def _keep(examples: Examples, keep: Bools, name: str, why: str, notices: list[str]) -> Examples:
    dropped = int((~keep).sum())
    if dropped == 0:
        return examples
    notices.append(f"{dropped:,} {name} rows dropped: {why}.")
    return examples.take(np.flatnonzero(keep))


def _without(examples: Examples, other: Examples, name: str, notices: list[str]) -> Examples:
    keep = ~np.isin(examples.hashes(), other.hashes())
    return _keep(examples, keep, name, "their texts occur in a held-out part too", notices)


def _without_groups(train: Examples, validation: Examples, notices: list[str]) -> Examples:
    if train.groups is None:
        return train
    if validation.groups is None:
        notices.append(
            "the validation rows have no group column: only equal texts were kept apart from train."
        )
        return train
    held_out = set(validation.groups)
    keep = np.array([group not in held_out for group in train.groups])
    return _keep(train, keep, "train", "their groups occur in the validation rows", notices)


def _check(parts: Splits, notices: list[str]) -> None:
    for name in ("train", "tune", "certify"):
        part: Examples = getattr(parts, name)
        if len(part) == 0:
            raise DataError(
                f"no {name} rows are left after the split. Give more rows, or fewer rows per group."
            )
        missing = [label for label in parts.label_names if label not in set(part.labels or ())]
        if missing and name == "train":
            raise DataError(f"no train row has the label {shorten(missing)}. Add rows of it.")
        if missing and name == "certify":  # tuning speaks for its own rows
            notices.append(
                f"no {name} row has the label {shorten(missing)}: nothing is known about it there."
            )
