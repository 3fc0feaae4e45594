"""The paper's comparison by hand: points, mixtures, scores, bootstrap, files; no model is run here."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import f1_score, matthews_corrcoef, roc_auc_score

from cascadebert.errors import CascadeError, DataError
from cascadebert.evaluation.metrics import bin_indices, expected_calibration_error
from cascadebert.paper.bootstrap_metrics import (
    chance_score,
    correct_for_chance,
    draw_samples,
    interval_values,
    metric_counts,
    metric_score,
    relative_improvement,
    sample_dis,
    sample_ece,
)
from cascadebert.paper.comparison import ResultsTable, Run, ScoredRun, comparisons, out_of_reach
from cascadebert.paper.early_exit.exits import ExitOutputs
from cascadebert.paper.operating_points import (
    Method,
    OperatingCurve,
    TargetPoint,
    operating_curves,
    select_point,
)
from cascadebert.paper.protocol import PRESETS, ExperimentProtocol, TaskConfig
from cascadebert.paper.results import (
    ModelInfo,
    StoredPredictions,
    TaskResults,
    TimingCheck,
    Timings,
    early_exits,
    log_odds,
    stack_stages,
)
from cascadebert.paper.task_data import phrase_groups
from cascadebert.types import Flops, LinearLatency

RNG = np.random.default_rng(0)
EXITS = {"deebert": 0.6, "pabee": 0.9, "berxit": 0.7, "berxit-entropy": 0.65}
SCORES = {"truncated": 0.5, **EXITS, "cascade-s-plain": 0.8}


def exit_outputs(answers: list[list[int]], confidences: list[list[float]], labels: list[int]) -> ExitOutputs:
    """Exits' words by hand; entropies fall as confidences rise."""
    sure = np.array(confidences, dtype=np.float64)
    return ExitOutputs(np.array(answers), sure, 1 - sure, 1 - sure, np.array(labels))


def example_method(rule: str = "cascade") -> Method:
    """A small model of cost 1 and a large one of cost 6 on four rows; the large one alone costs 6."""
    outputs = exit_outputs([[0, 1, 1, 0], [0, 1, 0, 1]], [[0.9, 0.8, 0.7, 0.6], [1, 1, 1, 1]], [0, 1, 0, 1])
    costs = np.array([[1.0] * 4, [7.0] * 4])
    return Method("one", rule, outputs, {"flops": costs}, {"flops": np.full(4, 6.0)})


def test_a_cascade_pays_all_stages_that_a_row_reaches():
    flops = {"large": Flops(6.0, 0.5, 0.0), "s-plain": Flops(1.0, 0.5, 0.0)}
    models = {}
    for name, counted in flops.items():
        about = replace(arrays(name).about, flops=(counted,))
        models[name] = replace(arrays(name), outputs=arrays().outputs.first(1), about=about)
    seconds = {"large": (LinearLatency(3.0, 0.0),), "s-plain": (LinearLatency(1.0, 0.0),)}
    cascade = TaskResults(models, Timings(seconds, (), 9, 3, {})).cascade(("s",), "plain")
    assert cascade.models == ("s-plain", "large")
    assert cascade.costs["flops"][:, :2].tolist() == [[1, 2], [7, 9]]
    assert cascade.costs["time"][:, 0].tolist() == [1, 4]
    assert example_method().exits((0.75,)).tolist() == [0, 0, 1, 1]
    assert example_method().mean_cost(example_method().exits((0.75,)), "flops") == 4.0


def test_the_points_of_a_cascade_run_from_never_leaving_to_always_leaving():
    curve = operating_curves(example_method(), "accuracy")["flops"]
    assert curve.speedups.tolist() == [6 / 7, 6 / 5.5, 1.5, 6 / 2.5, 6.0]
    assert curve.large_cost == 6.0


def test_the_slowest_point_that_is_fast_enough_is_picked():
    curve = operating_curves(example_method(), "accuracy")["flops"]
    point = select_point(curve, 1.5)
    assert point.slow is None
    assert point.speedup(example_method(), "flops") == 1.5
    assert metric_score("accuracy", point.counts(example_method()).sum(axis=0)) == 1.0


