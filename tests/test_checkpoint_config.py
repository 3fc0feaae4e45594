"""A checkpoint's config.json: what transformers makes of it, or a refusal with the reason."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from cascadebert.errors import CascadeError, FolderError, StageError
from cascadebert.inference.engines.torch import quiet_transformers
from cascadebert.inference.stage import Stage
from cascadebert.persistence.checkpoint_config import config_label_names, config_pad_id, read_config
from cascadebert.persistence.folder import read_folder
from cascadebert.training.checkpoints import count_flops
from cascadebert.training.open_stage import open_checkpoint
from samples import reviews, write_csv

TEXTS = ["a fine film", "dull", "the story was not very bright and the scene was weak"]
REMOVED = object()


def edited(source: Path, target: Path, changes: dict, file: str = "config.json") -> Path:
    """A copy of a checkpoint with entries of a JSON file replaced or removed."""
    shutil.copytree(source, target)
    content = {**json.loads((target / file).read_text()), **changes}
    kept = {key: value for key, value in content.items() if value is not REMOVED}
    (target / file).write_text(json.dumps(kept))
    return target


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"id2label": {"0": "no", "1": "yes", "2": "maybe"}},
        {"id2label": {"2": "maybe", "1": "yes", "0": "no"}},
        {"id2label": {"0": "no", "1": "yes"}, "num_labels": 3},
        {"id2label": {"0": "no", "1": "yes"}, "num_labels": 2.0},
        {"id2label": REMOVED},
        {"id2label": None, "num_labels": 3},
        {"id2label": {}, "num_labels": 4},
        {"id2label": {"0": 5, "1": 6}},
        {"id2label": {"0": "a", "00": "b", "1": "c"}},
        {"id2label": {str(i): f"LABEL_{i}" for i in range(12)}},
        {"id2label": REMOVED, "model_type": "bart"},
        {"id2label": REMOVED, "model_type": "bart", "num_labels": 4},
        {"id2label": {"0": "no", "1": "yes"}, "model_type": "bart"},
        {"id2label": REMOVED, "model_type": "deberta-v2", "num_labels": 5},
    ],
)
def test_names_of_labels_are_those_of_transformers(make_model, tmp_path, changes):
    folder = edited(make_model(layers=1), tmp_path / "model", changes)
    theirs = AutoConfig.from_pretrained(folder).id2label
    ours = config_label_names(read_config(folder), folder)
    assert ours == tuple(str(theirs[column]) for column in range(len(theirs)))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"id2label": {"1": "a", "2": "b", "3": "c"}}, "names the columns 1, 2, 3; expected 0 to 2"),
        ({"id2label": ["a", "b"]}, "expected names by column"),
        ({"id2label": {"x": "a", "y": "b"}}, "expected names by column"),
        ({"id2label": {"0": None, "1": "b"}}, "expected names"),
        ({"id2label": {"0": "a", "1": "a"}}, "two or more distinct labels"),
        ({"id2label": {str(i): "a" for i in range(99)}}, "and 87 more$"),
        ({"num_labels": "3"}, "num_labels: '3'; expected a whole number"),
        ({"num_labels": 1}, "two or more distinct labels"),
        ({"problem_type": "regression"}, "expected a single-label classifier"),
    ],
)
def test_labels_that_are_not_names_by_column_are_refused(changes, message):
    with pytest.raises(StageError, match=message):
        config_label_names(changes, Path("model"))


@pytest.mark.parametrize("value, expected", [(None, 0), (-1, 0), (0, 0), (7, 7)])
def test_a_padding_id_that_is_absent_or_none_is_0(value, expected):
    assert config_pad_id({"pad_token_id": value}, Path("model")) == expected


@pytest.mark.parametrize("value", ["0", 1.0, [1], True, -7])
def test_a_padding_id_that_is_no_id_is_refused(value):
    with pytest.raises(StageError, match=r"pad_token_id: .*; expected a whole number"):
        config_pad_id({"pad_token_id": value}, Path("model"))


JUNK = st.sampled_from(
    [None, "1", "x", 0, 1, 2, 3, -1, 2.0, 0.5, True, False, [], ["a"], {}, {"0": "a"}, REMOVED]
)
ENTRIES = """
    vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size hidden_act layer_norm_eps
    max_position_embeddings type_vocab_size pad_token_id bos_token_id problem_type num_labels id2label
    label2id architectures model_type dtype torch_dtype is_decoder is_encoder_decoder add_cross_attention
    use_cache return_dict output_hidden_states output_attentions tie_word_embeddings classifier_dropout
    hidden_dropout_prob pruned_heads name_or_path unknown
