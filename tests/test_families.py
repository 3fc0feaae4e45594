"""Families of models: longest inputs, padding of decoders, end tokens, and what cannot be exported."""

from __future__ import annotations

import itertools
import json
import shutil
from functools import partial

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

import cascadebert
import tiny
from cascadebert import FitConfig, Target, fit
from cascadebert.errors import StageError
from cascadebert.inference.batching import Padding, concatenate_tokens
from cascadebert.inference.engines.torch import load_classifier, load_pipeline, max_positions
from cascadebert.inference.stage import Stage
from cascadebert.inference.tokenizer import StageTokenizer
from cascadebert.persistence.checkpoint_config import read_config
from cascadebert.training.checkpoints import copy_checkpoint, count_flops
from cascadebert.training.export import export_onnx
from cascadebert.training.stage_check import StageFiles, load_checked
from cascadebert.training.stage_limits import write_limits
from samples import reviews, sentences, write_csv

assemble = partial(cascadebert.assemble, target=Target(speedup=1.1), engine="torch")
LEARNED = [*tiny.ENCODERS, *tiny.DECODERS, *tiny.ENCODER_DECODERS]
UNLIMITED = (  # positions are relative, or rotate
    "bloom deberta-v2 eurobert falcon funnel gemma gemma2 gemma3_text gpt_neox gte jina_embeddings_v3 llama "
    "mistral modernbert modernbert-decoder mt5 nomic_bert phi qwen2 qwen3 stablelm t5 xlnet"
).split()
BEHIND_PADDING = ["mpnet", "data2vec-text", "longformer", "ibert", "xmod", "roberta", "camembert", "esm"]
ENDINGS = [
    "a fine film [SEP]",
    "[PAD] [PAD]",
    "the song was dull [PAD]",
    "[CLS]",
    "not [SEP] [SEP] bland [SEP]",
]


def staged(source, target, *, export=True):
    """What `assemble` makes of a checkpoint."""
    target.mkdir()
    copy_checkpoint(source, target)
    write_limits(target)
    if export:
        export_onnx(target)
    return target


