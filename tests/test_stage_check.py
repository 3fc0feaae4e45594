"""A stage that enters a cascade answers as `transformers` does for each text alone, or is refused."""

import json
import shutil

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    ConvBertConfig,
    RobertaConfig,
    XLNetConfig,
)
from transformers.utils import logging

import tiny
from cascadebert import Cascade, Target, assemble
from cascadebert.errors import StageError
from cascadebert.training.stage_check import ODD_TEXTS
from samples import reviews, write_csv

LABELS = {0: "negative", 1: "positive"}


def edited(source, target, file="tokenizer_config.json", **changes):
    """A copy of a checkpoint with other entries in one of its JSON files; None removes an entry."""
    shutil.copytree(source, target)
    values = json.loads((target / file).read_text("utf-8")) | changes
    values = {name: value for name, value in values.items() if value is not None}
    (target / file).write_text(json.dumps(values), "utf-8")
    return target


def saved_model(folder, config, tokenizer=None, **sizes):
    """A random classifier of a family, with weights drawn wide."""
    logging.disable_progress_bar()
    torch.manual_seed(3)
    made = config(vocab_size=len(tiny.VOCABULARY), id2label=LABELS, initializer_range=0.3, **sizes)
    AutoModelForSequenceClassification.from_config(made).save_pretrained(folder)
    (tokenizer or tiny.tokenizer()).save_pretrained(folder)
    return folder


@pytest.fixture
def entered(make_model, tmp_path):
    """Assemble a checkpoint behind a small stage, and open the stage that it became."""

    def enter(source, *, pairs=False, engine="torch", max_length=None):
        texts, labels = reviews(60, seed=8)
        if pairs:
            lines = zip(texts, reversed(texts), labels, strict=True)
            rows = "\n".join(f"{a},{b},{label}" for a, b, label in lines)
            (tmp_path / "data.csv").write_text(f"premise,hypothesis,label\n{rows}\n", "utf-8")
        else:
            write_csv(tmp_path / "data.csv", texts, labels)
        stages = [make_model(layers=1, hidden=8), source]
        cascade = assemble(
            stages, data=tmp_path / "data.csv", target=Target(speedup=1.2), output=tmp_path / "cascade",
            engine=engine, max_length=max_length, overwrite=True,
        )  # fmt: skip
        assert (
            Cascade.from_pretrained(tmp_path / "cascade").stages[1].tokenizer.key
            == cascade.stages[1].tokenizer.key
        )
        return cascade.stages[1]

    return enter


def expected_logits(source, texts, max_length):
    """Each text alone through transformers, at its own length."""
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = AutoModelForSequenceClassification.from_pretrained(source).eval()
    rows = []
    for text in texts:
        parts = (text,) if isinstance(text, str) else text
        with torch.inference_mode():
            encoded = tokenizer(*parts, truncation=True, max_length=max_length, return_tensors="pt")
            rows.append(model(**encoded).logits[0].numpy())
    return np.stack(rows)


def assert_as_transformers(stage, source, *, pairs=False):
    texts = [*ODD_TEXTS, *reviews(20, seed=2)[0]]
    if pairs:
        texts = list(zip(texts, texts[::-1], strict=True))
    expected = expected_logits(source, texts, stage.tokenizer.max_length)
    # the columns follow the order of the cascade's labels, which these checkpoints share
    np.testing.assert_allclose(stage.logits(stage.encode(texts)), expected, atol=2e-3)


BERT = {"tokenizer_class": "BertTokenizer"}
SETTINGS = {
    "cased": BERT | {"do_lower_case": False},
    "accents kept": BERT | {"strip_accents": False},
    "cut at the left": BERT | {"truncation_side": "left"},
    "no token types": {"model_input_names": ["input_ids", "attention_mask"]},
    "class that adds types": BERT,
}


@pytest.mark.parametrize("pairs", [False, True], ids=["single", "pair"])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_settings_outside_tokenizer_json_take_effect(entered, make_model, tmp_path, settings, pairs):
    source = edited(make_model(layers=3), tmp_path / "source", **settings)
    stage = entered(source, pairs=pairs, max_length=32)
    assert_as_transformers(stage, source, pairs=pairs)