""".split()
NAMES = st.lists(st.text("ab _1", min_size=1, max_size=3), min_size=1, max_size=4)
LABELS = st.one_of(
    NAMES.map(lambda names: {str(i): name for i, name in enumerate(names)}),
    NAMES.map(lambda names: {str(i + 1): name for i, name in enumerate(names)}),
    st.permutations([("0", "no"), ("1", "yes")]).map(dict),
)
PLAUSIBLE = (
    st.tuples(st.just("id2label"), LABELS),
    st.tuples(st.just("model_type"), st.sampled_from(["bert", "roberta", "electra", "static", "nothing"])),
    st.tuples(st.just("hidden_act"), st.sampled_from(["relu", "gelu_new", "swish", "nothing"])),
    st.tuples(st.just("_attn_implementation"), st.sampled_from(["eager", "sdpa", "flash_attention_2", "x"])),
    st.tuples(st.just("dtype"), st.sampled_from(["float16", "bfloat16", "float32", "int8"])),
    st.tuples(st.just("problem_type"), st.sampled_from(["single_label_classification", "regression"])),
    st.tuples(st.just("layer_norm_eps"), st.sampled_from([1e-5, 1e-2])),
    st.tuples(st.just("quantization_config"), st.sampled_from([None, {"quant_method": "awq", "bits": 4}])),
)
CONFIG_EDITS = st.lists(
    st.one_of(*PLAUSIBLE, st.tuples(st.sampled_from(ENTRIES), JUNK)), min_size=1, max_size=3
).map(dict)


def answers_of_transformers(folder: Path) -> list[tuple[str, list[float]]]:
    """Label and logits of each text, alone; as `pipeline` does, every column needs a name."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    answers = []
    for text in TEXTS:
        with torch.inference_mode():
            logits = model(**tokenizer(text, return_tensors="pt"))[0][0]
        names = [str(model.config.id2label[column]) for column in range(len(logits))]
        answers.append((names[int(logits.argmax())], logits.tolist()))
    return answers


def check_same_or_refused(folder: Path) -> bool:
    """Compare a stage's answers with those of transformers; False if the checkpoint is refused."""
    try:
        stage = Stage.from_pretrained(folder, engine="torch", precision="float32")
        count_flops(folder)
        logits, labels = stage.logits(stage.encode(TEXTS)), stage.predict(TEXTS).labels
    except CascadeError as error:
        assert str(folder) in str(error) or "labels" in str(error)
        assert "\n" not in str(error) and len(str(error)) < 600
        return False
    with quiet_transformers():
        theirs = answers_of_transformers(folder)
    assert labels.tolist() == [label for label, _ in theirs]
    assert logits == pytest.approx(torch.tensor([values for _, values in theirs]).numpy(), abs=1e-4)
    return True


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(changes=CONFIG_EDITS)
def test_an_edited_configuration_gives_transformers_answers_or_is_refused(make_model, changes):
    with tempfile.TemporaryDirectory() as temporary:
        check_same_or_refused(edited(make_model(layers=1), Path(temporary) / "model", changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"return_dict": False},
        {"output_hidden_states": True},
        {"output_attentions": True},
        {"pad_token_id": -1},
        {"pad_token_id": None},
        {"is_decoder": True},
        {"dtype": "float16"},
    ],
)
def test_a_configuration_that_transformers_runs_runs(make_model, tmp_path, changes):
    assert check_same_or_refused(edited(make_model(layers=1), tmp_path / "model", changes))


