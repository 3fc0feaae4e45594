"""One stage: its tokens are those of transformers, its depth is its own, what is not complete is refused."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from cascadebert.errors import StageError
from cascadebert.inference.engines.torch import layer_lists, load_classifier
from cascadebert.inference.stage import Stage
from cascadebert.inference.tokenizer import StageTokenizer, resolve_max_length
from cascadebert.training.tokenizer_files import copy_tokenizer
from samples import sentences

FAMILIES = ("bert", "roberta", "distilbert", "electra", "modernbert")


def edited(source, target, **changes):
    """A copy of a checkpoint with entries of its config.json replaced."""
    shutil.copytree(source, target)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, **changes}))
    return target


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_equal_those_of_plain_transformers(make_model, family):
    folder = make_model(family, layers=2)
    texts = sentences(12, seed=1)
    stage = Stage.from_pretrained(folder)
    tokens = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    if family != "bert":
        tokens.pop("token_type_ids", None)
    with torch.inference_mode():
        expected = model(**tokens).logits.numpy()
    assert stage.logits(stage.encode(texts)) == pytest.approx(expected, abs=1e-5)
    assert stage.layers == 2 and stage.label_names == ("negative", "positive")


def test_tokens_of_pairs_equal_those_of_transformers(make_model):
    folder = make_model()
    pairs = list(zip(sentences(20, seed=2), sentences(20, seed=3), strict=True))
    rows = StageTokenizer(folder, max_length=16).encode(pairs)
    theirs = AutoTokenizer.from_pretrained(folder)(
        [a for a, _ in pairs],
        [b for _, b in pairs],
        truncation=True,
        max_length=16,
        return_token_type_ids=True,
    )
    assert np.split(rows.ids, rows.starts[1:-1])[3].tolist() == theirs["input_ids"][3]
    assert rows.ids.tolist() == [t for row in theirs["input_ids"] for t in row]
    assert rows.type_ids.tolist() == [t for row in theirs["token_type_ids"] for t in row]


def test_a_rows_padded_length_is_a_function_of_the_row_alone(make_model):
    stage = Stage.from_pretrained(make_model())
    short, mixed = stage.encode(["fine"]), stage.encode(["fine", " ".join(["dull"] * 40)])
    assert short.padded_lengths[0] == mixed.padded_lengths[0] == 4


@pytest.mark.parametrize("family", FAMILIES)
def test_a_two_layer_stage_has_two_layers_after_load(make_model, family):
    model = load_classifier(make_model(family, layers=2))
    assert max(len(layers) for layers in layer_lists(model).values()) == 2


@pytest.mark.parametrize("family", FAMILIES)
def test_a_small_checkpoint_with_the_large_models_configuration_is_refused(make_model, family, tmp_path):
    name = "n_layers" if family == "distilbert" else "num_hidden_layers"
    wrong = {name: 12}
    if family == "modernbert":
        wrong["layer_types"] = ["full_attention"] * 12
    folder = edited(make_model(family, layers=2), tmp_path / "wrong", **wrong)
    with pytest.raises(StageError, match=r"weights are missing, such as .*layer"):
        Stage.from_pretrained(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_large_checkpoint_with_a_small_configuration_is_refused(make_model, family, tmp_path):
    name = "n_layers" if family == "distilbert" else "num_hidden_layers"
    wrong = {name: 1}
    if family == "modernbert":
        wrong["layer_types"] = ["full_attention"]
    folder = edited(make_model(family, layers=2), tmp_path / "wrong", **wrong)
    with pytest.raises(StageError, match=r"weights are unexpected, such as .*layer"):
        Stage.from_pretrained(folder)


def test_an_encoder_without_a_head_is_no_fine_tuned_stage_but_a_start_for_training(make_model):
    encoder = make_model(labels=None)
    with pytest.raises(
        StageError, match=r"saved as BertModel, and never fine-tuned as a classifier.*`cascadebert fit`"
    ):
        load_classifier(encoder)
    assert load_classifier(encoder, num_labels=3).config.num_labels == 3


def test_a_lost_encoder_weight_is_refused_even_for_training(make_model, tmp_path):
    folder = tmp_path / "lost"
    shutil.copytree(make_model(), folder)
    weights = load_file(folder / "model.safetensors")
    lost = next(name for name in weights if "layer.1" in name)
    del weights[lost]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(StageError, match="missing"):
        load_classifier(folder, num_labels=2)


def test_a_checkpoint_without_its_tokenizer_is_refused_instead_of_given_an_empty_one(make_model, tmp_path):
    shutil.copytree(make_model(), tmp_path / "bare")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "bare" / name).unlink()
    with pytest.raises(StageError, match="no tokenizer"):
        copy_tokenizer(tmp_path / "bare", tmp_path)


def test_labels_are_matched_by_name_and_not_by_position(make_model):
    one = Stage.from_pretrained(make_model(labels=("positive", "negative"), seed=4))
    turned = one.with_labels(("negative", "positive"))
    rows = one.encode(sentences(10, seed=5))
    assert turned.logits(rows).tolist() == one.logits(rows)[:, ::-1].tolist()
    assert turned.predict(["dull"]).labels.tolist() == one.predict(["dull"]).labels.tolist()


def test_other_labels_are_refused_with_both_lists_shown(make_model):
    with pytest.raises(StageError, match=r"negative, positive. Expected: bad, good"):
        Stage.from_pretrained(make_model()).with_labels(("bad", "good"))


def test_unnamed_labels_keep_the_checkpoints_names_and_are_numbers_too(make_model, tmp_path):
    labels = {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}
    stage = Stage.from_pretrained(edited(make_model(), tmp_path / "a", **labels))
    assert stage.label_names == ("LABEL_0", "LABEL_1")
    turned = stage.with_labels(("1", "0"))
    assert turned.label_names == ("1", "0") and turned.columns == (1, 0)


@pytest.mark.parametrize("kind", ["multi_label_classification", "regression"])
def test_a_model_of_another_kind_is_refused(make_model, tmp_path, kind):
    folder = edited(make_model(), tmp_path / "other", problem_type=kind)
    with pytest.raises(StageError, match="expected a single-label classifier"):
        Stage.from_pretrained(folder)


def test_a_longer_row_than_the_model_reads_is_refused_beforehand():
    config = {"max_position_embeddings": 66}
    assert resolve_max_length(config, None, "x") == 64
    roberta = {"max_position_embeddings": 514, "model_type": "roberta", "pad_token_id": 1}
    assert resolve_max_length(roberta, 512, "x") == 512
    with pytest.raises(StageError, match="4 to 64 tokens"):
        resolve_max_length(config, 128, "x")


def test_what_is_no_folder_and_no_repository_says_so():
    with pytest.raises(StageError, match="neither a folder nor a repository"):
        Stage.from_pretrained("no/such-model")


def test_an_unknown_engine_or_precision_is_named(make_model):
    with pytest.raises(StageError, match="unknown engine 'abacus'"):
        Stage.from_pretrained(make_model(), engine="abacus")
    with pytest.raises(StageError, match="no precision 'int2'"):
        Stage.from_pretrained(make_model(), precision="int2")


def test_bfloat16_changes_few_answers(make_model):
    texts = sentences(200, seed=6)
    full, half = (Stage.from_pretrained(make_model(), precision=p) for p in ("float32", "bfloat16"))
    assert np.mean(full.predict(texts).label_ids == half.predict(texts).label_ids) > 0.95
