"""The static stage: trained like any, run by NumPy alone, the same numbers as in torch."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from cascadebert import FitConfig, Stage, Target, evaluate, fit
from cascadebert.errors import CascadeError, StageError
from cascadebert.inference.engines.load import STATIC, stage_kind
from cascadebert.inference.engines.torch import load_classifier
from cascadebert.training.checkpoints import count_flops
from killing import run_killed
from samples import reviews, sentences, write_csv

QUICK = FitConfig(epochs=4, batch_size=16, learning_rate=2e-3, max_length=32, bf16=False)


@pytest.fixture(scope="module")
def train_file(tmp_path_factory):
    texts, labels = reviews(400, seed=0)
    labels[::25] = ["positive"] * 16
    return write_csv(tmp_path_factory.mktemp("data") / "train.csv", texts, labels)


@pytest.fixture(scope="module")
def large(make_model):
    return make_model(layers=2, hidden=32, labels=None)


@pytest.fixture(scope="module")
def cascade(train_file, large, tmp_path_factory):
    output = tmp_path_factory.mktemp("static") / "c"
    target = Target(speedup=1.5)
    return fit(
        train_file, stages=["static", large], target=target, output=output, engine="torch", config=QUICK
    )


@pytest.mark.slow
def test_it_learns_and_is_saved_as_a_stage(cascade, train_file):
    first, last = cascade.stages
    assert (first.engine.name, first.layers, last.engine.name) == ("static", 0, "torch")
    assert first.tokenizer.key == last.tokenizer.key
    assert evaluate(first, train_file).accuracy > 0.9
    assert stage_kind(first.path) is STATIC and stage_kind(last.path) is not STATIC


@pytest.mark.slow
def test_its_logits_are_those_of_torch(cascade):
    stage, texts = cascade.stages[0], sentences(50, seed=3)
    batch = stage.encode(texts).batch(np.arange(50))
    with torch.inference_mode():
        given = torch.from_numpy(batch.input_ids), torch.from_numpy(batch.attention_mask)
        wanted = load_classifier(stage.path)(*given).logits.numpy()
    assert np.allclose(stage.engine.logits(batch), wanted, atol=1e-5)


@pytest.mark.slow
def test_its_logits_do_not_depend_on_neighbors(cascade):
    stage = cascade.stages[0]
    rows = stage.encode(sentences(60, seed=2, most=30))
    alone = [stage.engine.logits(rows.batch(np.array([i]))) for i in range(60)]
    assert np.array_equal(stage.logits(rows), np.concatenate(alone))


KILLED = """
from cascadebert import Target, fit
from cascadebert.training.trainer import LossTrainer
import test_static
kill_at(LossTrainer, sys.argv[1], int(sys.argv[2]))
stages, target = ["static", sys.argv[5]], Target(speedup=1.5)
fit(sys.argv[3], stages=stages, target=target, output=sys.argv[4], engine="torch", config=test_static.QUICK)
"""


@pytest.mark.slow
def test_killed_while_it_is_trained_fit_goes_on_to_the_same_weights(cascade, train_file, large, tmp_path):
    again = tmp_path / "c"
    run_killed(KILLED, "compute_loss", 280, train_file, again, large)  # after the large stage and the folds
    target = Target(speedup=1.5)
    found = fit(
        train_file, stages=["static", large], target=target, output=again, engine="torch", config=QUICK
    )
    for one, other in zip(found.spec.stages, cascade.spec.stages, strict=True):
        assert one.sha256 == other.sha256


@pytest.mark.slow
def test_its_operations_are_those_of_its_table(cascade):
    counted = count_flops(cascade.stages[0].path)
    assert (counted.row, counted.token, counted.pair) == (4.0, 6.0, 0.0)


@pytest.mark.slow
def test_damaged_weights_are_refused(cascade, tmp_path):
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((cascade.stages[0].path / name).read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"none")
    with pytest.raises(StageError, match="damaged, or was not downloaded completely"):
        Stage.from_pretrained(tmp_path)


@pytest.mark.parametrize("order", [["static"], ["large", "static"], ["static", "static", "large"]])
def test_it_is_the_first_of_several_or_nothing(order, train_file, large, tmp_path):
    stages = [large if name == "large" else name for name in order]
    with pytest.raises(StageError, match="the first of two or more"):
        fit(train_file, stages=stages, target=Target(speedup=1.5), output=tmp_path / "c", config=QUICK)
    assert not list(tmp_path.iterdir())


def test_layers_do_not_count_it(train_file, large, tmp_path):
    with pytest.raises(CascadeError, match="without layers"):
        fit(
            train_file, stages=["static", large], target=Target(speedup=1.5), cost_unit="layers",
            output=tmp_path / "c", engine="torch", config=QUICK,
        )  # fmt: skip


@pytest.mark.slow
def test_its_configuration_says_what_it_is(cascade):
    config = json.loads((cascade.stages[0].path / "config.json").read_text("utf-8"))
    assert config["model_type"] == "static" and config["num_hidden_layers"] == 0
