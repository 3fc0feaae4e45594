"""What rows cost by the clock: fitted per row and token, tokenizers paid once."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from cascadebert.evaluation import cost_model
from cascadebert.evaluation.cost_model import LatencyModel, measure_latency
from cascadebert.inference.batching import Padding, concatenate_tokens
from cascadebert.thresholds.stage_choice import CandidateStages
from cascadebert.types import LinearLatency
from samples import sentences

SHORT, LONG = (concatenate_tokens([[1] * a, [1] * b], None, Padding()) for a, b in ((3, 9), (5, 7)))
MODELS = (LinearLatency(1.0, 0.5), LinearLatency(10.0, 2.0))


def test_a_shared_tokenizer_is_paid_by_the_first_stage_and_by_the_last_one_alone():
    tokens = LinearLatency(0.0, 1.0)
    found = LatencyModel(MODELS, (tokens, tokens), ("a", "a")).costs([SHORT, SHORT])
    assert found.rows.tolist() == [[1 + 2 + 3, 1 + 5 + 9], [10 + 8, 10 + 20]]
    assert found.last_stage_cost == np.mean([10 + 8 + 3, 10 + 20 + 9])


def test_a_tokenizer_of_its_own_is_paid_by_the_rows_that_reach_it():
    found = LatencyModel(MODELS, (LinearLatency(0.0, 1.0), LinearLatency(0.0, 3.0)), ("a", "b")).costs(
        [SHORT, LONG]
    )
    assert found.rows.tolist() == [[6, 15], [10 + 12 + 15, 10 + 16 + 21]]
    assert found.last_stage_cost == found.rows[1].mean()


def test_seconds_are_found_again(make_cascade, monkeypatch):
    cascade, texts = make_cascade(2), sentences(300, seed=1, most=30)
    encoded = cascade.encode(texts)
    true = {16: LinearLatency(1e-3, 2e-5), 32: LinearLatency(5e-3, 1e-4)}

    def timed(runs, repeats):
        taken = []
        for run in runs:
            stage = run.func.__self__
            if run.func.__name__ == "encode":
                taken.append([1e-6 * int(stage.encode(run.args[0]).lengths.sum())] * repeats)
                continue
            rows, group = run.args
            taken.append([float(true[stage.hidden].cost_of(rows.padded_lengths[group]).sum())] * repeats)
        return taken

    monkeypatch.setattr(cost_model, "interleaved", timed)
    found = measure_latency(cascade.stages, texts, encoded)
    for one, stage in zip(found.stages, cascade.stages, strict=True):
        assert dataclasses.astuple(one) == pytest.approx(dataclasses.astuple(true[stage.hidden]), rel=1e-6)
    assert found.tokenizing[0] == found.tokenizing[1]
    assert found.tokenizing[0].token == pytest.approx(1e-6)


def test_rows_of_one_length_give_no_negative_seconds():
    groups = [np.array([0, 1]), np.array([2, 3])]
    fitted = cost_model.fit_latency(np.array([8, 8, 8, 8]), groups, np.array([1.0, 3.0]))
    assert fitted.row >= 0 and fitted.token >= 0
    assert float(fitted.cost_of(np.array([8] * 4)).sum()) == pytest.approx(4.0)


def test_a_chain_of_all_stages_costs_what_the_cascade_does(cascade):
    texts = ["a good film", "really good " * 10, "bad"]
    encoded = cascade.encode(texts)
    stages = range(len(cascade.stages))
    latencies = [LinearLatency(0.5 + i, 0.25 + i) for i in stages]
    model = LatencyModel(tuple(latencies), tuple(latencies), tuple(s.tokenizer.key for s in cascade.stages))
    probabilities = np.full((len(stages), 3, 2), 0.5)
    candidates = CandidateStages(probabilities, *model.parts(encoded), model.keys)
    expected = model.costs(encoded)
    assert np.array_equal(candidates.costs(tuple(stages), np.arange(3)), expected.rows)
    assert candidates.last_stage_cost == expected.last_stage_cost
