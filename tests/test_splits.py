"""Labels in order, fingerprints of rows, and parts that share neither a text nor a group."""

from __future__ import annotations

import re
from collections import Counter

import datasets
import numpy as np
import pytest
from hypothesis import example, given, reject, settings
from hypothesis import strategies as st

from cascadebert.data.dataset import Examples, load_examples
from cascadebert.data.label_names import label_names
from cascadebert.data.splits import Splits, assign_folds, assign_splits, group_ids, split_examples
from cascadebert.data.table import Table
from cascadebert.errors import DataError

QUICK = settings(max_examples=60, deadline=None, database=None)
LABELS = ("x", "y", "z")
SEEDS = st.integers(0, 1000)


def examples(prefix: str, drawn: list[tuple[int, int, int]], *, grouped: bool) -> Examples:
    """Rows of drawn (text, label, group) numbers, after 8 of their own for each label."""
    own = [(f"{prefix}{i}{label}", label, f"{prefix}{i}{label}") for i in range(8) for label in LABELS]
    rows = own + [(f"t{text}", LABELS[label], f"g{group}") for text, label, group in drawn]
    texts, labels, groups = zip(*rows, strict=True)
    return Examples(list(texts), labels, groups if grouped else None, source=prefix)


def drawn_rows(prefix: str, *, texts: int = 12, grouped: bool | None = None) -> st.SearchStrategy[Examples]:
    """Random examples; `texts` is how many different ones there are to share."""
    rows = st.lists(st.tuples(*(st.integers(0, most) for most in (texts - 1, 2, 20))), max_size=60)
    flag = st.booleans() if grouped is None else st.just(grouped)
    return st.builds(lambda drawn, grouped: examples(prefix, drawn, grouped=grouped), rows, flag)


def carve(train: Examples, validation: Examples | None, seed: int) -> Splits:
    """The split under test, with a fifth of the rows for each held-out part."""
    try:
        return split_examples(train, validation, tune_fraction=0.2, certify_fraction=0.2, seed=seed)
    except DataError:  # one random group can fill a part and lose all of its rows to another
        reject()


def rows_of(*parts: Examples) -> Counter[tuple[object, ...]]:
    """How often each row (text, label, group) occurs."""
    return Counter(
        row
        for part in parts
        for row in zip(part.texts, part.labels, part.groups or [None] * len(part), strict=True)
    )


def dropped(parts: Splits) -> int:
    """The rows that the notices say were dropped."""
    counts = [re.match(r"([\d,]+) (?:train|tune) examples dropped", notice) for notice in parts.notices]
    return sum(int(count[1].replace(",", "")) for count in counts if count)


def shared(parts: Splits, what: str) -> list[object]:
    """The texts or groups that some two of the parts share."""
    train, tune, certify = (set(getattr(part, what)) for part in (parts.train, parts.tune, parts.certify))
    return [*train & tune, *train & certify, *tune & certify]


def declared(labels: list[int], names: list[str]) -> Examples:
    """Rows of a data set in memory whose labels are numbers with declared names."""
    features = {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)}
    rows = {"text": list("abcdefgh"[: len(labels)]), "label": labels}
    return load_examples(datasets.Dataset.from_dict(rows, features=datasets.Features(features)))


# ---- labels and fingerprints


@pytest.mark.parametrize("given", [["10", "9", "-2", "100"], [10, 9, -2, 100]])
def test_numbers_are_ordered_by_size(given):
    rows = load_examples(Table({"text": list("abcd"), "label": given}, "table"))
    assert label_names(rows) == ("-2", "9", "10", "100")


def test_words_are_ordered_by_alphabet():
    assert label_names(Examples(["a", "b", "c"], ("pear", "apple", "fig"))) == ("apple", "fig", "pear")


def test_declared_labels_keep_their_order_and_those_no_example_has():
    rows = declared([2, 0], ["zebra", "ape", "mule"])
    assert label_names(rows) == ("zebra", "ape", "mule")
    assert rows.label_ids(label_names(rows)).tolist() == [2, 0]


@pytest.mark.parametrize("names", [["01", "02"], ["1.0", "a"], ["0.5", "0.25"], ["nan", "inf"]])
def test_declared_names_that_look_like_numbers_are_kept_as_declared(names):
    rows = declared([1, 0], names)
    assert rows.label_ids(label_names(rows)).tolist() == [1, 0]


@pytest.mark.parametrize("order", [None, ("only",)])
def test_a_single_label_is_rejected(order):
    with pytest.raises(DataError, match=r"data, column 'y': at least two labels.*found: only"):
        label_names(Examples(["a", "b"], ("only", "only"), label_column="y", label_order=order))


def test_an_unknown_label_names_its_row_and_the_known_ones():
    rows = Examples(["a", "b"], ("x", "z"), source="rows.csv", label_column="y")
    with pytest.raises(DataError, match=r"rows\.csv, row 2, column 'y': unknown label 'z'\. Known: x, y"):
        rows.label_ids(["x", "y"])


