"""`cascadebert drift`: test whether the thresholds hold on new data."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from cascadebert.cli import options as o
from cascadebert.cli.render import print_drift, print_json, print_notices
from cascadebert.evaluation.drift_test import CONFIDENCE_LEVEL, TOLERANCE


def drift(
    folder: o.Folder,
    reference: Annotated[
        str, typer.Argument(metavar="REFERENCE", help="Held-out data on which the thresholds hold.")
    ],
    new: Annotated[str, typer.Argument(metavar="NEW", help="Data of the traffic to test.")],
    *,
    text_column: o.TextColumns = None,
    min_agreement: Annotated[
        float | None,
        o.option(
            "Fraction of predictions that must equal the last stage's; default: the certificate's, otherwise "
            "that of REFERENCE minus the tolerance.",
            "A",
        ),
    ] = None,
    tolerance: Annotated[float, o.option("Change that is tolerated.", "T")] = TOLERANCE,
    confidence_level: Annotated[
        float, o.option("Simultaneous confidence level of all intervals.", "C")
    ] = CONFIDENCE_LEVEL,
    engine: o.EngineOptions,
    json: o.Json = False,
) -> None:
    """Test without labels whether the thresholds hold on new data: yes, no (exit code 1) or inconclusive.

    They hold if the cascade agrees with its last stage as often as guaranteed. Whether the last stage itself
    is still right needs labels.
    """
    from cascadebert.evaluation.drift import detect_drift

    cascade = engine.load(folder)
    result, notices = detect_drift(
        cascade,
        reference,
        new,
        min_agreement=min_agreement,
        tolerance=tolerance,
        confidence_level=confidence_level,
        columns=o.columns_of(text_column),
    )
    print_notices(notices)
    print_drift(result)
    texts = {"headline": result.headline, "reasons": result.reasons, "notices": notices}
    print_json({**asdict(result), **texts, "uncertified_reason": cascade.uncertified_reason}, json)
    if result.verdict == "no":
        raise typer.Exit(1)
