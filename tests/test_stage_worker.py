"""Rows that stream through the stages one by one get the answers of `Cascade.predict`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("ray")

import pyarrow as pa

from cascadebert import Cascade, OperatingPoint
from cascadebert.distributed.pools import costs_of, reached_shares, stage_pools
from cascadebert.distributed.stage_worker import StageWorker
from cascadebert.persistence.folder import read_folder
from cascadebert.persistence.schema import MeasuredTiming
from cascadebert.thresholds.confidence import Score
from cascadebert.types import LinearLatency
from clusters import median_thresholds, save_cascade
from samples import sentences

TEXTS = sentences(200, seed=7, most=25)


@pytest.fixture(scope="module")
def saved(make_model, tmp_path_factory):
    """The folder of a cascade of three stages."""
    return save_cascade(make_model, tmp_path_factory.mktemp("three"), TEXTS, layers=(1, 2, 3))


@pytest.fixture(scope="module")
def cascade(saved):
    made = Cascade.from_pretrained(saved)
    assert set(made.predict(TEXTS).stages) == {1, 2, 3}
    return made


def through(folder, table, texts=("text",)):
    """The table after all stages, and after each of them."""
    tables = []
    for number in range(len(read_folder(folder).stages)):
        table = StageWorker(str(folder), number, texts)(table)
        tables.append(table)
    return table, tables


def test_rows_have_the_answers_of_predict_and_their_other_columns(saved, cascade):
    table = pa.table({"text": TEXTS, "id": range(200)})
    found, _ = through(saved, table)
    expected = cascade.predict(TEXTS)
    assert found.column_names == ["id", "label", "confidence", "stage", "truncated", "reason"]
    assert found["label"].to_pylist() == expected.labels.tolist()
    assert found["stage"].to_pylist() == expected.stages.tolist()
    assert found["confidence"].to_numpy().tobytes() == expected.confidences.tobytes()
    assert found["truncated"].to_pylist() == expected.truncated.tolist()
    assert found["reason"].null_count == 200


def test_settled_rows_lose_their_text_and_are_not_computed_again(saved, cascade):
    _, (first, _, _) = through(saved, pa.table({"text": TEXTS, "id": range(200)}))
    settled = cascade.predict(TEXTS).stages == 1
    assert (np.asarray(first["text"].is_null()) == settled).all()
    assert (first["stage"].to_numpy() == settled).all()


def test_answers_do_not_depend_on_the_other_rows_of_a_batch(saved):
    table = pa.table({"text": TEXTS, "id": range(200)})
    whole, _ = through(saved, table)
    parts = [through(saved, table.slice(start, 37))[0] for start in range(0, 200, 37)]
    assert pa.concat_tables(parts).equals(whole.combine_chunks()) or (
        pa.concat_tables(parts).to_pylist() == whole.to_pylist()
    )


def test_bad_rows_are_set_aside_with_their_reason(saved, cascade):
    texts = [TEXTS[0], None, "   ", TEXTS[1], "\u200b"]
    found, _ = through(saved, pa.table({"text": texts, "id": range(5)}))
    expected = cascade.predict([TEXTS[0], TEXTS[1]]).labels.tolist()
    assert found["label"].to_pylist()[:4] == [expected[0], None, None, expected[1]]
    assert found["stage"].to_pylist()[1:3] == [None, None] == found["confidence"].to_pylist()[1:3]
    reasons = found["reason"].to_pylist()
    assert reasons[0] is None and reasons[1] == reasons[2] == "column 'text': empty text"


def test_a_table_of_bad_rows_or_none_passes(saved):
    found, _ = through(saved, pa.table({"text": pa.array([None, None], pa.string()), "id": [1, 2]}))
    assert found["label"].to_pylist() == [None, None]
    none, _ = through(saved, pa.table({"text": pa.array([], pa.string()), "id": pa.array([], pa.int64())}))
    assert len(none) == 0 and none.column_names == found.column_names


def test_equal_texts_get_equal_answers(saved, cascade):
    texts = [*TEXTS[:20], *reversed(TEXTS[:20])]
    found, _ = through(saved, pa.table({"text": texts, "id": range(40)}))
    assert found["label"].to_pylist() == cascade.predict(texts).labels.tolist()


def test_columns_named_as_those_of_the_result_are_renamed_as_in_predict(saved, cascade):
    table = pa.table({"label": TEXTS[:20], "stage": range(20)})
    found, _ = through(saved, table, texts=("label",))
    assert found["input_stage"].to_pylist() == list(range(20)) and "input_label" not in found.column_names
    assert found["label"].to_pylist() == cascade.predict(TEXTS[:20]).labels.tolist()


def test_a_learned_score_gets_the_probabilities_of_all_stages_so_far(saved, cascade):
    score = Score("learned", ((0.1, 0.5, -0.3, 0.2), (0.1, 0.4, -0.3, 0.2, 0.1, 0.6, -0.2, 0.3)))
    thresholds = median_thresholds(cascade, TEXTS, score)
    learned = replace(cascade, score=score, operating_point=OperatingPoint(thresholds))
    expected = learned.predict(TEXTS)
    assert set(expected.stages) == {1, 2, 3}
    table = pa.table({"text": TEXTS, "id": range(200)})
    for number in range(3):
        worker = StageWorker(str(saved), number, ("text",))
        worker._score, worker._threshold = score, (*thresholds, None)[number]
        table = worker(table)
    assert table["stage"].to_pylist() == expected.stages.tolist()
    assert table["confidence"].to_numpy().tobytes() == expected.confidences.tobytes()
    assert table.column_names == ["id", "label", "confidence", "stage", "truncated", "reason"]


def test_pools_follow_costs_and_exits(saved):
    spec = read_folder(saved)
    assert len(costs_of(spec)) == 3 and costs_of(spec)[0] < costs_of(spec)[2]
    seconds = tuple(LinearLatency(0.5, token) for token in (1.0, 2.0, 3.0))
    timing = MeasuredTiming(machine="a machine", stages=seconds, tokenizing=seconds, expected_speedup=2.0)
    assert costs_of(spec.model_copy(update={"timing": timing})) == [32.5, 64.5, 96.5]
    bare = spec.model_copy(
        update={"timing": None, "stages": tuple(s.model_copy(update={"flops": None}) for s in spec.stages)}
    )
    assert costs_of(bare) == [float(s.layers * s.hidden**2) for s in spec.stages]
    assert reached_shares([0.5]) == [1.0, 0.5]


def test_actors_reserve_whole_processors_or_none_and_gpus_are_of_the_last_stage():
    few = stage_pools([1, 10, 100], [1, 0.5, 0.1], cpus=2)
    assert [pool.actors for pool in few] == [1, 1, 1]
    assert [pool.actors for pool in stage_pools([0.1, 10], [1, 0.5], cpus=2)] == [1, 2]
    assert {pool.num_cpus for pool in few} == {0.0}
    gpus = stage_pools([1, 100], [1, 0.1], cpus=16, gpus=4)
    assert [(pool.actors, pool.num_gpus) for pool in gpus] == [(11, 0.0), (4, 1.0)]
    rare = stage_pools([1, 100], [1, 0.0], cpus=4)
    assert rare[1].rows == 65_536 and rare[1].actors == 1
