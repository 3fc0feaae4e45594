"""The whole flow on tiny real models: train, kill, go on, save, refuse."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import cascadebert
from cascadebert import Cascade, CascadeError, FitConfig, Target, evaluate, tune
from cascadebert.data.dataset import Examples
from cascadebert.data.splits import split_examples
from cascadebert.errors import DataError, StageError
from cascadebert.inference.stage import Stage
from cascadebert.persistence.folder import file_hashes, read_used_rows
from cascadebert.training.difficulty import DifficultyLabels, label_difficulty
from cascadebert.training.fit import _load_unlabeled
from cascadebert.training.losses import NO_LABEL
from cascadebert.training.train_stage import TrainingData, train_stage, training_order
from killing import run_killed
from samples import reviews, sentences, write_csv

fit = partial(cascadebert.fit, engine="torch")

QUICK = FitConfig(epochs=4, batch_size=16, learning_rate=2e-3, max_length=32, bf16=False)


@pytest.fixture(scope="module")
def stages(make_model):
    return [make_model(layers=1, hidden=16, labels=None), make_model(layers=2, hidden=32, labels=None)]


@pytest.fixture(scope="module")
def train_file(tmp_path_factory):
    texts, labels = reviews(600, seed=0)
    labels[::25] = ["positive"] * 24  # some of them wrong, so that no model is right everywhere
    return write_csv(tmp_path_factory.mktemp("data") / "train.csv", texts, labels)


@pytest.fixture(scope="module")
def fitted(stages, train_file):
    output = train_file.parent / "cascade"
    fit(train_file, stages=stages, target=Target(speedup=1.5), output=output, config=QUICK)
    return output


def contents(folder: Path) -> dict[str, object]:
    """Everything a cascade is, but for seconds measured while it was made."""
    spec = json.loads((folder / "cascade.json").read_text())
    spec.pop("timing")
    stages = {path.name: file_hashes(path) for path in sorted(folder.glob("stage-*"))}
    difficulty = [DifficultyLabels.load(file).hard.tolist() for file in sorted(folder.glob("difficulty-*"))]
    return {"spec": spec, "stages": stages, "difficulty": difficulty}


@pytest.mark.slow
def test_a_fitted_cascade_learns_and_meets_its_target_on_new_rows(fitted, tmp_path):
    test = write_csv(tmp_path / "test.csv", *reviews(300, seed=99))
    report = evaluate(Cascade.from_pretrained(fitted), test)
    assert report.accuracy > 0.9
    assert report.flops_speedup > 1.3
    assert report.layers_speedup is None
    assert not (fitted.parent / "cascade.work").exists()


@pytest.mark.slow
def test_the_parts_of_the_data_are_disjoint_and_complete(fitted):
    used = read_used_rows(fitted)
    parts = [set(used.train.tolist()), set(used.tune.tolist()), set(used.certify.tolist())]
    assert [len(part) for part in parts] == [480, 60, 60]
    assert len(set.union(*parts)) == 600


KILLED = """
from cascadebert import Target
from cascadebert.training.trainer import LossTrainer
import test_fit
kill_at(LossTrainer, sys.argv[1], int(sys.argv[2]))
target, config = Target(speedup=1.5), test_fit.QUICK
test_fit.fit(sys.argv[3], stages=sys.argv[5:], target=target, output=sys.argv[4], config=config)
"""


@pytest.mark.slow
def test_killing_fit_again_and_again_ends_in_the_same_folder(fitted, stages, train_file, tmp_path):
    output = tmp_path / "cascade"
    for name, calls in (
        ("compute_loss", 20),
        ("_save_rng_state", 1),
        ("compute_loss", 150),
        ("compute_loss", 150),
    ):
        run_killed(KILLED, name, calls, train_file, output, *stages)
        assert not output.exists() and (tmp_path / "cascade.work").is_dir()
        if name == "_save_rng_state":  # while a checkpoint is being written
            assert list((tmp_path / "cascade.work").glob("*/checkpoints/checkpoint-*"))
    fit(train_file, stages=stages, target=Target(speedup=1.5), output=output, config=QUICK)
    assert contents(output) == contents(fitted)


@pytest.mark.slow
def test_an_infeasible_target_writes_nothing_and_the_nearest_one_goes_on_from_there(
    stages, train_file, tmp_path, monkeypatch
):
    output = tmp_path / "cascade"
    with pytest.raises(CascadeError, match=r"cannot be reached.*Nearest: --min-accuracy"):
        fit(train_file, stages=stages, target=Target(min_accuracy=1.0), output=output, config=QUICK)
    assert not output.exists()
    monkeypatch.setattr("cascadebert.training.train_stage.train_classifier", None)  # no training again
    fit(train_file, stages=stages, target=Target(speedup=1.2), output=output, config=QUICK)
    assert output.is_dir()


def test_a_speedup_no_threshold_could_give_is_refused_before_training(stages, train_file, tmp_path):
    with pytest.raises(CascadeError, match=r"speed-up 50x cannot be reached: with every text exiting"):
        fit(train_file, stages=stages, target=Target(speedup=50), output=tmp_path / "c", config=QUICK)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cost_unit": "layers"}, "different widths"),
        ({"config": FitConfig(max_length=128)}, "4 to 64 tokens"),
        ({"difficulty": ["a.npz", "b.npz"]}, "1 files of difficulty labels are needed"),
        ({"config": FitConfig(max_length=32, difficulty_folds=1000)}, "at least as many groups"),
    ],
)
def test_what_would_only_come_out_after_training_is_refused_before_it(
    stages, train_file, tmp_path, options, message
):
    options = {"config": QUICK, **options}
    with pytest.raises(CascadeError, match=message):
        fit(train_file, stages=stages, target=Target(speedup=1.5), output=tmp_path / "c", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_somebody_else_called_work_is_left_alone(stages, train_file, tmp_path):
    (tmp_path / "c.work").mkdir()
    (tmp_path / "c.work" / "thesis.txt").write_text("years")
    with pytest.raises(CascadeError, match="was not created by cascadebert"):
        fit(train_file, stages=stages, target=Target(speedup=1.5), output=tmp_path / "c", config=QUICK)
    assert (tmp_path / "c.work" / "thesis.txt").exists()


@pytest.mark.slow
def test_an_output_that_holds_a_stage_is_refused(fitted, train_file):
    own = [fitted / "stage-1", fitted / "stage-2"]
    with pytest.raises(CascadeError, match=r"--stage .* lies in --output"):
        fit(train_file, stages=own, target=Target(speedup=1.5), output=fitted, overwrite=True, config=QUICK)
    assert Cascade.from_pretrained(fitted).label_names == ("negative", "positive")


def test_difficulty_labels_tell_equal_texts_with_different_labels_apart():
    rows = Examples(["a", "a", "b"], ("0", "1", "0"))
    made = DifficultyLabels(np.array([False, True, True]), np.ones(3), rows.hashes(labels=True), {})
    assert made.of(rows).tolist() == [False, True, True]
    assert made.of(rows.take(np.array([1, 0]))).tolist() == [True, False]


def test_stages_in_the_wrong_order_are_refused(stages, train_file, tmp_path):
    with pytest.raises(StageError, match="from small to large"):
        fit(train_file, stages=stages[::-1], target=Target(speedup=1.5), output=tmp_path / "c", config=QUICK)


def test_one_stage_is_no_cascade(stages, train_file, tmp_path):
    with pytest.raises(StageError, match="two stages or more"):
        fit(train_file, stages=stages[:1], target=Target(speedup=1.5), output=tmp_path / "c", config=QUICK)


@pytest.mark.slow
def test_difficulty_labels_are_saved_with_their_provenance_and_reused(
    fitted, stages, train_file, tmp_path, monkeypatch
):
    labels = DifficultyLabels.load(fitted / "difficulty-1.npz")
    assert labels.provenance["folds"] == 3 and labels.provenance["seeds"] == [1234]
    assert labels.provenance["hard_share"] == pytest.approx(labels.hard.mean(), abs=1e-6)
    monkeypatch.setattr("cascadebert.training.fit.label_difficulty", None)  # none may be made again
    file = fitted / "difficulty-1.npz"
    fit(
        train_file, stages=stages, target=Target(speedup=1.5), output=tmp_path / "c",
        difficulty=[file], config=QUICK,
    )  # fmt: skip
    assert contents(tmp_path / "c") == contents(fitted)


@pytest.mark.slow
def test_every_row_gets_a_difficulty_vote_from_models_not_trained_on_it(stages, tmp_path):
    texts, labels = reviews(200, seed=3)
    rows = Examples(texts, tuple(labels))
    config = FitConfig(epochs=1, batch_size=16, learning_rate=2e-3, bf16=False, max_length=32,
                       difficulty_folds=3, difficulty_seeds=2, difficulty_votes=0.5)  # fmt: skip
    made = label_difficulty(rows, stage=stages[0], config=config, work=tmp_path)
    assert len(made.hard) == 200 and set(made.votes) <= {0.0, 0.5, 1.0}
    assert made.hard.tolist() == (made.votes < 0.5).tolist()
    assert made.of(rows.take(np.arange(5, 10))).tolist() == made.hard[5:10].tolist()
    with pytest.raises(DataError, match="have no difficulty label"):
        made.of(Examples(["unseen"], ("positive",)))


@pytest.mark.slow
def test_distillation_trains_a_stage_on_rows_without_labels(stages, fitted, tmp_path):
    teacher = Stage.from_pretrained(fitted / "stage-2")
    texts, labels = reviews(400, seed=8)
    logits = teacher.logits(teacher.encode(texts))
    unlabeled = np.full(400, NO_LABEL, dtype=np.int64)
    data = TrainingData(texts, unlabeled, ("negative", "positive"), teacher=logits)
    config = FitConfig(
        epochs=6, batch_size=16, learning_rate=2e-3, bf16=False, max_length=32, distill_weight=1.0
    )
    folder = train_stage(stages[0], data, config, work=tmp_path, description="student")
    student = Stage.from_pretrained(folder)
    assert np.mean(student.predict(texts).labels == np.array(labels)) > 0.8


@pytest.mark.slow
def test_unlabeled_rows_teach_the_small_stage_and_none_of_a_held_out_part_are_among_them(
    stages, train_file, tmp_path
):
    few, labels = reviews(200, seed=21)
    train = write_csv(tmp_path / "train.csv", few, labels)
    more, _ = reviews(900, seed=22)
    texts = [*more, *more[:10], *few]
    unlabeled = tmp_path / "more.jsonl"
    unlabeled.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    fit(
        train, stages=stages, target=Target(speedup=1.2), output=tmp_path / "c", config=QUICK,
        unlabeled=unlabeled,
    )  # fmt: skip
    spec = json.loads((tmp_path / "c" / "cascade.json").read_text())
    kept = len({*more} - {*few})
    assert spec["provenance"]["rows"] == {"train": 160, "tune": 20, "certify": 20, "unlabeled": kept}
    assert spec["provenance"]["config"]["distill_weight"] == 1.0
    notice = f"{len(texts) - kept:,} of {len(texts):,} unlabeled examples left out"
    assert any(notice in entry for entry in spec["operating_point"]["metrics"]["notices"])
    used = read_used_rows(tmp_path / "c")
    assert len(used.train) == 160 + kept and not np.isin(used.train, used.tune).any()


def test_unlabeled_rows_of_a_held_out_group_are_left_out(stages, tmp_path):
    texts, labels = reviews(120, seed=30)
    splits = split_examples(Examples(texts, tuple(labels), tuple(str(i // 4) for i in range(120))), None,
                  tune_fraction=0.2, certify_fraction=0.2, seed=1)  # fmt: skip
    more, _ = reviews(60, seed=31)
    groups = [splits.tune.groups[0], splits.certify.groups[0], splits.train.groups[0]] * 20
    rows = Examples([f"{text} again" for text in more], None, tuple(groups))
    result, notices = _load_unlabeled(rows, None, splits)
    assert set(result.groups) == {splits.train.groups[0]} and "40 of 60" in notices[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"config": FitConfig(max_length=32, distill_weight=0.0)}, "leave out --unlabeled"),
        ({"unlabeled": Examples([("a", "b")], None)}, "expected one text per example, or pairs"),
    ],
)
def test_unlabeled_rows_that_cannot_teach_are_refused(stages, train_file, tmp_path, options, message):
    given = {"unlabeled": Examples(["a"], None), "config": QUICK, **options}
    with pytest.raises(CascadeError, match=message):
        fit(train_file, stages=stages, target=Target(speedup=1.5), output=tmp_path / "c", **given)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_three_stages_distilled_without_dar_in_bfloat16(make_model, train_file, tmp_path):
    three = [make_model(layers=i, hidden=16 * i, labels=None) for i in (1, 2, 3)]
    config = FitConfig(epochs=1, batch_size=16, learning_rate=2e-3, bf16=True, max_length=32,
                       dar_weight=0, distill_weight=0.5)  # fmt: skip
    cascade = fit(
        train_file, stages=three, target=Target(max_accuracy_drop=0.1), output=tmp_path / "c", config=config
    )
    assert len(cascade.operating_point.thresholds) == 2
    assert not list((tmp_path / "c").glob("difficulty-*"))


def test_training_order_visits_each_row_once_per_pass_in_batches_of_like_length():
    lengths = np.random.default_rng(0).integers(4, 64, size=5000)
    order = training_order(lengths, batch_size=16, epochs=2, seed=1)
    assert np.bincount(order).tolist() == [2] * 5000
    spread = [np.ptp(lengths[order[i : i + 16]]) for i in range(0, 9984, 16)]
    assert np.mean(spread) < 5
    assert order.tolist() == training_order(lengths, batch_size=16, epochs=2, seed=1).tolist()
    assert len(training_order(lengths, batch_size=16, epochs=0.5, seed=1)) == 2500


@pytest.mark.slow
def test_retuning_leaves_out_examples_that_were_trained_on_or_are_reserved(fitted, train_file):
    point = tune(Cascade.from_pretrained(fitted), train_file, target=Target(speedup=1.5))
    assert point.metrics.n == 60
    assert any("540 of 600 examples left out" in notice for notice in point.metrics.notices)


@pytest.mark.slow
def test_tuning_without_labels_keeps_agreement_with_the_last_stage(fitted, tmp_path):
    file = tmp_path / "plain.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in sentences(300, seed=4)))
    cascade = Cascade.from_pretrained(fitted)
    point = tune(cascade, file, target=Target(min_agreement=0.95))
    predictions = cascade.with_operating_point(point).predict(sentences(300, seed=4))
    last_stage = cascade.stages[-1].predict(sentences(300, seed=4))
    assert point.metrics.metric == "agreement"
    assert np.mean(predictions.labels == last_stage.labels) == pytest.approx(point.metrics.value)
    assert point.metrics.value >= 0.95
    with pytest.raises(DataError, match="no column 'label'"):
        tune(cascade, file, target=Target(min_accuracy=0.5))


@pytest.mark.slow
def test_a_label_without_tuning_examples_is_reported(fitted, tmp_path):
    texts, labels = reviews(300, seed=12)
    positive = [text for text, label in zip(texts, labels, strict=True) if label == "positive"][:120]
    file = write_csv(tmp_path / "one-sided.csv", positive, ["positive"] * len(positive))
    point = tune(Cascade.from_pretrained(fitted), file, target=Target(speedup=1.2))
    assert any("no tuning example has the label negative" in notice for notice in point.metrics.notices)


def test_openmp_threads_of_training_spin_shortly_unless_told_otherwise():
    code = "import os, sys, cascadebert.training as _; "
    code += "print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
    others = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    for own, expected in (
        ({}, "1000 False"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "None False"),
        ({"GOMP_SPINCOUNT": "7"}, "7 False"),
    ):
        output = subprocess.check_output([sys.executable, "-c", code], env={**others, **own}, text=True)
        assert output.strip() == expected