def alone(folder, rows):
    """Logits of token ids by plain transformers, one row at a time."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        return np.concatenate([model(input_ids=torch.tensor([ids])).logits.numpy() for ids in rows])


def token_ids(folder, texts):
    rows = StageTokenizer(folder, max_length=64).encode(texts)
    return [ids.tolist() for ids in np.split(rows.ids, rows.starts[1:-1])]


@pytest.mark.parametrize("family", sorted(LEARNED))
def test_the_longest_input_of_a_family_is_that_of_its_own_position_table(make_model, family):
    model = load_classifier(make_model(family, layers=1)).eval()
    longest = max_positions(model)
    assert (longest is None) == (family in UNLIMITED)

    def run(length):
        ids = torch.full((1, length), 7)
        ids[:, -1] = 3
        with torch.inference_mode():
            return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits

    assert run(longest or 3 * tiny.POSITIONS).isfinite().all()
    if longest is not None:
        with pytest.raises((IndexError, RuntimeError)):
            run(longest + 1)


@pytest.mark.parametrize("family", BEHIND_PADDING)
def test_a_stage_reads_its_longest_input_as_transformers_does(make_model, tmp_path, family):
    folder = make_model(family, layers=1, pad_token_id=1)
    stage = Stage.from_pretrained(staged(folder, tmp_path / "stage", export=False), max_length=64)
    rows = stage.encode([" ".join(["fine dull"] * 60)])
    assert rows.lengths.tolist() == [64]
    assert stage.logits(rows) == pytest.approx(alone(folder, [rows.ids.tolist()]), abs=1e-5)
    with pytest.raises(StageError, match=r"4 to 64 tokens is possible, not 66"):
        Stage.from_pretrained(folder, max_length=66)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["mpnet", "roberta"])
def test_without_torch_a_stage_reads_its_longest_input_too(make_model, tmp_path, family):
    folder = staged(make_model(family, layers=1, pad_token_id=1), tmp_path / "stage")
    stage = Stage.from_pretrained(folder, engine="openvino", precision="float32", max_length=64)
    rows = stage.encode([" ".join(["fine dull"] * 60)])
    assert stage.logits(rows) == pytest.approx(alone(folder, [rows.ids.tolist()]), abs=1e-4)
    with pytest.raises(StageError, match=r"4 to 64 tokens is possible, not 66"):
        Stage.from_pretrained(folder, engine="openvino", max_length=66)


@pytest.mark.parametrize("spare", [0, 3])
@pytest.mark.parametrize(
    "family, pad",
    [*itertools.product(["gpt2", "llama", "qwen2", "opt"], [None, -1]), ("gpt2", 5000)],
)
def test_a_decoder_without_padding_pads_with_a_row_that_no_text_uses(
    make_model, tmp_path, family, spare, pad
):
    source = make_model(family, layers=1, pad_token_id=None, vocab_size=len(tiny.VOCABULARY) + spare)
    source = edited(source, tmp_path / "source", pad_token_id=pad)
    stage = Stage.from_pretrained(staged(source, tmp_path / "stage", export=False), engine="torch")
    config = read_config(stage.path)
    assert config["pad_token_id"] == config["vocab_size"] - 1 >= stage.tokenizer.vocab_size
    assert (config["vocab_size"] == read_config(source)["vocab_size"]) == bool(spare)
    texts = [*ENDINGS, *sentences(20, seed=3)]
    rows = token_ids(stage.path, texts)
    found, wanted = stage.logits(stage.encode(texts)), alone(source, rows)
    assert found == pytest.approx(wanted, abs=1e-5)
    assert alone(stage.path, rows) == pytest.approx(wanted, abs=1e-6)


def edited(source, target, **changes):
    """A copy of a checkpoint with entries of its config.json replaced."""
    shutil.copytree(source, target)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, **changes}))
    return target


def test_a_padding_token_outside_the_table_is_refused_where_it_is_not_replaced(make_model, tmp_path):
    source = edited(make_model("gpt2", layers=1), tmp_path / "source", pad_token_id=5000)
    with pytest.raises(StageError, match="pad_token_id: 5000, but the model embeds"):
        Stage.from_pretrained(source, engine="torch")


def test_an_end_token_outside_the_table_changes_nothing(make_model, tmp_path):
    source = make_model("gpt2", layers=1, pad_token_id=None, eos_token_id=50256)
    stage = Stage.from_pretrained(staged(source, tmp_path / "stage", export=False), engine="torch")
    texts = [*ENDINGS, *sentences(20, seed=3)]
    wanted = alone(source, token_ids(stage.path, texts))
    assert stage.logits(stage.encode(texts)) == pytest.approx(wanted, abs=1e-5)
    assert count_flops(stage.path).token > 0


def test_a_model_that_does_not_run_is_refused_when_it_is_measured(make_model, tmp_path):
    source = edited(make_model("t5", layers=1), tmp_path / "source", eos_token_id=50256)
    for opened in (write_limits, partial(Stage.from_pretrained, engine="torch")):
        with pytest.raises(StageError, match=rf"{source}: the model does not run"):
            opened(source)


def test_a_longest_input_under_another_name_is_not_read(make_model, tmp_path):
    for number, longest in enumerate((16, 1e30)):
        changes = {"model_max_length": longest, "max_position_embeddings": 512}
        source = edited(make_model("llama", layers=1), tmp_path / f"source-{number}", **changes)
        stage = staged(source, tmp_path / f"stage-{number}", export=False)
        for folder in (source, stage):
            assert Stage.from_pretrained(folder, engine="torch").tokenizer.max_length == 128


@pytest.mark.parametrize(
    "family, pad, side", [("gpt2", None, "right"), ("gpt2", 0, "right"), ("xlnet", 0, "left")]
)
def test_a_pipeline_pads_batches_with_the_token_of_the_model(make_model, tmp_path, family, pad, side):
    source = edited(make_model(family, layers=1, pad_token_id=pad), tmp_path / "source")
    settings = json.loads((source / "tokenizer_config.json").read_text())
    settings.pop("pad_token")
    (source / "tokenizer_config.json").write_text(json.dumps(settings))
    stage = staged(source, tmp_path / "stage", export=False)
    texts = sentences(30, seed=3)
    wanted = alone(stage, token_ids(stage, texts)).argmax(axis=1).tolist()
    predict = load_pipeline(stage, max_length=64, padding_side=side)
    assert predict(texts, 1) == predict(texts, 8) == wanted


@pytest.mark.parametrize("family", ["llama", "roberta"])
def test_a_padding_token_that_a_checkpoint_has_is_kept(make_model, tmp_path, family):
    config = read_config(staged(make_model(family, layers=1), tmp_path / "stage", export=False))
    assert (config["pad_token_id"], config["vocab_size"]) == (0, len(tiny.VOCABULARY))


def test_a_padding_token_that_the_family_implies_is_written_down(make_model, tmp_path):
    source = shutil.copytree(make_model("roberta", layers=1, pad_token_id=1), tmp_path / "source")
    config = json.loads((source / "config.json").read_text())
    config.pop("pad_token_id", None)
    (source / "config.json").write_text(json.dumps(config))
    assert read_config(staged(source, tmp_path / "stage", export=False))["pad_token_id"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("family", ["gpt2", "bart"])  # the others: `make families`
def test_decoders_answer_on_every_engine_as_transformers_does(exported, family, engine):
    source, folder = exported(family)
    texts = [*ENDINGS, *sentences(30, seed=2, most=40)]
    ids = token_ids(source, texts)
    stage = Stage.from_pretrained(folder, engine=engine, precision="float32")
    rows = stage.encode(texts)
    wanted = alone(source, ids)
    assert stage.logits(rows) == pytest.approx(wanted, abs=1e-4)
    together = stage.engine.logits(rows.batch(np.arange(len(rows))))
    assert together == pytest.approx(wanted, abs=1e-4)


@pytest.fixture(scope="module")
def exported(make_model, tmp_path_factory):
    """A maker of decoders, without padding where a family allows it, and of exported stages of them."""
    root, made = tmp_path_factory.mktemp("exported"), {}

    def make(family):
        if family not in made:
            may_lack_padding = family not in (*tiny.ENCODER_DECODERS, "modernbert-decoder")
            padding = {"pad_token_id": None} if may_lack_padding else {}
            source = make_model(family, layers=2, hidden=32, **padding)
            made[family] = source, staged(source, root / family)
        return made[family]

    return make


@pytest.mark.parametrize("family", tiny.ENCODER_DECODERS)
def test_an_encoder_decoder_reads_rows_with_any_number_of_end_tokens(make_model, family):
    folder = make_model(family, layers=1)
    texts = ["a fine film", "dull [SEP] song", "[SEP] [SEP] was [SEP]", "not"]
    stage = Stage.from_pretrained(folder, engine="torch")
    assert stage.logits(stage.encode(texts)) == pytest.approx(
        alone(folder, token_ids(folder, texts)), abs=1e-5
    )
    without = concatenate_tokens([[5, 6]], None, Padding())
    with pytest.raises(StageError, match="a text has none"):
        stage.logits(without)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["funnel"])
@pytest.mark.parametrize("command", ["assemble", "fit"])
def test_what_cannot_be_exported_is_refused_in_one_line_before_any_work(
    make_model, tmp_path, family, command
):
    rows = write_csv(tmp_path / "rows.csv", *reviews(160, seed=1))
    stages = [make_model(family, layers=1), make_model(layers=4, hidden=64)]
    data = {"data": rows} if command == "assemble" else {"train": rows}
    with pytest.raises(StageError, match=rf"{family} models run with --engine torch only") as error:
        {
            "assemble": assemble,
            "fit": partial(fit, target=Target(speedup=1.1), config=FitConfig(max_length=32)),
        }[command](**data, stages=stages, output=tmp_path / "c", engine="openvino")
    assert str(error.value).count("\n") == 1 and "\x1b" not in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.csv"]


@pytest.mark.slow
def test_an_engine_that_computes_other_logits_is_refused(make_model, tmp_path):
    source = make_model("fnet", layers=1)
    files = StageFiles("fnet", staged(source, tmp_path / "stage", export=False), source, source)
    check = partial(load_checked, files, sentences(20, seed=3), precision="float32", max_length=32)
    with pytest.raises(StageError, match="on openvino its logits differ"):
        check(engine="openvino")
    assert check(engine="onnxruntime").tokenizer.padding.side == "none"


@pytest.mark.slow
@pytest.mark.parametrize("family", ["longformer", "funnel"])
def test_what_cannot_be_exported_runs_in_torch(make_model, tmp_path, family):
    rows = write_csv(tmp_path / "rows.csv", *reviews(160, seed=1))
    stages = [make_model(family, layers=1), make_model(layers=4, hidden=64)]
    stage = assemble(stages, data=rows, output=tmp_path / "c").stages[0]
    texts = sentences(20, seed=3)
    wanted = alone(stages[0], token_ids(stages[0], texts))
    assert stage.logits(stage.encode(texts)) == pytest.approx(wanted, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_a_decoder_is_trained_into_a_stage(make_model, tmp_path, family):
    padding = {} if family == "t5" else {"pad_token_id": None}
    stages = [make_model(family, layers=1, **padding), make_model(layers=4, hidden=64)]
    rows = write_csv(tmp_path / "rows.csv", *reviews(200, seed=1))
    config = FitConfig(max_length=32, epochs=1)
    cascade = fit(
        rows,
        stages=stages,
        target=Target(speedup=1.1),
        output=tmp_path / "c",
        config=config,
        engine="torch",
    )
    stage, texts = cascade.stages[0], [*ENDINGS, *sentences(20, seed=3)]
    found = stage.logits(stage.encode(texts))
    assert found == pytest.approx(alone(stage.path, token_ids(stage.path, texts)), abs=1e-4)