def test_between_two_points_each_row_runs_at_one_of_them_by_chance():
    one = example_method()
    point = select_point(operating_curves(one, "accuracy")["flops"], 2.0)
    # costs 4 (1.5x, all right) and 2.5 (2.4x, three of four right); 6 / 2 = 3 is a third of the way up
    assert point.slow is not None
    assert point.slow_fraction == pytest.approx(1 / 3)
    assert point.speedup(one, "flops") == pytest.approx(2.0)
    assert float(metric_score("accuracy", point.counts(one).sum(axis=0))) == pytest.approx(
        1 / 3 + 2 / 3 * 0.75
    )


def test_a_target_out_of_reach_takes_the_end_of_the_curve():
    curve = OperatingCurve(((1.0,), (2.0,)), np.array([4.0, 2.0]), 6.0, np.zeros(2))
    assert select_point(curve, 9.0) == TargetPoint((2.0,), reached=False)
    assert select_point(curve, 1.2) == TargetPoint((1.0,))
    assert select_point(curve, 2.95) == TargetPoint((2.0,))


def table(tuned: dict[str, float], slow: tuple[str, ...] = ()) -> ResultsTable:
    """A table of one task, seed and target by hand: scores on tune rows, and methods that are too slow."""
    protocol = ExperimentProtocol(
        "x", (TaskConfig("t"),), "l", ("s",), seeds=(1,), targets=(4.0,), objectives=("plain",)
    )
    runs = {}
    for (method, value), basis in product(tuned.items(), ("flops", "time")):
        run = Run("t", method, 1, basis, 4.0, 2.8 if method in slow else 4.0, False, "accuracy", value)
        point = TargetPoint((1.0,), reached=method not in slow)
        runs["t", method, 1, basis, 4.0] = ScoredRun(run, point, value, np.array([value]))
    return ResultsTable(protocol, runs, {"t": 0.5}, {"t": np.ones((1, 1))})


def test_an_early_exit_that_is_too_slow_for_the_target_is_not_the_best_there():
    found = comparisons(table(SCORES, slow=("pabee",)))
    assert {one["best_early_exit"] for one in found} == {"berxit"}
    assert found[0]["relative_improvement"] == pytest.approx(0.1 / 0.7)
    assert found[0]["chance_corrected"] == pytest.approx((0.6 - 0.4) / 0.4)
    assert found[0]["chance_ci_low"] == found[0]["chance_ci_high"] == pytest.approx(0.5)
    (where, _) = out_of_reach(table(SCORES, slow=("pabee",)))
    assert where == {
        "task": "t",
        "method": "pabee",
        "basis": "flops",
        "target": 4.0,
        "seeds": 1,
        "fastest": 2.8,
    }


def test_a_cascade_that_is_too_slow_for_the_target_is_not_compared():
    for slow in (("cascade-s-plain",), tuple(EXITS)):
        (one, _) = comparisons(table(SCORES, slow=slow))
        assert one["relative_improvement"] is one["ci_low"] is one["chance_corrected"] is None
    assert comparisons(table(SCORES))[0]["best_early_exit"] == "pabee"


def test_patience_reaches_every_target_by_rows_that_leave_at_once():
    outputs = exit_outputs([[0, 1, 0, 1], [0, 1, 1, 1], [0, 1, 1, 1]], [[0.9] * 4] * 3, [0, 1, 1, 1])
    costs = {"flops": np.array([[1.0] * 4, [2.0] * 4, [3.0] * 4])}
    three = Method("pabee", "patience", outputs, costs, {"flops": np.full(4, 3.0)})
    point = select_point(operating_curves(three, "accuracy")["flops"], 2.0)
    assert (point.fast, point.slow, point.reached) == ((0.0,), (1.0,), True)
    assert point.speedup(three, "flops") == pytest.approx(2.0)


def test_models_cut_short_mix_by_their_fixed_costs():
    outputs = exit_outputs([[0, 0], [0, 1], [1, 1]], [[0.5] * 2] * 3, [1, 1])
    fixed = Method("truncated", "fixed", outputs, {"flops": np.array([[1.0] * 2, [2.0] * 2, [6.0] * 2])},
                   {"flops": np.full(2, 6.0)})  # fmt: skip
    point = select_point(operating_curves(fixed, "accuracy")["flops"], 4.0)
    assert point == TargetPoint((1.0,), (2.0,), 0.5)
    assert float(metric_score("accuracy", point.counts(fixed).sum(axis=0))) == pytest.approx(0.25)


