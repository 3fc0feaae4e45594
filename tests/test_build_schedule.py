"""The division of the time among candidates."""

from __future__ import annotations

import pytest

from cascadebert.training.build.candidates import Candidate
from cascadebert.training.build.schedule import Speeds, affordable_passes, make_schedule, seconds_to_make
from cascadebert.types import Flops

SPEEDS = Speeds(seconds=0.001, tokens=16.0, operations=1e9)
SCHEDULE = make_schedule(1.0, 600, True, SPEEDS)
STATIC = Candidate("static", "static", 0, 0, Flops(4.0, 6.0, 0.0))
STUDENTS = [Candidate(f"{n}x64", "student", n, 64, Flops(0.0, n * 1e5, 0.0)) for n in (1, 2, 3)]
WANTED = seconds_to_make(STUDENTS[0], 10.0, SCHEDULE, SPEEDS)


@pytest.mark.parametrize(("left", "expected"), [(2.0, 10.0), (1.0, 5.0), (0.15, 1.0), (0.05, None), (-1.0, None)])
def test_a_student_gets_what_it_wants_or_one_pass_or_is_not_made(left, expected):
    passes = affordable_passes(STUDENTS[0], left * WANTED, SCHEDULE, SPEEDS, is_last=False)
    assert passes == expected


def test_what_is_too_little_for_all_goes_to_the_cheapest():
    made, left = [], 0.5 * WANTED
    candidates = [STATIC, *STUDENTS]
    for i, candidate in enumerate(candidates):
        passes = affordable_passes(candidate, left, SCHEDULE, SPEEDS, is_last=i == len(candidates) - 1)
        if passes is not None:
            left -= seconds_to_make(candidate, passes, SCHEDULE, SPEEDS)
            made.append(candidate.name)
    assert made[:2] == ["static", "1x64"] and "3x64" not in made
