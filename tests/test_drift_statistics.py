"""The drift test on arrays: error rates, false alarms, degenerate inputs."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from cascadebert.errors import CascadeError
from cascadebert.evaluation.drift_statistics import AgreementTarget, DriftConfig, compare_outputs
from cascadebert.thresholds.intervals import binomial_interval, ks_distance
from cascadebert.thresholds.risk_control import StageOutputs
from cascadebert.thresholds.select import exit_stages

THRESHOLDS = {2: (0.7,), 3: (0.8, 0.6)}


def drawn(n: int, seed: int, *, stages: int = 2, harder: float = 0.0) -> StageOutputs:
    """Rows of random difficulty: sure answers are the last stage's own, unsure ones less often."""
    rng = np.random.default_rng(seed)
    hard = np.clip(rng.random(n) + harder, 0, 1)
    last = rng.integers(0, 2, n)
    sure, said = [], []
    for stage in range(stages - 1):
        sure.append(np.clip(1 - hard * (0.6 - 0.2 * stage) + rng.normal(0, 0.02, n), 0.5, 1))
        said.append(np.where(rng.random(n) < 0.3 * hard, 1 - last, last))
    return StageOutputs(np.array([*sure, np.full(n, 0.9)]), np.array([*said, last]), None, ("no", "yes"))


def some(answers: StageOutputs, rows: np.ndarray) -> StageOutputs:
    """Some of the rows."""
    return StageOutputs(answers.confidences[:, rows], answers.predictions[:, rows], None, answers.label_names)


def true_agreement(answers: StageOutputs, thresholds: tuple[float, ...]) -> float:
    """Share of all rows whose answer is the last stage's own."""
    exits = exit_stages(answers.confidences, thresholds)
    return float((answers.predictions[exits, np.arange(len(exits))] == answers.predictions[-1]).mean())


def counted(n: int, agreeing: int, leaving: int | None = None) -> StageOutputs:
    """Rows of which so many agree with the last stage if they leave, and so many leave (all, if not said)."""
    sure = np.where(np.arange(n) < (n if leaving is None else leaving), 0.9, 0.5)
    said = np.where(np.arange(n) < agreeing, 1, 0)
    return StageOutputs(np.array([sure, sure]), np.array([said, np.ones(n, np.int64)]), None, ("no", "yes"))


@pytest.mark.slow
@pytest.mark.parametrize("stages, sizes", [(2, (1000, 1000)), (3, (3000, 150))])
def test_the_same_population_twice_is_hardly_ever_called_changed_or_broken(stages, sizes):
    pool, rng = drawn(40_000, 1, stages=stages), np.random.default_rng(2)
    config, wrong = (
        DriftConfig(tolerance=0.0, confidence_level=0.8),
        0,
    )  # with no tolerance at all: the hardest case
    for _ in range(300):
        old, new = (some(pool, rng.integers(0, 40_000, n)) for n in sizes)
        found = compare_outputs(old, new, THRESHOLDS[stages], config=config)
        wrong += found.verdict == "no" or found.traffic == "changed"
    assert wrong <= 0.2 * 300


@pytest.mark.slow
@pytest.mark.parametrize("step", [-0.002, 0.002])
def test_agreement_at_the_edge_of_its_level_is_judged_wrongly_at_most_as_often_as_was_said(step):
    pool, rng = drawn(40_000, 1), np.random.default_rng(3)
    level = true_agreement(pool, THRESHOLDS[2]) - step
    wrong_verdict = "no" if step > 0 else "yes"
    config, wrong = DriftConfig(AgreementTarget(level, "certificate"), confidence_level=0.6), 0
    for _ in range(300):
        old, new = (some(pool, rng.integers(0, 40_000, n)) for n in (200, 400))
        wrong += compare_outputs(old, new, THRESHOLDS[2], config=config).verdict == wrong_verdict
    assert wrong <= 0.4 * 300


