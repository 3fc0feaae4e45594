"""Distillation: sizes, initial weights, training, resuming, refused input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from cascadebert import CascadeError, distill
from cascadebert.errors import DataError, FolderError, StageError
from cascadebert.persistence.folder import file_hashes
from cascadebert.training.config import DistillConfig
from cascadebert.training.distillation.student import StudentSize, make_student, open_encoder, spread_layers
from cascadebert.training.distillation.trainer import HiddenStateObjective, Students
from killing import run_killed
from samples import sentences

FAMILIES = ["bert", "roberta", "distilbert", "electra", "modernbert"]
QUICK = DistillConfig(max_length=32, batch_tokens=512, bf16=False, max_tokens=30_000, learning_rate=3e-3)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    file = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    file.write_text("\n".join(sentences(2500, seed=1, most=30)), "utf-8")
    return file


@pytest.fixture(scope="module")
def large(make_model):
    return make_model(layers=3, hidden=32, labels=None)


@pytest.fixture(scope="module")
def students(large, corpus):
    """One student of full width and one narrow one, made in one run."""
    output = corpus.parent / "students"
    made = distill(large, num_layers=[2, 1], hidden_size=[32, 16], corpus=corpus, output=output, config=QUICK)
    return output, made


def weights(folder: Path) -> dict[str, np.ndarray]:
    return load_file(folder / "model.safetensors")


@pytest.mark.slow
def test_students_have_the_size_asked_for_and_copy_most_of_the_hidden_states(students):
    output, made = students
    assert [(student.path, student.layers, student.hidden) for student in made.students] == [
        (output / "2x32", 2, 32), (output / "1x16", 1, 16),
    ]  # fmt: skip
    assert made.complete and made.padding < 0.05 and made.tokens_per_second > 0
    assert abs(made.tokens - 30_000) < 64
    assert made.students[0].held_out_loss < 0.3 and made.students[1].held_out_loss < 0.7
    assert not output.with_name("students.work").exists()
    for student in made.students:
        model = AutoModel.from_pretrained(student.path)
        assert (model.config.num_hidden_layers, model.config.hidden_size) == (student.layers, student.hidden)
        assert sum(w.numel() for w in model.parameters()) >= student.parameters


@pytest.mark.slow
def test_the_card_describes_how_a_student_was_made(students, corpus):
    output, made = students
    card = (output / "1x16" / "README.md").read_text()
    for fact in ("corpus.txt: 2,500 documents", f"{made.tokens:,} tokens", "bert-3-32", "sha256", "0.003"):
        assert fact in card
    assert str(corpus.parent) not in card


@pytest.mark.slow
def test_a_student_of_several_has_the_weights_of_one_made_alone(students, large, corpus, tmp_path):
    output, _ = students
    distill(large, num_layers=1, hidden_size=16, corpus=corpus, output=tmp_path / "alone", config=QUICK)
    together, alone = weights(output / "1x16"), weights(tmp_path / "alone")
    assert together.keys() == alone.keys()
    assert all(np.array_equal(together[name], alone[name]) for name in alone)


@pytest.mark.slow
def test_a_students_tokenizer_gives_the_large_models_numbers(students, large):
    output, _ = students
    ours, theirs = (AutoTokenizer.from_pretrained(path) for path in (output / "2x32", large))
    for text in ("a fine film", "", "Ünknown \U0001f600 words\t\n", "[SEP] [MASK]", "x" * 500):
        assert ours(text)["input_ids"] == theirs(text)["input_ids"]


KILLED = """
from cascadebert import distill
from cascadebert.training.trainer import LossTrainer
import test_distill
kill_at(LossTrainer, "compute_loss", int(sys.argv[1]))
distill(sys.argv[2], num_layers=[2, 1], hidden_size=[32, 16], corpus=sys.argv[3], output=sys.argv[4],
        config=test_distill.QUICK)