def test_examples_without_labels_have_no_label_ids():
    with pytest.raises(DataError, match="data has no labels"):
        Examples(["a"], None).label_ids(["x"])


def test_a_fingerprint_sees_words_but_not_the_white_space_between_them():
    same, other = [" a  b\n", "a b", "a\tb"], ["ab", "A b", "a b c"]
    hashes = Examples([*same, *other], None).hashes().tolist()
    assert (len(set(hashes[:3])), len(set(hashes))) == (1, 4)


@QUICK
@example(pairs=[("a b", "a"), ("a", "b a")])
@given(pairs=st.lists(st.tuples(*[st.text(st.sampled_from("ab \x1f\n"), max_size=4)] * 2), max_size=20))
def test_pairs_have_one_fingerprint_exactly_if_their_words_are_the_same(pairs):
    hashes = Examples(pairs, None).hashes().tolist()
    words = [tuple(tuple(part.split()) for part in pair) for pair in pairs]
    assert [a == b for a in hashes for b in hashes] == [a == b for a in words for b in words]


def test_the_fingerprint_of_all_examples_sees_order_texts_and_labels():
    given = [Examples(["a", "b"], labels) for labels in (("x", "y"), ("y", "x"), None)]
    swapped = Examples(["b", "a"], ("x", "y"))
    assert len({rows.sha256() for rows in [*given, swapped]}) == 4
    assert given[0].sha256() == Examples(["a ", "b"], ("x", "y"), source="elsewhere").sha256()


def test_taken_examples_keep_texts_labels_and_groups_together():
    taken = Examples(["a", "b", "c"], ("x", "y", "z"), ("1", "2", "3")).take(np.array([2, 0]))
    assert (taken.texts, taken.labels, taken.groups) == (["c", "a"], ("z", "x"), ("3", "1"))


# ---- parts


@QUICK
@given(train=drawn_rows("a"), validation=st.none() | drawn_rows("b"), seed=SEEDS)
def test_splits_share_no_text(train, validation, seed):
    assert shared(carve(train, validation, seed), "texts") == []


@QUICK
@given(train=drawn_rows("a", grouped=True), validation=st.none() | drawn_rows("b", grouped=True), seed=SEEDS)
def test_splits_share_no_group(train, validation, seed):
    assert shared(carve(train, validation, seed), "groups") == []


@QUICK
@given(train=drawn_rows("a"), validation=st.none() | drawn_rows("b"), seed=SEEDS)
def test_every_example_is_in_one_split_or_counted_in_a_notice(train, validation, seed):
    parts = carve(train, validation, seed)
    given = rows_of(*(part for part in (train, validation) if part is not None))
    kept = rows_of(parts.train, parts.tune, parts.certify)
    assert kept <= given
    assert (given - kept).total() == dropped(parts)


@QUICK
@given(train=drawn_rows("a"), validation=st.none() | drawn_rows("b"), seed=SEEDS)
def test_a_seed_decides_the_split(train, validation, seed):
    assert carve(train, validation, seed) == carve(train, validation, seed)


def test_another_seed_gives_another_split():
    rows = examples("a", [], grouped=False)
    assert len({tuple(carve(rows, None, seed).tune.texts) for seed in range(5)}) > 1


@QUICK
@given(train=drawn_rows("a"), seed=SEEDS)
def test_every_label_keeps_a_train_example(train, seed):
    assert set(carve(train, None, seed).train.labels) == set(LABELS)


@pytest.mark.parametrize("seed", range(10))
def test_the_only_example_of_a_label_stays_with_train(seed):
    rows = Examples([f"t{i}" for i in range(20)], ("rare", *("x", "y") * 9, "x"))
    assert "t0" in split_examples(rows, None, tune_fraction=0.4, certify_fraction=0.4, seed=seed).train.texts


def test_splits_of_single_examples_have_exactly_the_requested_fractions():
    rows = Examples([f"t{i}" for i in range(100)], ("x", "y") * 50)
    parts = split_examples(rows, None, tune_fraction=0.15, certify_fraction=0.25, seed=0)
    assert (len(parts.train), len(parts.tune), len(parts.certify), parts.notices) == (60, 15, 25, ())


@pytest.mark.parametrize("seed", range(5))
def test_a_large_group_does_not_fill_a_small_split_where_single_examples_can(seed):
    rows = Examples(
        [f"t{i}" for i in range(100)], ("x", "y") * 50, ("big",) * 60 + tuple(map(str, range(40)))
    )
    parts = split_examples(rows, None, tune_fraction=0.1, certify_fraction=0.1, seed=seed)
    assert (len(parts.tune), len(parts.certify)) == (10, 10)


