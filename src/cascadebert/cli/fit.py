"""`cascadebert fit`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from cascadebert.cli import options as o
from cascadebert.cli.render import print_new_cascade
from cascadebert.timing import now
from cascadebert.training.config import FitConfig

GROUPS = "Name of a column whose equal values are never split apart."
DIFFICULTY = "Difficulty labels from an earlier run, one file for each stage but the last."


def fit(
    *,
    train: Annotated[str, o.option(f"Training data: {o.FILES}", "DATA", o.DATA)],
    validation: Annotated[str | None, o.option("Data to tune and certify on.", "DATA", o.DATA)] = None,
    unlabeled: Annotated[str | None, o.option("Unlabeled data to distill on.", "DATA", o.DATA)] = None,
    target: o.TargetOptions,
    build: o.BuildOptions,
    data_options: o.DataOptions,
    label_column: o.LabelColumn = None,
    group_column: Annotated[str | None, o.option(GROUPS, "NAME", o.DATA)] = None,
    difficulty: Annotated[list[Path] | None, o.option(DIFFICULTY, "FILE", "Difficulty")] = None,
    config: FitConfig,
) -> None:
    """Train the stages, calibrate them, select thresholds and save the cascade in one folder.

    If the first --stage is "static", it is a bag of token embeddings made from the last stage.
    """
    from cascadebert.training.fit import fit as run

    start = now()
    columns = replace(data_options.columns(), label=label_column, group=group_column)
    cascade = run(
        train,
        target=target.build(),
        validation=validation,
        unlabeled=unlabeled,
        columns=columns,
        difficulty=difficulty or (),
        config=config,
        **vars(build),
    )
    print_new_cascade(cascade, build.output, seconds=now() - start)
