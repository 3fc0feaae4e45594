"""A build that goes on: interrupted at any step, called again, given more time or another model."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from building import all_files, build_quickly, cascade_of, copied, count_time, train_classifier
from cascadebert import Target
from cascadebert.errors import StageError
from cascadebert.inference.stage import Stage
from cascadebert.persistence.folder import read_used_rows
from cascadebert.training.cascade_builder import build as build_module
from cascadebert.training.cascade_builder import candidates, finish, search, teacher
from cascadebert.training.cascade_builder.progress import Progress
from killing import run_killed
from samples import reviews

TEXTS, LABELS = reviews(400, seed=1)
DATA = {"text": TEXTS, "label": LABELS}


@pytest.fixture(autouse=True)
def counted_time(monkeypatch):
    count_time(monkeypatch)
    monkeypatch.setattr(search, "PAYS", np.inf)  # all candidates are made


@pytest.fixture(scope="session")
def classifier(make_model, tmp_path_factory) -> Path:
    """A classifier that has learned its task."""
    base = make_model(layers=3, hidden=32, labels=None)
    return train_classifier(base, tmp_path_factory.mktemp("classifier") / "work")


@pytest.fixture(scope="session")
def built(classifier, tmp_path_factory):
    """A finished build of all candidates and its result."""
    output = tmp_path_factory.mktemp("built") / "fast"
    with pytest.MonkeyPatch.context() as patch:
        count_time(patch)
        patch.setattr(search, "PAYS", np.inf)
        result = build_quickly(classifier, DATA, output)
    return output, result


def ignoring_time(result):
    """A result without the seconds of this run."""
    reports = tuple(replace(one, seconds=None, texts_per_second=None) for one in result.candidates)
    return replace(result, seconds=0.0, candidates=reports, report=None, output=Path())


def count_calls(monkeypatch, owner, name: str) -> list[tuple]:
    calls, original = [], getattr(owner, name)

    def counted(*args, **kwargs):
        calls.append(args)
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, counted)
    return calls


def interrupt_after(monkeypatch, owner, name: str, call: int = 1) -> None:
    """Interrupt the build when a step has done its work, before that is noted."""
    calls, original = [], getattr(owner, name)

    def interrupted(*args, **kwargs):
        result = original(*args, **kwargs)
        calls.append(name)
        if len(calls) == call:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(owner, name, interrupted)


STEPS = [
    (search, "measure_speeds", 1),
    (search, "run_teacher", 1),
    (search, "time_stages", 1),
    (search, "make_candidate", 1),
    (search, "make_candidate", 3),
    (candidates, "distill_student", 1),
    (search, "time_stages", 3),
    (build_module, "choose", 1),
    (build_module, "save_cascade", 1),
    (build_module, "certify_cascade", 1),
    (build_module, "measure", 1),
    (build_module, "write_page", 1),
]


@pytest.mark.slow
@pytest.mark.parametrize(("owner", "name", "call"), STEPS)
def test_a_build_interrupted_after_any_step_ends_in_the_same_result(
    built, classifier, tmp_path, monkeypatch, owner, name, call
):
    output = tmp_path / "fast"
    with monkeypatch.context() as patch:
        interrupt_after(patch, owner, name, call)
        with pytest.raises(KeyboardInterrupt):
            build_quickly(classifier, DATA, output)
    assert not output.exists()
    done = set(Progress(Path(f"{output}.work"), "")._steps)
    made = count_calls(monkeypatch, search, "make_candidate")
    result = build_quickly(classifier, DATA, output)
    assert ignoring_time(result) == ignoring_time(built[1])
    assert cascade_of(output) == cascade_of(built[0])
    assert len(made) == 3 - sum("/made-" in step for step in done)


KILLED = """
import pathlib
import pytest
import test_build_search as test
from cascadebert.training import trainer
test.count_time(pytest.MonkeyPatch())
test.search.PAYS = float("inf")
kill_at(trainer.LossTrainer, "compute_loss", int(sys.argv[1]))
test.build_quickly(pathlib.Path(sys.argv[2]), test.DATA, pathlib.Path(sys.argv[3]))
"""


@pytest.mark.slow
def test_a_build_killed_in_the_middle_of_a_training_ends_in_the_same_cascade(built, classifier, tmp_path):
    run_killed(KILLED, 70, classifier, tmp_path / "fast")
    result = build_quickly(classifier, DATA, tmp_path / "fast")
    assert ignoring_time(result) == ignoring_time(built[1])
    assert cascade_of(tmp_path / "fast") == cascade_of(built[0])


@pytest.mark.slow
def test_the_same_call_again_changes_nothing_and_reads_no_text_for_a_certificate(
    built, classifier, tmp_path, monkeypatch
):
    output = copied(built[0], tmp_path / "fast")
    before, work = all_files(output), all_files(Path(f"{output}.work"))
    for owner, name in ((build_module, "certify_cascade"), (search, "make_candidate"), (finish, "benchmark")):
        monkeypatch.delattr(owner, name)
    monkeypatch.chdir(tmp_path)
    result = build_quickly(classifier, DATA, Path("fast"))
    assert result == replace(built[1], output=Path("fast"))
    assert all_files(Path(f"{output}.work")) == work
    after = all_files(output)
    assert after.keys() == before.keys()
    changed = {name for name, content in after.items() if content != before[name]}
    assert changed <= {"report.html", "curve.svg"}


@pytest.mark.slow
def test_later_certificates_from_the_same_texts_use_a_smaller_share_of_the_risk(built, classifier, tmp_path):
    output = copied(built[0], tmp_path / "fast")
    deltas = [cascade_of(output)["certificate"]["delta"]]
    for target in (Target(min_agreement=0.7), Target(min_agreement=0.65)):
        result = build_quickly(classifier, DATA, output, target=target)
        assert result.cascades
        deltas.append(cascade_of(output)["certificate"]["delta"])
    assert deltas == pytest.approx([0.04, 0.008, 0.0016])
    again = build_quickly(classifier, DATA, output)
    assert again.cascades and cascade_of(output) == cascade_of(built[0])


@pytest.mark.slow
def test_texts_that_tune_read_count_as_read(classifier, built, tmp_path):
    output = copied(built[0], tmp_path / "fast")
    progress = tmp_path / "fast.work" / "progress.json"
    steps = json.loads(progress.read_text())
    progress.write_text(json.dumps({key: step for key, step in steps.items() if "/certify-" not in key}))
    assert build_quickly(classifier, DATA, output).cascades  # the output tells that they were read
    assert cascade_of(output)["certificate"]["delta"] == pytest.approx(0.008)


@pytest.mark.slow
def test_a_refusal_before_a_text_is_read_costs_no_risk(classifier, built, tmp_path):
    output = copied(built[0], tmp_path / "fast")
    for options in ({"target": Target(speedup=1.2)}, {"confidence_level": 0.9999}):
        assert build_quickly(classifier, DATA, output, **options).certification.bound is None
    assert build_quickly(classifier, DATA, output, target=Target(min_agreement=0.7)).cascades
    assert cascade_of(output)["certificate"]["delta"] == pytest.approx(0.008)


@pytest.mark.slow
def test_texts_of_an_earlier_certificate_cannot_certify_again_by_another_command(classifier, built, tmp_path):
    output = copied(built[0], tmp_path / "fast")
    assert build_quickly(classifier, DATA, output, target=Target(speedup=1.2)).cascades
    assert cascade_of(output)["certificate"] is None
    assert set(read_used_rows(output).consumed) == set(divided().certify.hashes())


@pytest.mark.slow
def test_one_more_candidate_costs_no_second_pass_of_the_classifier(
    built, classifier, make_model, tmp_path, monkeypatch
):
    output, asked = copied(built[0], tmp_path / "fast"), []
    original, train = Stage.logits, set(divided().train)

    def logits(self, tokens, *rows):
        if self.name == classifier.name:
            asked.append(len(tokens))
        return original(self, tokens, *rows)

    def no_states(*args):
        raise AssertionError("the classifier ran on the texts to train on")

    monkeypatch.setattr(Stage, "logits", logits)
    monkeypatch.setattr("cascadebert.training.cascade_builder.teacher._HiddenStateEngine.logits", no_states)
    encode = count_calls(monkeypatch, Stage, "encode")
    encoder = make_model(layers=1, hidden=16, labels=None, seed=7)
    made = count_calls(monkeypatch, search, "make_candidate")
    result = build_quickly(classifier, DATA, output, small=[encoder])
    assert [one.state for one in result.candidates].count("made") == 4 and len(made) == 1
    by_classifier = [texts for stage, texts in encode if stage.name == classifier.name]
    assert not train & {text for texts in by_classifier for text in texts}
    assert not asked or max(asked) < len(train)


def divided():
    from cascadebert.data.dataset import Examples
    from cascadebert.training.cascade_builder.parts import divide

    return divide(Examples(TEXTS, None), None)


@pytest.mark.slow
def test_more_minutes_try_what_was_left_out_and_keep_the_rest(classifier, tmp_path, monkeypatch):
    monkeypatch.setattr(
        search, "affordable_passes", lambda one, *_, **__: 3.0 if one.kind == "static" else None
    )
    first = build_quickly(classifier, DATA, tmp_path / "fast")
    left_out = [one for one in first.candidates if one.state == "not made"]
    assert [one.name for one in left_out] == ["student 1x32", "student 2x32"]
    assert all("too little time is left" in one.reason for one in left_out)
    monkeypatch.setattr(search, "affordable_passes", lambda *_, **__: 3.0)
    same = build_quickly(classifier, DATA, tmp_path / "fast")
    assert same == first
    made = count_calls(monkeypatch, search, "make_candidate")
    more = build_quickly(classifier, DATA, tmp_path / "fast", minutes=6.0)
    assert [args[0].name for args in made] == ["student 1x32", "student 2x32"]
    assert {one.state for one in more.candidates[:-1]} == {"made"}


@pytest.mark.slow
def test_a_candidate_that_fails_is_reported_and_the_others_are_made(classifier, tmp_path, monkeypatch):
    original = search.make_candidate

    def fails(candidate, *args):
        if candidate.name == "student 1x32":
            raise StageError("the student does not run")
        return original(candidate, *args)

    monkeypatch.setattr(search, "make_candidate", fails)
    result = build_quickly(classifier, DATA, tmp_path / "fast")
    states = {one.name: (one.state, one.reason) for one in result.candidates}
    assert states["student 1x32"] == ("not made", "the student does not run")
    assert states["static"][0] == states["student 2x32"][0] == "made"
    assert "student does not run" in (tmp_path / "fast" / "report.html").read_text("utf-8")


@pytest.mark.slow
def test_another_small_model_of_the_same_name_is_another_candidate(built, classifier, make_model, tmp_path):
    output, folder = copied(built[0], tmp_path / "fast"), tmp_path / "small"
    for seed in (7, 8):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(make_model(layers=1, hidden=16, labels=("negative", "positive"), seed=seed), folder)
        result = build_quickly(classifier, DATA, output, small=[folder])
        (one,) = [one for one in result.candidates if one.name == "small"]
        stages = [Stage.from_pretrained(path, engine="torch") for path in (folder, classifier)]
        labels = [stage.predict(list(divided().tune.texts)).labels for stage in stages]
        assert one.agreement == pytest.approx(float(np.mean(labels[0] == labels[1])), abs=0.02)


@pytest.mark.slow
def test_fewer_minutes_after_an_interrupted_pass_keep_what_it_stored(classifier, tmp_path, monkeypatch):
    monkeypatch.setattr(teacher, "CHUNK", 16)
    with monkeypatch.context() as patch:
        interrupt_after(patch, teacher._OutputFiles, "add", 4)
        with pytest.raises(KeyboardInterrupt):
            build_quickly(classifier, DATA, tmp_path / "fast", minutes=60.0)
    (outputs,) = (tmp_path / "fast.work").glob("*/outputs")
    assert teacher.count_stored(outputs) == 64
    assert build_quickly(classifier, DATA, tmp_path / "fast", minutes=0.001).output == tmp_path / "fast"
    assert teacher.count_stored(outputs) == 64


@pytest.mark.slow
def test_models_under_new_names_are_the_same_models(built, classifier, tmp_path):
    output = copied(built[0], tmp_path / "fast")
    renamed = shutil.copytree(classifier, tmp_path / "renamed")
    result = build_quickly(renamed, DATA, output)
    assert result.cascades and result.chosen.stages[-1] == result.candidates[-1].name == "renamed"
    assert cascade_of(output) == cascade_of(built[0])