@pytest.mark.parametrize(("rule", "setting", "exits"), [
    ("entropy", 0.25, [0, 0, 1, 1]), ("learned", 0.15, [0, 1, 1, 1]), ("patience", 1, [1, 1, 1, 1]),
    ("patience", 0, [0, 0, 0, 0]),
])  # fmt: skip
def test_early_exits_leave_by_their_own_rules(rule, setting, exits):
    assert example_method(rule).exits((setting,)).tolist() == exits


def test_of_several_thresholds_as_fast_as_the_target_those_with_the_best_score_are_picked():
    settings = ((0.1, 0.9), (0.2, 0.8), (0.3, 0.7), (0.4, 0.6))
    speedups = np.array([1.5, 2.0, 2.03, 2.2])
    curve = OperatingCurve(settings, 6 / speedups, 6.0, np.array([0.9, 0.7, 0.8, 0.95]))
    assert select_point(curve, 2.0) == TargetPoint((0.3, 0.7))
    assert select_point(curve, 1.2) == TargetPoint((0.1, 0.9))
    outputs = exit_outputs([[0, 1, 1, 0], [0, 1, 0, 0], [0, 1, 0, 1]],
                   [[0.9, 0.8, 0.7, 0.6], [0.9, 0.8, 0.7, 0.6], [1] * 4], [0, 1, 0, 1])  # fmt: skip
    costs = np.array([[1.0] * 4, [3.0] * 4, [9.0] * 4])
    three = Method("three", "cascade", outputs, {"flops": costs}, {"flops": np.full(4, 6.0)})
    every = operating_curves(three, "accuracy")["flops"]
    assert (np.diff(every.speedups) >= 0).all() and every.scores.max() == 1.0
    point = select_point(
        every, 6 / 3.5
    )  # two rows leave at once, one at the second stage, one goes to the end
    assert float(metric_score("accuracy", point.counts(three).sum(axis=0))) == 1.0


def test_scores_from_sums_are_those_of_scikit_learn():
    labels, answers = RNG.integers(0, 2, 200), RNG.integers(0, 2, 200)
    sums = metric_counts(answers, labels).sum(axis=0)
    right = (labels == answers).mean()
    assert metric_score("accuracy", sums) == pytest.approx(right)
    assert metric_score("accuracy_and_f1", sums) == pytest.approx((right + f1_score(labels, answers)) / 2)
    assert metric_score("matthews", sums) == pytest.approx(matthews_corrcoef(labels, answers))
    assert metric_score("matthews", metric_counts(np.zeros(3, int), np.ones(3, int)).sum(axis=0)) == 0


def test_relative_improvement_is_of_the_means_over_tasks():
    ours, theirs = np.array([[0.90], [0.60]]), np.array([[0.80], [0.40]])
    assert relative_improvement(ours, theirs)[0] == pytest.approx((0.75 - 0.60) / 0.60)
    levels = np.array([[0.5], [0.2]])
    fairer = [correct_for_chance(one, levels) for one in (ours, theirs)]
    assert fairer[0].ravel().tolist() == pytest.approx([0.8, 0.5])
    assert relative_improvement(*fairer)[0] == pytest.approx((0.65 - 0.425) / 0.425)


def test_chance_is_the_score_of_one_label():
    labels = np.array([1, 1, 1, 0])
    assert chance_score("accuracy", 1, labels) == 0.75
    assert chance_score("matthews", 1, labels) == 0.0
    assert chance_score("accuracy_and_f1", 1, labels) == pytest.approx((0.75 + 6 / 7) / 2)


