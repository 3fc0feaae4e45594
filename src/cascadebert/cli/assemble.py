"""`cascadebert assemble`."""

from __future__ import annotations

from typing import Annotated

from cascadebert.cli import options as o
from cascadebert.cli.render import print_new_cascade
from cascadebert.paths import check_roles
from cascadebert.timing import now


def assemble(
    *,
    data: Annotated[str, o.option(f"Held-out data, labels optional: {o.FILES}", "DATA", o.DATA)],
    target: o.TargetOptions,
    data_options: o.LabeledDataOptions,
    max_length: Annotated[int | None, o.option("Maximum tokens per text; default 128.", "N", o.DATA)] = None,
    build: o.BuildOptions,
) -> None:
    """Make a cascade from fine-tuned classifiers without training: only thresholds are selected."""
    from cascadebert.training.assemble import assemble as run

    check_roles({"--output": build.output}, {"--label-map": data_options.label_map})
    start, columns = now(), data_options.columns()
    cascade = run(data=data, target=target.build(), columns=columns, max_length=max_length, **vars(build))
    print_new_cascade(cascade, build.output, seconds=now() - start)