@pytest.mark.slow
def test_all_intervals_hold_together_as_often_as_was_said():
    pools, rng, missed = (drawn(40_000, 1), drawn(40_000, 9, harder=0.1)), np.random.default_rng(4), 0
    whole = [exit_stages(pool.confidences, THRESHOLDS[2]) for pool in pools]
    left = [float((exits == 0).mean()) for exits in whole]
    agreeing = [true_agreement(pool, THRESHOLDS[2]) for pool in pools]
    gap = ks_distance(pools[0].confidences[0], pools[1].confidences[0], 0.05).value
    for _ in range(300):
        old, new = (some(pool, rng.integers(0, 40_000, 300)) for pool in pools)
        found = compare_outputs(old, new, THRESHOLDS[2], config=DriftConfig(confidence_level=0.8))
        first, both = found.stages[0], found.agreement
        pairs = (
            (first.exit_rate.change, left[1] - left[0]),
            (both.new, agreeing[1]),
            (both.change, agreeing[1] - agreeing[0]),
            (first.distance, gap),
        )
        missed += any(not one.low <= true <= one.high for one, true in pairs)
    assert missed <= 0.2 * 300


@pytest.mark.parametrize("stages", [2, 3])
def test_a_shifted_population_is_detected(stages):
    rng, seen = np.random.default_rng(5), []
    pool, other = drawn(40_000, 1, stages=stages), drawn(40_000, 6, stages=stages, harder=0.3)
    for _ in range(20):
        old, new = (some(one, rng.integers(0, 40_000, 1500)) for one in (pool, other))
        seen.append(compare_outputs(old, new, THRESHOLDS[stages]).traffic)
    assert seen == ["changed"] * 20


def test_a_changed_traffic_whose_agreement_holds_is_told_apart_from_a_broken_promise():
    level = DriftConfig(AgreementTarget(0.95, "certificate"))
    held = compare_outputs(counted(2000, 1990), counted(2000, 1990, leaving=1200), (0.7,), config=level)
    assert (held.verdict, held.traffic) == ("yes", "changed")
    assert held.headline == "yes: the traffic has changed, the agreement still holds"
    assert any(reason.startswith("The exit rate of stage 1 is 60.0 %") for reason in held.reasons)
    broken = compare_outputs(counted(2000, 1990), counted(2000, 1700), (0.7,), config=level)
    assert (broken.verdict, broken.traffic) == ("no", "inconclusive")
    assert broken.headline.startswith("no: the thresholds do not hold")


def test_a_difference_inside_the_tolerance_never_alarms_however_many_rows_show_it():
    n = 1_000_000
    old = counted(n, n - 10_000, leaving=600_000)
    new = counted(n, n - 10_000, leaving=649_999)
    found = compare_outputs(old, new, (0.7,))
    assert found.stages[0].exit_rate.change.value == pytest.approx(0.049999)
    assert found.verdict == "yes" and found.traffic != "changed"
    assert compare_outputs(old, counted(n, n - 10_000, leaving=660_000), (0.7,)).traffic == "changed"


def test_enough_rows_of_the_same_population_are_surely_unchanged():
    found = compare_outputs(drawn(60_000, 1), drawn(60_000, 2), THRESHOLDS[2])
    assert (found.verdict, found.traffic) == ("yes", "unchanged")
    assert found.headline == "yes: the thresholds hold on the new data"
    assert "No exit rate" in found.reasons[-1]


def test_a_loss_within_the_noise_of_a_small_reference_is_not_blamed_on_the_new_rows():
    lucky = counted(30, 30)  # all of few rows agree: the true share may be far lower
    found = compare_outputs(lucky, counted(20_000, 18_600), (0.7,))
    assert found.level.value == pytest.approx(0.95) and found.agreement.new.high < 0.95
    assert found.verdict == "inconclusive"
    assert (
        compare_outputs(
            lucky, counted(20_000, 18_600), (0.7,), config=DriftConfig(AgreementTarget(0.95, "requested"))
        ).verdict
        == "no"
    )


@pytest.mark.parametrize("level", [None, AgreementTarget(0.9, "requested")], ids=["reference", "requested"])
@pytest.mark.parametrize("share", [0.98, 0.8])
def test_the_rows_that_were_said_to_be_needed_do(level, share):
    old, new = counted(400, 380), counted(60, round(60 * share))
    found = compare_outputs(old, new, (0.7,), config=DriftConfig(level))
    assert found.verdict == "inconclusive" and found.examples_needed is not None
    assert f"About {found.examples_needed:,} examples" in " ".join(found.reasons)
    more = found.examples_needed
    old = counted(max(400, more), round(0.95 * max(400, more))) if level is None else old
    new = counted(more, round(more * found.agreement.new.value))
    assert compare_outputs(old, new, (0.7,), config=DriftConfig(level)).verdict in ("yes", "no")


