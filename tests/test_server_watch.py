"""The watch of a server: what it counts, when it raises an alarm, what it does without a reference."""

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
from cascadebert.server.monitoring.monitor import ALPHA, QualityMonitor
from cascadebert.server.monitoring.sequential_tests import confidence_sequence
from cascadebert.server.monitoring.state import Reference, reference_of
from cascadebert.server.operating_points import certified_operating_points
from cascadebert.server.scheduling.shadow_queue import OrderedReporter
from cascadebert.thresholds.certificate import Guarantee
from cascadebert.thresholds.confidence import histogram
from cascadebert.tuning.certify import certify_folder
from samples import reviews, write_csv

TUNE = np.random.default_rng(0).uniform(0.5, 1, 2000)
REFERENCE = Reference(
    num_stages=2,
    level=0.98,
    exit_rates=((0.2, 0.8), (0.6, 0.4)),
    n=2000,
    confidences=histogram(TUNE),
)


def watch(reference=REFERENCE, **settings):
    return QualityMonitor(reference, ServerConfig(**settings))


def request(rng, n, early=0.6, low=0.5):
    """Stages and confidences of a request's rows."""
    return np.where(rng.random(n) < early, 1, 2), rng.uniform(low, 1, n)


def kinds(one):
    return [breach.kind for breach in one.state().breaches]


def test_rows_are_drawn_at_the_rate_and_the_same_ones_by_the_same_seed():
    draws = [watch(shadow_rate=0.1, seed=seed) for seed in (1, 1, 2)]
    found = [np.concatenate([one.sample_arrivals(n) for n in (1, 7, 20_000)]) for one in draws]
    assert 0.09 < found[0].mean() < 0.11 and draws[0].weight() == 10.0
    assert np.array_equal(found[0], found[1]) and not np.array_equal(found[0], found[2])


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_none_or_all_rows_are_drawn_if_so_asked(rate):
    assert watch(shadow_rate=rate).sample_arrivals(100).mean() == rate


def test_what_left_where_is_counted_by_operating_point():
    one = watch()
    one.record_exits(0, np.array([1, 2, 2]), np.array([0.9, 0.6, 0.7]))
    one.record_exits(1, np.array([1]), np.array([0.8]))
    one.record_exits(1, np.array([], dtype=np.int64), np.array([]))
    state = one.state()
    assert state.rows == 4 and state.confidences.rows == 4
    assert [(point.point, point.rows, point.exits) for point in state.points] == [
        (0, 3, (1, 2)),
        (1, 1, (1, 0)),
    ]
    assert state.points[1].exit_rates.calibrated == (0.6,) and state.points[1].exit_rates.lately == (1.0,)


def test_agreement_is_kept_by_operating_point_and_the_points_share_the_error():
    one = watch()
    for _ in range(50):
        one.record_shadow_result(1, True, 100.0)
        one.record_shadow_result(0, True, 100.0)
    one.record_shadow_result(0, False, 100.0)
    safe, fast = one.state().points
    assert (safe.audited, fast.audited) == (51, 50)
    assert safe.agreement == pytest.approx(50 / 51) and fast.agreement == 1
    first, second = (one._points[place].tally for place in (1, 0))
    assert (1 - fast.high, 1 - fast.low) == pytest.approx(confidence_sequence(first, ALPHA / 2))
    assert (1 - safe.high, 1 - safe.low) == pytest.approx(confidence_sequence(second, ALPHA / 6))


def test_a_breach_of_agreement_is_recorded_logged_once_and_asks_for_the_safest_point_if_so_set(caplog):
    rng = np.random.default_rng(1)
    say, move = watch(), watch(on_alarm="safest-point")
    with caplog.at_level(logging.WARNING, logger="cascadebert"):
        for agreed in rng.random(400) > 0.1:
            say.record_shadow_result(1, bool(agreed), 100.0)
            move.record_shadow_result(1, bool(agreed), 100.0)
    state = say.state()
    found = {one.kind: one for one in state.breaches}
    assert set(found) == {"agreement", "recent agreement"} and found["agreement"].times == 1
    assert all(one.point == 1 and one.seconds >= 0 for one in state.breaches)
    assert state.points[0].high < 0.98
    assert move.wants_safest_point() and not say.wants_safest_point()
    assert sum("alarm: agreement at operating point 1" in one for one in caplog.messages) == 2


