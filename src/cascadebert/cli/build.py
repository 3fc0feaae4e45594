"""`cascadebert build`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cascadebert.cli import options as o
from cascadebert.cli.build_output import print_build, print_plan

MODEL = "Fine-tuned classifier: folder or Hub repository."
DATA = f"Texts like those to come, with or without labels; repeat it. {o.FILES}"
SMALL = "Small model to try: an encoder, or a classifier of the same labels; repeat it."
CORPUS = "More texts for small models to learn from."
MINUTES = "Time for all of it on this machine; that of earlier runs for the same output counts."
MAX_STAGES = "Most stages, the classifier included."
CONFIDENCE = "Confidence level of the certificate."
DRY_RUN = "Print the plan with estimated minutes, and write nothing."
MAX_LENGTH = "Maximum tokens per text; by default 128."


def build(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=MODEL)],
    *,
    data: Annotated[list[str], o.option(DATA, "DATA", o.DATA)],
    output: o.Output,
    target: o.OptionalTargetOptions,
    confidence_level: Annotated[float, o.option(CONFIDENCE, "C")] = 0.95,
    small: Annotated[list[str] | None, o.option(SMALL, "MODEL")] = None,
    corpus: Annotated[str | None, o.option(CORPUS, "DATA", o.DATA)] = None,
    minutes: Annotated[float, o.option(MINUTES, "M")] = 60.0,
    max_stages: Annotated[int, o.option(MAX_STAGES, "N")] = 3,
    max_length: Annotated[int | None, o.option(MAX_LENGTH, "N")] = None,
    data_options: o.LabeledDataOptions,
    engine: o.EngineOptions,
    dry_run: Annotated[bool, typer.Option("--dry-run", help=DRY_RUN)] = False,
    overwrite: o.Overwrite = False,
) -> None:
    """Make a classifier faster: find, certify and save the fastest cascade that keeps the target.

    Exits with code 1, and saves only a report, where no cascade pays.
    """
    from cascadebert.training.build.build import build as run
    from cascadebert.training.build.build import plan_build

    shared = {
        "data": data,
        "target": target.build(),
        "small": small or (),
        "corpus": corpus,
        "minutes": minutes,
        "columns": data_options.columns(),
        "max_length": max_length,
        **vars(engine),
    }
    if dry_run:
        print_plan(plan_build(model, **shared))
        return
    result = run(
        model,
        output=Path(output),
        confidence_level=confidence_level,
        max_stages=max_stages,
        overwrite=overwrite,
        **shared,
    )
    print_build(result)
    if not result.cascades:
        raise typer.Exit(1)
