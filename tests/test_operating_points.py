"""Load-following on traces: a state in, a delay, the next state out."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from cascadebert.server.operating_points import (
    COOLDOWN_SECONDS,
    MAX_COOLDOWN_SECONDS,
    OVERLOADED_SECONDS,
    LoadState,
    distinct_points,
    next_state,
)
from cascadebert.thresholds.operating_point import CertifiedPoint


def trace(state, delays, *, step=0.05, points=3, start=0.0, **others):
    """Every state after looking at each of the delays, some hundredths of a second apart."""
    states = []
    for place, delay in enumerate(delays):
        state = next_state(state, delay, start + step * place, points=points, limit=0.1, **others)
        states.append(state)
    return states


def test_a_delay_that_stays_too_long_leads_one_point_faster_at_a_time_and_never_beyond_the_last():
    points = [one.operating_point for one in trace(LoadState(0), [0.2] * 40)]
    assert points == sorted(points) and set(points) == {0, 1, 2}
    assert points.index(1) * 0.05 == pytest.approx(OVERLOADED_SECONDS)


def test_a_short_burst_moves_nothing():
    assert trace(LoadState(0), [0.2, 0.2, 0.05] * 40)[-1].switches == 0


def test_idle_time_leads_back_to_the_safest_point_one_at_a_time():
    points = [one.operating_point for one in trace(LoadState(2), [0.0] * 250)]
    assert points == sorted(points, reverse=True) and points[-1] == 0
    assert points.index(1) * 0.05 == pytest.approx(COOLDOWN_SECONDS)


def test_between_the_two_limits_nothing_moves():
    states = trace(LoadState(1), [0.06] * 1000)
    assert states[-1].operating_point == 1 and states[-1].switches == 0


def test_a_move_back_that_the_load_undoes_is_made_later_each_time():
    state, at, waits = LoadState(1), 0.0, []
    for _ in range(8):
        since = at
        while state.operating_point == 1:
            state, at = next_state(state, 0.0, at, points=2, limit=0.1), at + 0.05
        waits.append(round(at - since))
        while state.operating_point == 0:
            state, at = next_state(state, 0.2, at, points=2, limit=0.1), at + 0.05
    assert waits == sorted(waits)
    assert waits[0] == COOLDOWN_SECONDS and waits[-1] == MAX_COOLDOWN_SECONDS


def test_when_the_safest_point_is_wanted_it_is_taken_at_once_and_kept_whatever_the_load():
    states = trace(LoadState(2), [9.0] * 100, pinned=True)
    assert {one.operating_point for one in states} == {0} and states[-1].switches == 1


def test_points_are_a_quarter_apart_no_slower_than_the_last_stage_and_end_at_the_operating_point():
    points = [CertifiedPoint((0.5,), (0.5, 0.5), speedup) for speedup in np.geomspace(0.6, 16.0, 97)]
    found = [point.speedup for point in distinct_points(points)]
    assert found[0] >= 1 and found[-1] == points[-1].speedup
    assert all(b >= 1.25 * a for a, b in itertools.pairwise(found)) and len(found) == 12


def test_a_certificate_of_slow_points_alone_leaves_the_fastest():
    points = [CertifiedPoint((0.5,), (0.5, 0.5), speedup) for speedup in (0.3, 0.6, 0.9)]
    assert distinct_points(points) == (points[-1],)
