"""Whole builds on tiny models: odd classifiers, odd data, and where nothing pays."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForSequenceClassification

import tiny
from building import (
    NAMES,
    all_files,
    build_quickly,
    cascade_of,
    copied,
    count_time,
    predicted,
    train_classifier,
)
from cascadebert import Cascade, Target
from cascadebert.data.dataset import Examples
from cascadebert.errors import CascadeError, StageError
from cascadebert.persistence.folder import read_used_rows
from cascadebert.training.cascade_builder import search, teacher
from cascadebert.training.cascade_builder.build import plan_build
from cascadebert.training.cascade_builder.finish import certify_cascade
from cascadebert.training.cascade_builder.parts import divide
from samples import reviews, sentences, write_csv

TEXTS, LABELS = reviews(400, seed=1)
FAMILIES = ["mpnet", "roberta", "electra", "distilbert", "modernbert", "xlnet", "gpt2"]
LOW = Target(min_agreement=0.6)


@pytest.fixture(autouse=True)
def counted_time(monkeypatch):
    count_time(monkeypatch)


@pytest.fixture(scope="session")
def classifier(make_model, tmp_path_factory) -> Path:
    """A classifier that has learned its task."""
    base = make_model(layers=4, hidden=32, labels=None)
    return train_classifier(base, tmp_path_factory.mktemp("classifier") / "work")


@pytest.fixture(scope="session")
def built(classifier, tmp_path_factory):
    """A finished build with labels and its result."""
    output = tmp_path_factory.mktemp("built") / "fast"
    with pytest.MonkeyPatch.context() as patch:
        count_time(patch)
        result = build_quickly(classifier, {"text": TEXTS, "label": LABELS}, output)
    return output, result


@pytest.mark.slow
def test_a_build_saves_a_certified_cascade_that_agrees_with_the_classifier(built, classifier):
    output, result = built
    assert result.cascades and result.chosen.meets_target
    cascade = Cascade.from_pretrained(output)
    assert cascade.label_names == NAMES
    assert result.certification.reason is None and result.certification.bound >= 0.9
    assert cascade.operating_point.certificate.delta == pytest.approx(0.04)
    new, _ = reviews(300, seed=77)
    answers = cascade.predict(new).labels
    assert np.mean(answers == np.array(predicted(classifier, new))) >= 0.9
    assert [one.state for one in result.candidates][-1] == "the classifier"
    assert {path.name for path in output.glob("*")} >= {"report.html", "curve.svg", "cascade.json"}
    used = read_used_rows(output)
    assert [len(rows) for rows in (used.train, used.tune, used.certify, used.consumed)] == [160, 120, 80, 80]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_classifiers_of_any_family_can_be_cascaded(make_model, tmp_path, family):
    model = make_model(family, layers=3, hidden=16, labels=("b", "a", "c"), seed=1)
    result = build_quickly(model, {"text": sentences(260, seed=2)}, tmp_path / "out", target=LOW)
    assert result.chosen is not None
    assert result.candidates[-1].state == "the classifier"
    students = [one for one in result.candidates if one.name.startswith("student")]
    assert len(students) == 2
    if result.cascades:
        assert Cascade.from_pretrained(tmp_path / "out").label_names == ("b", "a", "c")


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert", "gpt_neo", "albert"])
def test_students_are_made_or_the_report_says_why_not(make_model, tmp_path, monkeypatch, family):
    monkeypatch.setattr(search, "PAYS", np.inf)
    model = make_model(family, layers=3, hidden=16, labels=("b", "a", "c"), seed=1)
    result = build_quickly(model, {"text": sentences(260, seed=2)}, tmp_path / "out", target=LOW)
    states = {one.name: one.state for one in result.candidates[:-1]}
    made = {name for name, state in states.items() if state == "made"}
    assert states.keys() == {"static", "student 1x16", "student 2x16"}
    missing = {"albert": set(states), "gpt_neo": {"student 1x16", "student 2x16"}}.get(family, set())
    assert made == states.keys() - missing
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert page.count("could be cut") + page.count("gpt_neo model can be made") == len(missing)
    assert (result.chosen is None) == (not made)


@pytest.mark.slow
def test_hidden_states_that_no_student_can_learn_leave_the_logits(classifier, tmp_path, monkeypatch):
    def refuse(self, batch, width):
        raise StageError("hidden states of another shape")

    monkeypatch.setattr(teacher._HiddenStateEngine, "states", refuse)
    monkeypatch.setattr(search, "PAYS", np.inf)
    result = build_quickly(classifier, {"text": TEXTS}, tmp_path / "out")
    assert {one.state for one in result.candidates[:-1]} == {"made"}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_can_be_cascaded(classifier, tmp_path, dtype):
    model = AutoModelForSequenceClassification.from_pretrained(classifier, dtype=dtype)
    model.save_pretrained(tmp_path / "half")
    tiny.tokenizer().save_pretrained(tmp_path / "half")
    result = build_quickly(tmp_path / "half", {"text": TEXTS}, tmp_path / "out")
    assert result.cascades
    texts, _ = reviews(50, seed=5)
    cascade = Cascade.from_pretrained(tmp_path / "out")
    assert cascade.stages[-1].predict(texts).labels.tolist() == predicted(tmp_path / "half", texts)


@pytest.mark.slow
def test_a_cased_tokenizer_is_that_of_the_students_too(make_model, tmp_path, monkeypatch):
    monkeypatch.setattr(search, "PAYS", np.inf)
    model = shutil.copytree(make_model(layers=2, hidden=16, seed=3), tmp_path / "cased")
    file = model / "tokenizer.json"
    file.write_text(file.read_text("utf-8").replace('"lowercase":true', '"lowercase":false').replace(
        '"lowercase": true', '"lowercase": false'), "utf-8")  # fmt: skip
    texts = [text.title() if i % 2 else text for i, text in enumerate(sentences(260, seed=4))]
    result = build_quickly(model, {"text": texts}, tmp_path / "out", target=LOW)
    assert result.chosen is not None
    stages = sorted((tmp_path / "out.work").glob("*/stage-*/tokenizer.json"))
    assert stages
    for stage in stages:
        assert json.loads(stage.read_text("utf-8"))["normalizer"]["lowercase"] is False


@pytest.mark.slow
def test_150_labels_one_of_them_missing_in_300_rows(tmp_path):
    names = tuple(f"label {i}" for i in range(150))
    config = tiny.configuration("bert", 2, 16, 0.4)
    config.id2label = dict(enumerate(names))
    config.label2id = {name: i for i, name in enumerate(names)}
    model = tmp_path / "model"
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(model)
    tiny.tokenizer().save_pretrained(model)
    texts = sentences(300, seed=8)
    labels = [names[i % 149] for i in range(300)]
    target = Target(max_accuracy_drop=0.2)  # of a random classifier
    result = build_quickly(model, {"text": texts, "label": labels}, tmp_path / "out", target=target)
    assert result.chosen is not None and result.candidates[0].accuracy is not None
    assert (tmp_path / "out" / "report.html").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("target", [Target(max_accuracy_drop=0.02), Target(min_accuracy=0.5)])
def test_two_labels_of_which_one_has_5_rows(classifier, tmp_path, target):
    keep = [i for i, label in enumerate(LABELS) if label == "positive"]
    keep += [i for i, label in enumerate(LABELS) if label == "negative"][:5]
    more = [(f"{TEXTS[i]} and", LABELS[i]) for i in keep[:100] if LABELS[i] == "positive"]
    texts, labels = [TEXTS[i] for i in keep], [LABELS[i] for i in keep]
    data = {"text": texts + [text for text, _ in more], "label": labels + [label for _, label in more]}
    result = build_quickly(classifier, data, tmp_path / "out", target=target)
    assert result.cascades and result.report.accuracy is not None


@pytest.mark.slow
def test_partly_labeled_data_is_used_without_labels(classifier, tmp_path):
    data = {"text": TEXTS, "label": [*LABELS[:200], *[None] * 200]}
    result = build_quickly(classifier, data, tmp_path / "out")
    assert result.cascades and result.report.accuracy is None
    with pytest.raises(CascadeError, match="no label"):
        build_quickly(classifier, data, tmp_path / "two", target=Target(min_accuracy=0.5))
    assert not list(tmp_path.glob("two*"))


@pytest.mark.slow
def test_pairs_of_texts_in_two_files_of_two_formats(make_model, tmp_path):
    model = make_model(layers=2, hidden=16, seed=1)
    pairs = pd.DataFrame({"sentence1": sentences(300, seed=1), "sentence2": sentences(300, seed=2)})
    pairs[:150].to_csv(tmp_path / "a.csv", index=False)
    pairs[150:].to_parquet(tmp_path / "b.parquet")
    data = [tmp_path / "a.csv", tmp_path / "b.parquet"]
    result = build_quickly(model, data, tmp_path / "out", target=LOW)
    assert sum(result.parts.values()) >= 290 and result.chosen is not None
    if result.cascades:
        cascade = Cascade.from_pretrained(tmp_path / "out")
        assert len(cascade.predict([("fine", "dull")]).labels) == 1


@pytest.mark.slow
def test_small_models_are_used_or_taught_whatever_the_order_of_their_labels(
    classifier, make_model, tmp_path, monkeypatch
):
    monkeypatch.setattr(search, "PAYS", np.inf)
    same = make_model(layers=1, hidden=16, labels=NAMES[::-1], seed=5)
    other = make_model(layers=1, hidden=16, labels=("x", "y", "z"), seed=6)
    encoder = make_model(layers=1, hidden=16, labels=None, seed=7)
    twin = shutil.copytree(encoder, tmp_path / same.name)  # another model of the same name
    small = [same, other, encoder, twin, encoder]
    result = build_quickly(classifier, {"text": TEXTS}, tmp_path / "out", small=small)
    made = {one.name: one for one in result.candidates}
    assert len(made) == len(result.candidates)
    assert "used as it is" in made[str(same)].reason
    assert {made[name].reason for name in (other.name, encoder.name)} == {"learned the classifier's logits"}
    ours = np.array(predicted(same, TEXTS)) == np.array(predicted(classifier, TEXTS))
    assert made[str(same)].agreement == pytest.approx(ours.mean(), abs=0.1)
    for name in (other.name, encoder.name):
        assert made[name].agreement > 0.5


def broken(make_model, tmp_path: Path, kind: str) -> Path:
    model = shutil.copytree(make_model(layers=2, hidden=16), tmp_path / "model")
    config = json.loads((model / "config.json").read_text("utf-8"))
    if kind in ("regression", "multi_label_classification"):
        (model / "config.json").write_text(json.dumps(config | {"problem_type": kind}), "utf-8")
    elif kind == "adapter":
        (model / "config.json").unlink()
        (model / "adapter_config.json").write_text("{}", "utf-8")
    elif kind == "no weights":
        (model / "model.safetensors").unlink()
    elif kind == "cut off":
        content = (model / "model.safetensors").read_bytes()
        (model / "model.safetensors").write_bytes(content[: len(content) // 2])
    elif kind == "no tokenizer":
        for file in model.glob("tokenizer*"):
            file.unlink()
    elif kind == "one label":
        changed = {"id2label": {"0": "a"}, "label2id": {"a": 0}}
        (model / "config.json").write_text(json.dumps(config | changed), "utf-8")
    return model


BROKEN = ["regression", "multi_label_classification", "adapter", "no weights", "cut off", "no tokenizer"]


@pytest.mark.parametrize("kind", [*BROKEN, "one label"])
def test_a_model_that_cannot_be_used_is_refused_before_anything_is_written(make_model, tmp_path, kind, run):
    model = broken(make_model, tmp_path, kind)
    data = write_csv(tmp_path / "data.csv", TEXTS, LABELS)
    before = all_files(tmp_path)
    code, _, said = run("build", model, "--data", data, "--output", tmp_path / "out", "--engine", "torch")
    assert code == 2 and "Traceback" not in said and len(said) < 700
    assert all_files(tmp_path) == before and not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"minutes": 0.0}, "minutes"),
        ({"minutes": float("inf")}, "minutes"),
        ({"max_stages": 1}, "two stages"),
        ({"confidence_level": 1.0}, "confidence level"),
        ({"target": Target(min_accuracy=0.9)}, "label"),
        ({"corpus": {"sentence1": TEXTS, "sentence2": TEXTS}}, "expected single texts"),
        ({"data": {"text": TEXTS[:199]}}, "at least 200"),
        ({"small": ["no-such-model"]}, "no-such-model"),
        ({"data": {"sentence1": TEXTS, "sentence2": TEXTS}, "corpus": {"text": TEXTS}}, "expected pairs"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(make_model, tmp_path, options, expected):
    model = make_model(layers=2, hidden=16)
    with pytest.raises(CascadeError, match=expected) as caught:
        build_quickly(model, options.pop("data", {"text": TEXTS}), tmp_path / "out", **options)
    assert len(str(caught.value)) < 600
    assert not list(tmp_path.iterdir())


def test_texts_without_tokens_are_refused_before_anything_is_written(make_model, tmp_path):
    model = shutil.copytree(make_model(layers=2, hidden=16), tmp_path / "model")
    file = model / "tokenizer.json"
    settings = json.loads(file.read_text("utf-8")) | {"post_processor": None}  # no [CLS] and [SEP]
    file.write_text(json.dumps(settings), "utf-8")
    with pytest.raises(CascadeError, match="no tokens"):
        build_quickly(model, {"text": [*TEXTS, "\u200b"]}, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "confidence", "expected"),
    [
        (Target(min_agreement=0.9), 0.999, r"needs \d+ certification .*One text in five"),
        (Target(speedup=1.2), 0.95, "speed-up is not a statement"),
    ],
)
def test_what_cannot_be_certified_is_saved_with_the_reason(
    built, tmp_path, classifier, target, confidence, expected
):
    output = copied(built[0], tmp_path / "fast")
    data = {"text": TEXTS, "label": LABELS}
    result = build_quickly(classifier, data, output, target=target, confidence_level=confidence)
    assert result.cascades, result.reasons
    assert re.search(expected, result.certification.reason), result.certification.reason
    assert Cascade.from_pretrained(output).operating_point.certificate is None


@pytest.mark.slow
def test_agreement_on_all_texts_cannot_be_certified(built, tmp_path):
    output, parts = copied(built[0], tmp_path / "fast"), divide(Examples(TEXTS, None), None)
    found = certify_cascade(output, Target(min_agreement=1.0), parts, 0.95, earlier=0)
    assert found.reason == "--min-agreement 1 cannot be certified from any number of texts"
    assert found.guarantee is None and found.bound is None


@pytest.mark.slow
def test_where_nothing_pays_only_the_report_is_saved_and_a_later_run_works(make_model, tmp_path, run):
    model = make_model(layers=2, hidden=16, labels=("a", "b", "c", "d", "e"), seed=4)
    data = write_csv(tmp_path / "data.csv", sentences(300, seed=3), ["a"] * 300)
    words = ["build", model, "--data", data, "--output", tmp_path / "out", "--engine", "torch"]
    code, values, said = run(*words, "--min-agreement", "1", "--json")
    assert code == 1 and values["cascades"] is False and "Do not cascade" in said
    (page,) = (tmp_path / "out").iterdir()
    assert (
        page.name == "report.html"
        and values["reasons"]
        and values["reasons"][0][1:20] in page.read_text("utf-8")
    )
    code, values, _ = run(*words, "--min-agreement", "0.3", "--json")
    assert code == 0 and values["cascades"] and (tmp_path / "out" / "cascade.json").is_file()
    json.loads(json.dumps(values, allow_nan=False))


@pytest.mark.slow
def test_a_speedup_that_no_cascade_reaches_is_reported_and_an_earlier_cascade_stays(
    built, tmp_path, classifier
):
    output = copied(built[0], tmp_path / "fast")
    before = all_files(output)
    result = build_quickly(classifier, {"text": TEXTS, "label": LABELS}, output, target=Target(speedup=1e6))
    assert not result.cascades and "speed-up" in result.reasons[0]
    assert all_files(output) == before
    assert (tmp_path / "fast.work" / "report.html").is_file()


def test_an_output_of_others_is_not_touched(make_model, saved, tmp_path):
    model, outputs = make_model(layers=2, hidden=16), [tmp_path / "cascade", tmp_path / "files"]
    shutil.copytree(saved, outputs[0])
    outputs[1].mkdir()
    (outputs[1] / "notes.txt").write_text("mine")
    for output in outputs:
        for work in (False, True):  # also where an interrupted build left its work
            if work:
                folder = Path(f"{output}.work")
                folder.mkdir()
                (folder / "half-finished-work-of-cascadebert").touch()
                (folder / "progress.json").write_text("{}")
            before = all_files(output)
            with pytest.raises(CascadeError, match=r"exists already|not a saved cascade"):
                build_quickly(model, {"text": TEXTS}, output)
            assert all_files(output) == before


@pytest.mark.slow
def test_a_dry_run_prints_the_plan_and_writes_nothing(make_model, tmp_path, run):
    model = make_model(layers=4, hidden=16)
    data = write_csv(tmp_path / "data.csv", TEXTS, LABELS)
    words = ["build", model, "--data", data, "--output", tmp_path / "out", "--engine", "torch"]
    before = all_files(tmp_path), all_files(model)
    code, values, said = run(*words, "--dry-run", "--json")
    assert code == 0 and "student 1x16" in said and "estimates" in said.lower()
    assert [one["candidate"]["name"] for one in values["candidates"]] == [
        "static",
        "student 1x16",
        "student 2x16",
    ]
    assert (all_files(tmp_path), all_files(model)) == before and not list(tmp_path.glob("out*"))


def test_a_plan_leaves_out_students_that_cannot_be_made(make_model):
    model = make_model("albert", layers=3, hidden=16)
    planned = plan_build(model, data={"text": TEXTS}, engine="torch", precision="float32")
    assert [one.candidate.name for one in planned.candidates] == ["static"]
    assert planned.schedule.hidden_tokens == 0


@pytest.mark.slow
def test_labels_of_other_parts_do_not_change_the_cascade(classifier, tmp_path):
    parts = divide(Examples(TEXTS, tuple(LABELS)), None)
    unseen = {*parts.certify.texts, *parts.report.texts, *parts.train}
    swap = dict(zip(NAMES, NAMES[::-1], strict=True))
    rng = np.random.default_rng(0)
    changed = [
        swap[label] if text in unseen and rng.random() < 0.5 else label
        for text, label in zip(TEXTS, LABELS, strict=True)
    ]
    assert changed != LABELS
    target, folders = Target(max_accuracy_drop=0.03), []
    for name, labels in (("one", LABELS), ("two", changed)):
        result = build_quickly(classifier, {"text": TEXTS, "label": labels}, tmp_path / name, target=target)
        assert result.cascades, result.reasons
        folders.append((result.chosen, cascade_of(tmp_path / name)))
    assert folders[0] == folders[1]
    assert folders[0][1]["certificate"] is None
