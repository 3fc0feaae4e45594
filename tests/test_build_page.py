"""The page and the printed result of a build, of made-up results."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
import pytest

from cascadebert import Target
from cascadebert.cli.build_output import print_build
from cascadebert.cli.render import JSON_ENABLED
from cascadebert.errors import DataError
from cascadebert.evaluation.benchmark import BenchmarkResult, TimedPredictor
from cascadebert.thresholds.stage_choice import HeldOutMetrics
from cascadebert.training.build.curve import save_curve
from cascadebert.training.build.page import render_page
from cascadebert.training.build.result import (
    BuildResult,
    CandidateReport,
    Certification,
    ChosenCascade,
    ReportMetrics,
    TriedChain,
)
from cascadebert.types import Interval
from test_report_page import Reader

MODEL = "mpnet-sst2"
EVIL = "<script>alert('x')</script>&"
LONG = "a-very-long-name/" * 12 + "of-a-model"


def timed(name, speed, accuracy=0.931, agreement=0.985, n=2000):
    drop = Interval(0.003, -0.002, 0.008)
    return TimedPredictor(name, n, speed, (0.95 * speed, 1.04 * speed), accuracy, agreement, drop)


TIMING = BenchmarkResult(
    n=2000,
    repeats=5,
    cascade=timed("cascade", 812.4),
    last_stage=timed("stage 3 alone", 97.3, 0.934, 1.0),
    others=(
        timed("stage 1 alone", 41213, 0.812, 0.83),
        timed("stage 2 alone", 1460.2, 0.907, 0.941),
        timed("transformers pipeline, batch 1", 17.4, 0.934, 1.0, 256),
        timed("transformers pipeline, batch 32", 23.7, 0.934, 1.0, 256),
        timed("transformers pipeline, batch 32, sorted", 38.1, 0.934, 1.0, 256),
    ),
    measured_speedup=8.35,
    range=(8.11, 8.52),
    expected_speedup=8.61,
    stage_seconds=(),
    tokenizing_seconds=(),
    routing_overhead=0.02,
    exit_rates=(0.412, 0.503, 0.085),
    peak_memory_mb=812.0,
)
CANDIDATES = (
    CandidateReport("static", "made", "it is the cheapest.", 0, 768, 41213, 0.00236, 0.83, 0.812, 31),
    CandidateReport(
        "all-MiniLM-L6-v2", "made", "it may pay: at most 14x.", 6, 384, 1460, 0.0666, 0.941, 0.907, 640
    ),
    CandidateReport("student of 1 layer", "made", "it may pay.", 1, 768, 1210, 0.0804, 0.912, 0.884, 420),
    CandidateReport("student of 2 layers", "made", "it may pay.", 2, 768, 603, 0.161, 0.948, 0.912, 611),
    CandidateReport("student of 3 layers", "not made", "19 minutes are left and it needs 24.", 3, 768),
    CandidateReport("student of 6 layers", "not made", "it cannot pay, even if it always agreed.", 6, 768),
    CandidateReport(MODEL, "the classifier", "it ends every chain.", 12, 768, 97.3, 1.0, 1.0, 0.934),
)
STAGES = ("static", "all-MiniLM-L6-v2", MODEL)


def chain(stages, speedup, agreement=0.987):
    return TriedChain(
        stages, "max_probability", speedup, agreement, (0.4, *[0.6 / (len(stages) - 1)] * 2)[: len(stages)]
    )


TRIED = (
    chain(STAGES, 8.92),
    chain(("static", "student of 2 layers", MODEL), 7.7),
    chain(("all-MiniLM-L6-v2", MODEL), 7.31),
    chain(("student of 2 layers", MODEL), 4.9),
    chain(("static", MODEL), 1.4),
)
KNOTS = {1: 1.0, 3: 0.999, 8.92: 0.987, 20: 0.966, 80: 0.9, 424: 0.83}  # agreement by speed-up
CURVE = tuple(
    (float(x), float(np.interp(np.log(x), np.log([*KNOTS]), [*KNOTS.values()])))
    for x in np.geomspace(1, 424, 150)
)
CHOSEN = ChosenCascade(
    stages=STAGES,
    score="max_probability",
    level=0.985,
    held_out=HeldOutMetrics(0.9812, 0.929, 0.0042, 0.0018, 8.71),
    meets_target=True,
    tried=TRIED,
    curve=CURVE,
)
REPORT = ReportMetrics(
    n=2000,
    agreement=Interval(0.9825, 0.9757, 0.9876),
    accuracy=0.931,
    classifier_accuracy=0.934,
    accuracy_drop=Interval(0.003, -0.002, 0.008),
    oracle_share=0.742,
    timing=TIMING,
)
PAYING = BuildResult(
    cascades=True,
    reasons=("it is faster in every run, and meets the target.",),
    output=Path("fast"),
    model=MODEL,
    target=Target(min_agreement=0.98),
    parts={"train": 8120, "tune": 4000, "certify": 4000, "report": 2000, "corpus": 50000},
    notices=("312 repeated texts were dropped.",),
    candidates=CANDIDATES,
    chosen=CHOSEN,
    certification=Certification("agreement of at least 0.98", 0.95, 4000, 0.9812, None),
    report=REPORT,
    seconds=2480,
)


UNLABELED = replace(
    PAYING,
    candidates=tuple(replace(candidate, accuracy=None) for candidate in CANDIDATES),
    chosen=replace(CHOSEN, held_out=HeldOutMetrics(0.9812, None, None, 0.002, 8.71)),
    report=replace(
        REPORT,
        accuracy=None,
        classifier_accuracy=None,
        accuracy_drop=None,
        timing=replace(
            TIMING,
            cascade=replace(TIMING.cascade, accuracy=None, accuracy_drop=None),
            last_stage=replace(TIMING.last_stage, accuracy=None, accuracy_drop=None),
            others=(),
            peak_memory_mb=None,
        ),
        oracle_share=None,
    ),
)
UNCERTIFIED = replace(
    PAYING,
    certification=Certification(None, 0.95, 61, None, "61 texts are too few; it would take 180."),
)
SLOWER = replace(
    PAYING,
    cascades=False,
    reasons=("the best cascade is 1.04x as fast as the classifier, in some runs slower.",),
    target=Target(max_accuracy_drop=0.005),
    chosen=replace(CHOSEN, meets_target=False, tried=TRIED[:1]),
    certification=None,
    report=replace(REPORT, timing=replace(TIMING, measured_speedup=1.04, range=(0.97, 1.08))),
)
NOTHING = replace(
    PAYING,
    cascades=False,
    reasons=("no candidate could be made in 1 minute.",),
    notices=(),
    candidates=(*(replace(CANDIDATES[4], name=name) for name in ("static", "one")), CANDIDATES[-1]),
    chosen=None,
    certification=None,
    report=None,
)
MANY_CANDIDATES = tuple(
    CandidateReport(
        f"student of {i} layers", "made", "it may pay.", i, 768, 960 / i, i / 60, 1 - 0.09 / i, None, 90 * i
    )
    for i in range(1, 31)
)
MANY = replace(
    UNLABELED,
    target=Target(speedup=4),
    candidates=(*MANY_CANDIDATES, CANDIDATES[-1]),
    chosen=replace(
        UNLABELED.chosen,
        stages=("student of 1 layers", MODEL),
        level=None,
        tried=tuple(chain((one.name, MODEL), 9 - 0.1 * i) for i, one in enumerate(MANY_CANDIDATES)),
        curve=tuple((x, 1 - 0.01 * x) for x in (1.0, 4.0, 9.0)),
    ),
    report=replace(UNLABELED.report, timing=replace(UNLABELED.report.timing, exit_rates=(0.9, 0.1))),
)


def renamed(name):
    """A result in which every text from outside is this one."""
    names = {candidate.name: f"{i}{name}" for i, candidate in enumerate(CANDIDATES)}

    def rename(stages):
        return tuple(names[stage] for stage in stages)

    return replace(
        PAYING,
        model=name,
        output=Path(name),
        reasons=(name,),
        notices=(name,),
        candidates=tuple(replace(one, name=names[one.name], reason=name) for one in CANDIDATES),
        chosen=replace(
            CHOSEN,
            stages=rename(STAGES),
            tried=tuple(replace(one, stages=rename(one.stages)) for one in TRIED),
        ),
        certification=Certification(None, 0.95, 61, None, name),
    )


RESULTS = {
    "paying": PAYING,
    "unlabeled": UNLABELED,
    "uncertified": UNCERTIFIED,
    "slower": SLOWER,
    "nothing": NOTHING,
    "many": MANY,
    "evil": renamed(EVIL),
    "long": renamed(LONG),
}
each = pytest.mark.parametrize("result", RESULTS.values(), ids=RESULTS)


def text_of(page):
    """What a reader sees of a page, in one line."""
    body = re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", body)).split())


def printed(result, capsys):
    print_build(result)
    output = capsys.readouterr()
    return output.out, output.err
