"""Data of a task in three disjoint sets: train, tune, test."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from cascadebert.data.dataset import Examples, load_examples
from cascadebert.data.files import FORMATS
from cascadebert.data.label_names import label_names
from cascadebert.errors import DataError
from cascadebert.inference.tokenizer import StageTokenizer
from cascadebert.paper.protocol import TaskConfig
from cascadebert.types import Bools, Ints, Texts

PARTS = ("train", "tune", "test")
MAX_TUNE_FRACTION = 0.2


@dataclass(frozen=True)
class TaskData:
    """Disjoint sets of examples."""

    train: Examples  # with groups, where examples are parts of one another
    tune: Examples  # thresholds are selected on these
    test: Examples
    label_names: tuple[str, ...]

    @property
    def predicted(self) -> tuple[Texts, Ints]:
        """Texts and label ids of the n examples whose outputs are stored: tuning set, then test set."""
        labels = [part.label_ids(self.label_names) for part in (self.tune, self.test)]
        texts: Any = [*self.tune.texts, *self.test.texts]
        return texts, np.concatenate(labels)

    @cached_property
    def fingerprints(self) -> tuple[str, ...]:
        """Fingerprints of the three sets."""
        return tuple(getattr(self, name).sha256() for name in PARTS)


def load_task(
    task: TaskConfig, data: Path | None, *, seed: int, tokenizer: StageTokenizer | None = None
) -> TaskData:
    """Read a task from a folder of data sets (None: from the Hub) and split it.

    The test set is the test split, untouched; training examples that occur in it are dropped. The tuning set
    is carved from the train split, with all its parts where examples are parts of one another. The tokenizer
    truncates texts to both ends, where the task asks for it. Raises DataError if data is missing or unusable.
    """
    train, test = (_read(task, data, split) for split in ("train", task.test_split))
    train = train.take(np.flatnonzero(~np.isin(train.hashes(), test.hashes())))
    names = label_names(train)
    train, test = (part.match_labels(names, ids=False) for part in (train, test))
    lines = [text if isinstance(text, str) else " ".join(text) for text in train.texts]
    is_sentence = np.ones(len(train), dtype=np.bool_)
    if task.phrases:
        groups, is_sentence = phrase_groups(lines)
        train = replace(train, groups=tuple(map(str, groups)))  # folds for difficulty keep them together
    order = np.random.default_rng(seed).permutation(len(train))
    sentences, phrases = order[is_sentence[order]], order[~is_sentence[order]]
    tuned = sentences[: min(task.tune_rows, int(MAX_TUNE_FRACTION * len(sentences)))]
    tune = train.take(np.sort(tuned))
    free = ~np.isin(train.hashes(), tune.hashes())
    if task.phrases:
        free &= ~parts_of(lines, [lines[i] for i in tuned])
    order = np.concatenate([sentences, phrases])
    selected = order[free[order]][: task.rows]
    split = TaskData(train.take(np.sort(selected)), tune, test, names)
    _check(split, task)
    if task.both_ends and tokenizer is not None:
        for name in PARTS:
            part = getattr(split, name)
            split = replace(split, **{name: replace(part, texts=tokenizer.head_and_tail(part.texts))})
    return split


def phrase_groups(texts: Sequence[str]) -> tuple[Ints, Bools]:
    """(n,) index of the longest text with each text's words in one run, and (n,) True if that is itself.

    >>> groups, is_sentence = phrase_groups(["a fine film", "fine film", "film", "dull"])
    >>> groups.tolist(), is_sentence.tolist()
    ([0, 0, 0, 3], [True, False, False, True])
    """
    words = [text.split() for text in texts]
    lines = [f" {' '.join(line)} " for line in words]
    sentences: dict[str, list[int]] = defaultdict(list)  # by each of their words
    groups = np.empty(len(texts), dtype=np.int64)
    for index in sorted(range(len(texts)), key=lambda i: (-len(lines[i]), i)):
        candidates = min((sentences[word] for word in words[index]), key=len)  # those with its rarest word
        groups[index] = next((other for other in candidates if lines[index] in lines[other]), index)
        if groups[index] == index:
            for word in set(words[index]):
                sentences[word].append(index)
    return groups, groups == np.arange(len(texts))


def parts_of(texts: Sequence[str], sentences: Sequence[str]) -> Bools:
    """(n,) True for texts that are a run of words of any of the sentences.

    >>> parts_of(["fine film", "film indeed", "a film"], ["a fine film indeed"]).tolist()
    [True, True, False]
    """
    runs: set[str] = set()
    for words in (sentence.split() for sentence in sentences):
        starts = range(len(words))
        runs.update(" ".join(words[i:j]) for i in starts for j in range(i + 1, len(words) + 1))
    return np.array([" ".join(text.split()) in runs for text in texts])


def _read(task: TaskConfig, data: Path | None, split: str) -> Examples:
    if data is None:
        if task.source is None:
            raise DataError(f"{task.name} is not on the Hub. Give the folder of its data set with --data.")
        return load_examples(f"{task.source}@{split}")
    folder = data / task.name
    for suffix in FORMATS:
        if (folder / f"{split}{suffix}").is_file():
            return load_examples(folder / f"{split}{suffix}")
    raise DataError(f"{folder} has no {split} file ending in {', '.join(FORMATS)}")


def _check(data: TaskData, task: TaskConfig) -> None:
    for name in PARTS:
        if not len(getattr(data, name)):
            raise DataError(f"{task.name}: no {name} examples are left. Give more examples.")
    missing = set(data.label_names) - set(data.train.labels or ())
    if missing:
        raise DataError(
            f"{task.name}: no training example has the label {min(missing)}. Allow more examples."
        )
