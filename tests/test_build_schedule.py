"""The time that a build plans, and the rule that leaves out candidates that cannot pay."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cascadebert.thresholds.stage_choice import CandidateStages
from cascadebert.training.cascade_builder.candidates import Candidate, batch_size
from cascadebert.training.cascade_builder.choose import expected_seconds, least_seconds
from cascadebert.training.cascade_builder.schedule import (
    MAX_PASSES,
    MIN_STEPS,
    Schedule,
    Speeds,
    affordable_passes,
    make_schedule,
    seconds_to_make,
    wanted_passes,
)
from cascadebert.types import Flops

SPEEDS = st.builds(
    Speeds, seconds=st.floats(1e-5, 1), tokens=st.floats(2, 128), operations=st.floats(1e6, 1e13),
    training=st.none() | st.floats(1e6, 1e13),
)  # fmt: skip
CANDIDATES = st.builds(
    Candidate, st.just("one"), st.sampled_from(["static", "encoder", "student"]), st.just(2), st.just(64),
    st.builds(Flops, st.floats(0, 1e6), st.floats(1e3, 1e10), st.just(0.0)),
)  # fmt: skip


def stages(seed: int, count: int, n: int, labels: int) -> CandidateStages:
    """Random outputs of stages; the better ones are the later ones, two share a tokenizer."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(n, labels))
    logits = np.stack([truth + rng.normal(size=truth.shape) * (count - i) for i in range(count)])
    probabilities = np.exp(3 * logits) / np.exp(3 * logits).sum(axis=2, keepdims=True)
    costs = np.sort(rng.uniform(0.1, 10, size=(count, 1)), axis=0) * rng.uniform(0.5, 2, size=(1, n))
    own = rng.integers(0, 2, size=count)
    tokenizing = np.repeat(np.array([0.05, 0.3])[own], n).reshape(count, n)
    return CandidateStages(probabilities, costs, tokenizing, tuple(map(str, own)))


def without(arrays: CandidateStages, index: int) -> CandidateStages:
    kept = [i for i in range(len(arrays.tokenizers)) if i != index]
    return replace(
        arrays,
        probabilities=arrays.probabilities[kept],
        model_costs=arrays.model_costs[kept],
        tokenizing_costs=arrays.tokenizing_costs[kept],
        tokenizers=tuple(arrays.tokenizers[i] for i in kept),
    )


@given(st.integers(0, 10**6), st.integers(2, 4), st.integers(2, 4), st.sampled_from([0.8, 0.9, 0.97, 1.0]))
@settings(max_examples=60, deadline=None)
def test_no_candidate_of_a_cost_makes_a_cascade_faster_than_the_bound(seed, count, max_stages, level):
    arrays = stages(seed, count, 40, 3)
    index = seed % (count - 1)
    fewer, last = without(arrays, index), len(arrays.tokenizers) - 1
    same = arrays.tokenizers[index] == arrays.tokenizers[last]
    least = least_seconds(fewer, arrays.model_costs[index], level, max_stages, same_tokenizer=same)
    assert expected_seconds(arrays, level, max_stages) >= least - 1e-9


def test_a_candidate_that_predicts_as_the_classifier_does_reaches_the_bound():
    arrays = stages(1, 3, 40, 3)
    perfect = arrays.probabilities.copy()
    perfect[1] = perfect[2]
    arrays = replace(arrays, probabilities=perfect, tokenizing_costs=0 * arrays.tokenizing_costs)
    least = least_seconds(without(arrays, 1), arrays.model_costs[1], 0.97, 3)
    assert expected_seconds(arrays, 0.97, 3) == pytest.approx(least)


@given(st.lists(CANDIDATES, min_size=1, max_size=6), SPEEDS, st.floats(0.01, 600), st.integers(80, 300_000))
@settings(deadline=None)
def test_what_is_planned_takes_no_more_time_than_there_is(candidates, speeds, minutes, texts):
    schedule = make_schedule(minutes, texts, True, speeds)
    assume(schedule.texts > 1)
    assert schedule.pass_seconds <= 0.25 * 60 * minutes + 1e-6
    total = left = 60 * minutes - schedule.pass_seconds - schedule.finish_seconds
    assert left > 0
    for i, candidate in enumerate(candidates):
        is_last = i == len(candidates) - 1
        passes = affordable_passes(candidate, left, schedule, speeds, is_last=is_last)
        if passes is not None:
            assert 0 < passes <= wanted_passes(candidate, schedule.texts)
            left -= seconds_to_make(candidate, passes, schedule, speeds)
        assert left >= -1e-6 * total


@given(CANDIDATES, SPEEDS, st.floats(0.1, 600), st.integers(80, 300_000))
@settings(deadline=None)
def test_a_candidate_gets_500_steps_or_all_that_it_wants(candidate, speeds, minutes, texts):
    schedule = make_schedule(minutes, texts, True, speeds)
    passes = affordable_passes(candidate, 30 * minutes, schedule, speeds, is_last=False)
    assume(passes is not None)
    wanted = wanted_passes(candidate, schedule.texts)
    steps = passes * schedule.texts / batch_size(schedule.texts)
    assert passes == wanted or MIN_STEPS - 1e-6 <= steps
    assert passes <= wanted <= MAX_PASSES


def test_half_of_the_time_that_is_left_is_for_later_candidates():
    speeds, schedule = Speeds(0.01, 32.0, 1e9, training=1e9), Schedule(10_000, 0, 100.0, 100.0)
    encoder = Candidate("one", "encoder", 2, 64, Flops(0.0, 1e5, 0.0))
    wanted = seconds_to_make(encoder, wanted_passes(encoder, 10_000), schedule, speeds)
    passes = [
        affordable_passes(encoder, wanted, schedule, speeds, is_last=is_last) for is_last in (True, False)
    ]
    assert passes == [MAX_PASSES, MAX_PASSES / 2]
    assert affordable_passes(encoder, 0.0, schedule, speeds, is_last=True) is None


SPEEDS_OF_ONE = Speeds(seconds=0.001, tokens=16.0, operations=1e9)
SCHEDULE = replace(make_schedule(10.0, 6000, True, SPEEDS_OF_ONE), hidden_tokens=38_400)
STATIC = Candidate("static", "static", 0, 0, Flops(4.0, 6.0, 0.0))
STUDENTS = [Candidate(f"{n}x64", "student", n, 64, Flops(0.0, n * 1e5, 0.0)) for n in (1, 2, 3)]
WANTED = seconds_to_make(STUDENTS[0], 10.0, SCHEDULE, SPEEDS_OF_ONE)
LEFT = [(2.0, 10.0), (1.4, 6.64), (0.8, 16 / 3), (0.4, None), (-1.0, None)]


@pytest.mark.parametrize(("left", "expected"), LEFT)
def test_a_student_gets_what_it_wants_or_500_steps_or_is_not_made(left, expected):
    passes = affordable_passes(STUDENTS[0], left * WANTED, SCHEDULE, SPEEDS_OF_ONE, is_last=False)
    assert passes == (expected and pytest.approx(expected))


def test_what_is_too_little_for_all_goes_to_the_cheapest():
    made, left = [], 1.2 * WANTED
    candidates = [STATIC, *STUDENTS]
    for i, candidate in enumerate(candidates):
        passes = affordable_passes(candidate, left, SCHEDULE, SPEEDS_OF_ONE, is_last=i == len(candidates) - 1)
        if passes is not None:
            left -= seconds_to_make(candidate, passes, SCHEDULE, SPEEDS_OF_ONE)
            made.append(candidate.name)
    assert made[:2] == ["static", "1x64"] and "3x64" not in made
