"""The dispatcher while a stage or a worker fails: what can be answered is, and it recovers."""

from __future__ import annotations

import numpy as np
import pytest

from cascadebert.server.types import (
    StageUnavailable,
)
from dispatching import (
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


def test_without_a_last_stage_that_raises_requests_that_need_it_are_refused_until_it_is_back(cascade):
    broken, engine = with_faulty_stage(cascade, 3)
    dispatcher = start_dispatcher(broken, probe_every=0.05)
    engine.error = OSError("gone")
    with pytest.raises(StageUnavailable, match=r"stage 3 .* raised OSError: gone"):
        dispatcher.submit(TEXTS).result(10)
    easy = [t for t, s in zip(TEXTS, cascade.predict(TEXTS).stages, strict=True) if s < 3]
    assert same(dispatcher.submit(easy).result(10), cascade.predict(easy))
    state = dispatcher.state()
    assert state.ready and not state.stages[2].up and "gone" in state.stages[2].reason
    engine.error = None
    wait_until(lambda: dispatcher.state().stages[2].up)
    assert same(dispatcher.submit(TEXTS).result(10), cascade.predict(TEXTS))
    assert dispatcher.drain(5)


def test_without_a_last_stage_the_one_before_answers_where_degraded_results_are_allowed(cascade):
    broken, engine = with_faulty_stage(cascade, 3)
    dispatcher = start_dispatcher(broken, on_last_stage_failure="degrade", probe_every=60.0)
    engine.error = OSError("gone")
    wanted = cascade.predict(TEXTS).stages
    for _ in range(2):
        answer = dispatcher.submit(TEXTS).result(10)
        assert [row.degraded for row in answer.rows] == (wanted == 3).tolist()
        assert [row.stage_results[-1].stage for row in answer.rows] == np.minimum(wanted, 2).tolist()
        assert "unavailable" in answer.uncertified_reason
    assert dispatcher.drain(5)


def test_without_its_first_stage_a_server_refuses_at_once_and_is_not_ready(cascade):
    broken, engine = with_faulty_stage(cascade, 1)
    dispatcher = start_dispatcher(broken, on_last_stage_failure="degrade", probe_every=0.05)
    engine.error = OSError("gone")
    with pytest.raises(StageUnavailable):
        dispatcher.submit(TEXTS).result(10)
    with pytest.raises(StageUnavailable):
        dispatcher.submit(TEXTS)
    assert not dispatcher.state().ready
    engine.error = None
    wait_until(lambda: dispatcher.state().ready)
    assert dispatcher.drain(5)


def test_a_stage_that_is_broken_at_the_start_is_down_and_comes_back(cascade):
    broken, engine = with_faulty_stage(cascade, 3)
    engine.error = OSError("no such file")
    dispatcher = start_dispatcher(broken, on_last_stage_failure="degrade", probe_every=0.05)
    assert any(row.degraded for row in dispatcher.submit(TEXTS).result(10).rows)
    engine.error = None
    wait_until(lambda: dispatcher.state().stages[2].up)
    assert same(dispatcher.submit(TEXTS).result(10), cascade.predict(TEXTS))
    assert dispatcher.drain(5)


@pytest.mark.slow
def test_a_hanging_stage_blocks_no_other_and_its_late_result_is_ignored(cascade):
    hanging, engine = with_faulty_stage(cascade, 3)
    dispatcher = start_dispatcher(
        hanging, stage_timeout=1.0, probe_every=0.1, on_last_stage_failure="degrade"
    )
    wanted = cascade.predict(TEXTS).stages
    easy = [t for t, s in zip(TEXTS, wanted, strict=True) if s < 3]
    engine.open.clear()
    engine.entered.clear()
    stuck = [dispatcher.submit(TEXTS) for _ in range(4)]
    assert engine.entered.wait(10)
    assert same(dispatcher.submit(easy).result(10), cascade.predict(easy))
    assert not any(one.done() for one in stuck)
    for one in stuck:
        assert [row.degraded for row in one.result(10).rows] == (wanted == 3).tolist()
    assert "within 1 s" in dispatcher.state().stages[2].reason
    engine.open.set()
    wait_until(lambda: dispatcher.state().stages[2].up)
    assert same(dispatcher.submit(TEXTS).result(10), cascade.predict(TEXTS))
    assert dispatcher.drain(5)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_worker_thread_that_dies_is_replaced_and_its_rows_are_answered(cascade):
    deadly, engine = with_faulty_stage(cascade, 2)
    dispatcher = start_dispatcher(deadly)
    for _ in range(3):
        engine.error = SystemExit()
        assert same(dispatcher.submit(TEXTS).result(10), cascade.predict(TEXTS))
    assert dispatcher.state().stages[1].up and dispatcher.drain(5)