def test_an_alarm_over_all_time_means_that_the_interval_lies_below_the_level():
    rng, one = np.random.default_rng(2), watch()
    for agreed in rng.random(600) > 0.08:
        before = "agreement" in kinds(one)
        one.record_shadow_result(0, bool(agreed), 100.0)
        if not before:
            assert (one.state().points[0].high < 0.98) == ("agreement" in kinds(one))
    assert "agreement" in kinds(one)


def test_without_a_promised_agreement_it_is_shown_and_there_is_no_alarm():
    one = watch(Reference(2))
    for _ in range(300):
        one.record_shadow_result(0, False, 100.0)
    one.record_exits(0, *request(np.random.default_rng(3), 2000))
    state = one.state()
    assert state.breaches == () and state.points[0].agreement == 0 and state.points[0].high < 0.1
    assert state.confidences is None and state.points[0].exit_rates is None
    assert len(state.notices) == 3 and any("no calibration stored" in said for said in state.notices)


def test_changed_exit_rates_and_confidences_raise_an_alarm_each_and_like_ones_do_not():
    rng, like, rates, sure = np.random.default_rng(4), watch(), watch(), watch()
    for _ in range(1000):
        like.record_exits(1, *request(rng, 8))
        rates.record_exits(1, *request(rng, 8, early=0.3))
        sure.record_exits(1, *request(rng, 8, low=0.7))
    assert kinds(like) == []
    assert kinds(rates) == ["exit rates"] and rates.state().breaches[0].point == 1
    assert kinds(sure) == ["confidences"] and sure.state().breaches[0].point is None
    found = sure.state().breaches[0]
    assert found.times > 1 and found.last_seconds > found.seconds and found.rows < 2000


def test_alarms_that_go_on_are_said_each_time_they_have_doubled(caplog):
    rng, one = np.random.default_rng(5), watch()
    with caplog.at_level(logging.WARNING, logger="cascadebert"):
        for _ in range(100):
            one.record_exits(1, *request(rng, 256, low=0.7))
    assert len(caplog.messages) == one.state().breaches[0].times.bit_length() < 9


def test_the_rate_falls_as_the_queue_fills_and_is_restored_when_it_is_nearly_empty():
    one = watch(shadow_rate=0.1, shadow_queue_size=80)
    seen = []
    for waiting in (10, 40, 39, 55, 60, 70, 79, 30, 21, 20, 0):
        one.report_backlog(waiting)
        one.sample_arrivals(1)
        seen.append(round(one.state().rate, 5))
    assert seen == [0.1, 0.05, 0.05, 0.025, 0.0125, 0, 0, 0, 0, 0.1, 0.1]
    assert [round(change.rate, 5) for change in one.state().changes] == [0.05, 0.025, 0.0125, 0.0, 0.1]


def test_a_change_of_the_rate_takes_effect_with_the_next_rows_so_that_weights_are_theirs():
    one = watch(shadow_rate=0.5, shadow_queue_size=8)
    one.sample_arrivals(1)
    one.report_backlog(4)
    assert one.weight() == 2.0
    one.sample_arrivals(1)
    assert one.weight() == 4.0
    one.report_backlog(8)
    assert not one.sample_arrivals(1000).any()


def test_audited_shares_are_those_of_all_rows_when_the_rate_was_lowered_for_some():
    rng, shares = np.random.default_rng(6), []
    for seed in range(60):
        one = watch(shadow_rate=0.2, shadow_queue_size=8, seed=seed)
        for waiting, agreement in ((0, 0.9), (5, 0.7)):
            one.report_backlog(waiting)
            drawn, weight = one.sample_arrivals(2000), one.weight()
            for agreed in rng.random(int(drawn.sum())) < agreement:
                one.record_shadow_result(0, bool(agreed), weight)
        shares.append(one.state().points[0].agreement)
    assert np.mean(shares) == pytest.approx(0.8, abs=0.01)


