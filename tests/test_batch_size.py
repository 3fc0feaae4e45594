"""Batch sizes are measured once per machine and stage, remembered, and change no answer."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from cascadebert.inference import batch_size
from cascadebert.inference.batch_size import BUDGETS, with_tuned_batch_sizes
from cascadebert.inference.stage import BATCH_TOKENS
from samples import sentences


@pytest.fixture
def remembered(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "cascadebert" / "batch-tokens.json"


def sizes(cascade):
    return [stage.batch_tokens for stage in cascade.stages]


def test_what_was_not_measured_keeps_the_default(make_cascade, remembered):
    assert sizes(with_tuned_batch_sizes(make_cascade(2), measure=False)) == [BATCH_TOKENS] * 2
    assert not remembered.exists()


@pytest.mark.slow
def test_it_is_measured_once_and_remembered(make_cascade, remembered, monkeypatch):
    cascade = make_cascade(2)
    found = with_tuned_batch_sizes(cascade, measure=True)
    assert set(sizes(found)) <= set(BUDGETS)
    assert sorted(json.loads(remembered.read_text("utf-8")).values()) == sorted(sizes(found))
    monkeypatch.setattr(batch_size, "_measure_best", lambda stage: pytest.fail("measured again"))
    assert sizes(with_tuned_batch_sizes(cascade, measure=True)) == sizes(found)
    assert sizes(with_tuned_batch_sizes(cascade, measure=False)) == sizes(found)


def test_it_belongs_to_one_machine(make_cascade, remembered, monkeypatch):
    made = iter([512, 8192])
    monkeypatch.setattr(batch_size, "_measure_best", lambda stage: next(made))
    cascade = make_cascade(1)
    assert sizes(with_tuned_batch_sizes(cascade, measure=True)) == [512]
    monkeypatch.setattr(batch_size, "machine", lambda: "another")
    assert sizes(with_tuned_batch_sizes(cascade, measure=True)) == [8192]


def test_it_stops_where_more_tokens_gain_nothing(make_cascade, monkeypatch):
    seconds = {512: 1.0, 1024: 1.5, 2048: 2.95, 4096: 0.0}  # 2,048 tokens are 2 % faster than 1,024
    asked = []

    def timed(runs, repeats):
        budget = runs[0].func.__self__.batch_tokens
        asked.append(budget)
        return [[seconds[budget]] * repeats]

    monkeypatch.setattr(batch_size, "interleaved", timed)
    assert batch_size._measure_best(make_cascade(1).stages[0]) == 1024
    assert asked == [512, 1024, 2048]


@pytest.mark.parametrize("content", ["", "[]", '{"x": "y"}'])
def test_a_damaged_memory_is_measured_anew(make_cascade, remembered, monkeypatch, content):
    monkeypatch.setattr(batch_size, "_measure_best", lambda stage: 1024)
    remembered.parent.mkdir()
    remembered.write_text(content, "utf-8")
    assert sizes(with_tuned_batch_sizes(make_cascade(1), measure=True)) == [1024]


def test_a_folder_that_cannot_be_written_only_costs_the_memory(make_cascade, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("", "utf-8")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(batch_size, "_measure_best", lambda stage: 1024)
    assert sizes(with_tuned_batch_sizes(make_cascade(1), measure=True)) == [1024]


def test_answers_do_not_change(make_cascade):
    cascade, texts = make_cascade(2), sentences(50, seed=3)
    small = replace(cascade, stages=tuple(replace(s, batch_tokens=64) for s in cascade.stages))
    wanted, found = cascade.predict(texts), small.predict(texts)
    assert found.labels.tolist() == wanted.labels.tolist()
    assert np.allclose(found.probabilities, wanted.probabilities, atol=1e-5)


def test_without_a_home_nothing_is_remembered(make_cascade, monkeypatch):
    def homeless(path):
        raise RuntimeError("no home")

    monkeypatch.setattr(batch_size.Path, "expanduser", homeless)
    monkeypatch.setattr(batch_size, "_measure_best", lambda stage: 1024)
    assert sizes(with_tuned_batch_sizes(make_cascade(1), measure=True)) == [1024]
