"""The verb that picks new thresholds: tune, with or without a guarantee."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cascadebert.cli import options as o
from cascadebert.cli import render as out
from cascadebert.errors import CascadeError
from cascadebert.thresholds.certificate import Certificate, Guarantee
from cascadebert.types import CostUnit

if TYPE_CHECKING:
    from cascadebert.tuning.tune import TuningResult

GUARANTEE = "Guarantee on new data: one promise or more (not a speed-up)"


def tune(
    folder: o.Folder,
    *,
    data: Annotated[
        str, typer.Option(metavar="F", help="Held-out rows like those to come.", show_default=False)
    ],
    target_speedup: o.Speedup = None,
    max_accuracy_drop: o.Drop = None,
    min_accuracy: o.Least = None,
    min_agreement: o.Agreement = None,
    confidence_level: Annotated[
        float | None,
        typer.Option(
            metavar="C",
            help="Promise it on new data with this confidence, such as 0.95.",
            rich_help_panel=GUARANTEE,
        ),
    ] = None,
    min_early_exit_accuracy: Annotated[
        float | None,
        typer.Option(
            metavar="A", help="Accuracy of the answers before the last stage.", rich_help_panel=GUARANTEE
        ),
    ] = None,
    max_false_negative_rate: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LABEL=R", help="Share of a label's rows answered otherwise.", rich_help_panel=GUARANTEE
        ),
    ] = None,
    text_column: o.TextColumns = None,
    label_column: o.LabelColumn = None,
    cost_unit: o.CostUnit = "flops",
    score: o.KeptScore = None,
    engine: o.EngineName = "auto",
    precision: o.Precision = "auto",
    json: o.Json = False,
) -> None:
    """Pick new thresholds for a saved cascade. A target that cannot be met changes nothing: exit code 1.

    With --confidence-level the target is a promise about new data, tested on rows that have had no say in it.
    """
    columns = o.columns_of(text_column, label_column)
    where: dict[str, Any] = {"cost_unit": cost_unit, "columns": columns, "score": score}
    where |= {"engine": engine, "precision": precision}
    if confidence_level is None:
        if min_early_exit_accuracy is not None or max_false_negative_rate:
            raise CascadeError(
                "--min-early-exit-accuracy and --max-false-negative-rate are promises: add --confidence-level"
            )
        target = o.target_of(target_speedup, max_accuracy_drop, min_accuracy, min_agreement)
        _pick(folder, data, target, where, json)
        return
    if target_speedup is not None:
        raise CascadeError("a speed-up cannot be promised: leave out --target-speedup or --confidence-level")
    given = {
        "min_agreement": min_agreement,
        "max_accuracy_drop": max_accuracy_drop,
        "min_accuracy": min_accuracy,
        "min_early_exit_accuracy": min_early_exit_accuracy,
    }
    guarantees = [Guarantee(name, level) for name, level in given.items() if level is not None]  # type: ignore[arg-type]
    guarantees += [_missed(words) for words in max_false_negative_rate or ()]
    _certify(folder, data, guarantees, confidence_level, where, json)


def _missed(words: str) -> Guarantee:
    label, _, rate = words.rpartition("=")
    try:
        level = float(rate)
    except ValueError:
        level = None
    if not label or level is None:
        raise CascadeError(f"--max-false-negative-rate takes LABEL=R, such as spam=0.05, not {words!r}")
    return Guarantee("max_false_negative_rate", level, label)


def _pick(folder: Path, data: str, target: Any, where: dict[str, Any], json: bool) -> None:
    from cascadebert.thresholds.select import InfeasibleTarget
    from cascadebert.tuning.tune import tune_folder

    try:
        tuned = tune_folder(folder, data, target=target, **where)
    except InfeasibleTarget as refused:
        out.errors().print(str(refused))
        out.machine_line(refused.as_dict(), json)
        raise typer.Exit(1) from refused
    _say(tuned, where["cost_unit"], json)


def _certify(
    folder: Path, data: str, guarantees: list[Guarantee], level: float, where: dict[str, Any], json: bool
) -> None:
    from cascadebert.tuning.certify import CertificationFailed, certify_folder

    try:
        tuned = certify_folder(folder, data, guarantees=guarantees, confidence_level=level, **where)
    except CertificationFailed as refused:
        out.errors().print(str(refused))
        out.machine_line(refused.as_dict(), json)
        raise typer.Exit(1) from refused
    _say(tuned, where["cost_unit"], json)


def _say(tuned: TuningResult, cost_unit: CostUnit, json: bool) -> None:
    expected, certificate = tuned.point.metrics, tuned.point.certificate
    assert expected is not None
    out.say_notices(expected.notices)
    out.console().print(out.expected_line(expected))
    out.console().print(out.timing_line(tuned.timing))
    if certificate is not None:
        out.certificate_lines(certificate)
    values: dict[str, Any] = {
        "feasible": True,
        "thresholds": tuned.point.thresholds,
        "n": expected.n,
        "accuracy": tuned.report.accuracy if tuned.report else None,
        "measure": expected.metric,
        "value": expected.value,
        "cross_validated": expected.cross_validated,
        "exit_rates": expected.exit_rates,
        "cost_unit": cost_unit,
        "layers_speedup": tuned.report.layers_speedup if tuned.report else None,
        "flops_speedup": tuned.report.flops_speedup if tuned.report else None,
        "expected_speedup": tuned.timing.expected_speedup,
        "nearest": None,
        "notices": expected.notices,
        "certificate": None if certificate is None else machine_certificate(certificate),
    }
    out.machine_line(values, json)


def machine_certificate(certificate: Certificate) -> dict[str, Any]:
    """The certificate as plain values, with its first promise at the top."""
    first, *others = certificate.guarantees
    return {
        "guarantee": first.guarantee.name,
        "level": first.guarantee.level,
        "delta": certificate.delta,
        "n": first.n,
        "bound": first.bound,
        "points": [asdict(point) for point in certificate.points],
        "engine": certificate.engine,
        "precision": certificate.precision,
        "also": [
            {"guarantee": one.guarantee.name, "label": one.guarantee.label, "level": one.guarantee.level}
            | {"n": one.n, "bound": one.bound}
            for one in others
        ],
    }
