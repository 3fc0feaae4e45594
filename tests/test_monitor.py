"""Quality monitor: counts, alarms, shadow rate, and behavior without a reference."""

from __future__ import annotations

import json
import logging
import shutil
import threading

import numpy as np
import pytest

from cascadebert import Cascade
from cascadebert.evaluation.evaluate import stage_outputs
from cascadebert.persistence.folder import read_folder
from cascadebert.server.config import ServerConfig
from cascadebert.server.monitoring.monitor import ALPHA, QualityMonitor, Reference
from cascadebert.server.monitoring.sequential_tests import confidence_sequence
from cascadebert.server.operating_points import certified_operating_points
from cascadebert.server.scheduling.ordered_reporter import OrderedReporter
from cascadebert.thresholds.confidence import histogram
from cascadebert.thresholds.operating_point import Guarantee
from cascadebert.tuning.certify import certify_folder
from samples import reviews, write_csv

TUNE = np.random.default_rng(0).uniform(0.5, 1, 2000)
REFERENCE = Reference(
    num_stages=2,
    certified_level=0.98,
    exit_rates=((0.2, 0.8), (0.6, 0.4)),
    n=2000,
    confidences=histogram(TUNE),
)


def make_monitor(reference=REFERENCE, **settings):
    return QualityMonitor(reference, ServerConfig(**settings))


def request(rng, n, early=0.6, low=0.5):
    """Stages and confidences of a request's rows."""
    return np.where(rng.random(n) < early, 1, 2), rng.uniform(low, 1, n)


def kinds(monitor):
    return [alarm.kind for alarm in monitor.state().alarms]


def test_texts_are_sampled_at_the_shadow_rate_and_reproducibly_by_seed():
    draws = [make_monitor(shadow_rate=0.1, seed=seed) for seed in (1, 1, 2)]
    samples = [np.concatenate([draw.sample_arrivals(n)[0] for n in (1, 7, 20_000)]) for draw in draws]
    assert 0.09 < samples[0].mean() < 0.11 and draws[0].sample_arrivals(1)[1] == 10.0
    assert np.array_equal(samples[0], samples[1]) and not np.array_equal(samples[0], samples[2])


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_rates_of_zero_and_one_sample_none_and_all(rate):
    assert make_monitor(shadow_rate=rate).sample_arrivals(100)[0].mean() == rate


def test_exits_are_counted_by_operating_point():
    monitor = make_monitor()
    monitor.record_exits(0, np.array([1, 2, 2]), np.array([0.9, 0.6, 0.7]))
    monitor.record_exits(1, np.array([1]), np.array([0.8]))
    monitor.record_exits(1, np.array([], dtype=np.int64), np.array([]))
    state = monitor.state()
    assert state.texts == 4 and state.confidences.texts == 4
    points = state.operating_points
    assert [(point.index, point.exits) for point in points] == [(0, (1, 2)), (1, (1, 0))]
    assert points[1].exit_rates.reference == (0.6,) and points[1].exit_rates.recent == (1.0,)
    assert points[1].exit_rates.texts == 1


def test_agreement_is_estimated_by_operating_point_and_the_points_share_alpha():
    monitor = make_monitor()
    for _ in range(50):
        monitor.record_shadow_result(1, True, 100.0)
        monitor.record_shadow_result(0, True, 100.0)
    monitor.record_shadow_result(0, False, 100.0)
    safe, fast = monitor.state().operating_points
    assert (safe.shadow_evaluations, fast.shadow_evaluations) == (51, 50)
    assert safe.agreement == pytest.approx(50 / 51) and fast.agreement == 1
    first, second = (monitor._points[index].counts for index in (1, 0))
    assert (1 - fast.ci_upper, 1 - fast.ci_lower) == pytest.approx(confidence_sequence(first, ALPHA / 2))
    assert (1 - safe.ci_upper, 1 - safe.ci_lower) == pytest.approx(confidence_sequence(second, ALPHA / 6))


def test_lost_agreement_is_recorded_logged_once_and_requests_the_safest_point_if_configured(caplog):
    rng = np.random.default_rng(1)
    log_only, move = make_monitor(), make_monitor(on_alarm="safest-point")
    with caplog.at_level(logging.WARNING, logger="cascadebert"):
        for agreed in rng.random(400) > 0.1:
            log_only.record_shadow_result(1, bool(agreed), 100.0)
            move.record_shadow_result(1, bool(agreed), 100.0)
    state = log_only.state()
    alarms = {alarm.kind: alarm for alarm in state.alarms}
    assert set(alarms) == {"agreement", "agreement_recent"} and alarms["agreement"].count == 1
    assert all(alarm.operating_point == 1 and alarm.first_seconds >= 0 for alarm in state.alarms)
    assert state.operating_points[0].ci_upper < 0.98
    assert move.wants_safest_point() and not log_only.wants_safest_point()
    assert sum("alarm: agreement at operating point 1" in message for message in caplog.messages) == 2


