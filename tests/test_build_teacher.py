"""The classifier's outputs on disk: what is stored, resuming, growing; students that learn from them."""

from __future__ import annotations

import json
import logging
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification

from cascadebert.errors import CascadeError, StageError
from cascadebert.inference.stage import Stage
from cascadebert.persistence.folder import file_hashes
from cascadebert.training.cascade_builder import teacher
from cascadebert.training.cascade_builder.student import distill_student
from cascadebert.training.cascade_builder.teacher import run_teacher
from cascadebert.training.config import DistillConfig, FitConfig
from cascadebert.training.distillation.student import StudentSize
from cascadebert.training.train_stage import TrainingData, train_stage
from killing import run_killed
from samples import sentences

TEXTS = sentences(60, seed=3)
PAIRS = list(zip(TEXTS, sentences(60, seed=4), strict=True))
FAMILIES = ["bert", "roberta", "distilbert", "mpnet", "electra", "modernbert"]
TWO_LAYERS = StudentSize(2, 32)
QUICK = DistillConfig(batch_tokens=256, bf16=False, learning_rate=3e-3)


@pytest.fixture
def stage(make_model, monkeypatch):
    """A random classifier in float32, run in chunks of 16 texts."""
    monkeypatch.setattr(teacher, "CHUNK", 16)
    monkeypatch.setattr(teacher, "use_bf16", lambda requested: False)
    return open_stage(make_model(layers=2, hidden=16))


def open_stage(folder: Path) -> Stage:
    return Stage.from_pretrained(folder, engine="torch", precision="float32")


