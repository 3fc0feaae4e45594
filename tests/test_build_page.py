"""The page and the printed result of a build, of made-up results."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import cache
from html import unescape
from pathlib import Path

import numpy as np
import pytest

from cascadebert import Target
from cascadebert.cli.build_output import print_build
from cascadebert.cli.render import JSON_ENABLED
from cascadebert.errors import DataError
from cascadebert.evaluation.benchmark import BenchmarkResult, TimedPredictor
from cascadebert.persistence.schema import TimedEngine
from cascadebert.thresholds.stage_choice import HeldOutMetrics
from cascadebert.training.cascade_builder.curve import curve_figure, save_curve
from cascadebert.training.cascade_builder.page import render_page
from cascadebert.training.cascade_builder.result import (
    BuildResult,
    CandidateReport,
    Certification,
    ChosenCascade,
    ReportMetrics,
    TriedChain,
)
from cascadebert.tuning.engine_choice import EngineChoice
from cascadebert.types import Interval
from test_report_page import Reader

MODEL = "mpnet-sst2"
EVIL = "<script>alert('x')</script>&"
LONG = "a-very-long-name/" * 12 + "of-a-model"


def timed(name, speed, accuracy=0.931, agreement=0.985, n=2000):
    drop = Interval(0.003, -0.002, 0.008)
    engine = ("torch", "float32") if "pipeline" in name else ("openvino", "int8")
    return TimedPredictor(name, *engine, n, speed, (0.95 * speed, 1.04 * speed), accuracy, agreement, drop)


TIMING = BenchmarkResult(
    machine="A processor, 2 cores, Linux x86_64",
    instruction_sets=("AVX2",),
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
    held_out=HeldOutMetrics(0.9812, 0.0032, 0.929, 0.0042, 0.0018, 8.71),
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
TIMED = (
    TimedEngine(engine="openvino", precision="int8", texts_per_second=97.3, compared=1000, changed=3),
    TimedEngine(engine="openvino", precision="float32", texts_per_second=31.4, compared=1000, changed=None),
)
ENGINE = EngineChoice("openvino", "int8", TIMED)
PAYING = BuildResult(
    cascades=True,
    reasons=("it is faster in every run, and meets the target.",),
    output=Path("fast"),
    model=MODEL,
    engine=ENGINE,
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
    chosen=replace(CHOSEN, held_out=HeldOutMetrics(0.9812, 0.0032, None, None, None, 8.71)),
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
    candidates=(*MANY_CANDIDATES, UNLABELED.candidates[-1]),
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
each = pytest.mark.parametrize("name", RESULTS)


@cache
def page_of(name):
    return render_page(RESULTS[name])


def text_of(name):
    """What a reader sees of a page, in one line."""
    body = re.sub(r"<style>.*?</style>", "", page_of(name), flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", body)).split())


def printed(result, capsys):
    print_build(result)
    output = capsys.readouterr()
    return output.out, output.err


@each
def test_the_page_is_well_formed_and_complete_in_itself(name):
    page = page_of(name)
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == [] and reader.loaded == []
    assert len(reader.names) == len(set(reader.names)) and "script" not in reader.tags
    assert not re.search(r"@import|https?:|url\((?!#)", page)
    assert page.count("<svg") == (RESULTS[name].chosen is not None)


@each
def test_nothing_that_is_missing_is_written(name, capsys):
    for text in (text_of(name), *printed(RESULTS[name], capsys)):
        assert not re.search(r"\b(None|nan|inf)\b", text)


@each
def test_page_and_terminal_tell_the_decision_before_all_else_and_what_was_tried(name, capsys):
    result = RESULTS[name]
    page, (shown, notes) = text_of(name), printed(result, capsys)
    decision = "Cascade: 8.3x as fast as" if result.cascades else "Do not cascade"
    for text in (page, shown):
        assert decision in text and all(reason[1:] in text for reason in result.reasons)
    assert page.index(decision) < page.index("Certificate") < page.index("Candidates")
    for candidate in result.candidates:
        assert candidate.name in page and candidate.reason[1:] in page
    assert all(notice in page and notice in notes for notice in result.notices)


def test_the_page_tells_on_which_engine_all_was_measured():
    page = render_page(PAYING)
    row = re.search(r'<tr class="cascade">\s*<th scope="row">openvino int8</th>(.*?)</tr>', page, re.DOTALL)
    assert row is not None and "0.3 % of 1,000" in row[1] and "openvino float32" in page
    page = render_page(replace(PAYING, engine=EngineChoice("torch", "bfloat16")))
    assert "The cascade, its stages and the candidates run on torch in bfloat16." in page


def test_the_page_of_a_cascade_that_pays_holds_its_numbers():
    page = text_of("paying")
    for wanted in (
        "8.3x as fast as mpnet-sst2 alone, agreement 98.2 %, accuracy -0.3 points",
        "on 2,000 examples that had no part in making the cascade: 98.2 % (97.6 to 98.8)",
        "Accuracy on them 93.1 %, the classifier's 93.4 %: -0.3 points (-0.8 to +0.2)",
        "8.35x (8.11 to 8.52), median and range of 5 interleaved runs of 2,000 texts",
        "in batches of 32: 34.3x, 812 against 24 texts per second",
        "74.2 % of that of oracle routing",
        "2. all-MiniLM-L6-v2 6 x 384 50.3 % 1,460",
        "the fastest of 5 chains with at least 98.5 % agreement on the tuning set, the lowest level",
        "it meets the target: agreement 98.1 % (standard error 0.3 points), "
        "accuracy 92.9 % (-0.4 points, standard error 0.2), expected speed-up 8.71x",
        "static → student of 2 layers → mpnet-sst2 max probability 7.70x 98.7 %",
        "Certified at 95.0 % confidence: agreement of at least 0.98 on new data like these (4,000 examples; "
        "their own bound is 0.9812).",
        "student of 1 layer 1 x 768 91.2 % 88.4 % 8.04 % 1,210 7 min Made. It may pay.",
        "Not made. 19 minutes are left and it needs 24.",
        "texts to certify 4,000",
        "time of all steps 41 min",
        "python 3.",
    ):
        assert wanted in page, wanted


def test_the_terminal_shows_candidates_chain_certificate_verdict_and_what_comes_next(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    shown, notes = printed(PAYING, capsys)
    parts = [
        "all-MiniLM-L6-v2     6 x 384         94.1 %     90.7 %    6.66 %   1,460    11 min",
        "Not made: student of 3 layers: 19 minutes are left",
        "2. all-MiniLM-L6-v2  50.3 %  1,460",
        "Certified at 95.0 % confidence",
        "Cascade: 8.3x",
        "It is faster in every run",
        "Next: cascadebert predict fast DATA --output predictions.csv",
    ]
    places = [shown.index(part) for part in parts]
    assert places == sorted(places)
    assert notes == "note: 312 repeated texts were dropped.\n"


@pytest.mark.parametrize("name", ["many", "evil", "long"])
def test_tables_in_the_terminal_fit_into_100_columns(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    tables = printed(RESULTS[name], capsys)[0].split("\nTarget: ")[0]
    lines = [line for line in tables.splitlines() if not line.startswith("Not made: ")]
    assert max(map(len, lines)) <= 100
    assert len([line for line in lines if re.search(r" \d+ x \d+ ", line)]) == sum(
        candidate.state != "not made" for candidate in RESULTS[name].candidates
    )


def test_json_is_one_line_with_all_values(capsys):
    token = JSON_ENABLED.set(True)
    try:
        values = json.loads(printed(PAYING, capsys)[0].splitlines()[-1])
    finally:
        JSON_ENABLED.reset(token)
    assert values["cascades"] is True and values["output"] == "fast"
    assert values["report"]["timing"]["measured_speedup"] == 8.35
    assert values["candidates"][1]["name"] == "all-MiniLM-L6-v2"


def test_without_labels_only_agreement_is_stated(capsys):
    for text in (text_of("unlabeled"), *printed(UNLABELED, capsys)):
        assert "ccuracy" not in text
    assert "98.2 % (97.6 to 98.8)" in text_of("unlabeled")


def test_without_a_certificate_the_reason_is_told(capsys):
    sentence = "Not certified at 95.0 % confidence: 61 texts are too few; it would take 180."
    assert sentence in text_of("uncertified") and sentence in printed(UNCERTIFIED, capsys)[0]


@pytest.mark.parametrize(
    "name, chain_title", [("slower", "The best cascade that was found"), ("nothing", None)]
)
def test_a_build_that_does_not_pay_says_so_and_offers_no_cascade(name, chain_title, capsys):
    page, (shown, _) = text_of(name), printed(RESULTS[name], capsys)
    assert "No cascade was saved, so none is certified." in page and "Saved in" not in shown
    assert "Only fast/report.html was saved. Next: the same command" in shown
    assert (chain_title in page) if chain_title else ("Why this one" not in page)


def test_at_most_ten_runners_up_are_listed():
    assert page_of("many").count(" → ") == 10
    assert "the one of 30 chains that agrees most" in page_of("many")


def test_names_from_outside_cannot_add_markup():
    page = page_of("evil")
    assert "<script" not in page and page.count("&lt;script&gt;") > 30


@pytest.mark.parametrize("name", ["paying", "many", "long"])
def test_names_in_the_curve_cover_neither_each_other_nor_a_point(name):
    figure = curve_figure(RESULTS[name])
    (axes,) = figure.axes
    boxes = [text.get_window_extent() for text in axes.texts]
    points = [line.get_xydata() for line in axes.lines if line.get_marker() in ("o", "D")]
    assert len(boxes) >= 5
    for i, box in enumerate(boxes):
        assert box.count_overlaps(boxes[:i]) == 0
        assert box.count_contains(axes.transData.transform(np.concatenate(points))) == 0


def test_the_curve_has_the_target_as_a_line_only_if_it_is_an_agreement():
    def labels(result):
        return [text.get_text() for text in curve_figure(result).legends[0].get_texts()]

    assert "target" in labels(PAYING) and "target" not in labels(MANY)
    assert "best chain, every threshold" in labels(SLOWER)


def test_the_curve_is_saved_as_svg_and_the_same_each_time(tmp_path):
    for name in ("one.svg", "two.svg"):
        save_curve(tmp_path / name, PAYING)
    assert "<svg" in (tmp_path / "one.svg").read_text("utf-8")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    with pytest.raises(DataError, match=r"ending in \.svg"):
        save_curve(tmp_path / "curve.png", PAYING)