def test_weighted_inversion_and_calibration_equal_those_of_the_rows_repeated():
    odds, right = RNG.normal(size=60).round(1), RNG.random(60) < 0.7
    sure, weights = 1 / (1 + np.exp(-odds)), draw_samples(60, 1, 5, key=[0])[0]
    which = bin_indices(sure, 15, "width")
    found = sample_dis(odds, ~right, weights), sample_ece(which, right - sure, weights)
    for number, times in enumerate(weights.astype(int)):
        rows = np.repeat(np.arange(60), times)
        assert found[0][number] == pytest.approx(roc_auc_score(right[rows], odds[rows]))
        assert found[1][number] == pytest.approx(expected_calibration_error(sure[rows], right[rows]))
    assert np.isnan(sample_dis(odds, np.ones(60, dtype=bool), weights)).all()  # no pairs


def test_a_difference_that_is_the_same_for_every_row_and_seed_has_an_interval_of_no_width():
    weights, seed_weights = draw_samples(9, 2, 50, key=[1])
    differences = np.stack([weights.sum(axis=1) - (weights.sum(axis=1) - 2)] * 2)
    drawn = (differences * seed_weights).sum(axis=0)
    assert interval_values(2.0, drawn) == (2.0, 2.0, 2.0)
    assert interval_values(np.nan, np.array([np.nan])) == (None, None, None)


def arrays(method: str = "deebert", labels: int = 6) -> StoredPredictions:
    """A file's worth of random figures."""
    logits = np.random.default_rng(3).normal(size=(2, labels, 3)) * 8
    flops = (Flops(1.0, 2.0, 0.0), Flops(3.0, 4.0, 0.5))
    about = ModelInfo("sst2", 1, method, "abc", 2, flops, 2, 16, method)
    outputs = ExitOutputs.from_logits(logits, logits[..., 0], np.arange(labels) % 3)
    return StoredPredictions(outputs, np.arange(labels) * 2, about)