def test_the_agreement_alarm_comes_exactly_when_the_interval_lies_below_the_level():
    rng, monitor = np.random.default_rng(2), make_monitor()
    for agreed in rng.random(600) > 0.08:
        before = "agreement" in kinds(monitor)
        monitor.record_shadow_result(0, bool(agreed), 100.0)
        if not before:
            assert (monitor.state().operating_points[0].ci_upper < 0.98) == ("agreement" in kinds(monitor))
    assert "agreement" in kinds(monitor)


def test_uncertified_agreement_is_measured_without_alarms():
    monitor = make_monitor(Reference(2))
    for _ in range(300):
        monitor.record_shadow_result(0, False, 100.0)
    monitor.record_exits(0, *request(np.random.default_rng(3), 2000))
    state = monitor.state()
    assert (
        state.alarms == ()
        and state.operating_points[0].agreement == 0
        and state.operating_points[0].ci_upper < 0.1
    )
    assert state.confidences is None and state.operating_points[0].exit_rates is None
    assert len(state.notices) == 3 and any("no calibration stored" in notice for notice in state.notices)


def test_changed_exit_rates_and_confidences_raise_an_alarm_each_and_equal_ones_do_not():
    rng, equal, rates, confident = np.random.default_rng(4), make_monitor(), make_monitor(), make_monitor()
    for _ in range(1000):
        equal.record_exits(1, *request(rng, 8))
        rates.record_exits(1, *request(rng, 8, early=0.3))
        confident.record_exits(1, *request(rng, 8, low=0.7))
    assert kinds(equal) == []
    assert kinds(rates) == ["exit_rates"] and rates.state().alarms[0].operating_point == 1
    assert kinds(confident) == ["confidences"] and confident.state().alarms[0].operating_point is None
    alarm = confident.state().alarms[0]
    assert alarm.count > 1 and alarm.last_seconds > alarm.first_seconds and alarm.texts < 2000


def test_continuing_alarms_are_logged_whenever_their_count_doubles(caplog):
    rng, monitor = np.random.default_rng(5), make_monitor()
    with caplog.at_level(logging.WARNING, logger="cascadebert"):
        for _ in range(100):
            monitor.record_exits(1, *request(rng, 256, low=0.7))
    assert len(caplog.messages) == monitor.state().alarms[0].count.bit_length() < 9


def test_the_rate_falls_as_the_queue_fills_and_is_restored_when_it_is_nearly_empty():
    monitor = make_monitor(shadow_rate=0.1, shadow_queue_size=80)
    rates = []
    for waiting in (10, 40, 39, 55, 60, 70, 79, 30, 21, 20, 0):
        monitor.report_backlog(waiting)
        monitor.sample_arrivals(1)
        rates.append(round(monitor.state().shadow_rate, 5))
    assert rates == [0.1, 0.05, 0.05, 0.025, 0.0125, 0, 0, 0, 0, 0.1, 0.1]
    assert [round(change.shadow_rate, 5) for change in monitor.state().rate_changes] == [
        0.05,
        0.025,
        0.0125,
        0.0,
        0.1,
    ]


def test_a_rate_change_takes_effect_with_the_next_arrivals_so_that_weights_match():
    monitor = make_monitor(shadow_rate=0.5, shadow_queue_size=8)
    assert monitor.sample_arrivals(1)[1] == 2.0
    monitor.report_backlog(4)
    assert monitor.state().shadow_rate == 0.5
    assert monitor.sample_arrivals(1)[1] == 4.0
    monitor.report_backlog(8)
    assert not monitor.sample_arrivals(1000)[0].any()


@pytest.mark.slow
def test_weighted_agreement_is_that_of_all_texts_when_the_rate_was_lowered_for_some():
    rng, agreements = np.random.default_rng(6), []
    for seed in range(60):
        monitor = make_monitor(shadow_rate=0.2, shadow_queue_size=8, seed=seed)
        for waiting, agreement in ((0, 0.9), (5, 0.7)):
            monitor.report_backlog(waiting)
            drawn, weight = monitor.sample_arrivals(2000)
            for agreed in rng.random(int(drawn.sum())) < agreement:
                monitor.record_shadow_result(0, bool(agreed), weight)
        agreements.append(monitor.state().operating_points[0].agreement)
    assert np.mean(agreements) == pytest.approx(0.8, abs=0.01)


