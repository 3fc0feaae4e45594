"""`cascadebert bench`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from cascadebert.cli import options as o
from cascadebert.cli.render import optional, percentages, print_json, print_table
from cascadebert.evaluation.templates import percent, points, times
from cascadebert.paths import check_roles


def bench(
    folder: o.Folder,
    data: o.Data,
    *,
    data_options: o.LabeledDataOptions,
    repeats: Annotated[int, typer.Option(min=1, help="Timed runs of each, interleaved.")] = 5,
    price_per_hour: Annotated[
        float | None, typer.Option(min=0, help="Price of this machine; adds the cost of a million texts.")
    ] = None,
    plot: Annotated[Path | None, o.option("SVG file to write, with the throughputs.", "FILE")] = None,
    engine: o.EngineOptions,
) -> None:
    """Time a cascade, each of its stages alone and `transformers` in one interleaved run."""
    from cascadebert.evaluation.benchmark import benchmark
    from cascadebert.evaluation.plots import ensure_plot_writable, plot_benchmark

    if plot is not None:
        check_roles({"--plot": plot}, {"DIR": folder, "DATA": data, "--label-map": data_options.label_map})
        ensure_plot_writable(plot)
    columns, cascade = data_options.columns(), engine.load(folder)
    result = benchmark(cascade, data, columns=columns, repeats=repeats)
    header = ("", "engine", "texts/s", "range", "accuracy", "accuracy drop (95 %)", "agreement")
    rows = [header if price_per_hour is None else (*header, "cost of a million")]
    for timed in (result.cascade, result.last_stage, *result.others):
        name = f"{timed.name} (the last)" if timed is result.last_stage else timed.name
        rates = f"{timed.examples_per_second:,.0f}", f"{timed.range[0]:,.0f} - {timed.range[1]:,.0f}"
        accuracy = "n/a" if timed.accuracy is None else percent(timed.accuracy)
        drop = "" if timed.accuracy_drop is None else points(timed.accuracy_drop)
        row = (name, f"{timed.engine} {timed.precision}", *rates, accuracy, drop, percent(timed.agreement))
        cost = () if price_per_hour is None else (f"{timed.cost_per_million(price_per_hour):,.2f}",)
        rows.append((*row, *cost))
    print_table(*rows)
    typer.echo(", ".join([result.machine, *result.instruction_sets]))
    typer.echo(
        f"{result.n:,} examples, {result.repeats} interleaved runs of each. Speed-up over the last stage: "
        f"{times(result.measured_speedup, result.range)} measured, {result.expected_speedup:.2f}x expected; "
        f"exits by stage: {percentages(result.exit_rates)}"
    )
    memory = optional(result.peak_memory_mb, "{:,.0f} MB")
    typer.echo(f"routing overhead {percent(result.routing_overhead)}; peak memory {memory}")
    if plot is not None:
        plot_benchmark(plot, result)
    print_json(asdict(result), uncertified_reason=cascade.uncertified_reason)
