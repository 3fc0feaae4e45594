"""The dispatcher gives the results of `Cascade.predict` under any load, and fails as documented."""

from __future__ import annotations

import dataclasses
import threading
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascadebert.errors import DataError
from cascadebert.inference.tokenizer import StageTokenizer
from cascadebert.server.config import ServerConfig
from cascadebert.server.scheduling.dispatcher import BatchDispatcher
from cascadebert.server.types import (
    DeadlineExceeded,
    Overloaded,
    RequestOptions,
    ServiceUnavailable,
)
from cascadebert.thresholds.confidence import Score
from dispatching import (
    FaultyEngine,
    RecordingMonitor,
    same,
    start_dispatcher,
    wait_until,
    with_exact_engines,
    with_faulty_stage,
)
from samples import sentences

TEXTS = sentences(300, seed=3, most=25)


@pytest.fixture(scope="module")
def cascade(make_cascade):
    """Three stages that are exact; rows leave at each of them."""
    made = with_exact_engines(make_cascade(3))
    assert set(made.predict(TEXTS).stages) == {1, 2, 3}
    return made


@pytest.fixture(scope="module")
def dispatcher(cascade):
    made = start_dispatcher(cascade)
    yield made
    assert made.drain(10)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(0, len(TEXTS) - 1), max_size=12), min_size=1, max_size=12))
def test_answers_never_cross_between_requests_and_are_those_of_predict(cascade, dispatcher, requests):
    given = [[TEXTS[i] for i in one] for one in requests]
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda texts: dispatcher.submit(texts).result(10), given))
    for texts, answer in zip(given, answers, strict=True):
        assert len(answer.rows) == len(texts)
        assert not texts or same(answer, cascade.predict(texts))


def test_a_storm_of_submitters_gets_every_answer_once_and_the_right_one(cascade):
    dispatcher = start_dispatcher(cascade, max_queue_size=5000, latency_target=60.0)
    wanted = [cascade.predict(TEXTS[i : i + 6]) for i in range(0, 294, 6)]

    def storm(_):
        futures = [dispatcher.submit(TEXTS[i : i + 6]) for i in range(0, 294, 6)]
        return [same(one.result(20), right) for one, right in zip(futures, wanted, strict=True)]

    with ThreadPoolExecutor(12) as threads:
        assert all(all(one) for one in threads.map(storm, range(12)))
    state = dispatcher.state()
    assert sum(one.exits for one in state.stages) == 12 * 294 and state.inflight_texts == 0
    assert dispatcher.drain(5)


def test_permuting_the_texts_permutes_the_answers(dispatcher):
    order = np.random.default_rng(0).permutation(60)
    straight = dispatcher.submit(TEXTS[:60]).result(10).rows
    shuffled = dispatcher.submit([TEXTS[i] for i in order]).result(10).rows
    for row, place in zip(shuffled, order, strict=True):
        assert (
            row.stage_results[-1].probabilities.tolist()
            == straight[place].stage_results[-1].probabilities.tolist()
        )
        assert row.logits.tolist() == straight[place].logits.tolist()


@pytest.mark.slow
def test_real_models_give_the_labels_and_stages_of_predict(make_cascade):
    cascade = make_cascade(3)
    dispatcher, wanted = start_dispatcher(cascade), cascade.predict(TEXTS[:80])
    futures = [dispatcher.submit(TEXTS[i : i + 8]) for i in range(0, 80, 8)]
    last = [row.stage_results[-1] for one in futures for row in one.result(10).rows]
    assert [one.stage for one in last] == wanted.stages.tolist()
    assert np.array([one.probabilities for one in last]) == pytest.approx(wanted.probabilities, abs=1e-6)
    assert dispatcher.drain(5)


def test_a_learned_score_sees_the_stages_so_far(cascade):
    weights = ((-1.0, 0.4, 0.2, 0.1), (-2.0, 0.1, 0.2, 0.1, 0.4, 0.2, 0.1, 1.5))
    learned = dataclasses.replace(cascade, score=Score("learned", weights))
    dispatcher, wanted = start_dispatcher(learned), learned.predict(TEXTS)
    assert set(wanted.stages) == {1, 2, 3}
    rows = dispatcher.submit(TEXTS).result(10).rows
    assert [row.stage_results[-1].stage for row in rows] == wanted.stages.tolist()
    found = np.array([row.stage_results[-1].confidence for row in rows])
    assert found == pytest.approx(wanted.confidences, abs=1e-12)  # a matrix product's last digit
    assert dispatcher.drain(5)


