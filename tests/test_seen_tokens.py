"""Training on a table of the tokens that occur gives the weights that the whole table would."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch

from cascadebert.inference.batching import concatenate_tokens
from cascadebert.inference.engines.torch_checkpoint import load_classifier
from cascadebert.inference.tokenizer import StageTokenizer
from cascadebert.paper.early_exit import training as exits_training
from cascadebert.paper.early_exit.config import EarlyExitConfig
from cascadebert.paper.early_exit.model import MultiExitModel
from cascadebert.training import train_stage as stage_training
from cascadebert.training.train_stage import TrainingData, train_stage
from cascadebert.training.trainer import restrict_embeddings
from samples import reviews

LABELS = ("negative", "positive")
QUICK = EarlyExitConfig(max_length=32, epochs=1, batch_size=16, learning_rate=1e-3, bf16=False)


@pytest.fixture(scope="module")
def lesson():
    texts, labels = reviews(48, seed=0)
    return TrainingData(texts, np.array([LABELS.index(one) for one in labels]), LABELS)


@pytest.fixture
def whole_table(monkeypatch):
    """The rooms that train, with the whole table."""

    def switch() -> None:
        for room in (stage_training, exits_training):
            monkeypatch.setattr(room, "restrict_embeddings", lambda _, rows: contextlib.nullcontext(rows))

    return switch


def table(model) -> torch.Tensor:
    """Its token table."""
    (found,) = [one for name, one in model.state_dict().items() if name.endswith("word_embeddings.weight")]
    return found


@pytest.mark.parametrize("family", ["bert", "roberta", "electra"])
def test_weights_are_those_of_training_with_the_whole_table(
    make_model, lesson, tmp_path, whole_table, family
):
    source = make_model(family, layers=2, hidden=16, labels=None)
    made = []
    for place in ("seen", "whole"):
        folder = train_stage(source, lesson, QUICK.fit_config(1), work=tmp_path / place, description=place)
        made.append(load_classifier(folder))
        whole_table()
    one, other = (model.state_dict() for model in made)
    assert all(torch.allclose(one[name], other[name], atol=1e-6) for name in other)
    seen = np.unique(StageTokenizer(source, max_length=32).encode(lesson.texts).ids)
    before = table(load_classifier(source, num_labels=2))
    changed = (table(made[0]) != before).any(dim=1).nonzero().ravel().numpy()
    assert 0 < len(changed) < len(before) and set(changed) <= set(seen)


def test_models_with_exits_learn_the_same_with_either_table(make_model, lesson, tmp_path, whole_table):
    source = make_model(layers=2, hidden=16, labels=None)
    made = []
    for place in ("seen", "whole"):
        folder = exits_training.train_multi_exit(source, lesson, QUICK, method="pabee", work=tmp_path / place)
        made.append(MultiExitModel.load(folder)[0].state_dict())
        whole_table()
    assert all(torch.allclose(made[0][name], made[1][name], atol=1e-6) for name in made[1])


def test_numbers_up_to_that_of_padding_are_kept_and_other_models_left_alone():
    rows = concatenate_tokens([[7, 3, 9], [9]], None, 1)
    model = torch.nn.ModuleDict({"word_embeddings": torch.nn.Embedding(12, 4, padding_idx=1)})
    with restrict_embeddings(model, rows) as seen:
        assert seen.ids.tolist() == [3, 2, 4, 4]
        assert model["word_embeddings"].weight.shape == (5, 4)
    assert model["word_embeddings"].weight.shape == (12, 4)
    with restrict_embeddings(torch.nn.ModuleDict({"embeddings": torch.nn.Embedding(12, 4)}), rows) as same:
        assert same is rows
