"""Texts for a build, divided by purpose: to train, to choose, to certify, to report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cascadebert.data.columns import Columns
from cascadebert.data.dataset import DataSource, Examples, Hashes, load_examples
from cascadebert.data.labels import shorten
from cascadebert.errors import DataError
from cascadebert.persistence.folder import UsedRows
from cascadebert.types import Ints, Texts

# fraction of the texts, and the most that are useful; the others are trained on
EVALUATED = {"report": (0.1, 2000), "certify": (0.2, 4000), "tune": (0.3, 4000)}
MIN_TEXTS = 200
NO_ROWS = UsedRows(*(np.empty(0, dtype=np.uint64) for _ in range(3)))


@dataclass(frozen=True)
class Parts:
    """Texts by purpose; no text is in two of them."""

    train: Texts  # to make small models: those of the data in random order, then those of the corpus
    tune: Examples  # to choose stages and thresholds
    certify: Examples  # to certify the result
    report: Examples  # to report on it
    corpus: int  # texts of `train` that are from the corpus
    notices: tuple[str, ...]  # what was left out, one sentence each
    earlier: UsedRows = NO_ROWS  # that a cascade was made from whose stages are kept

    @property
    def counts(self) -> dict[str, int]:
        """Number of texts by purpose."""
        evaluated = {name: len(getattr(self, name)) for name in ("tune", "certify", "report")}
        return {"train": len(self.train) - self.corpus, **evaluated, "corpus": self.corpus}

    @property
    def used(self) -> UsedRows:
        """Fingerprints of the texts by purpose, for the saved folder."""
        trained = Examples(self.train, None).hashes()
        return self.earlier.union(UsedRows(trained, self.tune.hashes(), self.certify.hashes()))


def load_data(
    sources: Sequence[DataSource], label_names: Sequence[str], *, columns: Columns | None, labels: bool
) -> Examples:
    """The examples of all sources, with the classifier's names for their labels.

    Unless labels are required, they are left out everywhere if a source has none that can be used. Raises
    DataError if a cell cannot be used, a required label is missing or unknown, or some sources hold pairs
    of texts and others single ones.
    """
    loaded = []
    for source in sources:
        examples = load_examples(source, columns=columns, labels=labels, groups=False)
        loaded.append(examples.match_labels(label_names, required=labels))
    for examples in loaded[1:]:
        check_same_kind(examples, loaded[0])
    if len(loaded) == 1:
        return loaded[0]
    known = [label for examples in loaded for label in examples.labels or ()]
    return Examples(
        texts=[text for examples in loaded for text in examples.texts],  # type: ignore[arg-type]
        labels=tuple(known) if all(examples.labels is not None for examples in loaded) else None,
        source=shorten([examples.source for examples in loaded], 3),
        label_column=loaded[0].label_column,
    )


def load_corpus(source: DataSource | None, like: Examples, columns: Columns | None) -> Examples | None:
    """Texts to train on only; raises DataError if they are pairs and the data is not, or the reverse."""
    if source is None:
        return None
    examples = replace(load_examples(source, columns=columns, labels=False, groups=False), labels=None)
    check_same_kind(examples, like)
    return examples


def check_same_kind(examples: Examples, like: Examples) -> None:
    """Raise DataError if one holds pairs of texts and the other does not."""
    if isinstance(examples.texts[0], str) != isinstance(like.texts[0], str):
        kind = "single texts" if isinstance(like.texts[0], str) else "pairs of texts"
        raise DataError(f"{examples.source}: expected {kind}, as in {like.source}")


def divide(
    examples: Examples, corpus: Examples | None, earlier: UsedRows = NO_ROWS, *, trains: bool = True
) -> Parts:
    """Divide the examples by purpose, and add the corpus to those to train on.

    The purpose of a text follows from its hash and from the other texts, not from labels or order. Repeated
    texts are dropped, those of the corpus that are in another part too; texts of `earlier` can only be
    trained on. Unless it `trains`, none are trained on. Raises DataError if fewer than 200 texts are left.
    """
    hashes = examples.hashes()
    distinct = _first_of_each(hashes)
    notices = _notice(len(examples) - len(distinct), "repeated texts were dropped")
    order = distinct[np.argsort(hashes[distinct], kind="stable")]
    is_used = np.isin(hashes[order], earlier.all)
    order, used = order[~is_used], order[is_used]
    fate = "are only trained on" if trains else "were left out"
    notices += _notice(len(used), f"texts {fate}: the cascade was trained, tuned or certified on them")
    if len(order) < MIN_TEXTS:
        found = f"{len(order):,} distinct texts"
        if len(used):
            found += f" beside {len(used):,} that the cascade was trained, tuned or certified on"
        raise DataError(
            f"{examples.source}: {found}; at least {MIN_TEXTS} are needed to choose "
            "a cascade, and some thousands for a good one. Give more: labels are not needed."
        )
    parts, start = dict[str, Examples](), 0
    divided = 1.0 if trains else sum(fraction for fraction, _ in EVALUATED.values())
    for name, (fraction, most) in EVALUATED.items():
        count = min(most, int(fraction / divided * len(order)))
        parts[name] = examples.take(np.sort(order[start : start + count]))
        start += count
    rest = np.concatenate([order[start:], used]) if trains else order[:0]
    train = [examples.texts[i] for i in rest.tolist()]
    if corpus is None:
        return Parts(train, corpus=0, notices=notices, earlier=earlier, **parts)
    in_corpus = corpus.hashes()
    new = _first_of_each(in_corpus)
    new = new[~np.isin(in_corpus[new], hashes)]
    notices += _notice(len(corpus) - len(new), "texts of the corpus were dropped: repeated, or in the data")
    new = new[np.argsort(in_corpus[new], kind="stable")]
    more = [corpus.texts[i] for i in new.tolist()]
    return Parts([*train, *more], corpus=len(more), notices=notices, earlier=earlier, **parts)


def _first_of_each(hashes: Hashes) -> Ints:
    """Positions of the first of each distinct hash."""
    _, first = np.unique(hashes, return_index=True)
    return np.sort(first)


def _notice(count: int, fact: str) -> tuple[str, ...]:
    return (f"{count:,} {fact}.",) if count else ()


def join(parts: Iterable[Examples]) -> Examples:
    """Examples one after another, of one source."""
    found = list(parts)
    labels = [label for examples in found for label in examples.labels or ()]
    return replace(
        found[0],
        texts=[text for examples in found for text in examples.texts],  # type: ignore[arg-type]
        labels=tuple(labels) if found[0].labels is not None else None,
        places=None,
    )
