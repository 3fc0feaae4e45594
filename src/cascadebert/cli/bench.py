"""`cascadebert bench`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from cascadebert.cli import options as o
from cascadebert.cli.render import print_benchmark, print_json


def bench(
    folder: o.Folder,
    data: o.Data,
    *,
    text_column: o.TextColumns = None,
    label_column: o.LabelColumn = None,
    repeats: Annotated[int, typer.Option(min=1, help="Timed runs of each, interleaved.")] = 5,
    plot: Annotated[Path | None, o.option("Plot the throughput as SVG.", "F")] = None,
    engine: o.EngineOptions,
) -> None:
    """Time a cascade, each of its stages alone and `transformers` in one interleaved run."""
    from cascadebert.evaluation.benchmark import benchmark
    from cascadebert.evaluation.plots import plot_benchmark

    columns, cascade = o.columns_of(text_column, label_column), engine.load(folder)
    result = benchmark(cascade, data, columns=columns, repeats=repeats)
    print_benchmark(result)
    if plot is not None:
        plot_benchmark(plot, result)
    print_json({**asdict(result), "uncertified_reason": cascade.uncertified_reason})
