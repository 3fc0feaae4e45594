"""Stages that exist already: labels by name, thresholds with or without labels, nothing trained."""

from __future__ import annotations

import json
import os
import shutil
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import cascadebert
from cascadebert import Cascade, Target
from cascadebert.errors import CascadeError, DataError, StageError
from cascadebert.inference.stage import Stage
from cascadebert.training.checkpoints import count_flops
from samples import reviews, sentences, write_csv

assemble = partial(cascadebert.assemble, engine="torch")


@pytest.fixture
def two(make_model):
    return [make_model(layers=1, hidden=16, seed=1), make_model(layers=3, hidden=48, seed=3)]


@pytest.fixture
def labeled(tmp_path):
    return write_csv(tmp_path / "rows.csv", *reviews(200, seed=1))


@pytest.mark.slow
def test_weights_are_taken_as_they_are(two, labeled, tmp_path):
    assemble(two, data=labeled, target=Target(speedup=1.5), output=tmp_path / "c")
    for number, source in enumerate(two, start=1):
        kept = (tmp_path / "c" / f"stage-{number}" / "model.safetensors").read_bytes()
        assert kept == (source / "model.safetensors").read_bytes()


def test_labels_in_another_order_are_aligned_by_name(make_model, labeled, tmp_path):
    turned = make_model(layers=1, hidden=16, seed=1, labels=("positive", "negative"))
    straight = make_model(layers=3, hidden=48, seed=3)
    cascade = assemble([turned, straight], data=labeled, target=Target(speedup=1.5), output=tmp_path / "c")
    texts = sentences(50, seed=2)
    own = Stage.from_pretrained(turned).predict(texts).labels
    assert cascade.label_names == ("negative", "positive")
    assert cascade.stages[0].predict(texts).labels.tolist() == own.tolist()


def test_stages_with_other_labels_are_refused_with_both_lists(make_model, labeled, tmp_path):
    other = make_model(layers=1, labels=("bad", "good"))
    with pytest.raises(StageError, match=r"bad, good. Expected: negative, positive"):
        assemble([other, make_model(layers=3, hidden=48)], data=labeled,
                 target=Target(speedup=1.5), output=tmp_path / "c")  # fmt: skip
    assert sorted(p.name for p in tmp_path.iterdir()) == ["rows.csv"]


def test_data_with_other_labels_is_refused_with_both_lists(two, tmp_path):
    file = write_csv(tmp_path / "rows.csv", ["a fine film", "a dull film"] * 60, ["good", "Nega-tive"] * 60)
    expected = (
        r"rows.csv, row 1, column 'label': unknown label 'good' .*\. Known: negative, positive. Some differ "
        r"only in case, .*: 'Nega-tive' from 'negative'. .*--label-map"
    )
    with pytest.raises(DataError, match=expected):
        assemble(two, data=file, target=Target(max_accuracy_drop=0.5), output=tmp_path / "c")


@pytest.mark.slow
def test_without_labels_the_target_is_agreement_with_the_last_stage(two, tmp_path):
    texts = sentences(300, seed=3)
    file = tmp_path / "plain.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    cascade = assemble(two, data=file, target=Target(min_agreement=0.9), output=tmp_path / "c")
    expected = cascade.operating_point.metrics
    agreement = np.mean(cascade.predict(texts).labels == cascade.stages[-1].predict(texts).labels)
    assert expected.metric == "agreement" and expected.value == pytest.approx(agreement) and agreement >= 0.9
    assert cascade.temperatures == (1.0, 1.0) and cascade.spec.measured is None
    with pytest.raises(DataError, match="no column 'label'"):
        assemble(two, data=file, target=Target(max_accuracy_drop=0.1), output=tmp_path / "d")


@pytest.fixture
def old(two, tmp_path):
    """A maker of a checkpoint with its weights as torch saves them, in one file or in several."""

    def make(folder, *, shards=1):
        shutil.copytree(two[0], folder)
        weights = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        if shards == 1:
            torch.save(weights, folder / "pytorch_model.bin")
            return folder
        files = {name: f"pytorch_model-0000{i % 2 + 1}-of-00002.bin" for i, name in enumerate(weights)}
        for file in set(files.values()):
            torch.save({name: weights[name] for name in weights if files[name] == file}, folder / file)
        index = {"metadata": {}, "weight_map": files}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
        return folder

    return make


@pytest.mark.parametrize("shards", [1, 2])
def test_weights_that_torch_saved_become_safetensors(two, old, labeled, tmp_path, shards):
    folder = old(tmp_path / "old", shards=shards)
    cascade = assemble([folder, two[1]], data=labeled, target=Target(speedup=1.5), output=tmp_path / "c")
    assert not list((tmp_path / "c" / "stage-1").glob("*.bin*"))
    texts = sentences(20, seed=4)
    wanted = Stage.from_pretrained(two[0], engine="torch").predict(texts)
    assert np.array_equal(cascade.stages[0].predict(texts).probabilities, wanted.probabilities)


class Code:
    """Runs when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("harm",)


def test_a_pickle_that_is_more_than_tensors_is_refused_unopened(two, old, labeled, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": Code()}, old(tmp_path / "old") / "pytorch_model.bin")
    with pytest.raises(StageError, match=r"pytorch_model.bin: not weights that torch opens without running"):
        assemble([tmp_path / "old", two[1]], data=labeled, target=Target(speedup=1.5), output=tmp_path / "c")
    assert not (tmp_path / "harm").exists() and not (tmp_path / "c").exists()


@pytest.mark.slow
@pytest.mark.parametrize("cost", ["layers", "flops", "measured"])
def test_each_unit_of_cost_can_be_asked_for(make_model, labeled, tmp_path, cost):
    stages = [make_model(layers=i, hidden=32, seed=i) for i in (1, 4)]
    cascade = assemble(
        stages, data=labeled, target=Target(speedup=1.2), cost_unit=cost, output=tmp_path / "c"
    )
    assert cascade.operating_point.metrics.cost_unit == cost
    assert cascade.operating_point.metrics.speedup >= 1.2


@pytest.mark.slow
def test_layers_do_not_compare_stages_of_different_widths(two, labeled, tmp_path):
    with pytest.raises(CascadeError, match="different widths"):
        assemble(two, data=labeled, target=Target(speedup=1.2), cost_unit="layers", output=tmp_path / "c")


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra", "modernbert"])
def test_every_family_makes_a_cascade(make_model, labeled, tmp_path, family):
    two = [make_model(family, layers=layers, hidden=32) for layers in (1, 3)]
    cascade = assemble(two, data=labeled, target=Target(speedup=1.1), output=tmp_path / "c")
    assert Cascade.from_pretrained(tmp_path / "c").predict(["a fine film"]).labels[0] in cascade.label_names


def test_operations_equal_the_formula_for_bert(make_model):
    layers, hidden, wide, length = 2, 16, 32, 40
    flops = count_flops(make_model(layers=layers, hidden=hidden))
    per_layer = 2 * length * (4 * hidden**2 + 2 * hidden * wide) + 4 * length**2 * hidden
    head = 2 * hidden**2 + 2 * hidden * 2
    assert flops.cost_of(np.array([length]))[0] == layers * per_layer + head