def test_where_agreement_is_its_level_no_number_of_rows_is_promised_to_do():
    found = compare_outputs(
        counted(100, 95), counted(100, 95), (0.7,), config=DriftConfig(AgreementTarget(0.95, "requested"))
    )
    assert found.verdict == "inconclusive" and found.examples_needed is None
    assert "even a million examples" in " ".join(found.reasons)


def test_a_level_that_the_reference_misses_as_well_is_no_change():
    found = compare_outputs(
        counted(2000, 1600),
        counted(2000, 1600),
        (0.7,),
        config=DriftConfig(AgreementTarget(0.95, "requested")),
    )
    assert found.verdict == "no" and "this is not a change" in found.reasons[1]


def test_the_same_rows_twice_give_no_verdict():
    rows = counted(3000, 2000)
    for level in (None, AgreementTarget(0.95, "requested")):
        found = compare_outputs(rows, rows, (0.7,), config=DriftConfig(level), same_rows=True)
        assert found.verdict == "inconclusive" and "same examples" in found.headline
        assert found.examples_needed is None and found.traffic != "changed"


def test_one_row_and_constant_confidences_have_defined_results():
    one = compare_outputs(counted(1, 1), counted(1, 0), (0.7,))
    assert (one.verdict, one.traffic) == ("inconclusive", "inconclusive")
    assert one.agreement.change.low >= -1 and one.stages[0].distance.value == 0
    same = counted(500, 500)
    assert compare_outputs(same, same, (0.7,)).stages[0].distance.value == 0
    apart = compare_outputs(same, counted(500, 500, leaving=0), (0.7,))
    assert apart.stages[0].distance.value == 1 and apart.traffic == "changed"


def test_a_threshold_above_one_sends_all_to_the_last_stage_and_agreement_is_whole():
    found = compare_outputs(counted(800, 100), counted(800, 50), (1.1,))
    assert found.agreement.new.value == 1 and found.verdict == "yes"
    assert [stage.exit_rate.new.value for stage in found.stages] == [0, 1]


@pytest.mark.parametrize(
    "values",
    [{"tolerance": -0.1}, {"tolerance": 1.0}, {"confidence_level": 0.3}, {"confidence_level": 1.0}]
    + [{"level": AgreementTarget(value, "requested")} for value in (0.0, 1.0, float("nan"))],
)
def test_numbers_out_of_range_are_refused(values):
    with pytest.raises(CascadeError, match="such as"):
        DriftConfig(**values)


def test_one_stage_and_stages_that_do_not_fit_are_refused():
    with pytest.raises(CascadeError, match="no thresholds"):
        compare_outputs(counted(5, 5), counted(5, 5), ())
    with pytest.raises(CascadeError, match=r"expected outputs of 3 stages, .* the new outputs have 2"):
        compare_outputs(drawn(9, 1, stages=3), counted(5, 5), (0.7, 0.6))


@pytest.mark.parametrize("sizes", [(5, 5), (10, 40), (30, 30), (5, 120)])
def test_the_interval_of_a_difference_of_shares_covers_it_by_enumeration(sizes):
    from scipy.stats import binom

    delta, (n, m) = 0.05, sizes
    old, new = ([binomial_interval(k, size, delta) for k in range(size + 1)] for size in sizes)
    low = np.array([[b.minus(a).low for b in new] for a in old])
    high = np.array([[b.minus(a).high for b in new] for a in old])
    for p in (0.01, 0.1, 0.5, 0.9, 0.98, 0.995):
        for q in (0.01, 0.1, 0.5, 0.9, 0.98, 0.995):
            chance = np.outer(binom.pmf(np.arange(n + 1), n, p), binom.pmf(np.arange(m + 1), m, q))
            assert chance[(low > q - p + 1e-12) | (high < q - p - 1e-12)].sum() <= 2 * delta


def test_the_interval_of_a_distance_narrows_as_rows_grow():
    values = [np.random.default_rng(0).random(n) for n in (100, 1000, 10_000)]
    widths = [found.high - found.low for found in (ks_distance(one, one, 0.05) for one in values)]
    assert all(later < earlier for earlier, later in pairwise(widths))
