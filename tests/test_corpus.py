"""Unlabeled text: read from files of any kind, cut into passages, stored as tokens, laid out in batches."""

from __future__ import annotations

import json
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cascadebert.data.columns import Columns
from cascadebert.data.corpus import open_corpus, passages, sample
from cascadebert.errors import DataError
from cascadebert.inference.batching import Padding, concatenate_tokens
from cascadebert.training.config import DistillConfig
from cascadebert.training.distillation.token_store import (
    padding_fraction,
    split_held_out,
    token_batches,
    tokenize_corpus,
)
from samples import sentences

TEXTS = [
    "One plain text.",
    "Another one, with a second sentence. And a third!",
    "Ein Text mit Umlauten: ä ö ü.",
]


def test_txt_jsonl_parquet_and_a_folder_of_them_hold_the_same_documents(tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(TEXTS) + "\n", "utf-8")
    (tmp_path / "b.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in TEXTS), "utf-8")
    pq.write_table(pa.table({"id": [1, 2, 3], "text": TEXTS}), tmp_path / "c.parquet")
    corpora = [open_corpus(tmp_path / name) for name in ("a.txt", "b.jsonl", "c.parquet")]
    assert [list(corpus.texts()) for corpus in corpora] == [TEXTS] * 3
    assert len({corpus.sha256 for corpus in corpora}) == 1
    folder = open_corpus(tmp_path)
    assert list(folder.texts()) == TEXTS * 3
    assert (folder.documents, folder.characters) == (9, 3 * sum(map(len, TEXTS)))


def test_hidden_files_folders_and_other_formats_in_a_folder_are_left_out(tmp_path):
    for name in ("a.txt", ".git/b.txt", "._c.txt", "_SUCCESS.txt", "d.md", "deep/e.TXT"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "folder.txt").mkdir()
    assert list(open_corpus(tmp_path).texts()) == ["a.txt", "deep/e.TXT"]


def test_empty_lines_are_skipped(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\n  \ntwo\n", "utf-8")
    assert list(open_corpus(tmp_path / "a.txt").texts()) == ["one", "two"]


def test_a_byte_order_mark_and_windows_line_ends_are_no_part_of_the_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n")
    assert list(open_corpus(tmp_path / "a.txt").texts()) == ["one", "two"]


def test_both_texts_of_a_pair_are_documents(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"sentence1": "one", "sentence2": "two"}\n', "utf-8")
    assert list(open_corpus(tmp_path / "a.jsonl").texts()) == ["one", "two"]


def test_a_named_column_is_read(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"body": "one", "text": "two"}\n', "utf-8")
    assert list(open_corpus(tmp_path / "a.jsonl", columns=Columns(("body",))).texts()) == ["one"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"good\nb\xe4d\n", r"a\.txt, row 2, column 'text': bytes that are not UTF-8.* \(line 2 of"),
        ("a.txt", "good\n".encode("utf-16"), r"a\.txt is UTF-16 or UTF-32\. Save it as UTF-8"),
        ("a.txt", "good\n".encode("utf-16-le"), r"a\.txt is UTF-16 or UTF-32\. Save it as UTF-8"),
        ("a.txt", b"\n \n", r"no text in it"),
        ("a.txt", b"", r"no text in it"),
        ("a.jsonl", b'{"text": "good"}\n{"text": \n', r"a\.jsonl, row 2: not JSON .* \(line 2 of the file\)"),
        ("a.jsonl", b'["good"]\n', r"expected one object per line"),
        ("a.jsonl", b'{"body": "good"}\n', r"a\.jsonl has no column 'text' .*--text-column body"),
        ("a.jsonl", b'{"text": 3}\n', r"row 1, column 'text': expected text, found int"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', r"half of a surrogate pair"),
        ("a.parquet", b"PAR1 no", r"not a readable parquet file"),
        ("a.md", b"text\ngood\n", r"expected a file ending in \.csv"),
    ],
)
def test_a_bad_corpus_is_rejected_by_file_and_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        open_corpus(tmp_path / name)


def test_a_missing_corpus_and_a_folder_without_text_are_rejected(tmp_path):
    with pytest.raises(DataError, match="no such file or folder"):
        open_corpus(tmp_path / "none.txt")
    with pytest.raises(DataError, match="a folder without data"):
        open_corpus(tmp_path)


def test_passages_are_complete_sentences_in_order_of_varying_length_and_a_quarter_are_pairs():
    document = " ".join(f"This is sentence number {i} of the text." for i in range(4000))
    cut = list(passages([document], characters_per_token=4.0, max_tokens=64, seed=3))
    told = [" ".join(one) if isinstance(one, tuple) else one for one in cut]
    assert " ".join(told) == document
    assert all(one.endswith(".") for one in told)
    pairs = np.mean([isinstance(one, tuple) for one in cut])
    assert 0.2 < pairs < 0.3
    single = [len(one) for one in cut if isinstance(one, str)]
    assert min(single) < 60 and max(single) > 200
    assert cut == list(passages([document], characters_per_token=4.0, max_tokens=64, seed=3))


@pytest.mark.slow
def test_a_line_of_ten_megabytes_without_a_full_stop_is_cut_and_nothing_is_lost(tmp_path):
    (tmp_path / "a.txt").write_text("word " * 2_000_000 + "\n", "utf-8")
    corpus = open_corpus(tmp_path / "a.txt")
    assert corpus.documents == 1
    cut = list(passages(corpus.texts(), characters_per_token=4.0, max_tokens=64, seed=0))
    told = [" ".join(one) if isinstance(one, tuple) else one for one in cut]
    assert sum(one.count("word") for one in told) == 2_000_000
    assert max(map(len, told)) <= 256 + 1


def test_no_character_but_white_space_is_lost_or_added():
    text = 'He said "Go away!" Then (it was late.) he\u2019d left\u2026 \u201cReally?\u201d Yes.\n\nA title\n'
    document = text * 20 + "no full stop"
    cut = list(passages([document], characters_per_token=4.0, max_tokens=24, seed=1))
    told = "".join(" ".join(one) if isinstance(one, tuple) else one for one in cut)
    assert "".join(told.split()) == "".join(document.split())
    assert 'He said "Go away!"' in told


def test_text_without_spaces_is_cut_too():
    cut = list(passages(["\u8bcd" * 10_000], characters_per_token=1.0, max_tokens=64, seed=0))
    assert sum(len(text) for one in cut for text in ([one] if isinstance(one, str) else one)) == 10_000


def test_a_sample_takes_about_its_fraction_from_the_entire_corpus():
    taken = list(sample(map(str, range(10_000)), fraction=0.2, seed=0))
    assert 1800 < len(taken) < 2200 and int(taken[0]) < 50 and int(taken[-1]) > 9950
    assert list(sample("abc", fraction=1.0, seed=0)) == ["a", "b", "c"]


@pytest.fixture
def tokenizer(make_model):
    return make_model(layers=1, labels=None)


def store(corpus, tokenizer, folder, wanted=None):
    return tokenize_corpus(corpus, tokenizer, DistillConfig(max_length=32, max_tokens=wanted, seed=0), folder)


@pytest.fixture
def corpus(tmp_path):
    halves = sentences(8000, seed=1, most=20)
    lines = [f"{first}. {second}." for first, second in zip(halves[::2], halves[1::2], strict=True)]
    (tmp_path / "corpus.txt").write_text("\n".join(lines), "utf-8")
    return open_corpus(tmp_path / "corpus.txt")


def test_stored_tokens_are_those_of_the_passages_and_are_stored_once(corpus, tokenizer, tmp_path):
    rows = store(corpus, tokenizer, tmp_path / "t")
    assert np.array_equal(np.load(tmp_path / "t" / "lengths.npy"), rows.lengths)
    assert len(rows.ids) == rows.lengths.sum() > 10_000
    assert rows.lengths.max() <= 32 and (rows.ids[rows.starts[:-1]] == 2).all()
    assert rows.type_ids.any() and 0 <= rows.ids.min() and rows.ids.max() < 100
    before = (tmp_path / "t" / "ids.bin").stat().st_mtime_ns
    assert np.array_equal(store(corpus, tokenizer, tmp_path / "t").ids, rows.ids)
    assert (tmp_path / "t" / "ids.bin").stat().st_mtime_ns == before


def test_a_part_of_a_corpus_is_drawn_to_about_the_wanted_size(corpus, tokenizer, tmp_path):
    rows = store(corpus, tokenizer, tmp_path / "t", wanted=20_000)
    assert 15_000 < len(rows.ids) < 30_000


def test_three_lines_are_too_little_to_learn_from(tokenizer, tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(TEXTS), "utf-8")
    with pytest.raises(DataError, match=r"3 documents, .* tokens to learn from; at least 10,000 are needed"):
        store(open_corpus(tmp_path / "a.txt"), tokenizer, tmp_path / "t")


def test_batches_hold_every_row_once_a_pass_within_the_budget_with_little_padding():
    lengths = np.random.default_rng(0).integers(5, 129, size=20_000)
    every = np.arange(20_000)
    total = int(lengths.sum())
    made = token_batches(lengths, every, budget=4096, tokens=total, seed=1)
    assert np.array_equal(np.sort(np.concatenate(made)), every)
    assert max(len(one) * lengths[one].max() for one in made) <= 4096
    assert padding_fraction(lengths, made) < 0.05
    twice = token_batches(lengths, every, budget=4096, tokens=2 * total, seed=1)
    assert np.bincount(np.concatenate(twice)).tolist() == [2] * 20_000
    part = token_batches(lengths, every, budget=4096, tokens=100_000, seed=1)
    assert abs(sum(lengths[one].sum() for one in part) - 100_000) <= 128
    again = token_batches(lengths, every, budget=4096, tokens=100_000, seed=1)
    assert all(np.array_equal(a, b) for a, b in zip(part, again, strict=True))


def test_batches_come_in_random_order_of_length():
    lengths = np.random.default_rng(0).integers(5, 129, size=20_000)
    made = token_batches(lengths, np.arange(20_000), budget=2048, tokens=int(lengths.sum()), seed=1)
    longest = np.array([lengths[one].max() for one in islice(made, 200)])
    assert abs(np.corrcoef(longest[:-1], longest[1:])[0, 1]) < 0.3


def test_held_out_rows_are_few_and_apart():
    lengths = np.full(10_000, 30)
    rest, held_out = split_held_out(lengths, seed=0)
    assert len(rest) + len(held_out) == 10_000 and not np.isin(rest, held_out).any()
    assert 30 * len(held_out) <= 0.02 * 300_000 + 30
    assert split_held_out(np.full(3, 9), seed=0)[1].size == 1


def test_a_batch_for_training_is_padded_to_its_longest_row_only():
    rows = concatenate_tokens([[1, 2, 3], [4, 5, 6, 7, 8]], [[0] * 3, [0] * 5], Padding(9))
    batch = rows.batch(np.array([0, 1]), length=int(rows.lengths[:2].max()))
    assert batch.input_ids.tolist() == [[1, 2, 3, 9, 9], [4, 5, 6, 7, 8]]
    assert rows.batch(np.array([0, 1])).input_ids.shape == (2, 6)