def test_feed_forward_chunks_that_do_not_divide_the_length_run(make_model, tmp_path):
    folder = edited(make_model(layers=1), tmp_path / "model", {"chunk_size_feed_forward": 7})
    stage, whole = Stage.from_pretrained(folder), Stage.from_pretrained(make_model(layers=1))
    assert stage.predict(TEXTS).probabilities.tolist() == whole.predict(TEXTS).probabilities.tolist()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"num_hidden_layers": "1"}, "num_hidden_layers: '1'; expected a whole number"),
        ({"hidden_size": 16.0}, "hidden_size: 16.0; expected a whole number"),
        ({"vocab_size": None}, "'vocab_size' expected int, got NoneType"),
        ({"max_position_embeddings": [66]}, r"max_position_embeddings: \[66\]; expected"),
        ({"num_attention_heads": 0}, "not a classifier that transformers can open"),
        ({"_attn_implementation": "flash_attention_2"}, "FlashAttention2 .* installed"),
        ({"num_labels": 3}, r"gives 2 logits .* config.json names 3 labels"),
        ({"id2label": {"0": "a", "1": "b", "2": "c"}}, r"gives 2 logits .* config.json names 3 labels"),
        ({"hidden_size": 32}, "config.json does not fit the weights"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused_with_the_reason(make_model, tmp_path, changes, message):
    folder = edited(make_model(layers=1), tmp_path / "model", changes)
    with pytest.raises(StageError, match=message):
        Stage.from_pretrained(folder)


@pytest.mark.parametrize(
    "settings, name",
    [
        ({"quant_method": "gptq", "bits": 4}, "gptq"),
        ({"quant_method": "awq"}, "awq"),
        ({"quant_method": "compressed-tensors"}, "compressed-tensors"),
        ({"load_in_8bit": True}, "bitsandbytes"),
        ({}, "an unknown method"),
    ],
)
def test_a_quantized_checkpoint_is_refused_by_name_with_the_remedy(make_model, tmp_path, settings, name):
    folder = edited(make_model(layers=1), tmp_path / "model", {"quantization_config": settings})
    for opened in (Stage.from_pretrained, count_flops):
        with pytest.raises(StageError, match=f"quantized with {name}; .*dequantize it"):
            opened(folder)


@pytest.mark.parametrize(
    "content, message",
    [
        (b'\xef\xbb\xbf{"model_type": "bert"}', "BOM"),
        (b"[1, 2]", "is a list; expected an object"),
        (b'{"model_type": ', "no readable config.json"),
        (b"\xff\xfe", "no readable config.json"),
    ],
)
def test_a_file_that_holds_no_configuration_is_refused(make_model, tmp_path, content, message):
    shutil.copytree(make_model(layers=1), tmp_path / "model")
    (tmp_path / "model" / "config.json").write_bytes(content)
    with pytest.raises(StageError, match=message):
        Stage.from_pretrained(tmp_path / "model")


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_git_lfs_pointer_is_named_with_the_command(make_model, tmp_path, name):
    shutil.copytree(make_model(layers=1), tmp_path / "model")
    (tmp_path / "model" / name).write_bytes(POINTER)
    with pytest.raises(StageError, match=rf"{name} is a Git LFS pointer.*`git lfs pull`"):
        Stage.from_pretrained(tmp_path / "model")


def test_a_pointer_inside_a_cascade_is_not_called_a_changed_file(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "cascade")
    (tmp_path / "cascade" / "stage-2" / "model.safetensors").write_bytes(POINTER)
    with pytest.raises(StageError, match="`git lfs pull`"):
        read_folder(tmp_path / "cascade")
    (tmp_path / "cascade" / "stage-2" / "model.safetensors").unlink()
    with pytest.raises(FolderError, match="removed"):
        read_folder(tmp_path / "cascade")


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_a_truncated_download_is_named(make_model, tmp_path, name, share):
    shutil.copytree(make_model(layers=1), tmp_path / "model")
    file = tmp_path / "model" / name
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    with pytest.raises(StageError, match=rf"{name} is damaged, or was not downloaded completely"):
        Stage.from_pretrained(tmp_path / "model")


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.json"])
def test_a_truncated_vocabulary_is_named_by_assemble_too(make_model, tmp_path, name):
    shutil.copytree(make_model(layers=1), tmp_path / "model")
    (tmp_path / "model" / name).write_text('{"version": ')
    with pytest.raises(StageError, match=rf"{name} is damaged.*Download it again"):
        open_checkpoint(tmp_path / "model", tmp_path)


def test_folders_that_are_no_checkpoint_are_told_what_they_are(saved, make_model, tmp_path, run):
    adapter, empty, files = (tmp_path / name for name in ("adapter", "empty", "files"))
    for folder in (adapter, empty, files):
        folder.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    (files / "notes.md").touch()
    data = write_csv(tmp_path / "rows.csv", *reviews(20, seed=1))
    expected = {
        saved: f"a saved cascade, not one classifier. Give one of its stages, such as {saved}/stage-1.",
        adapter: "an adapter",
        empty: "no config.json (the folder is empty)",
        files: "no config.json (found: notes.md)",
        make_model(
            layers=1, labels=None
        ): "never fine-tuned as a classifier. Train it with `cascadebert fit`.",
    }
    for folder, message in expected.items():
        words = ("--stage", folder, "--stage", make_model(layers=2), "--data", data, "--target-speedup", 1.1)
        code, _, said = run("assemble", *words, "--output", tmp_path / "c", "--engine", "torch")
        assert code == 2 and f"{folder}: " in said and message in said and "pickle" not in said


@pytest.mark.parametrize(
    "changes",
    [{"num_attention_heads": "2"}, {"vocab_size": None}, {"_attn_implementation": "flash_attention_2"}],
)
def test_the_command_line_reports_a_refused_configuration_in_one_line(make_model, tmp_path, run, changes):
    folder = edited(make_model(layers=1), tmp_path / "model", changes)
    data = write_csv(tmp_path / "rows.csv", *reviews(20, seed=1))
    words = ("--stage", folder, "--stage", make_model(layers=2), "--data", data, "--target-speedup", 1.1)
    code, _, said = run("assemble", *words, "--output", tmp_path / "c", "--engine", "torch")
    assert code == 2 and said.startswith(f"error: {folder}: not a classifier") and said.count("\n") == 1
