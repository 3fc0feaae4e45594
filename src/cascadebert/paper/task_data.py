"""Rows of a task for three purposes, none in two of them: train, tune, test."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cascadebert.data.dataset import Examples, label_names, load_examples
from cascadebert.data.readers import FORMATS
from cascadebert.errors import DataError
from cascadebert.inference.tokenizer import StageTokenizer
from cascadebert.paper.protocol import TaskConfig
from cascadebert.types import Bools, Ints

MOST_TUNED = 0.2


@dataclass(frozen=True)
class TaskData:
    """Disjoint rows.

    Attributes:
        train: every model learns from these; with groups, where rows are parts of one another.
        tune: thresholds are picked on these.
        test: reported on.
        names: the labels in order.
    """

    train: Examples
    tune: Examples
    test: Examples
    names: tuple[str, ...]

    @property
    def judged(self) -> Examples:
        """Tune rows, then test rows: all that is kept as arrays."""
        parts = (self.tune, self.test)
        texts: Any = [text for part in parts for text in part.texts]
        labels = [self.names[i] for part in parts for i in part.label_ids(self.names)]
        return Examples(texts, tuple(labels), source=self.test.source)

    def key(self) -> tuple[str, ...]:
        """Fingerprints of the three."""
        return (self.train.sha256(), self.tune.sha256(), self.test.sha256())


def load_task(
    plan: TaskConfig, data: Path | None, *, seed: int, encoder: StageTokenizer | None = None
) -> TaskData:
    """Read a task and divide it.

    Test rows are the validation set, untouched; train rows that occur there are dropped. Tune rows are
    carved from the train set, with all their parts where rows are parts of one another.

    Args:
        plan: of the task.
        data: folder of data sets, each with its splits as files; None for the Hub.
        seed: decides which rows.
        encoder: cuts texts to both ends, where the plan wants it.

    Raises:
        DataError: if files are missing, or rows cannot be used.
    """
    train, test = (_read(plan, data, split) for split in ("train", plan.test_split))
    train = train.take(np.flatnonzero(~np.isin(train.hashes(), test.hashes())))
    names = label_names(train)
    lines, whole = _lines(train), np.ones(len(train), dtype=np.bool_)
    if plan.phrases:
        groups, whole = phrase_groups(lines)
        train = replace(train, groups=tuple(map(str, groups)))  # folds for difficulty keep them together
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(train))
    sentences = order[whole[order]]
    tuned = sentences[: min(plan.tune_rows, int(MOST_TUNED * len(sentences)))]
    tune = train.take(np.sort(tuned))
    free = ~np.isin(train.hashes(), tune.hashes())
    if plan.phrases:
        free &= ~parts_of(lines, [lines[i] for i in tuned])
    order = np.concatenate([order[whole[order]], order[~whole[order]]])  # sentences first
    chosen = order[free[order]][: plan.rows]
    rows = TaskData(train.take(np.sort(chosen)), tune, test, names)
    _check(rows, plan)
    if plan.both_ends and encoder is not None:
        parts = [_cut(part, encoder) for part in (rows.train, rows.tune, rows.test)]
        rows = TaskData(parts[0], parts[1], parts[2], names)
    return rows


def phrase_groups(texts: Sequence[str]) -> tuple[Ints, Bools]:
    """Which rows are parts of one another.

    Returns:
        (n,) position of the longest row that holds each row's words in one run (itself, if none does), and
        (n,) whether that is itself.

    >>> groups, whole = phrase_groups(["a fine film", "fine film", "film", "dull"])
    >>> groups.tolist(), whole.tolist()
    ([0, 0, 0, 3], [True, False, False, True])
    """
    words = [text.split() for text in texts]
    lines = [f" {' '.join(one)} " for one in words]
    holders: dict[str, list[int]] = defaultdict(list)
    groups = np.empty(len(texts), dtype=np.int64)
    for row in sorted(range(len(texts)), key=lambda i: (-len(lines[i]), i)):
        rarest = min((holders[word] for word in words[row]), key=len)
        groups[row] = next((other for other in rarest if lines[row] in lines[other]), row)
        if groups[row] == row:
            for word in set(words[row]):
                holders[word].append(row)
    return groups, groups == np.arange(len(texts))


def parts_of(texts: Sequence[str], wholes: Sequence[str]) -> Bools:
    """(n,) which texts are a run of words of one of the others; a short one may be part of many.

    >>> parts_of(["fine film", "film indeed", "a film"], ["a fine film indeed"]).tolist()
    [True, True, False]
    """
    runs: set[str] = set()
    for words in (text.split() for text in wholes):
        starts = range(len(words))
        runs.update(" ".join(words[i:j]) for i in starts for j in range(i + 1, len(words) + 1))
    return np.array([" ".join(text.split()) in runs for text in texts])


def _lines(part: Examples) -> list[str]:
    return [text if isinstance(text, str) else " ".join(text) for text in part.texts]


def _read(plan: TaskConfig, data: Path | None, split: str) -> Examples:
    if data is None:
        if plan.source is None:
            raise DataError(f"{plan.name} is not on the Hub. Give the folder that it lies in with --data.")
        return load_examples(f"{plan.source}@{split}")
    folder = data / plan.name
    for suffix in FORMATS:
        if (folder / f"{split}{suffix}").is_file():
            return load_examples(folder / f"{split}{suffix}")
    raise DataError(f"{folder} has no {split} file ending in {', '.join(FORMATS)}")


def _cut(part: Examples, encoder: StageTokenizer) -> Examples:
    return replace(part, texts=encoder.head_and_tail(part.texts))


def _check(rows: TaskData, plan: TaskConfig) -> None:
    for name in ("train", "tune", "test"):
        if not len(getattr(rows, name)):
            raise DataError(f"{plan.name}: no {name} rows are left. Give more rows.")
    rows.test.label_ids(rows.names)
    missing = set(rows.names) - set(rows.train.labels or ())
    if missing:
        raise DataError(f"{plan.name}: no train row has the label {min(missing)}. Allow more rows.")