@pytest.mark.slow
def test_concurrent_calls_lose_nothing():
    monitor, drawn = make_monitor(shadow_rate=0.5, shadow_queue_size=1000), []

    def serve(seed):
        rng = np.random.default_rng(seed)
        for _ in range(200):
            selected, weight = monitor.sample_arrivals(5)
            drawn.append(int(selected.sum()))
            monitor.record_exits(seed % 2, *request(rng, 5))
            monitor.record_shadow_result(seed % 2, True, weight)
            monitor.report_backlog(seed)
            monitor.state()

    threads = [threading.Thread(target=serve, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    state = monitor.state()
    assert state.texts == 6000 and sum(sum(point.exits) for point in state.operating_points) == 6000
    assert [point.shadow_evaluations for point in state.operating_points] == [600, 600]
    assert 0.45 < sum(drawn) / 6000 < 0.55


def test_a_single_stage_has_no_exit_rates_to_monitor():
    monitor = make_monitor(Reference(1, None, ((1.0,),), 100, histogram(TUNE)))
    monitor.record_exits(0, np.ones(300, dtype=np.int64), np.full(300, 0.5))
    assert monitor.state().operating_points[0].exit_rates is None and monitor.state().confidences.texts == 300


@pytest.mark.slow
def test_a_saved_cascade_stores_the_first_stages_confidences_on_its_tuning_set(saved):
    cascade = Cascade.from_pretrained(saved)
    texts, _ = reviews(160, seed=5)
    stored = cascade.spec.calibration
    assert stored == histogram(stage_outputs(cascade, texts).confidences[0])
    assert sum(stored.counts) == 160
    reference = Reference.from_cascade(cascade)
    assert reference.certified_level is None and reference.n == 160 and reference.confidences == stored
    assert reference.exit_rates == (cascade.operating_point.metrics.exit_rates,)


def test_certified_points_and_level_are_monitored(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "cascade")
    rows = write_csv(tmp_path / "rows.csv", *reviews(900, seed=77))
    certify_folder(
        tmp_path / "cascade", rows, guarantees=[Guarantee("min_agreement", 0.3)], confidence_level=0.9
    )
    cascade = Cascade.from_pretrained(tmp_path / "cascade")
    reference, points = Reference.from_cascade(cascade), certified_operating_points(cascade)
    assert reference.certified_level == 0.3 and reference.exit_rates == tuple(
        point.exit_rates for point in points
    )
    assert reference.n == sum(cascade.spec.calibration.counts) == cascade.operating_point.metrics.n
    monitor = QualityMonitor(reference, ServerConfig())
    monitor.record_exits(len(points) - 1, np.array([1]), np.array([0.9]))
    assert monitor.state().operating_points[0].certified_level == 0.3


def test_thresholds_set_by_hand_have_no_reference(saved, tmp_path):
    cascade = Cascade.from_pretrained(saved)
    moved = cascade.with_operating_point(type(cascade.operating_point)((0.123,)))
    assert Reference.from_cascade(moved) == Reference(2)
    moved.save_pretrained(tmp_path / "copy")
    assert read_folder(tmp_path / "copy").calibration is None


def test_a_folder_without_calibration_opens_and_only_confidences_are_not_monitored(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "old")
    file = tmp_path / "old" / "cascade.json"
    spec = json.loads(file.read_text("utf-8"))
    del spec["calibration"]
    file.write_text(json.dumps(spec), "utf-8")
    reference = Reference.from_cascade(Cascade.from_pretrained(tmp_path / "old"))
    assert reference.confidences is None and reference.n == 160
    assert [notice.split(":")[0] for notice in QualityMonitor(reference, ServerConfig()).state().notices] == [
        "no agreement certified",
        "no calibration stored",
    ]


def test_shadow_results_are_reported_in_order_of_arrival_whatever_the_order_of_resolution():
    reported, rng = [], np.random.default_rng(7)
    reporter = OrderedReporter(lambda *result: reported.append(result))
    agreed = (rng.random(200) > 0.3).tolist()
    pending = [reporter.add(i, 1.0 + i) for i in range(200)]
    for i in rng.permutation(200):
        reporter.resolve(pending[i], None if i % 10 == 9 else agreed[i])
    assert reported == [(i, agreed[i], 1.0 + i) for i in range(200) if i % 10 != 9] and len(reporter) == 0
