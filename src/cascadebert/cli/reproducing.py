"""The verb that runs the paper's experiment: reproduce."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cascadebert.cli import options as o
from cascadebert.cli import render as out
from cascadebert.errors import CascadeError

if TYPE_CHECKING:
    from collections.abc import Sequence


def reproduce(
    *,
    output: o.Output,
    preset: Annotated[str, typer.Option(help="minilm, minilm-full or paper.")] = "minilm",
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Data sets, a folder each with its splits; default the Hub."),
    ] = None,
    large: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Large encoder: folder or Hub repository.")
    ] = None,
    small: Annotated[
        list[str] | None,
        typer.Option(metavar="MODEL", help="Complete small encoder; the first is the paper's small stage."),
    ] = None,
    complete: Annotated[
        list[str] | None,
        typer.Option(metavar="MODEL", help="Complete encoder for the analysis of shallow layers alone."),
    ] = None,
    work: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Trained models; default OUTPUT.work.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="TASK", help="Train these tasks now, others later.")
    ] = None,
    keep_models: Annotated[bool, typer.Option("--keep-models", help="Do not delete trained models.")] = False,
    no_timing: Annotated[
        bool,
        typer.Option(
            "--no-timing", help="Train only, perhaps beside other runs; time in a later run, alone."
        ),
    ] = False,
    from_arrays: Annotated[
        bool, typer.Option("--from-arrays", help="Tables and pictures from the arrays in the output alone.")
    ] = False,
    json: o.Json = False,
) -> None:
    """Compare cascades with early exit as the paper does; a killed run goes on where it was."""
    if from_arrays:
        from cascadebert.paper.run import report

        summary: dict[str, Any] | None = report(output)
    else:
        models = (large, small or (), complete or ())
        how = {"only": only or (), "keep_models": keep_models, "timed": not no_timing}
        summary = _run(output, preset, data, models, work, how)
    if summary is None:
        out.console().print("Some tasks or timings are still missing; the tables wait for them.")
        return
    _show(summary, output)
    out.machine_line(summary, json)


def _run(
    output: Path,
    preset: str,
    data: Path | None,
    models: tuple[str | None, Sequence[str], Sequence[str]],
    work: Path | None,
    how: dict[str, Any],
) -> dict[str, Any] | None:
    from cascadebert.atomic import work_directory
    from cascadebert.paper.protocol import PRESETS
    from cascadebert.paper.run import reproduce as run

    if preset not in PRESETS:
        raise CascadeError(f"unknown preset {preset!r}; expected {', '.join(PRESETS)}")
    large, small, complete = models
    protocol = PRESETS[preset].with_models(large, tuple(small), tuple(complete))
    given = [one for one in (large, *small, *complete) if one]
    output.mkdir(parents=True, exist_ok=True)
    return run(
        protocol,
        output=output,
        work=work or work_directory(output),
        models={Path(one).name: one for one in given},
        data=data,
        **how,
    )


def _show(summary: dict[str, Any], output: Path) -> None:
    rows = [
        (
            f"{one['target']:g}x {one['basis']}",
            one["cascade"],
            one["best_early_exit"],
            _percent(one["relative_improvement"]),
            f"{_percent(one['ci_low'])} to {_percent(one['ci_high'])}",
        )
        for one in summary["comparisons"]
    ]
    out.table(("at", "cascade", "best early exit", "relative improvement", "95 % interval"), rows)
    out.console().print(f"Saved in {output}: runs.jsonl, summary.json, analyses.json, pictures.")


def _percent(share: float | None) -> str:
    return "n/a" if share is None else f"{100 * share:+.1f} %"