def test_a_stage_with_a_tokenizer_of_its_own_reads_the_deferred_rows_itself(cascade):
    stages = list(cascade.stages)
    stages[1] = dataclasses.replace(stages[1], tokenizer=StageTokenizer(stages[1].path, max_length=8))
    other = dataclasses.replace(cascade, stages=tuple(stages))
    dispatcher = start_dispatcher(other, monitor=RecordingMonitor())
    assert same(dispatcher.submit(TEXTS).result(10), other.predict(TEXTS))
    assert dispatcher.drain(5) and dispatcher.state().shadow_backlog == 0


def test_pairs_are_answered_as_pairs(cascade, dispatcher):
    pairs = list(zip(TEXTS[:20], TEXTS[20:40], strict=True))
    assert same(dispatcher.submit(pairs).result(10), cascade.predict(pairs))


def test_max_stage_predicts_there_at_the_latest_and_is_uncertified(cascade, dispatcher):
    answer = dispatcher.submit(TEXTS, RequestOptions(max_stage=2)).result(10)
    free = cascade.predict(TEXTS).stages
    assert [row.stage_results[-1].stage for row in answer.rows] == np.minimum(free, 2).tolist()
    assert "the request set max_stage to 2" in answer.uncertified_reason
    assert not any(row.degraded for row in answer.rows)


def test_an_uncertified_cascade_says_so_in_every_answer(dispatcher):
    answer = dispatcher.submit(TEXTS[:2]).result(10)
    assert answer.uncertified_reason == "nothing is certified here: its thresholds were set by hand"
    assert (answer.operating_point, len(dispatcher.state().operating_points)) == (0, 1)


@pytest.mark.parametrize(
    ("texts", "options"),
    [
        ("one string", RequestOptions()),
        (["fine", ("a", "pair")], RequestOptions()),
        ([("a", "b", "c")], RequestOptions()),
        (["fine"], RequestOptions(max_stage=4)),
        (["fine"], RequestOptions(deadline=0.0)),
        (["fine"] * 5000, RequestOptions()),
    ],
)
def test_invalid_input_is_rejected_at_once(dispatcher, texts, options):
    with pytest.raises(DataError):
        dispatcher.submit(texts, options)


def test_a_text_that_no_tokenizer_reads_fails_its_own_request_only(cascade, dispatcher):
    broken, whole = dispatcher.submit(["fine", "\ud800"]), dispatcher.submit(TEXTS[:5])
    with pytest.raises(DataError, match="cannot be tokenized"):
        broken.result(10)
    assert same(whole.result(10), cascade.predict(TEXTS[:5]))


def test_before_start_and_after_a_drain_nothing_is_accepted(cascade):
    dispatcher = BatchDispatcher(cascade, ServerConfig())
    with pytest.raises(ServiceUnavailable):
        dispatcher.submit(["fine"])
    dispatcher.start()
    assert dispatcher.state().ready and dispatcher.drain(5)
    with pytest.raises(ServiceUnavailable):
        dispatcher.submit(["fine"])
    assert not dispatcher.state().ready


def test_a_drain_loses_nothing(cascade):
    slow, engine = with_faulty_stage(cascade, 3)
    dispatcher = start_dispatcher(slow)
    engine.open.clear()
    futures = [dispatcher.submit(TEXTS[i : i + 10]) for i in range(0, 200, 10)]
    threading.Timer(0.2, engine.open.set).start()
    assert dispatcher.drain(10)
    for i, future in enumerate(futures):
        assert same(future.result(0), cascade.predict(TEXTS[10 * i : 10 * i + 10]))


def test_a_drain_that_takes_too_long_says_so_to_those_who_wait(cascade):
    slow, engine = with_faulty_stage(cascade, 3)
    dispatcher = start_dispatcher(slow)
    engine.open.clear()
    future = dispatcher.submit(TEXTS[:50])
    assert not dispatcher.drain(0.2)
    with pytest.raises(ServiceUnavailable):
        future.result(0)
    engine.open.set()


def test_full_queues_refuse_and_recover(cascade):
    slow, engine = with_faulty_stage(cascade, 1)
    dispatcher = start_dispatcher(slow, max_queue_size=100, max_client_batch_size=100)
    engine.open.clear()
    accepted = [dispatcher.submit(TEXTS[:30]) for _ in range(3)]
    with pytest.raises(Overloaded) as refused:
        dispatcher.submit(TEXTS[:30])
    assert refused.value.retry_after > 0
    engine.open.set()
    wait(accepted, 10)
    assert same(dispatcher.submit(TEXTS[:30]).result(10), cascade.predict(TEXTS[:30]))
    assert dispatcher.drain(5)


def test_a_wait_beyond_the_latency_target_refuses_and_recovers(cascade):
    slow, engine = with_faulty_stage(cascade, 1)
    dispatcher = start_dispatcher(slow, latency_target=1e-6, max_queue_size=10_000)
    engine.open.clear()
    first = dispatcher.submit(TEXTS[:8], RequestOptions(deadline=20.0))
    with pytest.raises(Overloaded, match="would wait"):
        dispatcher.submit(TEXTS[:8])
    engine.open.set()
    assert same(first.result(10), cascade.predict(TEXTS[:8]))
    assert same(
        dispatcher.submit(TEXTS[:8], RequestOptions(deadline=20.0)).result(10), cascade.predict(TEXTS[:8])
    )
    assert dispatcher.drain(5)


