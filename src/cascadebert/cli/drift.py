"""`cascadebert drift`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from cascadebert.cli import options as o
from cascadebert.cli.render import print_drift, print_json, print_notices
from cascadebert.evaluation.drift_test import CONFIDENCE_LEVEL, TOLERANCE

AGREEMENT = (
    "Fraction of predictions that must equal the last stage's; default: the certificate's, otherwise that of "
    "REFERENCE minus the tolerance."
)


def drift(
    folder: o.Folder,
    reference: Annotated[str, o.argument("REFERENCE", "Held-out data on which the thresholds hold.")],
    new: Annotated[str, o.argument("NEW", "Data of the traffic to test.")],
    *,
    text_column: o.TextColumns = None,
    min_agreement: Annotated[float | None, o.option(AGREEMENT, "A")] = None,
    tolerance: Annotated[float, o.option("Change that is tolerated.", "T")] = TOLERANCE,
    confidence_level: Annotated[float, o.option("Joint, of all intervals.", "C")] = CONFIDENCE_LEVEL,
    engine: o.EngineOptions,
) -> None:
    """Test whether the thresholds hold on new data: yes, no (exit code 1) or inconclusive.

    They hold if the cascade agrees with its last stage as often as required. No labels are needed;
    whether the last stage itself is still right only labels can tell.
    """
    from cascadebert.evaluation.drift import detect_drift

    cascade, columns = engine.load(folder), o.columns_of(text_column)
    limits: dict[str, Any] = {
        "min_agreement": min_agreement,
        "tolerance": tolerance,
        "confidence_level": confidence_level,
    }
    result, notices = detect_drift(cascade, reference, new, columns=columns, **limits)
    print_notices(notices)
    print_drift(result)
    values = {**asdict(result), "headline": result.headline, "reasons": result.reasons, "notices": notices}
    print_json({**values, "uncertified_reason": cascade.uncertified_reason})
    if result.verdict == "no":
        raise typer.Exit(1)
