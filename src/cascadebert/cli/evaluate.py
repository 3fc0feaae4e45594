"""`cascadebert evaluate`."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from cascadebert.cli import options as o
from cascadebert.cli.render import print_json, print_notices, print_report
from cascadebert.paths import check_roles


def evaluate(
    folder: o.Folder,
    data: o.Data,
    *,
    data_options: o.LabeledDataOptions,
    report: Annotated[
        Path | None, o.option("Page to write: the verdict and its evidence.", "OUT.html")
    ] = None,
    baseline: Annotated[str | None, o.option("Cascade or classifier to compare with.", "MODEL")] = None,
    engine: o.EngineOptions,
) -> None:
    """Evaluate a cascade, and each of its stages alone, on labeled data that it was not made from.

    With --report or --baseline the cascade is also timed, examples that it was made from are left
    out, and a verdict tells whether cascading pays off.
    """
    from cascadebert.evaluation.evaluate import evaluate_cascade
    from cascadebert.evaluation.report.build import build_report
    from cascadebert.evaluation.report.html import ensure_report_writable, write_report
    from cascadebert.evaluation.report.verdict import summary

    if report is not None:
        inputs = {"DIR": folder, "DATA": data, "--label-map": data_options.label_map, "--baseline": baseline}
        check_roles({"--report": report}, inputs)
        ensure_report_writable(report)
    columns, cascade = data_options.columns(), engine.load(folder)
    if report is None and baseline is None:
        quality, overlap = evaluate_cascade(cascade, data, columns=columns)
        used = ", ".join(f"{count:,} were used to {purpose}" for purpose, count in overlap.items() if count)
        if used:
            print_notices([f"of these {quality.n:,} examples, {used}: results are optimistically biased"])
        print_report(quality)
        print_json(asdict(quality), overlap=overlap, uncertified_reason=cascade.uncertified_reason)
        return
    with ExitStack() as stack:
        rival = None
        if baseline is not None:
            from cascadebert.training.baseline import opened_baseline

            rival = stack.enter_context(opened_baseline(baseline, cascade))
        result = build_report(cascade, data, columns=columns, baseline=rival)
    print_notices(result.notices)
    print_report(result.report)
    typer.echo("\n".join(summary(result.verdict)))
    if report is not None:
        write_report(report, result)
        typer.echo(f"Written to {report}.")
    verdict = {**asdict(result.verdict), "notices": result.notices}
    values = {"overlap": result.overlap, "report": report, "verdict": verdict}
    print_json(asdict(result.report), **values, uncertified_reason=cascade.uncertified_reason)