def test_a_row_past_its_deadline_is_dropped_before_a_stage_runs_it(cascade):
    slow, engine = with_faulty_stage(cascade, 2)
    now = [100.0]
    dispatcher = BatchDispatcher(slow, ServerConfig(latency_target=5.0), clock=lambda: now[0])
    dispatcher.start()
    engine.open.clear()
    engine.entered.clear()
    stuck = [dispatcher.submit(TEXTS) for _ in range(2)]
    assert engine.entered.wait(10)
    late = dispatcher.submit(TEXTS[:50], RequestOptions(deadline=1.0))
    ran = len(cascade.stages[2].engine.seen)
    now[0] += 2.0
    with pytest.raises(DeadlineExceeded):
        late.result(10)
    engine.open.set()
    for one in stuck:
        assert same(one.result(10), cascade.predict(TEXTS))
    assert len(cascade.stages[2].engine.seen) > ran and dispatcher.state().inflight_texts == 0
    assert dispatcher.drain(5)


def test_rows_of_a_cancelled_request_are_dropped(cascade):
    slow, engine = with_faulty_stage(cascade, 2)
    dispatcher = start_dispatcher(slow)
    engine.open.clear()
    future = dispatcher.submit(TEXTS[:50])
    assert future.cancel()
    wait_until(lambda: dispatcher.state().inflight_texts == 0)
    engine.open.set()
    assert dispatcher.drain(5)


def test_shadow_rows_are_answered_first_and_then_seen_by_the_last_stage(cascade):
    slow, engine = with_faulty_stage(cascade, 3)
    monitor = RecordingMonitor(fraction=0.5)
    dispatcher = start_dispatcher(slow, monitor=monitor)
    wanted, last = cascade.predict(TEXTS), cascade.stages[2].predict(TEXTS).label_ids
    early = [i for i in range(300) if wanted.stages[i] < 3]
    engine.open.clear()
    answer = dispatcher.submit([TEXTS[i] for i in early]).result(10)
    assert same(answer, cascade.predict([TEXTS[i] for i in early])) and not monitor.results
    wait_until(lambda: monitor.backlogs and monitor.backlogs[-1] == (len(early) + 1) // 2)
    engine.open.set()
    assert dispatcher.drain(10) and dispatcher.state().shadow_backlog == 0
    half = early[: (len(early) + 1) // 2]
    assert sorted(agreed for _, agreed, _ in monitor.results) == sorted(
        bool(wanted.label_ids[i] == last[i]) for i in half
    )
    assert {(point, weight) for point, _, weight in monitor.results} == {(0, 2.0)}


def test_a_row_that_reaches_the_last_stage_agrees_with_it_and_every_request_is_reported(cascade):
    monitor = RecordingMonitor()
    dispatcher, wanted = start_dispatcher(cascade, monitor=monitor), cascade.predict(TEXTS)
    dispatcher.submit(TEXTS).result(10)
    assert dispatcher.drain(10)
    assert (
        len(monitor.results) == 300
        and sum(agreed for _, agreed, _ in monitor.results) >= (wanted.stages == 3).sum()
    )
    first = cascade.predict(TEXTS[:1])
    ((point, stages, confidences),) = monitor.requests
    assert (point, stages) == (0, wanted.stages.tolist())
    assert first.stages[0] > 1 or confidences[0] == first.confidences[0]


def test_answers_that_thresholds_did_not_make_are_neither_shadowed_nor_reported(cascade):
    monitor = RecordingMonitor()
    broken, engine = with_faulty_stage(cascade, 3)
    dispatcher = start_dispatcher(broken, monitor=monitor, on_last_stage_failure="degrade", probe_every=60.0)
    dispatcher.submit(TEXTS[:50], RequestOptions(max_stage=1)).result(10)
    engine.error = OSError("gone")
    dispatcher.submit(TEXTS).result(10)
    dispatcher.submit(TEXTS).result(10)
    assert dispatcher.drain(5) and not monitor.requests and not monitor.results


def test_a_server_of_one_stage_answers(make_cascade):
    one = with_exact_engines(make_cascade(1))
    dispatcher = start_dispatcher(one, monitor=RecordingMonitor())
    assert same(dispatcher.submit(TEXTS).result(10), one.predict(TEXTS))
    assert dispatcher.drain(5)


def test_faulty_engines_are_engines(cascade):
    assert FaultyEngine(cascade.stages[0].engine).streams == 2
