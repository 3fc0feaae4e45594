"""`cascadebert demo`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from cascadebert.cli import options as o
from cascadebert.cli.render import print_json


def demo(
    *,
    output: o.Output = Path("cascadebert-demo"),
    seed: Annotated[int, o.option("Random seed.", "N")] = 0,
    overwrite: o.Overwrite = False,
) -> None:
    """Train a classifier on a generated task and make it faster with `build`, in minutes and offline."""
    from cascadebert.demo.run import demo as run

    result = run(output, seed=seed, overwrite=overwrite)
    typer.echo(result.description)
    print_json(asdict(result))