def logits_by_chunk(stage: Stage, texts, size: int = 16) -> np.ndarray:
    return np.concatenate(
        [stage.logits(stage.encode(texts[i : i + size])) for i in range(0, len(texts), size)]
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


@pytest.mark.parametrize("texts", [TEXTS, PAIRS], ids=["texts", "pairs"])
def test_logits_without_hidden_states_are_the_stages_own(stage, tmp_path, texts):
    outputs = run_teacher(stage, texts, hidden_tokens=0, folder=tmp_path)
    assert np.array_equal(outputs.logits, logits_by_chunk(stage, texts))
    assert outputs.logits.dtype == np.float32 and not outputs.logits.flags.writeable
    assert len(outputs.tokens) == 0 and outputs.states.shape == (0, 16)


@pytest.mark.parametrize("texts", [TEXTS, PAIRS], ids=["texts", "pairs"])
def test_the_first_texts_have_hidden_states_and_the_logits_that_go_with_them(stage, tmp_path, texts):
    outputs = run_teacher(stage, texts, hidden_tokens=300, folder=tmp_path)
    lengths = stage.encode(texts).lengths
    count = len(outputs.tokens)
    assert lengths[: count - 1].sum() < 300 <= lengths[:count].sum() and 16 < count < 40
    assert np.array_equal(outputs.tokens.ids, stage.encode(texts[:count]).ids)
    assert np.array_equal(outputs.tokens.type_ids, stage.encode(texts[:count]).type_ids)
    assert outputs.states.dtype == np.float16 and len(outputs.states) == lengths[:count].sum()
    np.testing.assert_allclose(outputs.logits[:count], stage.logits(stage.encode(texts[:count])), atol=1e-5)
    assert np.array_equal(outputs.logits[count:], logits_by_chunk(stage, texts[count:]))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", ["right", "none"])
def test_hidden_states_are_those_of_each_text_alone(stage, make_model, tmp_path, family, side):
    folder = make_model(family, layers=2, hidden=16)
    own = Stage.from_pretrained(folder, engine="torch", precision="float32", padding_side=side)
    outputs = run_teacher(own, TEXTS[:10], hidden_tokens=10**6, folder=tmp_path)
    model, starts = AutoModel.from_pretrained(folder).eval(), outputs.tokens.starts
    for i in range(10):
        ids = torch.from_numpy(np.array(outputs.tokens.ids[starts[i] : starts[i + 1]], dtype=np.int64))[None]
        with torch.inference_mode():
            expected = model(input_ids=ids).last_hidden_state[0].numpy()
        np.testing.assert_allclose(outputs.states[starts[i] : starts[i + 1]], expected, rtol=1e-3, atol=1e-3)


def test_columns_follow_the_labels_of_the_stage(stage, make_model, tmp_path):
    own = open_stage(make_model(layers=1, hidden=16, labels=("a", "b", "c")))
    turned = own.with_labels(("c", "a", "b"))
    for hidden_tokens in (0, 10**6):
        plain = run_teacher(own, TEXTS, hidden_tokens=hidden_tokens, folder=tmp_path / f"p{hidden_tokens}")
        other = run_teacher(turned, TEXTS, hidden_tokens=hidden_tokens, folder=tmp_path / f"t{hidden_tokens}")
        assert np.array_equal(other.logits, plain.logits[:, [2, 0, 1]])


def test_the_hardwares_precision_changes_little(make_model, tmp_path):
    own = open_stage(make_model(layers=2, hidden=16))
    outputs = run_teacher(own, TEXTS, hidden_tokens=10**6, folder=tmp_path)
    expected = own.logits(own.encode(TEXTS))
    assert np.abs(outputs.logits - expected).max() < 0.1 * expected.std()


@pytest.mark.parametrize("family", ["fnet", "mra"])
def test_families_that_need_float32_get_it(make_model, monkeypatch, tmp_path, family):
    monkeypatch.setattr(teacher, "use_bf16", lambda requested: True)
    own = open_stage(make_model(family, layers=1, hidden=16))
    outputs = run_teacher(own, TEXTS[:4], hidden_tokens=10**6, folder=tmp_path)
    np.testing.assert_allclose(outputs.logits, own.logits(own.encode(TEXTS[:4])), atol=1e-4)


def test_a_family_without_a_state_per_token_is_refused_hidden_states_only(stage, make_model, tmp_path):
    funnel = open_stage(make_model("funnel", layers=2, hidden=16))
    with pytest.raises(StageError, match="expected one of width 16 per token"):
        run_teacher(funnel, TEXTS, hidden_tokens=100, folder=tmp_path)
    assert len(run_teacher(funnel, TEXTS, hidden_tokens=0, folder=tmp_path).logits) == 60


KILLED = """
from cascadebert.training.cascade_builder import teacher
from cascadebert.inference.stage import Stage
import test_build_teacher
teacher.CHUNK = 16
teacher.use_bf16 = lambda requested: False
kill_at(teacher, "length_batches", int(sys.argv[1])) if int(sys.argv[1]) else kill_at(Stage, "logits", 2)
stage = test_build_teacher.open_stage(teacher.Path(sys.argv[2]))
teacher.run_teacher(stage, test_build_teacher.TEXTS, hidden_tokens=200, folder=teacher.Path(sys.argv[3]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("call", [2, 0], ids=["among hidden states", "among logits"])
def test_a_killed_run_resumes_after_the_last_whole_chunk(stage, tmp_path, call):
    run_killed(KILLED, call, stage.path, tmp_path / "killed")
    assert json.loads((tmp_path / "killed" / "chunks.json").read_text())
    run_teacher(stage, TEXTS, hidden_tokens=200, folder=tmp_path / "whole")
    run_teacher(stage, TEXTS, hidden_tokens=200, folder=tmp_path / "killed")
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


@pytest.mark.parametrize("name", ["logits", "states", "ids", "types", "lengths"])
@pytest.mark.parametrize("change", [-3, 5], ids=["cut", "with a partial chunk"])
def test_a_file_that_ends_within_a_chunk_is_mended(stage, tmp_path, name, change):
    run_teacher(stage, TEXTS, hidden_tokens=200, folder=tmp_path)
    whole = contents(tmp_path)
    data = whole[name]
    (tmp_path / name).write_bytes(data[:change] if change < 0 else data + b"x" * change)
    run_teacher(stage, TEXTS, hidden_tokens=200, folder=tmp_path)
    assert contents(tmp_path) == whole


@pytest.fixture
def rows(monkeypatch):
    """The number of rows that any torch model is given, counted as it runs."""
    counted: list[int] = []
    for engine in (teacher._HiddenStateEngine, teacher_engine()):
        original = engine.logits

        def logits(self, batch, original=original):
            counted.append(len(batch.input_ids))
            return original(self, batch)

        monkeypatch.setattr(engine, "logits", logits)
    return counted


def teacher_engine():
    from cascadebert.inference.engines.torch import TorchEngine

    return TorchEngine


@pytest.mark.parametrize("hidden_tokens", [0, 100, 10**6])
def test_more_texts_behind_the_same_ones_run_alone(stage, rows, tmp_path, hidden_tokens):
    first = run_teacher(stage, TEXTS[:25], hidden_tokens=hidden_tokens, folder=tmp_path)
    kept, states = np.array(first.logits), np.array(first.states)
    assert sum(rows) == 25
    run_teacher(stage, TEXTS[:25], hidden_tokens=hidden_tokens, folder=tmp_path)
    assert sum(rows) == 25
    grown = run_teacher(stage, TEXTS, hidden_tokens=hidden_tokens, folder=tmp_path)
    assert sum(rows) == 60
    assert np.array_equal(grown.logits[:25], kept) and np.array_equal(grown.states[: len(states)], states)
    assert len(grown.tokens) == (60 if hidden_tokens == 10**6 else len(first.tokens))
    np.testing.assert_allclose(grown.logits, stage.logits(stage.encode(TEXTS)), atol=1e-5)


def test_hidden_states_are_not_added_behind_texts_without(stage, tmp_path):
    few = len(run_teacher(stage, TEXTS[:30], hidden_tokens=100, folder=tmp_path).tokens)
    assert len(run_teacher(stage, TEXTS, hidden_tokens=10**6, folder=tmp_path).tokens) == few
    assert len(run_teacher(stage, TEXTS, hidden_tokens=0, folder=tmp_path).tokens) == few


def test_other_texts_and_other_classifiers_are_refused_and_change_nothing(stage, make_model, tmp_path):
    run_teacher(stage, TEXTS, hidden_tokens=100, folder=tmp_path)
    before = contents(tmp_path)
    others = [
        (stage, ["other", *TEXTS[1:]]),
        (stage, [*TEXTS[:-1], "other"]),
        (stage, TEXTS[:-1]),
        (stage.with_labels(("positive", "negative")), TEXTS),
        (open_stage(make_model(layers=2, hidden=16, seed=9)), TEXTS),
        (open_stage(make_model(layers=2, hidden=32, labels=("a", "b", "c"))), TEXTS),
    ]
    for own, texts in others:
        with pytest.raises(CascadeError, match="do not begin with the 60 that were run") as raised:
            run_teacher(own, texts, hidden_tokens=100, folder=tmp_path)
        assert len(str(raised.value)) < 600
    assert contents(tmp_path) == before


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_texts(make_model, tmp_path):
    """The peak of what Python and NumPy allocate, with a real model of one layer in torch."""
    own = open_stage(make_model(layers=1, hidden=16))

    def peak(count: int) -> int:
        texts = TEXTS * (count // 60)
        tracemalloc.start()
        outputs = run_teacher(own, texts, hidden_tokens=20_000, folder=tmp_path / str(count))
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert outputs.logits.shape == (len(texts), 2) and len(outputs.tokens) > 1024
        return most

    peak(6_000)  # what is imported and cached at the first run
    assert peak(200_000) - peak(20_000) < 1e6  # tokens and logits of 180,000 more take 10 MB


@pytest.fixture(scope="module")
def learned(make_model, tmp_path_factory):
    """A classifier of four layers and its hidden states of 300 texts."""
    folder = tmp_path_factory.mktemp("outputs")
    own = open_stage(make_model(layers=4, hidden=32))
    return own, run_teacher(own, sentences(300, seed=1), hidden_tokens=10**6, folder=folder)


def make(learned, work: Path, epochs: float, size: StudentSize = TWO_LAYERS, **settings) -> Path:
    own, outputs = learned
    config = replace(QUICK, **settings)
    return distill_student(
        own.path, size, outputs, epochs=epochs, config=config, work=work, description="student"
    )


def loss_logged(caplog) -> float:
    (line,) = [r.getMessage() for r in caplog.records if "held-out loss" in r.getMessage()]
    return float(line.rpartition(" ")[2])


@pytest.mark.slow
def test_a_student_learns_the_stored_states(learned, tmp_path, caplog):
    caplog.set_level(logging.INFO, "cascadebert")
    make(learned, tmp_path, 1e-6)  # one step
    untrained = loss_logged(caplog)
    caplog.clear()
    folder = make(learned, tmp_path, 10)
    assert loss_logged(caplog) < 0.7 * untrained
    caplog.clear()
    assert make(learned, tmp_path, 10) == folder and "already made" in caplog.text
    student, full = (AutoModel.from_pretrained(path).eval() for path in (folder, learned[0].path))
    ids = torch.tensor([[2, 7, 8, 20, 3]])
    start = AutoModel.from_pretrained(make(learned, tmp_path, 0)).eval()
    with torch.inference_mode():
        wanted, before, after = (m(input_ids=ids).last_hidden_state for m in (full, start, student))
    assert (after - wanted).square().mean() < (before - wanted).square().mean()


def test_a_student_that_learns_nothing_has_the_classifiers_layers(learned, tmp_path):
    folder = make(learned, tmp_path, 0)
    assert make(learned, tmp_path, 0, learning_rate=1.0) == folder  # decides nothing here
    start, full = (AutoModel.from_pretrained(path).state_dict() for path in (folder, learned[0].path))
    for name, weight in start.items():
        assert torch.equal(weight, full[name.replace("layer.1.", "layer.3.")]), name
    assert (folder / "tokenizer.json").is_file() and len(list(tmp_path.iterdir())) == 1


@pytest.mark.slow
def test_all_that_decides_a_student_decides_its_folder(learned, tmp_path):
    own, _ = learned
    fewer = run_teacher(own, sentences(40, seed=1), hidden_tokens=10**6, folder=tmp_path / "fewer")
    made = [
        make(learned, tmp_path, 0.01),
        make(learned, tmp_path, 0.02),
        make(learned, tmp_path, 0.01, seed=5),
        make(learned, tmp_path, 0.01, learning_rate=1e-4),
        make(learned, tmp_path, 0.01, size=StudentSize(1, 32)),
        make((own, fewer), tmp_path, 0.01),
    ]
    assert len(set(made)) == len(made)
    assert make(learned, tmp_path, 0.01, max_tokens=20_000, max_length=64) == made[0]


KILLED_STUDENT = """
from cascadebert.training import trainer
import test_build_teacher as test
from cascadebert.training.cascade_builder import teacher
trainer.MIN_STEPS_BETWEEN_CHECKPOINTS = 2
kill_at(trainer.LossTrainer, "compute_loss", int(sys.argv[1]))
own = test.open_stage(teacher.Path(sys.argv[2]))
stored, work = map(teacher.Path, sys.argv[3:])
outputs = test.run_teacher(own, test.sentences(300, seed=1), hidden_tokens=10**6, folder=stored)
test.make((own, outputs), work, 3)
"""


@pytest.mark.slow
def test_an_interrupted_student_ends_in_the_same_weights(learned, tmp_path):
    own, outputs = learned
    stored = Path(outputs.states.filename).parent
    run_killed(KILLED_STUDENT, 13, own.path, stored, tmp_path / "killed")
    (unfinished,) = (tmp_path / "killed").iterdir()
    assert list((unfinished / "checkpoints").iterdir())
    (tmp_path / "whole").mkdir()
    resumed, whole = make(learned, tmp_path / "killed", 3), make(learned, tmp_path / "whole", 3)
    assert resumed.name == whole.name and file_hashes(resumed) == file_hashes(whole)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
@pytest.mark.slow
def test_classifiers_of_every_family_have_students_that_become_stages(make_model, tmp_path, family, dtype):
    model, folder = make_model(family, layers=3, hidden=32, labels=("a", "b", "c")), tmp_path / "m"
    AutoModelForSequenceClassification.from_pretrained(model, dtype=dtype).save_pretrained(folder)
    for file in model.glob("tokenizer*"):
        (folder / file.name).write_bytes(file.read_bytes())
    own = open_stage(folder)
    outputs = run_teacher(own, TEXTS, hidden_tokens=300, folder=tmp_path / "o")
    student = make((own, outputs), tmp_path, 0.5, size=StudentSize(1, 32))
    weights = AutoModel.from_pretrained(student, dtype="auto").state_dict()
    full = AutoModel.from_pretrained(folder, dtype=torch.float32).state_dict()
    assert {str(weight.dtype) for weight in weights.values() if weight.is_floating_point()} == {
        "torch.float32"
    }
    assert weights.keys() <= full.keys()
    data = TrainingData(["a fine film", "dull"], np.array([0, 1]), ("x", "y"))
    config = FitConfig(max_length=32, epochs=1, bf16=False)
    trained = train_stage(student, data, config, work=tmp_path, description="stage")
    assert open_stage(trained).layers == 1


@pytest.mark.parametrize("family", ["albert", "funnel", "bart", "gpt_neo", "fnet"])
def test_families_without_students_are_refused_and_leave_nothing(stage, make_model, tmp_path, family):
    own = open_stage(make_model(family, layers=2, hidden=16))
    outputs = run_teacher(own, TEXTS, hidden_tokens=0, folder=tmp_path / "o")
    with pytest.raises(
        StageError, match=r"no single stack of 2 layers|no gpt_neo model can be made|no attention heads"
    ):
        make((own, outputs), tmp_path / "work", 0, size=StudentSize(1, 16))
    assert not (tmp_path / "work").exists()


@pytest.mark.slow
def test_a_family_with_settings_for_each_layer_has_students(stage, make_model, tmp_path):
    own = open_stage(make_model("longformer", layers=2, hidden=16))
    outputs = run_teacher(own, TEXTS[:4], hidden_tokens=10**6, folder=tmp_path / "o")
    folder = make((own, outputs), tmp_path, 0.5, size=StudentSize(1, 16))
    assert AutoModel.from_pretrained(folder).config.num_hidden_layers == 1


def test_one_text_is_too_few_to_learn_from(stage, tmp_path):
    outputs = run_teacher(stage, TEXTS[:1], hidden_tokens=100, folder=tmp_path / "o")
    with pytest.raises(CascadeError, match="hidden states of 1 texts; a student learns from two or more"):
        make((stage, outputs), tmp_path, 1, size=StudentSize(1, 16))


def test_a_size_that_is_the_classifier_itself_is_refused(learned, tmp_path):
    with pytest.raises(StageError, match="are the large model itself"):
        make(learned, tmp_path, 0, size=StudentSize(4, 32))
