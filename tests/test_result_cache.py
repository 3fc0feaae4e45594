"""Remembered results are those that the stages would give, and are as few as asked for."""

from __future__ import annotations

import pytest

from cascadebert.errors import CascadeError
from cascadebert.server.config import ServerConfig
from cascadebert.server.types import RequestOptions
from dispatching import (
    RecordingMonitor,
    same,
    start_dispatcher,
    wait_until,
    with_exact_engines,
    with_faulty_stage,
)
from samples import sentences

TEXTS = sentences(60, seed=5, most=25)


@pytest.fixture(scope="module")
def cascade(make_cascade):
    return with_exact_engines(make_cascade(3))


def runs(cascade):
    """The number of batches that each stage has run."""
    return [len(stage.engine.seen) for stage in cascade.stages]


def test_texts_that_come_again_run_through_no_stage_and_get_the_same_results(cascade):
    dispatcher = start_dispatcher(cascade, cache_size=100)
    first = dispatcher.submit(TEXTS).result(10)
    before = runs(cascade)
    again = dispatcher.submit([*reversed(TEXTS)]).result(10)
    assert runs(cascade) == before
    assert same(first, cascade.predict(TEXTS)) and same(again, cascade.predict([*reversed(TEXTS)]))
    assert [row.truncated for row in again.rows] == [row.truncated for row in reversed(first.rows)]
    assert {result.seconds for row in again.rows for result in row.stage_results} == {0.0}
    state = dispatcher.state()
    assert state.cached_texts == 60 and state.inflight_texts == 0
    assert sum(stage.exits for stage in state.stages) == 120
    assert dispatcher.drain(5)


def test_only_the_new_texts_of_a_request_run(cascade):
    dispatcher = start_dispatcher(cascade, cache_size=100)
    dispatcher.submit(TEXTS[:20]).result(10)
    mixed = [*TEXTS[30:40], *TEXTS[10:20]]
    assert same(dispatcher.submit(mixed).result(10), cascade.predict(mixed))
    assert dispatcher.state().cached_texts == 10
    assert dispatcher.drain(5)


def test_the_least_recently_used_text_is_forgotten_first(cascade):
    dispatcher = start_dispatcher(cascade, cache_size=2)
    for text in (TEXTS[0], TEXTS[1], TEXTS[0], TEXTS[2]):  # the second is forgotten
        dispatcher.submit([text]).result(10)
    assert dispatcher.state().cached_texts == 1
    dispatcher.submit([TEXTS[0]]).result(10)
    assert dispatcher.state().cached_texts == 2
    dispatcher.submit([TEXTS[1]]).result(10)
    assert dispatcher.state().cached_texts == 2
    assert dispatcher.drain(5)


def test_nothing_is_remembered_unless_asked_for(cascade):
    dispatcher = start_dispatcher(cascade)
    for _ in range(2):
        dispatcher.submit(TEXTS).result(10)
    assert dispatcher.state().cached_texts == 0
    assert dispatcher.drain(5)


def test_a_result_of_earlier_stages_does_not_answer_a_request_for_all(cascade):
    dispatcher = start_dispatcher(cascade, cache_size=100)
    assert all(
        row.stage_results[-1].stage == 1
        for row in dispatcher.submit(TEXTS, RequestOptions(max_stage=1)).result(10).rows
    )
    assert same(dispatcher.submit(TEXTS).result(10), cascade.predict(TEXTS))
    assert dispatcher.state().cached_texts == 0
    assert dispatcher.drain(5)


def test_the_monitor_sees_remembered_texts_and_shadowed_ones_run(cascade):
    monitor = RecordingMonitor(fraction=0.5)
    dispatcher = start_dispatcher(cascade, cache_size=100, monitor=monitor)
    for _ in range(2):
        dispatcher.submit(TEXTS).result(10)
    wait_until(lambda: len(monitor.results) == 60)
    assert dispatcher.state().cached_texts == 30  # the others of the second request are shadowed
    assert len(monitor.requests) == 2 and monitor.requests[0] == monitor.requests[1]
    assert dispatcher.drain(10)


def test_degraded_results_are_not_remembered(cascade):
    faulty, engine = with_faulty_stage(cascade, 3)
    engine.error = RuntimeError("no memory")
    dispatcher = start_dispatcher(faulty, cache_size=100, on_last_stage_failure="degrade", probe_every=0.05)
    assert any(row.degraded for row in dispatcher.submit(TEXTS).result(10).rows)
    engine.error = None
    wait_until(lambda: dispatcher.state().stages[2].up)
    assert same(dispatcher.submit(TEXTS).result(10), cascade.predict(TEXTS))
    assert 0 < dispatcher.state().cached_texts < 60
    assert dispatcher.drain(5)


def test_pairs_are_not_confused_with_each_other(make_cascade):
    cascade = with_exact_engines(make_cascade(2))
    dispatcher = start_dispatcher(cascade, cache_size=100)
    pairs = [("a film", "a lovely film"), ("a film a", "lovely film"), ("a lovely film", "a film")]
    dispatcher.submit(pairs[:1]).result(10)
    assert same(dispatcher.submit(pairs).result(10), cascade.predict(pairs))
    assert dispatcher.state().cached_texts == 1
    assert dispatcher.drain(5)


def test_a_negative_size_is_an_error():
    with pytest.raises(CascadeError, match="cache_size must be 0 or more, not -1"):
        ServerConfig(cache_size=-1)