def test_arrays_are_kept_in_sixteen_bits_with_what_they_belong_to(tmp_path):
    made = arrays()
    for name in ("a.npz", "b.npz"):
        made.save(tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    read = StoredPredictions.load(tmp_path / "a.npz")
    assert read.about == made.about
    assert read.outputs.predictions.tolist() == made.outputs.predictions.tolist()
    assert np.allclose(
        log_odds(read.outputs.confidences), log_odds(made.outputs.confidences), rtol=2e-3, atol=2e-3
    )
    assert np.allclose(read.outputs.lte, made.outputs.lte, rtol=1e-3)
    assert read.test.label_ids.tolist() == [2, 0, 1, 2]
    assert read.flops()[:, 1].tolist() == [5.0, 13.0]


def test_confidences_next_to_one_stay_apart_in_sixteen_bits(tmp_path):
    logits = np.array([[[0.0, 10.0], [0.0, 11.0], [0.0, 14.0]]])
    about = replace(arrays().about, flops=(Flops(1, 1, 0),))
    made = StoredPredictions(
        ExitOutputs.from_logits(logits, None, np.array([1, 1, 1])), np.array([8, 8, 8]), about
    )
    made.save(tmp_path / "sure.npz")
    sure = StoredPredictions.load(tmp_path / "sure.npz").outputs.confidences[0]
    assert (np.diff(sure) > 0).all()


def test_damaged_or_foreign_arrays_are_refused(tmp_path):
    (tmp_path / "x.npz").write_bytes(b"nothing")
    with pytest.raises(DataError, match="not readable as arrays"):
        StoredPredictions.load(tmp_path / "x.npz")
    other = replace(arrays(), outputs=replace(arrays().outputs, label_ids=np.zeros(6, dtype=np.int64)))
    with pytest.raises(DataError, match="same rows"):
        stack_stages([arrays(), other])


def test_timings_come_back_as_they_were_and_tell_what_is_missing(tmp_path):
    made = Timings(
        {"large": (LinearLatency(1e-4, 1e-5),)}, (TimingCheck("pabee", (2.0,), 2.1, 2.0, 1.9, 2.2),), 9, 3, {}
    )
    made.save(tmp_path / "sst2.json")
    read = Timings.load(tmp_path / "sst2.json")
    assert read == made
    assert read.cost_of("large", np.array([10])).tolist() == [[pytest.approx(2e-4)]]
    with pytest.raises(DataError, match="no seconds of small"):
        read.cost_of("small", np.array([10]))


def test_a_protocol_survives_json_and_unknown_settings_are_refused(tmp_path):
    path, values = tmp_path / "protocol.json", asdict(PRESETS["paper"])
    path.write_text(json.dumps(values))
    assert ExperimentProtocol.load(path) == PRESETS["paper"]
    for changed in ({**values, "more": 1}, {**values, "tasks": [{"name": "x", "more": 1}]}):
        path.write_text(json.dumps(changed))
        with pytest.raises(DataError, match=r"no readable protocol\.json"):
            ExperimentProtocol.load(path)


def test_presets_name_every_model_of_the_comparison():
    protocol = PRESETS["minilm"].with_models("a/large", ("x/1x384", "x/2x128"), ("x/2x384",))
    names = list(protocol.models())
    assert names[0] == "large" and len(names) == len(set(names)) == 1 + 3 + 3 + 2 * 5 + 1
    assert protocol.stage_lists == (("1x384",), ("2x128",), ("1x384", "2x128"))
    assert {one.timed_as for one in protocol.models().values() if one.kind == "small"} == {
        "1x384",
        "2x128",
        "2x384",
    }
    mpnet = PRESETS["mpnet"].with_models("a/large", ("x/6x384", "x/2x384"))
    exits = [f"{name}{reads}" for name in mpnet.early_exits for reads in ("", "-mean")]
    assert list(mpnet.multi_exit_models) == exits and len(mpnet.models()) == 1 + 2 + 3 + 10 + 2 * 5
    assert {one.timed_as for one in mpnet.multi_exit_models.values()} == {
        "deebert",
        "pabee",
        "berxit",
        "sweet",
    }
    published = early_exits(mpnet, "published")
    assert list(published) == ["deebert", "pabee", "berxit", "berxit-entropy", "sweet"]
    assert list(published) == [name for name in early_exits(mpnet) if name in published]
    assert [plan.name for plan in PRESETS["paper"].tasks] == ["mrpc", "sst2", "rte", "qnli", "qqp", "mnli"]
    assert all(plan.rows is None for plan in PRESETS["minilm-full"].tasks)


def test_a_protocol_that_cannot_be_run_is_refused():
    for make in (
        lambda: PRESETS["minilm"].with_models(None, ()),
        lambda: PRESETS["minilm"].with_models("a", ("b/x", "c/x")),
        lambda: ExperimentProtocol("x", (TaskConfig("t"),), objectives=("dar",)),
        lambda: PRESETS["minilm"].task("qnli"),
    ):
        with pytest.raises(CascadeError):
            make()


def test_phrases_belong_to_the_longest_row_that_holds_their_words_in_one_run():
    texts = ["film", "a fine film", "a fine film indeed", "fine  film", "filming", "indeed a film"]
    groups, whole = phrase_groups(texts)
    assert groups.tolist() == [2, 2, 2, 2, 4, 5]
    assert np.flatnonzero(whole).tolist() == [2, 4, 5]


def test_seconds_of_whole_methods_are_corrected_by_the_clock():
    checks = (
        TimingCheck("cascade-a-dar", (0.9,), 2.2, 2.0, 1.9, 2.2),
        TimingCheck("cascade-a-dar", (0.8,), 3.0, 2.5, 2.4, 2.6),
        TimingCheck("cascade-a-b-dar", (0.8,), 3.0, 1.0, 1.0, 1.0),
        TimingCheck("pabee", (2.0,), 2.0, 2.0, 2.0, 2.0),
    )
    made = Timings({}, checks, 9, 3, {})
    assert made.correction("cascade-a-plain") == pytest.approx((1.1 + 1.2) / 2)
    assert [made.correction(one) for one in ("cascade-a-b-distil", "pabee", "truncated")] == [3.0, 1.0, 1.0]


def test_the_stored_protocol_and_timings_of_the_paper_are_readable():
    stored = Path(__file__).parent.parent / "results" / "paper"
    protocol = ExperimentProtocol.load(stored / "protocol.json")
    files = sorted((stored / "timings" / protocol.name).glob("*.json"))
    assert {file.stem for file in files} == {task.name for task in protocol.tasks}
    assert all(Timings.load(file).checks for file in files)
