"""Verbs that use a cascade: predict, evaluate, shift, bench, info."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cascadebert.cli import options as o
from cascadebert.cli import render as out
from cascadebert.evaluation.drift_test import CONFIDENCE_LEVEL, TOLERANCE

if TYPE_CHECKING:
    from cascadebert.data.columns import Columns
    from cascadebert.inference.cascade import Cascade

Data = Annotated[str, typer.Argument(metavar="F", help="csv, tsv, jsonl, parquet or a Hub data set.")]


def predict(
    folder: o.Folder,
    source: Annotated[
        Path, typer.Argument(metavar="IN", help="csv, tsv, jsonl, parquet or a folder of parquet.")
    ],
    *,
    output: Annotated[
        Path, typer.Option(help="File to write; its ending is its format.", show_default=False)
    ],
    text_column: o.TextColumns = None,
    rejects: Annotated[
        Path | None,
        typer.Option(
            metavar="F", help="Set rows that cannot be answered aside here; else they stop the run."
        ),
    ] = None,
    engine: o.EngineName = "auto",
    precision: o.Precision = "auto",
    overwrite: o.Overwrite = False,
    json: o.Json = False,
) -> None:
    """Answer every row of a file: adds label, confidence and stage; goes on after a kill."""
    from cascadebert.inference.cascade import Cascade
    from cascadebert.inference.predict_file import predict_file

    columns = o.columns_of(text_column)
    cascade = Cascade.from_pretrained(folder, engine=engine, precision=precision)
    out.say_uncertified(cascade.uncertified_reason)
    done = predict_file(cascade, source, output, columns=columns, rejects=rejects, overwrite=overwrite)
    exits = " / ".join(out.share(rate) for rate in done.exit_rates)
    out.console().print(f"{done.n:,} rows written to {output}; answered by stage: {exits}")
    if done.bad:
        out.say_notices([f"{done.bad:,} rows could not be answered; they are in {rejects}"])
    values = {
        "output": str(output),
        "n": done.n,
        "exit_rates": list(done.exit_rates),
        "rejects": done.bad,
        "uncertified_reason": cascade.uncertified_reason,
    }
    out.machine_line(values, json)


def evaluate(
    folder: o.Folder,
    data: Data,
    *,
    text_column: o.TextColumns = None,
    label_column: o.LabelColumn = None,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="OUT.html", help="Time it too, say whether to cascade, and write a page on why."
        ),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(metavar="DIR2", help="Judge it beside this cascade or fine-tuned classifier too."),
    ] = None,
    engine: o.EngineName = "auto",
    precision: o.Precision = "auto",
    json: o.Json = False,
) -> None:
    """Measure a cascade, and each of its stages alone, on labelled rows it has never seen.

    With --report or --baseline rows that it was made from are left out, and whether it is worth it is said.
    """
    from cascadebert.inference.cascade import Cascade

    if report is not None:
        from cascadebert.evaluation.report.html import ensure_report_writable

        ensure_report_writable(report)
    columns = o.columns_of(text_column, label_column)
    cascade = Cascade.from_pretrained(folder, engine=engine, precision=precision)
    out.say_uncertified(cascade.uncertified_reason)
    if report is None and baseline is None:
        _measure(cascade, data, columns, json)
    else:
        _judge(cascade, data, columns, report, baseline, json)


def _measure(cascade: Cascade, data: str, columns: Columns, json: bool) -> None:
    from cascadebert.evaluation.evaluate import evaluate_cascade

    report, seen = evaluate_cascade(cascade, data, columns=columns)
    used = ", ".join(f"{count:,} to {purpose}" for purpose, count in seen.items() if count)
    if used:
        out.say_notices(
            [f"of these {report.n:,} rows, the cascade was made with {used}: figures flatter it."]
        )
    out.report_table(report)
    out.machine_line({**asdict(report), "seen": seen, "uncertified_reason": cascade.uncertified_reason}, json)


def _judge(
    cascade: Cascade, data: str, columns: Columns, page: Path | None, baseline: str | None, json: bool
) -> None:
    """Say whether to cascade, and write the page on it if asked for."""
    from cascadebert.evaluation.report.build import build_report
    from cascadebert.evaluation.report.html import write_report
    from cascadebert.evaluation.report.verdict import summary

    if baseline is None:
        judged = build_report(cascade, data, columns=columns)
    else:
        from cascadebert.training.export import exported_for

        with exported_for(baseline, cascade) as other:
            judged = build_report(cascade, data, columns=columns, baseline=other)
    if page is not None:
        write_report(page, judged)
    out.say_notices(judged.notices)
    out.report_table(judged.report)
    for sentence in summary(judged.verdict):
        out.console().print(sentence)
    if page is not None:
        out.console().print(f"Written to {page}.")
    values = {
        **asdict(judged.report),
        "seen": judged.seen,
        "uncertified_reason": cascade.uncertified_reason,
        "verdict": {**asdict(judged.verdict), "notices": judged.notices},
        "report": None if page is None else str(page),
    }
    out.machine_line(values, json)


def drift(
    folder: o.Folder,
    reference: Annotated[
        str, typer.Argument(metavar="REFERENCE", help="Held-out rows on which the thresholds held.")
    ],
    new: Annotated[str, typer.Argument(metavar="NEW", help="Rows of the traffic in question.")],
    *,
    text_column: o.TextColumns = None,
    min_agreement: Annotated[
        float | None,
        typer.Option(
            metavar="A",
            help="Share of answers that must be the last stage's own; default: the certificate's, else that "
            "of REFERENCE less the tolerance.",
        ),
    ] = None,
    tolerance: Annotated[float, typer.Option(metavar="T", help="Change that does not count.")] = TOLERANCE,
    confidence_level: Annotated[
        float, typer.Option(metavar="C", help="At which all intervals hold together.")
    ] = CONFIDENCE_LEVEL,
    engine: o.EngineName = "auto",
    precision: o.Precision = "auto",
    json: o.Json = False,
) -> None:
    """Say whether the thresholds still hold on new rows: yes, no (exit code 1) or cannot tell. No labels.

    They hold if the cascade's answers are the last stage's own as often as promised. Whether the last stage
    is still right itself, only labels can say.
    """
    from cascadebert.evaluation.drift import detect_drift
    from cascadebert.inference.cascade import Cascade

    cascade = Cascade.from_pretrained(folder, engine=engine, precision=precision)
    out.say_uncertified(cascade.uncertified_reason)
    found, notices = detect_drift(
        cascade, reference, new, min_agreement=min_agreement, tolerance=tolerance,
        confidence_level=confidence_level, columns=o.columns_of(text_column),
    )  # fmt: skip
    out.say_notices(notices)
    out.shift_table(found)
    said = {"headline": found.headline, "reasons": found.reasons, "notices": notices}
    out.machine_line({**asdict(found), **said, "uncertified_reason": cascade.uncertified_reason}, json)
    if found.verdict == "no":
        raise typer.Exit(1)


def bench(
    folder: o.Folder,
    data: Data,
    *,
    text_column: o.TextColumns = None,
    label_column: o.LabelColumn = None,
    repeats: Annotated[int, typer.Option(min=1, help="Timed runs of each, in turn.")] = 5,
    plot: Annotated[Path | None, typer.Option(metavar="F", help="Draw the rates as SVG.")] = None,
    engine: o.EngineName = "auto",
    precision: o.Precision = "auto",
    json: o.Json = False,
) -> None:
    """Time a cascade beside each stage alone and `transformers`, in one interleaved run."""
    from cascadebert.evaluation.benchmark import benchmark as run
    from cascadebert.evaluation.plots import plot_benchmark
    from cascadebert.inference.cascade import Cascade

    columns = o.columns_of(text_column, label_column)
    cascade = Cascade.from_pretrained(folder, engine=engine, precision=precision)
    out.say_uncertified(cascade.uncertified_reason)
    result = run(cascade, data, columns=columns, repeats=repeats)
    out.bench_table(result)
    if plot is not None:
        plot_benchmark(plot, result)
    out.machine_line({**asdict(result), "uncertified_reason": cascade.uncertified_reason}, json)


def info(
    folder: o.Folder,
    *,
    check: Annotated[bool, typer.Option("--check", help="Compare every file with its stored hash.")] = False,
    json: o.Json = False,
) -> None:
    """Say what a saved cascade is; with --check, whether its files are those it was saved with."""
    from cascadebert.persistence.checkpoint_config import resolve_checkpoint
    from cascadebert.persistence.folder import read_folder

    spec = read_folder(resolve_checkpoint(folder), check_files=check)
    thresholds = [f"{one:.4f}" for one in spec.operating_point.thresholds]
    rows = [
        (str(i), entry.name, str(entry.layers), str(entry.hidden), f"{entry.temperature:.3f}", above)
        for i, (entry, above) in enumerate(zip(spec.stages, [*thresholds, "always"], strict=True), start=1)
    ]
    out.table(("stage", "made from", "layers", "width", "temperature", "leaves above"), rows)
    out.console().print(f"labels: {', '.join(spec.label_names)}")
    if spec.operating_point.metrics is not None:
        out.console().print(out.expected_line(spec.operating_point.metrics))
        out.say_notices(spec.operating_point.metrics.notices)
    if spec.operating_point.certificate is not None:
        out.certificate_lines(spec.operating_point.certificate)
    if check:
        out.console().print("checked: every file of every stage is the one it was saved with")
    out.machine_line({**spec.model_dump(mode="json"), "checked": check}, json)
