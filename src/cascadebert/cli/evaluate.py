"""`cascadebert evaluate`: measure a cascade on labelled data."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cascadebert.cli import options as o
from cascadebert.cli.render import console, print_json, print_notices, print_report

if TYPE_CHECKING:
    from cascadebert.data.columns import Columns
    from cascadebert.inference.cascade import Cascade


def evaluate(
    folder: o.Folder,
    data: o.Data,
    *,
    text_column: o.TextColumns = None,
    label_column: o.LabelColumn = None,
    report: Annotated[
        Path | None,
        o.option("Also time it, decide whether to cascade, and write a page with the evidence.", "OUT.html"),
    ] = None,
    baseline: Annotated[
        str | None, o.option("Cascade or fine-tuned classifier to compare with.", "DIR2")
    ] = None,
    engine: o.EngineOptions,
    json: o.Json = False,
) -> None:
    """Measure a cascade, and each of its stages alone, on labelled data that it was not made from.

    With --report or --baseline, examples that it was made from are left out, and a verdict tells whether
    cascading pays off.
    """
    if report is not None:
        from cascadebert.evaluation.report.html import ensure_report_writable

        ensure_report_writable(report)
    columns, cascade = o.columns_of(text_column, label_column), engine.load(folder)
    if report is None and baseline is None:
        values = _measure(cascade, data, columns)
    else:
        values = _report(cascade, data, columns, report, baseline)
    print_json({**values, "uncertified_reason": cascade.uncertified_reason}, json)


def _measure(cascade: Cascade, data: str, columns: Columns) -> dict[str, Any]:
    from cascadebert.evaluation.evaluate import evaluate_cascade

    report, seen = evaluate_cascade(cascade, data, columns=columns)
    used = ", ".join(f"{count:,} were used to {purpose}" for purpose, count in seen.items() if count)
    if used:
        print_notices([f"of these {report.n:,} examples, {used}: results are optimistically biased"])
    print_report(report)
    return {**asdict(report), "seen": seen}


def _report(
    cascade: Cascade, data: str, columns: Columns, page: Path | None, baseline: str | None
) -> dict[str, Any]:
    from cascadebert.evaluation.report.build import build_report
    from cascadebert.evaluation.report.html import write_report
    from cascadebert.evaluation.report.verdict import summary

    if baseline is None:
        result = build_report(cascade, data, columns=columns)
    else:
        from cascadebert.training.export import exported_for

        with exported_for(baseline, cascade) as rival:
            result = build_report(cascade, data, columns=columns, baseline=rival)
    if page is not None:
        write_report(page, result)
    print_notices(result.notices)
    print_report(result.report)
    for sentence in summary(result.verdict):
        console().print(sentence)
    if page is not None:
        console().print(f"Written to {page}.")
    return {
        **asdict(result.report),
        "seen": result.seen,
        "verdict": {**asdict(result.verdict), "notices": result.notices},
        "report": None if page is None else str(page),
    }