"""


@pytest.mark.slow
@pytest.mark.parametrize("step", [3, 58])
def test_an_interrupted_run_resumes_and_ends_in_the_same_weights(students, large, corpus, tmp_path, step):
    run_killed(KILLED, step, large, corpus, tmp_path / "students")
    assert not (tmp_path / "students").exists() and (tmp_path / "students.work").is_dir()
    made = distill(
        large,
        num_layers=[2, 1],
        hidden_size=[32, 16],
        corpus=corpus,
        output=tmp_path / "students",
        config=QUICK,
    )
    assert [s.held_out_loss for s in made.students] == [s.held_out_loss for s in students[1].students]
    for name in ("2x32", "1x16"):
        assert file_hashes(tmp_path / "students" / name) == file_hashes(students[0] / name)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_complete_students_that_fine_tune(make_model, corpus, tmp_path, family):
    teacher = make_model(family, layers=3, hidden=32, labels=None)
    made = distill(
        teacher, num_layers=[1, 2], hidden_size=[32, 16], corpus=corpus, output=tmp_path / "s", config=QUICK
    )
    for student in made.students:
        assert student.held_out_loss < 1
        model = AutoModelForSequenceClassification.from_pretrained(student.path, num_labels=3)
        ids = torch.tensor([[2, 7, 8, 3]])
        assert model(input_ids=ids).logits.shape == (1, 3)
        assert model.config.num_hidden_layers == student.layers


@pytest.mark.parametrize("family", FAMILIES)
def test_without_a_corpus_the_first_layers_are_cut_off_and_called_not_complete(make_model, tmp_path, family):
    teacher = make_model(family, layers=3, hidden=32)
    made = distill(teacher, num_layers=1, output=tmp_path / "small")
    assert not made.complete and made.students[0].held_out_loss is None
    assert "NOT a complete" in (tmp_path / "small" / "README.md").read_text()
    encoder = AutoModelForSequenceClassification.from_pretrained(tmp_path / "small", num_labels=2)
    assert encoder.config.num_hidden_layers == 1


def test_cut_layers_are_the_large_models_own(large, tmp_path):
    distill(large, num_layers=2, output=tmp_path / "small")
    whole, part = weights(large), weights(tmp_path / "small")
    assert {name for name in whole if "layer.2." not in name} == set(part)
    assert all(np.array_equal(part[name], whole[name]) for name in part)


def test_layers_and_tables_of_the_same_width_start_as_the_large_models(large):
    teacher = open_encoder(large)
    student = make_student(teacher, StudentSize(2, 32), layers=spread_layers(3, 2))
    given, own = teacher.state_dict(), student.state_dict()
    assert len(own) < len(given)
    for name, weight in own.items():
        behind = name.replace("layer.1.", "layer.2.")
        assert torch.equal(weight, given[behind]), name


def test_a_narrow_token_table_keeps_as_much_of_the_large_one_as_any_can(large):
    teacher = open_encoder(large)
    student = make_student(teacher, StudentSize(1, 16), layers=(2,))
    table = teacher.get_input_embeddings().weight.detach().double()
    narrow = student.get_input_embeddings().weight.detach().double()
    table = table - table.mean(dim=0)
    found = torch.linalg.lstsq(narrow, table).solution
    left = (narrow @ found - table).square().sum()
    best = torch.linalg.svdvals(table)[16:].square().sum()
    assert left == pytest.approx(best.item(), rel=1e-4)


def test_a_token_table_may_have_a_width_of_its_own_where_the_family_has(make_model):
    teacher = open_encoder(make_model("electra", layers=2, hidden=32, labels=None))
    student = make_student(teacher, StudentSize(1, 16, embedding=4), layers=(1,))
    assert student.get_input_embeddings().weight.shape[1] == 4 and student.config.hidden_size == 16
    assert student(input_ids=torch.tensor([[2, 7, 3]])).last_hidden_state.shape == (1, 3, 16)


def test_students_learn_without_dropout(large):
    teacher = open_encoder(large)
    module = Students(
        teacher, [make_student(teacher, StudentSize(1, 16), layers=(0,))], HiddenStateObjective(), seed=0
    )
    assert not any(part.training for part in module.train().modules())


def test_the_loss_is_one_for_a_constant_and_zero_for_a_copy():
    torch.manual_seed(0)
    wanted, mask = torch.randn(4, 6, 8), torch.ones(4, 6, dtype=torch.bool)
    mask[0, 4:] = False
    objective, projection = HiddenStateObjective(), torch.nn.Identity()
    constant = wanted[mask].mean(dim=0).expand(4, 6, 8)
    target = objective.target(wanted, mask)
    assert objective.loss(projection, wanted, target, mask).item() == 0
    assert objective.loss(projection, constant, target, mask).item() == pytest.approx(1, abs=0.06)
    changed = wanted.clone()
    changed[0, 4:] = 1e6  # padding
    assert objective.loss(projection, changed, target, mask).item() == 0


@pytest.mark.slow
def test_a_large_model_without_a_pooler_teaches_too(large, corpus, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    model = AutoModel.from_pretrained(large, add_pooling_layer=False)
    model.save_pretrained(bare)
    AutoTokenizer.from_pretrained(large).save_pretrained(bare)
    assert not any("pooler" in name for name in weights(bare))
    distill(bare, num_layers=1, corpus=corpus, output=tmp_path / "s", config=QUICK)
    assert not any("pooler" in name for name in weights(tmp_path / "s"))  # none is made up
    AutoModelForSequenceClassification.from_pretrained(tmp_path / "s", num_labels=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_layers": 4}, r"3 layers; --num-layers must be 1 to 3, not 4"),
        ({"num_layers": 0}, r"must be 1 to 3, not 0"),
        ({"num_layers": 3}, r"are the large model itself"),
        ({"num_layers": 1, "hidden_size": 24}, r"multiple of 16 up to 32, not 24"),
        ({"num_layers": 1, "hidden_size": 64}, r"multiple of 16 up to 32, not 64"),
        ({"num_layers": [1, 2], "hidden_size": [16, 16, 32]}, r"given: 3 and 2"),
        ({"num_layers": [1, 1]}, r"asked for twice: 1x32, 1x32"),
        ({"num_layers": 1, "embedding_size": 4}, r"in bert models the token table is as wide as a layer"),
        ({"num_layers": 1, "corpus": "none.txt"}, r"none.txt: no such file or folder"),
        ({"num_layers": 1, "config": DistillConfig(max_length=500)}, r"4 to 64 tokens is possible, not 500"),
    ],
)
def test_impossible_sizes_are_refused_before_anything_is_read(large, corpus, tmp_path, options, message):
    with pytest.raises(CascadeError, match=message):
        distill(large, **{"corpus": corpus, "output": tmp_path / "s", "config": QUICK, **options})
    assert list(tmp_path.iterdir()) == []


def test_a_narrow_student_needs_a_corpus(large, tmp_path):
    with pytest.raises(CascadeError, match=r"nothing is trained. Give --corpus"):
        distill(large, num_layers=1, hidden_size=16, output=tmp_path / "s")


def test_a_corpus_that_is_too_small_leaves_no_output(large, tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\n\nthree\n")
    with pytest.raises(DataError, match="at least 10,000 are needed"):
        distill(large, num_layers=1, corpus=tmp_path / "a.txt", output=tmp_path / "s", config=QUICK)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt"]


@pytest.mark.slow
def test_a_line_of_a_megabyte_is_sampled_like_many_short_ones(large, tmp_path):
    (tmp_path / "a.txt").write_text("a fine film. the story was dull. " * 10_000)
    config = DistillConfig(max_length=32, batch_tokens=512, bf16=False, max_tokens=10_000)
    made = distill(large, num_layers=1, corpus=tmp_path / "a.txt", output=tmp_path / "s", config=config)
    assert made.tokens == pytest.approx(10_000, abs=32)


def test_an_output_that_holds_or_lies_in_the_corpus_is_refused(large, corpus):
    with pytest.raises(CascadeError, match="which is written"):
        distill(large, num_layers=1, corpus=corpus, output=corpus.parent, overwrite=True, config=QUICK)
    with pytest.raises(CascadeError, match="which is read"):
        distill(large, num_layers=1, corpus=corpus.parent, output=corpus.parent / "s", config=QUICK)
    assert corpus.is_file()


def test_weights_of_more_layers_than_the_configuration_names_are_refused(make_model, corpus, tmp_path):
    folder = shutil.copytree(make_model(layers=3, hidden=32, labels=None), tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 2}))
    with pytest.raises(StageError, match=r"weights are unexpected, such as encoder\.layer\.2"):
        distill(folder, num_layers=1, corpus=corpus, output=tmp_path / "s", config=QUICK)


def test_a_folder_that_is_no_model_is_not_replaced(large, corpus, tmp_path):
    (tmp_path / "s" / "inner").mkdir(parents=True)
    (tmp_path / "s" / "inner" / "thesis.txt").write_text("years")
    (tmp_path / "s" / "inner" / "config.json").write_text("{}")
    with pytest.raises(FolderError, match="not a saved model"):
        distill(large, num_layers=1, corpus=corpus, output=tmp_path / "s", config=QUICK, overwrite=True)


def test_an_encoder_without_its_tokenizer_is_refused(large, corpus, tmp_path):
    (tmp_path / "m").mkdir()
    AutoModel.from_pretrained(large).save_pretrained(tmp_path / "m")
    with pytest.raises(StageError, match="no tokenizer"):
        distill(tmp_path / "m", num_layers=1, corpus=corpus, output=tmp_path / "s", config=QUICK)


def test_settings_out_of_range_are_refused():
    with pytest.raises(CascadeError, match="tokens must be at least 10,000, not 0"):
        DistillConfig(max_tokens=0)


@pytest.mark.slow
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("family", ["longformer", "mra"])
def test_a_teacher_that_has_settings_per_layer_or_needs_float32_teaches(
    make_model, corpus, tmp_path, family, bf16
):
    config = DistillConfig(max_length=32, batch_tokens=512, bf16=bf16, max_tokens=10_000)
    teacher = make_model(family, layers=2, hidden=16, labels=None)
    made = distill(teacher, num_layers=1, corpus=corpus, output=tmp_path / "s", config=config)
    assert made.students[0].held_out_loss < 1


@pytest.mark.parametrize("family", ["fnet", "gpt_neo"])
def test_a_family_without_smaller_models_is_refused(make_model, corpus, tmp_path, family):
    teacher = make_model(family, layers=2, hidden=16, labels=None)
    with pytest.raises(StageError, match=r"no attention heads|no gpt_neo model can be made at 1x16"):
        distill(teacher, num_layers=1, corpus=corpus, output=tmp_path / "s", config=QUICK)
