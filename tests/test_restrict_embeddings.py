"""Training on a table of the tokens that occur gives the weights that the full table would."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch

from cascadebert import FitConfig
from cascadebert.inference.batching import Padding, concatenate_tokens
from cascadebert.inference.engines.torch import load_classifier
from cascadebert.inference.tokenizer import StageTokenizer
from cascadebert.paper.early_exit import training as exits_training
from cascadebert.paper.early_exit.model import MultiExitModel
from cascadebert.training.train_stage import TrainingData, train_stage
from cascadebert.training.trainer import restrict_embeddings
from samples import reviews

LABELS = ("negative", "positive")
QUICK = FitConfig(max_length=32, epochs=1, batch_size=16, learning_rate=1e-3, bf16=False)


@pytest.fixture(scope="module")
def data():
    texts, labels = reviews(48, seed=0)
    return TrainingData(texts, np.array([LABELS.index(label) for label in labels]), LABELS)


@pytest.fixture
def full_table(monkeypatch):
    """A function that makes training use the full table."""

    def switch() -> None:
        name = "cascadebert.training.train_stage.restrict_embeddings"
        monkeypatch.setattr(name, lambda _, texts: contextlib.nullcontext(texts))

    return switch


def table(model) -> torch.Tensor:
    """Its token table."""
    (weight,) = [
        weight for name, weight in model.state_dict().items() if name.endswith("word_embeddings.weight")
    ]
    return weight


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert", "roberta", "electra"])
def test_weights_are_those_of_training_with_the_full_table(make_model, data, tmp_path, full_table, family):
    source = make_model(family, layers=2, hidden=16, labels=None)
    models = []
    for name in ("restricted", "full"):
        folder = train_stage(source, data, QUICK, work=tmp_path / name, description=name)
        models.append(load_classifier(folder))
        full_table()
    restricted, full = (model.state_dict() for model in models)
    assert all(torch.allclose(restricted[name], full[name], atol=1e-6) for name in full)
    used = np.unique(StageTokenizer(source, max_length=32).encode(data.texts).ids)
    before = table(load_classifier(source, num_labels=2))
    changed = (table(models[0]) != before).any(dim=1).nonzero().ravel().numpy()
    assert 0 < len(changed) < len(before) and set(changed) <= set(used)


@pytest.mark.slow
def test_models_with_exits_learn_the_same_with_either_table(make_model, data, tmp_path, full_table):
    source = make_model(layers=2, hidden=16, labels=None)
    models = []
    for name in ("restricted", "full"):
        folder = exits_training.train_multi_exit(
            source, data, exits_training.EarlyExitConfig(QUICK), method="pabee", work=tmp_path / name
        )
        models.append(MultiExitModel.load(folder)[0].state_dict())
        full_table()
    assert all(torch.allclose(models[0][name], models[1][name], atol=1e-6) for name in models[1])


def test_numbers_up_to_that_of_padding_stay_and_other_models_are_unchanged():
    rows = concatenate_tokens([[7, 3, 9], [9]], None, Padding(1))
    model = torch.nn.ModuleDict({"word_embeddings": torch.nn.Embedding(12, 4, padding_idx=1)})
    with restrict_embeddings(model, rows) as restricted:
        assert restricted.ids.tolist() == [3, 2, 4, 4]
        assert model["word_embeddings"].weight.shape == (5, 4)
    assert model["word_embeddings"].weight.shape == (12, 4)
    with restrict_embeddings(torch.nn.ModuleDict({"embeddings": torch.nn.Embedding(12, 4)}), rows) as same:
        assert same is rows
