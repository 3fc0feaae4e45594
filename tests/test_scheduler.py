"""Order of batches, admission and operating points, without threads and at given times."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cascadebert import Cascade
from cascadebert.inference.batching import padded_length
from cascadebert.server.config import ServerConfig
from cascadebert.server.scheduling.autotune import SIZES, BatchingPlan, StagePlan, autotune, warm_up
from cascadebert.server.scheduling.dispatcher import BatchDispatcher
from cascadebert.server.scheduling.load_estimator import AdmissionLimit, LoadEstimator
from cascadebert.server.scheduling.request_tracker import RequestTracker
from cascadebert.server.scheduling.requests import BatchTask, TokenizeTask, run_batch, token_batch, tokenize
from cascadebert.server.scheduling.scheduler import SHADOW_BATCH_ROWS, SHADOW_YIELD_SECONDS, URGENT_FRACTION
from cascadebert.server.types import DeadlineExceeded, Overloaded, RequestOptions
from cascadebert.thresholds.operating_point import Certificate, CertifiedPoint, Guarantee, GuaranteeResult
from dispatching import RecordingMonitor, TableEngine, start_dispatcher, with_exact_engines
from samples import sentences
from simulating import SimulatedLoad

SHORT, LONG = "fine", "the film was very great and not dull"
PLAN = BatchingPlan(1, (StagePlan(64, 1e-5), StagePlan(64, 1e-4)))
CONFIG = ServerConfig(latency_target=1.0)


@pytest.fixture
def cascade(make_cascade):
    """Two exact stages, of which the first is never sure."""
    return with_exact_engines(make_cascade(2, thresholds=(1.0,)))


def admit(tracker, texts, at, **options):
    """Let a request in."""
    future = tracker.admit(texts, RequestOptions(**options), at)
    return next(request for request in tracker.requests if request.future is future)


def ask(tracker, texts, at, **options):
    """Let a request in, and have its texts read."""
    request = admit(tracker, texts, at, **options)
    task = tracker.take(at)
    assert isinstance(task, TokenizeTask)
    tracker.tokenized(task, tokenize(tracker.cascade, task), at)
    return request


def run(tracker, task, at):
    """What a worker does with a batch."""
    tracker.ran(task, *run_batch(tracker.cascade, task), at)


def tracker_of(cascade, *, monitor=None, plan=PLAN):
    """A tracker that remembers what these helpers need."""
    made = RequestTracker(cascade, plan, CONFIG, monitor)
    made.cascade, made.thresholds = cascade, cascade.operating_point.thresholds
    return made


def test_the_oldest_deadline_comes_first_whenever_it_arrived(cascade):
    tracker = tracker_of(cascade)
    late, soon = ask(tracker, [SHORT], 0.0, deadline=9.0), ask(tracker, [LONG], 1.0, deadline=2.0)
    assert [row.request for row in tracker.take(1.0).rows] == [soon]
    assert [row.request for row in tracker.take(1.0).rows] == [late]
    assert tracker.take(1.0) is None


def test_rows_of_different_requests_and_one_padded_length_share_a_batch(cascade):
    tracker = tracker_of(cascade)
    requests = [ask(tracker, [SHORT, LONG], 0.1 * i) for i in range(4)]
    first, second = tracker.take(1.0), tracker.take(1.0)
    assert [[row.request for row in one.rows] for one in (first, second)] == [requests, requests]
    assert first.length != second.length and {row.index for row in first.rows} == {0}


def test_a_row_that_has_waited_long_comes_first_whatever_its_stage(cascade):
    tracker = tracker_of(cascade)
    ask(tracker, [SHORT], 0.0)
    run(tracker, tracker.take(0.0), 0.0)
    waited = 1.1 * URGENT_FRACTION * CONFIG.latency_target
    ask(tracker, [LONG], waited)
    assert [tracker.take(waited).stage, tracker.take(waited).stage] == [1, 0]


def test_before_that_rows_gather_at_the_later_stage_until_they_fill_a_batch(cascade):
    tracker, full = tracker_of(cascade), PLAN.stages[1].max_rows(4)
    for i in range(full):
        ask(tracker, [SHORT], 0.001 * i)
        task = tracker.take(0.001 * i)
        assert (task.stage, len(task.rows)) == (0, 1)
        run(tracker, task, 0.001 * i)
    ask(tracker, [SHORT], 0.1)
    first, second = tracker.take(0.1), tracker.take(0.1)
    assert [(one.stage, len(one.rows)) for one in (first, second)] == [(1, full), (0, 1)]


def test_rows_past_their_deadline_are_never_given_to_a_stage(cascade):
    tracker = tracker_of(cascade)
    gone = ask(tracker, [SHORT] * 3, 0.0, deadline=1.0)
    kept = ask(tracker, [SHORT], 0.5)
    assert [row.request for row in tracker.take(1.5).rows] == [kept]
    ((future, outcome),) = tracker.completed
    assert future is gone.future and isinstance(outcome, DeadlineExceeded)
    assert tracker._inflight == 1


def test_a_text_past_its_deadline_is_not_even_tokenized(cascade):
    tracker = tracker_of(cascade)
    admit(tracker, [SHORT], 0.0, deadline=1.0)
    assert tracker.take(2.0) is None and not tracker.requests and tracker.estimated_delay == 0


def test_shadow_rows_yield_to_requests_but_not_forever_and_take_one_worker(cascade):
    sure = cascade.with_operating_point(replace(cascade.operating_point, thresholds=(0.0,)))
    tracker = tracker_of(sure, monitor=RecordingMonitor())
    for _ in range(2):
        ask(tracker, [SHORT, LONG], 0.0)
    while (task := tracker.take(0.0)).stage == 0:
        run(tracker, task, 0.0)
    assert task.shadow and tracker.take(0.0) is None, "one batch of audited rows at a time"
    run(tracker, task, 0.0)
    ask(tracker, [SHORT], 0.5)
    assert not tracker.take(0.5).shadow
    overdue = CONFIG.default_deadline + SHADOW_YIELD_SECONDS
    ask(tracker, [SHORT], overdue)
    assert tracker.take(overdue).shadow


def test_while_requests_are_in_flight_shadow_rows_wait_for_others_of_their_length(cascade):
    sure = cascade.with_operating_point(replace(cascade.operating_point, thresholds=(0.0,)))
    tracker = tracker_of(sure, monitor=RecordingMonitor())
    ask(tracker, [LONG], 0.0)
    in_flight = tracker.take(0.0)
    for _ in range(SHADOW_BATCH_ROWS):
        assert tracker.take(0.0) is None
        ask(tracker, [SHORT], 0.0)
        run(tracker, tracker.take(0.0), 0.0)
    task = tracker.take(0.0)
    assert task.shadow and len(task.rows) == SHADOW_BATCH_ROWS
    run(tracker, in_flight, 0.0)


def test_the_estimated_delay_counts_what_rows_still_need_and_limits_admission(cascade):
    tracker = tracker_of(cascade, plan=BatchingPlan(1, (StagePlan(64, 1e-3), StagePlan(64, 1e-2))))
    assert tracker.estimated_delay == 0
    ask(tracker, [SHORT] * 8, 0.0)
    tokens = 8 * 4
    passed = 0.5  # half of all rows are passed on, as far as is known
    assert tracker.estimated_delay == pytest.approx(tokens * (1e-3 + passed * 1e-2), rel=0.05)
    ask(tracker, [LONG] * 8, 0.0)
    with pytest.raises(Overloaded) as refused:
        for _ in range(9):
            ask(tracker, [LONG] * 8, 0.0)
    assert 0 < refused.value.retry_after < 2
    while (task := tracker.take(0.1)) is not None:
        run(tracker, task, 0.1)
    ask(tracker, [SHORT], 0.2)


def test_a_batch_is_filled_up_to_a_size_that_is_prepared_and_never_wider_than_its_budget(cascade):
    plan = StagePlan(64, compiles_per_shape=True)
    tracker = tracker_of(cascade, plan=BatchingPlan(1, (plan, plan)))
    ask(tracker, [SHORT] * 5, 0.0)
    task = tracker.take(0.0)
    assert (len(task.rows), task.size) == (5, 6)
    stage = cascade.stages[0]
    filled = token_batch(task, stage.tokenizer.key, stage.tokenizer.padding)
    assert filled.input_ids.shape == (6, task.length)
    for rows in range(1, SIZES[-1] + 1):
        count, size = plan.batch_size(rows)
        assert 1 <= count <= rows and count <= size <= 1.25 * count and size in SIZES


def test_load_estimates_forget(cascade):
    pace = LoadEstimator([1e-3, 1e-2], [0.5])
    for _ in range(600):
        pace.record_batch(0, 100, 0.3, deferred=10)
    first, last = pace.remaining_costs([True, True])
    assert first == pytest.approx(3e-3 + 0.1 * 1e-2, rel=0.01) and last == pytest.approx(1e-2)
    assert pace.remaining_costs([True, False]) == pytest.approx([3e-3, 0.0], rel=0.01)


def test_a_plan_is_measured_and_shapes_that_compile_are_run_before_the_first_request(cascade):
    plan = autotune(cascade.stages, (True, True), latency_target=0.1)
    assert plan.workers >= 1 and all(stage.tokens >= 32 for stage in plan.stages)
    engine = TableEngine(0)
    stage = replace(cascade.stages[0], engine=engine)
    plan = replace(plan.stages[0], tokens=64, compiles_per_shape=True)
    warm_up(stage, plan)
    lengths = {shape[1] for shape in engine.seen}
    assert lengths == {
        plan.buckets.bucket_for(int(one))
        for one in padded_length(np.arange(1, stage.tokenizer.max_length + 1))
    }
    assert all(rows in SIZES and rows * length <= 64 for rows, length in engine.seen if rows > 1)
    engine.seen.clear()
    warm_up(stage, replace(plan, compiles_per_shape=False))
    assert not engine.seen


@pytest.fixture
def certified(saved):
    """A saved cascade as if three operating points had been certified; its own is the last."""
    opened = Cascade.from_pretrained(saved)
    confidences = np.sort(opened.stages[0].predict(sentences(200, seed=1)).confidences)
    places = ((180, 1.0), (100, 1.5), (20, 2.25))
    ladder = tuple(CertifiedPoint((float(confidences[i]),), (0.5, 0.5), speed) for i, speed in places)
    results = (GuaranteeResult(Guarantee("min_agreement", 0.3), 100, 0.5),)
    made = Certificate(
        results, 0.05, 100, ladder, "torch", "float32", "cpu", "rows.csv", "", opened.temperatures, ""
    )
    point = replace(opened.operating_point, thresholds=ladder[-1].thresholds, certificate=made)
    assert opened.spec is not None
    spec = opened.spec.model_copy(update={"operating_point": point})
    return replace(opened, operating_point=point, spec=spec)


@pytest.mark.slow
def test_a_certified_cascade_starts_at_its_most_conservative_point_unless_it_is_not_adaptive(certified):
    texts = sentences(40, seed=9)
    for following, point in ((True, 0), (False, 2)):
        dispatcher = start_dispatcher(certified, adaptive=following)
        answer = dispatcher.submit(texts).result(10)
        assert (answer.operating_point, answer.uncertified_reason, dispatcher.state().uncertified_reason) == (
            point,
            None,
            None,
        )
        thresholds = dispatcher.state().operating_points[point]
        at_point = certified.with_operating_point(replace(certified.operating_point, thresholds=thresholds))
        stages = [row.stage_results[-1].stage for row in answer.rows]
        assert stages == at_point.predict(texts).stages.tolist()
        assert dispatcher.drain(5)


@pytest.mark.slow
def test_the_most_conservative_point_is_used_when_the_monitor_asks_for_it(certified):
    monitor = RecordingMonitor()
    dispatcher = start_dispatcher(certified, adaptive=False, monitor=monitor)
    assert dispatcher.submit([SHORT]).result(10).operating_point == 2
    monitor.safest = True
    assert dispatcher.submit([SHORT]).result(10).operating_point == 0
    assert dispatcher.state().switches == 1 and dispatcher.drain(5)


def test_under_load_a_server_switches_to_faster_certified_points_and_rows_keep_theirs(certified):
    times = [0.0]
    dispatcher = BatchDispatcher(certified, ServerConfig(latency_target=1e-4), clock=lambda: times[0])
    points = []
    for _ in range(20):
        dispatcher._tracker._tokens[0] = 10**9  # as if very much waited
        dispatcher._tracker.load.record_batch(0, 1, 1.0)
        dispatcher._tracker.adapt(times[0])
        points.append(dispatcher.state().operating_point)
        times[0] += 0.1
    assert points == sorted(points) and set(points) == {0, 1, 2}
    assert dispatcher.state().switches == 2


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.5, 2.0, 5.0])
def test_whatever_the_load_admitted_requests_meet_the_latency_target(make_cascade, share):
    stages = StagePlan(2048, 3e-8), StagePlan(1024, 1.05e-5, True), StagePlan(128, 8.6e-5, True)
    plan = BatchingPlan(2, stages)
    costs = ((2e-5, 2e-8), (5e-4, 1e-5), (2e-3, 7e-5))
    cascade, settings = make_cascade(3), ServerConfig(latency_target=0.1)
    load = SimulatedLoad(RequestTracker(cascade, plan, settings, None), costs, exit_rates=(0.4, 0.7, 1.0))
    most = 330  # requests a second that these costs allow, in batches as large as such a wait fills
    seconds = load.run(share * most, 2.0)
    latencies = np.array(load.latencies)
    assert len(latencies) + load.rejected == load.offered and not load.failed
    assert np.quantile(latencies, 0.99) <= settings.latency_target
    assert load.rejected == 0 if share < 1 else len(latencies) / seconds >= 0.9 * most


def test_no_task_is_lost_among_batches(cascade):
    tracker, seen = tracker_of(cascade), 0
    for i, text in enumerate(sentences(60, seed=4)):
        ask(tracker, [text], 0.001 * i)
    while isinstance(task := tracker.take(0.1), BatchTask):
        seen += len(task.rows)
        run(tracker, task, 0.1)
    assert (
        seen == 120 and not tracker.requests and len(tracker.completed) == 60 and tracker.estimated_delay == 0
    )


def test_the_admission_limit_settles_where_one_response_in_100_reaches_95_percent_of_the_target():
    rng, limit, late = np.random.default_rng(0), AdmissionLimit(0.1), []
    for i in range(20_000):
        delay = limit.at(0.005 * i)
        latency = delay + 0.03 + rng.exponential(0.005)
        late.append(latency > 0.095)
        limit.record(latency, delay, cost=0.003, now=0.005 * i)
    assert np.mean(late[1000:]) == pytest.approx(0.01, abs=0.003)


def test_the_admission_limit_ignores_large_requests_and_those_far_from_it_has_bounds_and_forgets():
    limit = AdmissionLimit(0.1)
    before = limit.at(0.0)
    for _ in range(300):
        limit.record(9.0, 0.05, cost=0.05, now=1.0)
        limit.record(9.0, 0.02, cost=0.003, now=1.0)
    assert limit.at(1.0) == before
    for latency, bound in ((9.0, 0.01), (0.051, 0.09)):
        for _ in range(300):
            limit.record(latency, 0.05, cost=0.003, now=1.0)
        assert limit.at(1.0) == pytest.approx(bound)
    assert limit.at(3.1) == before


@pytest.mark.parametrize("clients", [1, 50])
def test_a_burst_of_clients_that_can_be_answered_within_the_target_is_not_refused(make_cascade, clients):
    """A text is expected to take 1.1 ms, so the last of 50 waits for more than half of the target."""
    plan = BatchingPlan(1, (StagePlan(512, 3.3e-5), StagePlan(512, 1e-5)))
    tracker = RequestTracker(make_cascade(2), plan, ServerConfig(latency_target=0.1), None)
    load = SimulatedLoad(tracker, ((2e-4, 3.3e-5), (2e-4, 1e-5)), (0.8, 1.0), workers=1, texts=1)
    load.run_clients(clients, requests=8)
    assert len(load.latencies) == 8 * clients and load.rejected == 0
    assert max(load.latencies) <= 0.1
