"""`cascadebert fit`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cascadebert.cli import options as o
from cascadebert.cli.render import print_new_cascade
from cascadebert.timing import now
from cascadebert.training.config import FitConfig


def fit(
    *,
    train: Annotated[str, o.option(f"Training data: {o.FILES}", "F", o.DATA)],
    stage: o.Stages,
    output: o.Output,
    validation: Annotated[str | None, o.option("Data to tune and certify on.", "F", o.DATA)] = None,
    unlabelled: Annotated[str | None, o.option("Unlabelled data to distill on.", "F", o.DATA)] = None,
    target: o.TargetOptions,
    build: o.BuildOptions,
    text_column: o.TextColumns = None,
    label_column: o.LabelColumn = None,
    group_column: Annotated[
        str | None, o.option("Column of groups to keep together.", "NAME", o.DATA)
    ] = None,
    difficulty: Annotated[
        list[Path] | None,
        o.option("Difficulty labels of an earlier run; one file per stage but the last.", "F", "Difficulty"),
    ] = None,
    config: FitConfig,
    overwrite: o.Overwrite = False,
) -> None:
    """Train the stages, calibrate them, select thresholds and save one folder."""
    from cascadebert.training.fit import fit as run

    start = now()
    cascade = run(
        train,
        stages=stage,
        target=target.build(),
        output=output,
        validation=validation,
        unlabelled=unlabelled,
        columns=o.columns_of(text_column, label_column, group_column),
        difficulty=difficulty or (),
        overwrite=overwrite,
        config=config,
        **asdict(build),
    )
    print_new_cascade(cascade, output, seconds=now() - start)
