"""What goes wrong when stages enter a cascade: told in a line or two, with the user's own paths."""

from __future__ import annotations

import json
import shutil
from functools import partial

import numpy as np
import pytest
from transformers import AutoModelForSequenceClassification, FunnelConfig

import cascadebert
import tiny
from cascadebert import Cascade, FitConfig, Target
from cascadebert.data.readers import read_table
from cascadebert.errors import CascadeError, DataError, StageError
from cascadebert.inference.predict_file import predict_file
from cascadebert.inference.stage import Stage
from cascadebert.inference.tokenizer import StageTokenizer
from cascadebert.training.export import export_onnx
from samples import reviews, write_csv

ZERO_WIDTH = "\u200b"
assemble = partial(cascadebert.assemble, target=Target(speedup=1.1), engine="torch")


@pytest.fixture
def rows(tmp_path):
    return write_csv(tmp_path / "rows.csv", *reviews(100, seed=1))


@pytest.fixture(scope="module")
def funnel(tmp_path_factory):
    """A family that torch cannot export."""
    folder = tmp_path_factory.mktemp("models") / "funnel"
    sizes = {"d_model": 16, "block_sizes": [1, 1], "n_head": 2, "d_head": 8, "d_inner": 32}
    config = FunnelConfig(vocab_size=len(tiny.VOCABULARY), num_decoder_layers=1, **sizes)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bare(make_model, tmp_path_factory):
    """Two stages whose tokenizer adds no special tokens, so that it can leave none at all."""
    root = tmp_path_factory.mktemp("bare")
    for layers in (1, 3):
        folder = shutil.copytree(make_model(layers=layers, hidden=16 * layers), root / f"layers-{layers}")
        tokenizer = json.loads((folder / "tokenizer.json").read_text())
        (folder / "tokenizer.json").write_text(json.dumps({**tokenizer, "post_processor": None}))
    return [root / "layers-1", root / "layers-3"]


@pytest.mark.slow
def test_a_failed_export_is_told_in_two_lines(funnel, capfd):
    with pytest.raises(StageError) as error:
        export_onnx(funnel)
    first, second = str(error.value).split("\n")
    assert first == f"{funnel}: funnel models run with --engine torch only: torch cannot export them."
    assert len(second) < 600 and "\x1b" not in second
    assert "def forward" not in capfd.readouterr().err
    assert not list(funnel.glob("*.onnx"))


def test_logits_of_another_number_than_labels_are_refused_by_every_engine(make_model, tmp_path):
    folder = shutil.copytree(make_model(layers=1), tmp_path / "model")
    stage = Stage.from_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {"0": "a", "1": "b", "2": "c"}
    (folder / "config.json").write_text(json.dumps(config))
    wrong = Stage("x", folder, ("a", "b", "c"), 1, 16, stage.tokenizer, stage.engine)
    with pytest.raises(StageError, match=r"gives 2 logits, but its config.json names 3 labels \(a, b, c\)"):
        wrong.predict(["fine"])


def test_the_path_of_a_temporary_copy_is_never_shown(make_model, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "cascadebert.training.stage_check.write_engine_file",
        lambda folder, engine: (_ for _ in ()).throw(StageError(f"{folder}/model.onnx: no")),
    )
    stages = [make_model(layers=1), make_model(layers=3, hidden=48)]
    with pytest.raises(StageError) as error:
        assemble(stages, data=rows, output=tmp_path / "c")
    assert str(error.value) == f"{stages[0]}/model.onnx: no"


def test_a_static_stage_to_be_trained_is_for_fit(make_model, rows, tmp_path):
    with pytest.raises(StageError, match=r"`assemble` does not do. Make the cascade with `fit`"):
        assemble(["static", make_model(layers=2)], data=rows, output=tmp_path / "c")


@pytest.mark.slow
def test_a_trained_static_stage_can_be_assembled(make_model, rows, tmp_path):
    large = make_model(layers=2)
    options = {"target": Target(speedup=1.1), "engine": "torch", "config": FitConfig(epochs=1, max_length=32)}
    fitted = cascadebert.fit(rows, stages=["static", large], output=tmp_path / "fitted", **options)
    stages = [fitted.path / "stage-1", fitted.path / "stage-2"]
    cascade = assemble(stages, data=rows, output=tmp_path / "c")
    texts, _ = reviews(20, seed=9)
    assert cascade.stages[0].engine.name == "static"
    assert np.array_equal(cascade.stage_logits(texts), fitted.stage_logits(texts))


def test_labels_of_stages_that_differ_are_cut(make_model):
    stage = Stage.from_pretrained(make_model())
    with pytest.raises(StageError, match="name 11 and 138 more"):
        stage.with_labels([f"name {i}" for i in range(150)])


def test_rows_without_tokens_are_found_only_where_no_special_tokens_are_added(bare, make_model):
    texts = ["fine", ZERO_WIDTH, "dull", ZERO_WIDTH * 3]
    assert StageTokenizer(bare[0], max_length=32).without_tokens(texts) == [1, 3]
    assert StageTokenizer(make_model(), max_length=32).without_tokens(texts) == []


def test_a_row_without_tokens_is_a_bad_row_with_its_number(bare, rows, tmp_path):
    cascade = assemble(bare, data=rows, output=tmp_path / "c")
    texts = ["fine film", ZERO_WIDTH, "", "a dull story", ZERO_WIDTH]
    source = write_csv(tmp_path / "in.csv", texts, ["a"] * 5)
    with pytest.raises(DataError, match=r"in.csv, row 2, no tokens in its text.*--rejects FILE"):
        predict_file(cascade, source, tmp_path / "out.csv")
    done = predict_file(cascade, source, tmp_path / "out.csv", rejects=tmp_path / "bad.csv")
    assert (done.n, done.rejected) == (2, 3)
    out, bad = (read_table(tmp_path / name).columns for name in ("out.csv", "bad.csv"))
    assert out["label"] == cascade.predict([texts[0], texts[3]]).labels.tolist()
    assert [int(number) for number in bad["row"]] == [2, 3, 5]
    assert bad["reason"][0] == "no tokens in its text" and "empty text" in bad["reason"][1]


def test_a_row_without_tokens_is_named_wherever_labeled_data_is_read(bare, rows, tmp_path):
    cascade = assemble(bare, data=rows, output=tmp_path / "c")
    texts, labels = reviews(100, seed=2)
    texts[41] = ZERO_WIDTH
    data = write_csv(tmp_path / "data.csv", texts, labels)
    options = {"target": Target(speedup=1.1), "output": tmp_path / "d"}
    uses = (
        lambda: cascadebert.evaluate(cascade, data),
        lambda: cascadebert.tune(cascade, data, target=Target(speedup=1.1)),
        lambda: assemble(bare, data=data, **options),
        lambda: cascadebert.fit(data, stages=bare, config=FitConfig(max_length=32), **options),
    )
    for use in uses:
        with pytest.raises(DataError, match=r"data.csv, row 42: no tokens in '\\u200b'. Fix or remove"):
            use()


def test_a_saved_cascade_with_such_a_row_answers_the_others_one_by_one(bare, rows, tmp_path):
    cascade = Cascade.from_pretrained(assemble(bare, data=rows, output=tmp_path / "c").path)
    assert cascade.without_tokens([("fine", ZERO_WIDTH), (ZERO_WIDTH, ZERO_WIDTH)]) == [1]
    with pytest.raises(CascadeError, match=r"texts\[1\]: no tokens in"):
        cascade.predict(["fine", ZERO_WIDTH])