@QUICK
@given(rows=drawn_rows("a"), seed=SEEDS)
def test_a_split_exceeds_its_fraction_by_less_than_one_group(rows, seed):
    sizes = np.bincount(assign_splits(rows, LABELS, (0.1, 0.2), np.random.default_rng(seed)), minlength=3)[1:]
    largest = np.bincount(group_ids(rows)).max()
    assert all(sizes - [round(0.1 * len(rows)), round(0.2 * len(rows))] < largest)


@QUICK
@given(train=drawn_rows("a"), validation=drawn_rows("b"), seed=SEEDS)
def test_tune_and_certify_examples_come_only_from_validation(train, validation, seed):
    parts = carve(train, validation, seed)
    assert rows_of(parts.tune, parts.certify) <= rows_of(validation)
    assert rows_of(parts.train) <= rows_of(train)


def test_train_examples_with_a_text_or_group_of_validation_are_dropped_and_counted():
    train = Examples(list("abcdef"), ("x", "y") * 3, tuple("123456"))
    validation = Examples(["e ", *"pqrs"], ("x", "y", "x", "y", "x"), tuple("23777"))
    parts = split_examples(train, validation, tune_fraction=0.1, certify_fraction=0.1, seed=0)
    assert parts.train.texts == ["a", "d", "f"]
    assert [re.split(r" examples dropped", notice)[0] for notice in parts.notices][:2] == [
        "2 train",
        "1 train",
    ]


def test_a_validation_label_that_no_train_example_has_is_named():
    train = Examples(list("abcd"), ("0", "1", "0", "1"), source="train.csv")
    validation = Examples(list("pqrs"), ("no", "yes") * 2, source="rows.csv", label_order=("no", "yes"))
    with pytest.raises(DataError, match=r"rows\.csv, row 1, .*unknown label 'no'\. Known: 0, 1"):
        split_examples(train, validation, tune_fraction=0.1, certify_fraction=0.1, seed=0)


def test_a_label_without_certify_examples_gives_a_notice():
    rows = Examples([f"t{i}" for i in range(201)], ("rare", *("x", "y") * 100))
    parts = split_examples(rows, None, tune_fraction=0.2, certify_fraction=0.2, seed=0)
    assert [notice.split(":")[0] for notice in parts.notices] == ["no certify example has the label rare"]


def test_a_declared_label_without_train_examples_is_rejected():
    rows = Examples(list("abcdefgh"), ("x", "y") * 4, label_order=("x", "y", "never"))
    with pytest.raises(DataError, match="no train example has the label never"):
        split_examples(rows, None, tune_fraction=0.25, certify_fraction=0.25, seed=0)


@pytest.mark.parametrize("texts", [["same"] * 6, list("ab")])
def test_too_few_examples_for_three_splits_are_rejected(texts):
    rows = Examples(texts, ("x", "y") * (len(texts) // 2))
    with pytest.raises(DataError, match="no tune examples are left"):
        split_examples(rows, None, tune_fraction=0.2, certify_fraction=0.2, seed=0)


# ---- folds


@QUICK
@given(rows=drawn_rows("a"), count=st.integers(2, 9), seed=SEEDS)
def test_folds_keep_groups_whole_and_differ_by_at_most_one_group(rows, count, seed):
    fold = assign_folds(rows, count, np.random.default_rng(seed))
    keys = rows.groups or [" ".join(text.split()) for text in rows.texts]
    assert len(fold) == len(rows)
    assert len(set(zip(keys, fold.tolist(), strict=True))) == len(set(keys))
    sizes = np.bincount(fold, minlength=count)
    assert len(sizes) == count
    assert sizes.min() > 0
    assert sizes.max() - sizes.min() <= max(Counter(keys).values())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ([1] * 10, [3, 3, 4]),
        ([1] * 7, [1] * 7),
        ([1] * 11, [2, 3, 3, 3]),
        ([10] + [1] * 9, [9, 10]),
        ([4, 3, 3, 2], [6, 6]),
    ],
)
def test_the_remainder_and_large_groups_leave_the_folds_even(groups, expected, seed):
    texts = [f"t{i}" for i, size in enumerate(groups) for _ in range(size)]
    fold = assign_folds(Examples(texts, None), len(expected), np.random.default_rng(seed))
    assert sorted(np.bincount(fold).tolist()) == expected


def test_the_generator_decides_the_folds():
    rows = Examples([f"t{i}" for i in range(30)], None)
    first, again, other = (assign_folds(rows, 3, np.random.default_rng(seed)).tolist() for seed in (1, 1, 2))
    assert (first == again, first == other) == (True, False)


def test_more_folds_than_groups_are_rejected():
    with pytest.raises(DataError, match=r"3 folds need at least as many groups of examples; there are 2"):
        assign_folds(Examples(list("aabb"), None), 3, np.random.default_rng(0))
