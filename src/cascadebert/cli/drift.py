"""`cascadebert drift`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from cascadebert.cli import options as o
from cascadebert.cli.render import print_json, print_notices, print_table
from cascadebert.evaluation.drift_statistics import CONFIDENCE_LEVEL, TOLERANCE
from cascadebert.evaluation.templates import percent, percent_interval, points

AGREEMENT = (
    "Fraction of predictions that must equal the last stage's; default: the certificate's, otherwise that of "
    "REFERENCE minus the tolerance."
)


def drift(
    folder: o.Folder,
    reference: Annotated[str, typer.Argument(metavar="REFERENCE", help="Held-out data like the tuning set.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="Sample of the traffic to test.")],
    *,
    data_options: o.DataOptions,
    min_agreement: Annotated[float | None, o.option(AGREEMENT, "A")] = None,
    tolerance: Annotated[float, o.option("Tolerated change in any rate.", "T")] = TOLERANCE,
    confidence_level: Annotated[float, o.option("Joint level of all intervals.", "C")] = CONFIDENCE_LEVEL,
    engine: o.EngineOptions,
) -> None:
    """Test whether the thresholds hold on new data: yes, no (exit code 1) or inconclusive.

    They hold if the cascade agrees with its last stage as often as required. No labels are needed,
    but only labels can tell whether the last stage itself is still right.
    """
    from cascadebert.evaluation.drift import detect_drift

    cascade, columns = engine.load(folder), data_options.columns()
    limits: dict[str, Any] = {"min_agreement": min_agreement, "tolerance": tolerance}
    limits["confidence_level"] = confidence_level
    result, notices = detect_drift(cascade, reference, new, columns=columns, **limits)
    print_notices(notices)
    rates = {f"stage {i}: exit rate": stage.exit_rate for i, stage in enumerate(result.stages, start=1)}
    rates["agreement with last stage"] = result.agreement
    change = f"change ({100 * confidence_level:g} %)"
    rows: list[tuple[str, ...]] = [("", f"{result.n_reference:,} reference", f"{result.n_new:,} new", change)]
    for name, rate in rates.items():
        rows.append((name, percent(rate.reference.value), percent(rate.new.value), points(rate.change)))
    for i, stage in enumerate(result.stages, start=1):
        if stage.distance is not None:
            means = [f"{mean:.3f}" for mean in stage.mean_confidences]
            distance = f"distance {percent_interval(stage.distance)}"
            rows.append((f"stage {i}: mean confidence", *means, distance))
    print_table(*rows)
    typer.echo("\n".join((result.headline, *result.reasons)))
    if result.verdict == "inconclusive":
        print_notices(["no verdict; the exit code is 0"])
    sentences = {"headline": result.headline, "reasons": result.reasons, "notices": notices}
    print_json(asdict(result), **sentences, uncertified_reason=cascade.uncertified_reason)
    if result.verdict == "no":
        raise typer.Exit(1)