def test_the_saved_folder_gives_the_same_answers_in_transformers(entered, make_model, tmp_path):
    source = edited(
        make_model(layers=3), tmp_path / "source", **BERT, do_lower_case=False, truncation_side="left"
    )
    stage = entered(source, max_length=32)
    texts = [*ODD_TEXTS]
    expected = expected_logits(source, texts, 32)
    np.testing.assert_array_equal(expected_logits(stage.path, texts, 32), expected)


def test_a_prefix_space_takes_effect(entered, tmp_path):
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    made.train_from_iterator(reviews(200, seed=1)[0], trainer)
    made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    source = tmp_path / "roberta"
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=400, id2label=LABELS, initializer_range=0.4, max_position_embeddings=66, **sizes
    )
    AutoModelForSequenceClassification.from_config(config).save_pretrained(source)
    made.save(str(source / "tokenizer.json"))
    names = dict(
        zip(("bos_token", "pad_token", "eos_token", "unk_token", "mask_token"), special, strict=True)
    )
    settings = {"tokenizer_class": "RobertaTokenizer", "add_prefix_space": True, **names}
    (source / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
    assert_as_transformers(entered(source, max_length=32), source)


def test_a_head_that_reads_the_last_position_is_padded_at_the_left(entered, tmp_path):
    source = saved_model(tmp_path / "xlnet", XLNetConfig, d_model=16, n_layer=2, n_head=2, d_inner=32)
    stage = entered(source)
    assert stage.tokenizer.padding.side == "left"
    assert_as_transformers(stage, source)


def test_a_model_that_reads_padding_runs_at_exact_lengths(entered, tmp_path):
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32}
    source = saved_model(tmp_path / "convbert", ConvBertConfig, embedding_size=16, **sizes)
    stage = entered(source)
    assert stage.tokenizer.padding.side == "none"
    assert_as_transformers(stage, source)


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_a_tokenizer_larger_than_the_embedding_table_is_refused(entered, make_model, tmp_path, engine):
    source = tmp_path / "source"
    shutil.copytree(make_model(layers=3), source)
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.add_tokens([f"unheardof{i}" for i in range(9)])
    tokenizer.save_pretrained(source)
    with pytest.raises(StageError, match=r"'unheardof8'.*resize_token_embeddings"):
        entered(source, engine=engine)


def test_an_engine_that_answers_otherwise_is_refused(entered, make_model, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(make_model(layers=3), source)
    other = make_model(layers=3, seed=9)
    from cascadebert.training.export import export_onnx

    shutil.copytree(other, tmp_path / "other")
    export_onnx(tmp_path / "other")
    from cascadebert.training import stage_check as module

    def wrong_file(folder, engine):
        shutil.copyfile(tmp_path / "other" / "model.onnx", folder / "model.onnx")

    patch = pytest.MonkeyPatch()
    with patch.context() as context:
        context.setattr(module, "write_engine_file", wrong_file)
        with pytest.raises(StageError, match="on openvino its logits differ"):
            entered(source, engine="openvino")


@pytest.mark.parametrize("pairs", [False, True], ids=["single", "pair"])
def test_token_types_without_a_table_are_read_where_the_tokenizer_gives_them(entered, make_model, pairs):
    source = make_model("xlnet", layers=2)
    assert_as_transformers(entered(source, pairs=pairs), source, pairs=pairs)


@pytest.mark.parametrize(("max_length", "accepted"), [(32, True), (64, False)])
def test_attention_that_changes_with_the_length_is_compared_as_transformers_starts(
    entered, make_model, max_length, accepted
):
    # sparse beyond (5 + 2 * random blocks) * block size = 56 tokens, but never again after a shorter text
    source = make_model("big_bird", layers=2, block_size=8, num_random_blocks=1)
    if accepted:
        assert_as_transformers(entered(source, max_length=max_length), source)
    else:
        with pytest.raises(StageError, match="its logits differ from those of transformers"):
            entered(source, max_length=max_length)
