"""Train, tune and certify splits: disjoint by index, by content and by group."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cascadebert.data.dataset import Examples
from cascadebert.data.label_names import label_names
from cascadebert.data.labels import shorten
from cascadebert.errors import DataError
from cascadebert.types import Bools, Ints


@dataclass(frozen=True)
class Splits:
    """Disjoint examples for three purposes; the test set plays no part in training."""

    train: Examples  # to train the stages
    tune: Examples  # to fit temperatures and thresholds
    certify: Examples  # to certify guarantees, read once
    label_names: tuple[str, ...]  # in order
    notices: tuple[str, ...]  # examples dropped and why, one sentence each


def split_examples(
    train: Examples,
    validation: Examples | None,
    *,
    tune_fraction: float,
    certify_fraction: float,
    seed: int,
    known: Sequence[str] = (),
) -> Splits:
    """Take the tune and certify splits from `validation` in equal parts, or else these fractions of `train`.

    Examples of one group, and examples with equal texts, go to one split. A text that is in several splits
    nevertheless (through groups, or in both files) stays in the one that decides more: certify before tune
    before train. The labels are named by `label_names(train, known)`. Raises DataError if labels are missing,
    or a split is empty.
    """
    names = label_names(train, known)
    train = train.match_labels(names, ids=False)
    notices: list[str] = []
    rng = np.random.default_rng(seed)
    if validation is None:
        split = assign_splits(train, names, (tune_fraction, certify_fraction), rng)
        rest, tune, certify = (train.take(np.flatnonzero(split == i)) for i in range(3))
    else:
        validation = validation.match_labels(names, ids=False)
        split = assign_splits(validation, names, (0.5,), rng)
        tune, certify = (validation.take(np.flatnonzero(split == i)) for i in range(2))
        rest = _drop_groups(train, validation, notices)
    tune = _drop_texts(tune, certify, "tune", notices)
    rest = _drop_texts(rest, certify, "train", notices)
    rest = _drop_texts(rest, tune, "train", notices)
    for name, examples in (("train", rest), ("tune", tune), ("certify", certify)):
        _check_split(name, examples, names, notices)
    return Splits(rest, tune, certify, names, tuple(notices))


def group_ids(examples: Examples) -> Ints:
    """(n,) number of each example's group; without groups, examples with equal texts form one.

    >>> group_ids(Examples(["a", "b", "a"], ("0", "1", "0"))).tolist()
    [0, 1, 0]
    """
    keys = examples.groups if examples.groups is not None else examples.hashes().tolist()
    ids: dict[str | int, int] = {}
    return np.array([ids.setdefault(key, len(ids)) for key in keys], dtype=np.int64)


def assign_folds(examples: Examples, count: int, rng: np.random.Generator) -> Ints:
    """(n,) fold of each example, 0 .. count - 1: groups stay together, sizes balance.

    Raises DataError if there are fewer groups than folds.
    """
    group = group_ids(examples)
    sizes = np.bincount(group)
    if len(sizes) < count:
        raise DataError(f"{count} folds need at least as many groups of examples; there are {len(sizes)}")
    order = rng.permutation(len(sizes))
    fold_of_group = np.empty(len(sizes), dtype=np.int64)
    fold_sizes = np.zeros(count, dtype=np.int64)
    for number in order[np.argsort(-sizes[order], kind="stable")]:
        fold = int(fold_sizes.argmin())
        fold_of_group[number] = fold
        fold_sizes[fold] += sizes[number]
    return np.asarray(fold_of_group[group])


def assign_splits(
    examples: Examples, names: tuple[str, ...], fractions: tuple[float, ...], rng: np.random.Generator
) -> Ints:
    """(n,) split of each example: 1, 2, ... hold about the given fractions, 0 the rest.

    A group is assigned as a unit, only where it brings a split nearer to its size; a split that no group
    suits gets the smallest one. A group that holds the last examples of a label stays in split 0.
    """
    group = group_ids(examples)
    members = np.split(np.argsort(group, kind="stable"), np.cumsum(np.bincount(group))[:-1])
    labels = examples.label_ids(names)
    remaining = Counter(labels.tolist())
    split = np.zeros(len(examples), dtype=np.int64)

    def assign(indices: Ints, target: int) -> int:
        """Number of examples assigned: none if the group has a split, or the last examples of a label."""
        counts = Counter(labels[indices].tolist())
        if split[indices[0]] or any(remaining[label] <= count for label, count in counts.items()):
            return 0
        split[indices] = target
        remaining.subtract(counts)
        return len(indices)

    order = [members[number] for number in rng.permutation(len(members))]
    for target, fraction in enumerate(fractions, start=1):
        size = missing = round(fraction * len(examples))
        for indices in order:
            if len(indices) < 2 * missing:
                missing -= assign(indices, target)
        if size and missing == size:
            any(assign(indices, target) for indices in sorted(order, key=len))
    return split


def _drop(examples: Examples, drop: Bools, name: str, reason: str, notices: list[str]) -> Examples:
    if not drop.any():
        return examples
    notices.append(f"{drop.sum():,} {name} examples dropped: {reason}.")
    return examples.take(np.flatnonzero(~drop))


def _drop_texts(examples: Examples, held_out: Examples, name: str, notices: list[str]) -> Examples:
    drop = np.isin(examples.hashes(), held_out.hashes())
    return _drop(examples, drop, name, "their texts are also in a held-out split", notices)


def _drop_groups(train: Examples, validation: Examples, notices: list[str]) -> Examples:
    if train.groups is None:
        return train
    if validation.groups is None:
        notices.append("validation has no group column: only equal texts were kept out of train.")
        return train
    held_out = set(validation.groups)
    drop = np.array([group in held_out for group in train.groups], dtype=np.bool_)
    return _drop(train, drop, "train", "their groups are also in validation", notices)


def _check_split(name: str, examples: Examples, names: tuple[str, ...], notices: list[str]) -> None:
    if len(examples) == 0:
        raise DataError(
            f"no {name} examples are left after the split. Give more examples, or smaller groups."
        )
    missing = [label for label in names if label not in set(examples.labels or ())]
    if missing and name == "train":
        raise DataError(f"no train example has the label {shorten(missing)}. Add examples of it.")
    if missing and name == "certify":  # tuning gives a notice of its own about its split
        notices.append(
            f"no certify example has the label {shorten(missing)}: the split says nothing about it."
        )
