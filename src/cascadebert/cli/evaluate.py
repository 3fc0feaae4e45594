"""`cascadebert evaluate`."""

from __future__ import annotations

from contextlib import nullcontext
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
    report: Annotated[Path | None, o.option("Page with a verdict and its evidence.", "OUT.html")] = None,
    baseline: Annotated[str | None, o.option("Cascade or classifier to compare with.", "DIR2")] = None,
    engine: o.EngineOptions,
) -> None:
    """Measure a cascade, and each of its stages alone, on labelled data that it was not made from.

    With --report or --baseline it is also timed, examples that it was made from are left out,
    and a verdict tells whether cascading pays off.
    """
    if report is not None:
        from cascadebert.evaluation.report.html import ensure_report_writable

        ensure_report_writable(report)
    columns, cascade = o.columns_of(text_column, label_column), engine.load(folder)
    if report is not None or baseline is not None:
        values = _report(cascade, data, columns, report, baseline)
    else:
        from cascadebert.evaluation.evaluate import evaluate_cascade

        quality, overlap = evaluate_cascade(cascade, data, columns=columns)
        used = ", ".join(f"{count:,} were used to {purpose}" for purpose, count in overlap.items() if count)
        if used:
            print_notices([f"of these {quality.n:,} examples, {used}: results are optimistically biased"])
        print_report(quality)
        values = {**asdict(quality), "overlap": overlap}
    print_json({**values, "uncertified_reason": cascade.uncertified_reason})


def _report(
    cascade: Cascade, data: str, columns: Columns, page: Path | None, baseline: str | None
) -> dict[str, Any]:
    from cascadebert.evaluation.report.build import build_report
    from cascadebert.evaluation.report.html import write_report
    from cascadebert.evaluation.report.verdict import summary

    exported: Any = nullcontext()
    if baseline is not None:
        from cascadebert.training.export import exported_for

        exported = exported_for(baseline, cascade)
    with exported as rival:
        result = build_report(cascade, data, columns=columns, baseline=rival)
    print_notices(result.notices)
    print_report(result.report)
    for sentence in summary(result.verdict):
        console().print(sentence)
    if page is not None:
        write_report(page, result)
        console().print(f"Written to {page}.")
    values = {**asdict(result.report), "overlap": result.overlap, "report": page and str(page)}
    return {**values, "verdict": {**asdict(result.verdict), "notices": result.notices}}