def test_threads_may_call_anything_and_nothing_is_lost():
    one, drawn = watch(shadow_rate=0.5, shadow_queue_size=1000), []

    def serve(seed):
        rng = np.random.default_rng(seed)
        for _ in range(200):
            drawn.append(int(one.sample_arrivals(5).sum()))
            one.record_exits(seed % 2, *request(rng, 5))
            one.record_shadow_result(seed % 2, True, one.weight())
            one.report_backlog(seed)
            one.state()

    threads = [threading.Thread(target=serve, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    state = one.state()
    assert state.rows == 6000 and sum(point.rows for point in state.points) == 6000
    assert [point.audited for point in state.points] == [600, 600]
    assert 0.45 < sum(drawn) / 6000 < 0.55


def test_a_cascade_of_one_stage_has_no_exits_to_watch():
    one = watch(Reference(1, None, ((1.0,),), 100, histogram(TUNE)))
    one.record_exits(0, np.ones(300, dtype=np.int64), np.full(300, 0.5))
    assert one.state().points[0].exit_rates is None and one.state().confidences.rows == 300


def test_a_folder_keeps_the_first_stages_confidences_on_its_tune_rows(saved):
    cascade = Cascade.from_pretrained(saved)
    texts, _ = reviews(160, seed=5)
    stored = cascade.spec.calibration
    assert stored == histogram(stage_outputs(cascade, texts).confidences[0])
    assert sum(stored.counts) == 160
    found = reference_of(cascade)
    assert found.level is None and found.n == 160 and found.confidences == stored
    assert found.exit_rates == (cascade.operating_point.metrics.exit_rates,)


def test_a_certificates_points_and_level_are_what_is_watched(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "cascade")
    rows = write_csv(tmp_path / "rows.csv", *reviews(900, seed=77))
    certify_folder(
        tmp_path / "cascade", rows, guarantees=[Guarantee("min_agreement", 0.3)], confidence_level=0.9
    )
    cascade = Cascade.from_pretrained(tmp_path / "cascade")
    found, points = reference_of(cascade), certified_operating_points(cascade)
    assert found.level == 0.3 and found.exit_rates == tuple(point.exit_rates for point in points)
    assert found.n == sum(cascade.spec.calibration.counts) == cascade.operating_point.metrics.n
    one = QualityMonitor(found, ServerConfig())
    one.record_exits(len(points) - 1, np.array([1]), np.array([0.9]))
    assert one.state().points[0].certified == 0.3


def test_thresholds_set_by_hand_have_nothing_to_be_compared_with(saved, tmp_path):
    cascade = Cascade.from_pretrained(saved)
    moved = cascade.with_operating_point(type(cascade.operating_point)((0.123,)))
    assert reference_of(moved) == Reference(2)
    moved.save_pretrained(tmp_path / "copy")
    assert read_folder(tmp_path / "copy").calibration is None


def test_a_folder_from_before_opens_and_only_the_confidences_are_not_watched(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "old")
    file = tmp_path / "old" / "cascade.json"
    spec = json.loads(file.read_text("utf-8"))
    del spec["calibration"]
    file.write_text(json.dumps(spec), "utf-8")
    found = reference_of(Cascade.from_pretrained(tmp_path / "old"))
    assert found.confidences is None and found.n == 160
    assert [said.split(":")[0] for said in QualityMonitor(found, ServerConfig()).state().notices] == [
        "no agreement certified",
        "no calibration stored",
    ]


def test_audited_rows_take_their_turns_whatever_the_order_of_their_verdicts():
    told, rng = [], np.random.default_rng(7)
    line = OrderedReporter(lambda *row: told.append(row))
    agreed = [bool(one) for one in rng.random(200) > 0.3]
    turns = [line.enter(place, 1.0 + place) for place in range(200)]
    for place in rng.permutation(200):
        line.resolve(turns[place], None if place % 10 == 9 else agreed[place])
    assert told == [(i, agreed[i], 1.0 + i) for i in range(200) if i % 10 != 9] and len(line) == 0
