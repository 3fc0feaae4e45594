"""Checkpoints as people have them: adapters, SentencePiece tokenizers, classifiers of other libraries."""

from __future__ import annotations

import json
import shutil

import joblib
import numpy as np
import pytest
import sentencepiece
import torch
from peft import LoraConfig, TaskType, get_peft_model
from safetensors.torch import load_file, save_file
from sklearn.linear_model import LogisticRegression
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import cascadebert
from cascadebert import Target
from cascadebert.errors import MissingExtra, StageError
from cascadebert.inference.stage import Stage
from cascadebert.inference.tokenizer import StageTokenizer
from cascadebert.training.open_stage import open_checkpoint, opened_classifiers
from cascadebert.training.tokenizer_files import check_tokenizer, copy_tokenizer
from samples import reviews, sentences, write_csv

TEXTS = sentences(20, seed=7)
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # of peft's own


def logits(model, folder, texts=TEXTS):
    """Logits of a model on texts, one at a time."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        rows = [tokenizer(text, return_tensors="pt") for text in texts]
        return np.concatenate([model(input_ids=row["input_ids"]).logits.numpy() for row in rows])


@pytest.fixture
def adapter(make_model, tmp_path):
    """A maker of a saved adapter and the logits of the model that it belongs to."""

    def make(family="bert", *, labels=3, base=None, **settings):
        base = base or make_model(family, labels=None)
        model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=labels)
        targets = {"gpt2": ["c_attn"], "llama": ["q_proj"]}.get(family, ["query", "value"])
        config = {"r": 2, "target_modules": targets, "init_lora_weights": False, **settings}
        config["fan_in_fan_out"] = family == "gpt2"
        adapted = get_peft_model(model, LoraConfig(task_type=TaskType.SEQ_CLS, **config)).eval()
        adapted.save_pretrained(tmp_path / "adapter")
        return tmp_path / "adapter", logits(adapted, base)

    return make


@pytest.mark.parametrize("family", ["bert", "roberta", "llama", "gpt2"])
def test_an_adapter_is_merged_into_its_base_model(adapter, tmp_path, family):
    folder, wanted = adapter(family)
    merged = open_checkpoint(folder, tmp_path / "merged")
    stage = Stage.from_pretrained(merged, engine="torch")
    assert stage.num_labels == 3
    found = np.concatenate([stage.logits(stage.encode([text])) for text in TEXTS])
    assert found == pytest.approx(wanted, abs=1e-4)


@pytest.mark.slow
def test_an_adapter_is_a_stage_of_assemble(adapter, make_model, tmp_path):
    base = make_model(layers=1, hidden=16, seed=1)
    folder, wanted = adapter(base=base, labels=2)
    config = json.loads((base / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({"id2label": config["id2label"]}))
    cascade = cascadebert.assemble(
        [folder, make_model(layers=3, hidden=48, seed=3)],
        data=write_csv(tmp_path / "rows.csv", *reviews(160, seed=1)),
        target=Target(speedup=1.5),
        output=tmp_path / "c",
        engine="torch",
    )
    assert cascade.label_names == ("negative", "positive") and cascade.stages[0].name == "adapter"
    assert cascade.stages[0].logits(cascade.stages[0].encode(TEXTS)) == pytest.approx(wanted, abs=1e-4)


def test_an_adapter_without_peft_or_its_base_model_says_what_is_missing(adapter, tmp_path, monkeypatch):
    folder, _ = adapter()
    edited = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**edited, "base_model_name_or_path": "no/such"}))
    with pytest.raises(
        StageError, match=r"base model 'no/such' is not found. Correct base_model_name_or_path"
    ):
        open_checkpoint(folder, tmp_path / "merged")
    monkeypatch.setattr("cascadebert.training.open_stage.find_spec", lambda name: None)
    with pytest.raises(StageError, match=r"an adapter, not a complete model. To merge it: pip install peft"):
        open_checkpoint(folder, tmp_path / "merged")


@pytest.mark.parametrize("content", [None, "", 5])
def test_an_adapter_that_names_no_base_model_does_not_take_the_current_folder(
    adapter, make_model, tmp_path, monkeypatch, content
):
    folder, _ = adapter()
    edit(folder, base_model_name_or_path=content)
    monkeypatch.chdir(make_model(labels=None))
    with pytest.raises(StageError, match=r"names no base model.*base_model_name_or_path|cannot merge"):
        open_checkpoint(folder, tmp_path / "merged")


def edit(folder, file="adapter_config.json", **changes):
    """Replace entries of a JSON file."""
    (folder / file).write_text(json.dumps({**json.loads((folder / file).read_text()), **changes}))


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda folder, make: edit(folder, r=3), "cannot merge"),
        (lambda folder, make: edit(folder, target_modules=["no_such"]), "cannot merge"),
        (lambda folder, make: edit(folder, peft_type="NO_SUCH"), "cannot merge"),
        (lambda folder, make: edit(folder, base_model_name_or_path=str(make(hidden=32))), "cannot merge"),
        (lambda folder, make: (folder / "adapter_config.json").write_text("{"), "cannot merge"),
        (lambda folder, make: (folder / "adapter_config.json").write_text("{}"), "names no base model"),
        (lambda folder, make: (folder / "config.json").write_text('{"id2label": {"x": "a"}}'), "id2label"),
    ],
    ids=["rank", "modules", "type", "size", "no JSON", "empty", "labels"],
)
def test_a_damaged_adapter_is_refused_with_the_reason(adapter, make_model, tmp_path, damage, message):
    folder, _ = adapter()
    damage(folder, make_model)
    with pytest.raises(StageError, match=rf"{folder}: .*{message}"):
        open_checkpoint(folder, tmp_path / "merged")


@pytest.mark.parametrize("family", ["roberta", "electra", "distilbert"])
def test_an_adapter_may_have_more_labels_than_its_model_is_wide(adapter, tmp_path, family):
    targets = ["q_lin"] if family == "distilbert" else ["query"]
    folder, wanted = adapter(family, labels=40, target_modules=targets)
    stage = Stage.from_pretrained(open_checkpoint(folder, tmp_path / "merged"), engine="torch")
    assert stage.logits(stage.encode(TEXTS[:1])) == pytest.approx(wanted[:1], abs=1e-4)


DAMAGED_WEIGHTS = {
    "empty": (lambda file: file.write_bytes(b""), "is damaged, or was not downloaded completely"),
    "cut": (lambda file: file.write_bytes(file.read_bytes()[:900]), "is damaged, or was not downloaded"),
    "short": (lambda file: file.write_bytes(b"\x80\x02."), "is damaged, or was not downloaded completely"),
    "code": (lambda file: torch.save({"a": reviews}, file), "without running code in the file"),
}


@pytest.mark.parametrize("damage, message", DAMAGED_WEIGHTS.values(), ids=DAMAGED_WEIGHTS)
def test_damaged_weights_of_torch_are_told_from_weights_with_code(tmp_path, damage, message):
    file = tmp_path / "pytorch_model.bin"
    torch.save({"a": torch.zeros(300)}, file)
    damage(file)
    with pytest.raises(StageError, match=message):
        open_checkpoint(tmp_path, tmp_path / "merged")


@pytest.mark.parametrize("change", ["lost", "renamed"])
def test_an_adapter_whose_tensors_do_not_fit_is_refused(adapter, tmp_path, change):
    folder, _ = adapter()
    tensors = load_file(folder / "adapter_model.safetensors")
    name = next(name for name in tensors if "lora_A" in name)
    tensor = tensors.pop(name)
    if change == "renamed":
        tensors[name.replace("layer.0", "layer.9").replace("layer.1", "layer.9")] = tensor
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(StageError, match="are not those that"):
        open_checkpoint(folder, tmp_path / "merged")


def test_an_adapter_without_a_part_of_the_head_is_refused(adapter, make_model, tmp_path):
    base = shutil.copytree(make_model(labels=None), tmp_path / "base")
    weights = load_file(base / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "pooler" not in name}
    save_file(kept, base / "model.safetensors", metadata={"format": "pt"})
    folder, _ = adapter(base=base)
    with pytest.raises(StageError, match=r"holds the weights bert.pooler.dense.weight.*modules_to_save"):
        open_checkpoint(folder, tmp_path / "merged")


def test_a_setfit_model_of_the_hub_is_named_without_its_pickle(make_model, tmp_path):
    folder = shutil.copytree(make_model(labels=None), tmp_path / "setfit")
    (folder / "config_setfit.json").write_text('{"labels": null, "normalize_embeddings": false}')
    with pytest.raises(StageError, match=r"a SetFit model"), opened_classifiers([folder]):
        pass


def test_a_setfit_model_is_named_and_its_pickle_stays_closed(make_model, tmp_path):
    folder = shutil.copytree(make_model(labels=None), tmp_path / "setfit")
    (folder / "modules.json").write_text("[]")
    head = LogisticRegression().fit(np.eye(2), [0, 1])
    joblib.dump(head, folder / "model_head.pkl")
    with (
        pytest.raises(StageError, match=r"a SetFit model. Its head is a pickle"),
        opened_classifiers([folder]),
    ):
        pass


@pytest.mark.parametrize("name", ["head.safetensors", "pipeline.skops", "config.json"])
def test_a_model2vec_model_is_named(make_model, tmp_path, name):
    folder = shutil.copytree(make_model(labels=None), tmp_path / "model2vec")
    if name == "config.json":
        (folder / name).write_text('{"model_type": "model2vec", "architectures": ["StaticModel"]}')
    else:
        save_file({}, folder / name)
    with pytest.raises(StageError, match=r"a model2vec model.*fit --stage static"):
        with opened_classifiers([folder]):
            pass


SENTENCEPIECE = {
    "albert": "spiece.model",
    "camembert": "sentencepiece.bpe.model",
    "deberta-v2": "spm.model",
    "mt5": "spiece.model",
    "t5": "spiece.model",
    "xlm-roberta": "sentencepiece.bpe.model",
    "xlnet": "spiece.model",
    "llama": "tokenizer.model",
}


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    """A SentencePiece model of the tiny sentences."""
    folder = tmp_path_factory.mktemp("pieces")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(reviews(300, seed=1)[0]),
        model_prefix=str(folder / "spm"),
        vocab_size=50,
        control_symbols=["[CLS]", "[SEP]", "[MASK]"],
        pad_id=3,
        minloglevel=2,
    )
    return folder / "spm.model"


@pytest.mark.parametrize("family", sorted(SENTENCEPIECE))
def test_a_tokenizer_of_sentencepiece_only_is_converted_as_transformers_does(
    make_model, pieces, tmp_path, family
):
    folder = shutil.copytree(make_model(family), tmp_path / "source")
    for file in folder.glob("tokenizer*"):
        file.unlink()
    shutil.copyfile(pieces, folder / SENTENCEPIECE[family])
    (tmp_path / "stage").mkdir()
    shutil.copyfile(folder / "config.json", tmp_path / "stage" / "config.json")
    copy_tokenizer(folder, tmp_path / "stage")
    rows = StageTokenizer(tmp_path / "stage", max_length=128).encode(TEXTS)
    wanted = AutoTokenizer.from_pretrained(folder)(TEXTS)["input_ids"]
    assert [ids.tolist() for ids in np.split(rows.ids, rows.starts[1:-1])] == wanted
    assert len({*rows.ids.tolist()}) > 20


def test_without_the_sentencepiece_library_the_missing_package_is_named(pieces, tmp_path, monkeypatch):
    shutil.copyfile(pieces, tmp_path / "spm.model")
    monkeypatch.setitem(__import__("sys").modules, "sentencepiece", None)
    with pytest.raises(MissingExtra, match=r"sentencepiece is not installed.*cascadebert\[train\]"):
        check_tokenizer(tmp_path)


@pytest.mark.slow
def test_an_adapter_is_trained_into_a_stage(make_model, adapter, tmp_path):
    rows, (folder, _) = write_csv(tmp_path / "rows.csv", *reviews(160, seed=1)), adapter(labels=2)
    cascade = cascadebert.fit(
        rows,
        stages=[make_model(layers=1, hidden=8), folder],
        target=Target(speedup=1.1),
        output=tmp_path / "c",
        engine="torch",
        config=cascadebert.FitConfig(epochs=1, max_length=32),
    )
    assert cascade.stages[1].name == folder.name
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("c")) == ["c"]
