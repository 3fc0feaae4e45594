"""`cascadebert assemble`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from cascadebert.cli import options as o
from cascadebert.cli.render import print_new_cascade
from cascadebert.timing import now


def assemble(
    *,
    stage: o.Stages,
    data: Annotated[str, o.option("Held-out data; labels are optional.", "F")],
    output: o.Output,
    target: o.TargetOptions,
    text_column: o.TextColumns = None,
    label_column: o.LabelColumn = None,
    build: o.BuildOptions,
    max_length: Annotated[int | None, o.option("Maximum tokens per text; default 128.", "N", o.DATA)] = None,
    overwrite: o.Overwrite = False,
) -> None:
    """Make a cascade of fine-tuned classifiers as they are: only thresholds are selected."""
    from cascadebert.training.assemble import assemble as run

    start = now()
    cascade = run(
        stage,
        data=data,
        target=target.build(),
        output=output,
        columns=o.columns_of(text_column, label_column),
        max_length=max_length,
        overwrite=overwrite,
        **asdict(build),
    )
    print_new_cascade(cascade, output, seconds=now() - start)
