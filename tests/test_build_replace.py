"""`build --from`: another last stage for a saved cascade, on tiny random models."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from building import count_time
from cascadebert import Cascade, CascadeError, Target, assemble
from cascadebert.atomic import work_directory
from cascadebert.data.dataset import Examples
from cascadebert.inference.stage import Stage
from cascadebert.persistence.folder import UsedRows, read_used_rows
from cascadebert.thresholds.stage_choice import CandidateStages, choose_stages
from cascadebert.training.cascade_builder.kept import KeptStages
from cascadebert.training.cascade_builder.parts import divide
from cascadebert.training.cascade_builder.replace import replace_last_stage
from killing import run_killed
from samples import reviews, sentences, write_csv

AGREEMENT = Target(min_agreement=0.6)
TEXTS, LABELS = reviews(560, seed=5)
OLD, NEW = slice(0, 160), slice(100, 560)  # 60 texts of the old cascade are in the new data


@pytest.fixture(scope="module")
def old(make_model, tmp_path_factory):
    """A saved cascade of three random stages, tuned on the old texts."""
    root = tmp_path_factory.mktemp("old")
    data = write_csv(root / "old.csv", TEXTS[OLD], LABELS[OLD])
    stages = [make_model(layers=i, hidden=16 * i, seed=i) for i in (1, 2, 3)]
    assemble(stages, data=data, target=Target(speedup=1.5), output=root / "cascade", engine="torch")
    return root / "cascade"


@pytest.fixture(autouse=True)
def steady(monkeypatch):
    """Speeds do not depend on what else the machine does."""
    count_time(monkeypatch)


@pytest.fixture
def copied(old, tmp_path):
    """A copy of it, to replace."""
    return Path(shutil.copytree(old, tmp_path / "cascade"))


@pytest.fixture(scope="module")
def model(make_model):
    """A larger random classifier with the labels the other way round."""
    return make_model(layers=8, hidden=96, seed=9, labels=("positive", "negative"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_csv(tmp_path_factory.mktemp("data") / "new.csv", TEXTS[NEW], LABELS[NEW])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def hashes(rows: slice) -> np.ndarray:
    return Examples(TEXTS[rows], None).hashes()


@pytest.mark.slow
def test_the_earlier_stages_stay_and_all_else_is_new(copied, model, data):
    before = contents(copied)
    shutil.rmtree(copied / "stage-3")  # it need not be there
    result = replace_last_stage(copied, model, data=data, target=AGREEMENT)
    assert result.cascades and result.output == copied
    after, cascade, used = contents(copied), Cascade.from_pretrained(copied), read_used_rows(copied)
    for stage in ("stage-1", "stage-2"):
        assert after[f"{stage}/model.safetensors"] == before[f"{stage}/model.safetensors"]
    assert after["stage-3/model.safetensors"] == (model / "model.safetensors").read_bytes()
    assert cascade.label_names == ("positive", "negative")
    assert result.certification is not None and result.certification.guarantee is not None
    assert result.certification.n == result.parts["certify"]
    assert cascade.operating_point.certificate is not None
    assert set(hashes(OLD)) <= set(used.tune) and not np.isin(used.certify, hashes(OLD)).any()
    assert result.parts == {"train": 0, "tune": 199, "certify": 133, "report": 66, "corpus": 0}
    assert "60 texts were left out" in result.notices[0]
    with pytest.raises(CascadeError, match=r"beside \d+ that the cascade was trained, tuned or certified"):
        replace_last_stage(copied, model, data=data, target=AGREEMENT)
    assert contents(copied) == after


@pytest.mark.slow
def test_retaught_stages_agree_more_with_the_new_classifier(old, model, data, tmp_path):
    before = contents(old)
    options = {"data": data, "target": AGREEMENT, "minutes": 5}
    plain = replace_last_stage(old, model, **options, output=tmp_path / "plain")
    taught = replace_last_stage(old, model, **options, output=tmp_path / "taught", reteach=True)
    assert contents(old) == before
    assert taught.parts["train"] == 220 and "60 texts are only trained on" in taught.notices[0]
    for one, other in zip(plain.candidates[:-1], taught.candidates[:-1], strict=True):
        assert one.name == other.name and other.agreement > max(one.agreement, 0.6)
    if taught.cascades:
        weights = Cascade.from_pretrained(tmp_path / "taught").stages[0].path / "model.safetensors"
        assert weights.read_bytes() != before["stage-1/model.safetensors"]


@pytest.mark.slow
def test_where_it_does_not_pay_the_cascade_stays(run, copied, model, data):
    before = contents(copied)
    words = ("--from", copied, "--model", model, "--data", data, "--target-speedup", 10**6)
    code, _, said = run("build", *words)
    assert code == 1 and contents(copied) == before
    page = copied.with_name("cascade.work") / "report.html"
    assert f"Only {page} was saved. Next: the same command with --reteach" in said
    assert "Do not cascade" in page.read_text("utf-8")


KILLED = """
from cascadebert import Target
from cascadebert.training.cascade_builder import build
from cascadebert.training.cascade_builder.replace import replace_last_stage
kill_at(build, "measure", 1)
replace_last_stage(sys.argv[1], sys.argv[2], data=sys.argv[3], target=Target(min_agreement=0.6))
"""


@pytest.mark.slow
def test_a_killed_run_leaves_the_cascade_and_goes_on(copied, model, data, monkeypatch):
    before = contents(copied)
    run_killed(KILLED, copied, model, data)
    assert contents(copied) == before
    monkeypatch.setattr(
        "cascadebert.training.cascade_builder.build.certify_cascade", pytest.fail
    )  # not called again
    result = replace_last_stage(copied, model, data=data, target=AGREEMENT)
    assert result.cascades and Cascade.from_pretrained(copied).operating_point.certificate is not None


def other_labels(make_model, data):
    return {"model": make_model(layers=4, hidden=48, labels=("bad", "good"))}


def not_slower(make_model, data):
    return {"model": make_model(layers=1, hidden=16, seed=5)}


def pairs(make_model, data):
    return {"data": {"sentence1": TEXTS, "sentence2": TEXTS}}


def few_new_texts(make_model, data):
    return {"data": {"text": TEXTS[:300]}}


def corpus_alone(make_model, data):
    return {"corpus": data}


def no_time(make_model, data):
    return {"reteach": True, "minutes": 1e-4}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_labels, "has other labels than .*: bad, good; expected, in any order, negative, positive"),
        (not_slower, "does not cost less than .*bert-1-16-5"),
        (pairs, "this cascade was made for single texts, got pairs of texts"),
        (few_new_texts, "140 distinct texts beside 160 that the cascade was trained, tuned or certified on"),
        (corpus_alone, "give --reteach too"),
        (no_time, "it takes about 0 s, and too little time is left: give more --minutes"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_changes(copied, make_model, model, data, change, message):
    before = contents(copied)
    arguments = {"model": model, "data": data, **change(make_model, data)}
    with pytest.raises(CascadeError, match=message) as raised:
        replace_last_stage(copied, arguments.pop("model"), target=AGREEMENT, **arguments)
    assert len(str(raised.value)) < 600 and contents(copied) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "no MODEL is given"),
        (("m",), "no --output is given"),
        (("m", "--output", "o", "--model", "n"), "--model cannot be used without --from"),
        (("m", "--output", "o", "--reteach"), "--reteach cannot be used without --from"),
        (("--from", "c"), "give --model too"),
        (("m", "--from", "c", "--model", "n"), "MODEL cannot be used with --from"),
        (
            ("--from", "c", "--model", "n", "--small", "s", "--dry-run"),
            "--small, --dry-run cannot be used with",
        ),
        (("--from", "c", "--model", "n", "--max-stages", 2), "--max-stages cannot be used with --from"),
        (("--from", "c", "--model", "n"), "c is not a saved cascade"),
    ],
)
def test_options_that_do_not_go_together_are_refused(run, words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, said = run("build", *words, "--data", "d.csv")
    assert code == 2 and message in " ".join(said.split()) and "Traceback" not in said
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("made_by", ["build", "fit"])
def test_another_cascade_is_not_replaced_because_work_lies_beside_it(copied, model, data, tmp_path, made_by):
    other = shutil.copytree(copied, tmp_path / "other")
    spec = (other / "cascade.json").read_text("utf-8").replace('"assemble"', f'"{made_by}"')
    (other / "cascade.json").write_text(spec, "utf-8")
    (work_directory(other) / "progress.json").write_text("{}", "utf-8")
    before = contents(other)
    with pytest.raises(CascadeError, match="exists already"):
        replace_last_stage(copied, model, data=data, target=AGREEMENT, output=other)
    assert contents(other) == before


@pytest.mark.parametrize("words", [("--model", "c/stage-3"), ("--data", "c"), ("--output", "c/new")])
def test_no_input_lies_in_the_replaced_folder(run, words, copied, monkeypatch):
    monkeypatch.chdir(copied.parent)
    copied.rename("c")
    usual = {"--from": "c", "--model": "m", "--data": "d.csv"}
    code, _, said = run("build", *(word for pair in {**usual, words[0]: words[1]}.items() for word in pair))
    assert code == 2 and ("lies in" in said or "is also" in said)


@pytest.mark.parametrize("trains", [True, False])
def test_texts_of_the_old_cascade_neither_tune_nor_certify_nor_report(trains):
    texts, empty = sentences(800, seed=1, most=30), np.empty(0, dtype=np.uint64)
    found = np.unique(Examples(texts, None).hashes())
    used = UsedRows(found[:50], found[50:100], found[100:120], found[120:130])
    parts = divide(Examples(texts, None), None, used, trains=trains)
    evaluated = np.concatenate([part.hashes() for part in (parts.tune, parts.certify, parts.report)])
    trained = Examples(parts.train, None).hashes()
    assert not np.isin(evaluated, used.all).any() and not np.isin(evaluated, trained).any()
    assert np.isin(used.all, trained).all() if trains else not len(trained)
    assert set(used.all) <= set(parts.used.all)
    assert len(evaluated) + len(trained) >= len(found) - (2 if trains else 132)
    assert divide(Examples(texts, None), None).earlier.all.tolist() == empty.tolist()


def test_only_the_given_chains_are_considered():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 300, 2))
    costs = np.repeat([[1.0], [2.0], [30.0]], 300, axis=1)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
    stages = CandidateStages(probabilities, costs, 0 * costs, ("a", "b", "c"))
    found = choose_stages(stages, Target(min_agreement=0.7), chains=[(0, 1, 2)])
    assert {one.stages for one in found.tried} == {(0, 1, 2)}


def test_stages_of_one_name_and_a_classifier_of_their_name_are_told_apart(old):
    kept = KeptStages.read(old, retrain=False)
    first, second = (entry.name for entry in kept.spec.stages[:-1])
    names = kept.folders(f"nowhere/{first}", ("positive", "negative"))
    assert list(names) == [first, second]
    assert list(kept.folders(str(old.parent / first), ("negative", "positive"))) == [first, second]
    (old.parent / first).mkdir()
    names = kept.folders(str(old.parent / first), ("negative", "positive"))
    assert list(names) == [f"{first} (stage 1)", second]
    assert list(names.values()) == [old / "stage-1", old / "stage-2"]


def test_stages_are_trained_again_from_their_own_weights(old, make_model):
    kept, classifier = KeptStages.read(old, retrain=True), Stage.from_pretrained(make_model(layers=3))
    candidates = kept.candidates(classifier, kept.folders("m", classifier.label_names))
    assert [one.kind for one in candidates] == ["classifier", "classifier"]
    assert [one.source for one in candidates] == [old / "stage-1", old / "stage-2"]
    assert all(one.is_trained for one in candidates)
