"""The texts of a build: what each is for, what is dropped, what cannot be used."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from cascadebert.data.dataset import Examples
from cascadebert.errors import DataError
from cascadebert.training.cascade_builder.parts import EVALUATED, divide, load_corpus, load_data
from samples import reviews, sentences, write_csv

NAMES = ("positive", "negative")


def texts_of(parts) -> list[list]:
    return [list(parts.train), *(list(getattr(parts, name).texts) for name in EVALUATED)]


def distinct(n: int) -> list[str]:
    return [f"text {i}" for i in range(n)]


def test_every_distinct_text_is_in_one_part_whatever_the_order_and_the_labels():
    texts, labels = reviews(300, seed=1)
    parts = divide(Examples(texts, tuple(labels)), None)
    assert parts.counts == {"train": 120, "tune": 90, "certify": 60, "report": 30, "corpus": 0}
    assert sorted(text for part in texts_of(parts) for text in part) == sorted(texts)
    order = np.random.default_rng(0).permutation(300)
    again = divide(Examples([texts[i] for i in order], tuple(labels[::-1])), None)
    assert [set(part) for part in texts_of(again)] == [set(part) for part in texts_of(parts)]
    assert again.train == parts.train


def test_what_is_over_a_limit_is_trained_on():
    parts = divide(Examples(distinct(50_000), None), None)
    assert parts.counts == {"train": 40_000, "tune": 4000, "certify": 4000, "report": 2000, "corpus": 0}


def test_repeated_texts_are_dropped_and_counted_across_the_data_and_the_corpus():
    texts = distinct(300)
    repeated = Examples([*texts, *texts[:7], "text  1", " text 2 "], None)  # white space makes no other text
    corpus = Examples([*texts[:50], "new one", "new one", "another"], None)
    parts = divide(repeated, corpus)
    assert parts.notices == (
        "9 repeated texts were dropped.",
        "51 texts of the corpus were dropped: repeated, or in the data.",
    )
    assert parts.corpus == 2 and set(parts.train[-2:]) == {"new one", "another"}
    assert sum(parts.counts.values()) == 302
    assert len({text for part in texts_of(parts) for text in part}) == 302


@pytest.mark.parametrize(("given", "left"), [(distinct(199), 199), (["a"] * 1000, 1)])
def test_fewer_than_200_distinct_texts_are_refused(given, left):
    with pytest.raises(DataError, match=rf"{left} distinct texts; at least 200 are needed"):
        divide(Examples(given, None), None)


def test_several_files_of_several_formats_are_one_set(tmp_path):
    texts, labels = reviews(240, seed=2)
    csv = write_csv(tmp_path / "a.csv", texts[:100], labels[:100])
    parquet = tmp_path / "b.parquet"
    pd.DataFrame({"text": texts[100:], "label": labels[100:]}).to_parquet(parquet)
    examples = load_data([csv, parquet], NAMES, columns=None, labels=True)
    assert list(examples.texts) == texts and list(examples.labels) == labels
    assert "a.csv" in examples.source and "b.parquet" in examples.source


@pytest.mark.parametrize("second", [[None] * 120, ["positive", None] * 60, ["other"] * 120])
def test_labels_are_left_out_everywhere_unless_all_can_be_used(second):
    texts, labels = reviews(240, seed=2)
    sources = [{"text": texts[:120], "label": labels[:120]}, {"text": texts[120:], "label": second}]
    assert load_data(sources, NAMES, columns=None, labels=False).labels is None
    with pytest.raises(DataError, match=r"no label|unknown label"):
        load_data(sources, NAMES, columns=None, labels=True)


def test_an_accuracy_target_needs_a_column_of_labels():
    with pytest.raises(DataError, match="label"):
        load_data([{"text": distinct(200)}], NAMES, columns=None, labels=True)


def test_pairs_and_single_texts_are_not_mixed():
    pairs = {"sentence1": distinct(200), "sentence2": distinct(200)}
    single = {"text": sentences(200, seed=1)}
    with pytest.raises(DataError, match="expected pairs of texts"):
        load_data([pairs, single], NAMES, columns=None, labels=False)
    examples = load_data([pairs], NAMES, columns=None, labels=False)
    with pytest.raises(DataError, match="expected pairs of texts"):
        load_corpus(single, examples, None)
    assert divide(examples, load_corpus(pairs, examples, None)).corpus == 0
