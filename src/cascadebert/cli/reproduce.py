"""`cascadebert reproduce`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from cascadebert.cli import options as o
from cascadebert.cli.render import print_json, print_table

SMALL = "Complete small encoder; repeatable. The first is the paper's small stage."
COMPLETE = "Complete encoder to analyse beside shallow layers; repeatable."

Preset = Literal["mpnet", "minilm", "minilm-full", "paper"]


def reproduce(
    *,
    output: o.Output,
    preset: Annotated[Preset, o.option("mpnet, minilm, minilm-full or paper.", "NAME")] = "minilm",
    data: Annotated[Path | None, o.option("Parent folder of the datasets; default: the Hub.", "DIR")] = None,
    large: Annotated[str | None, o.option("Large encoder: folder or Hub repository.", "MODEL")] = None,
    small: Annotated[list[str] | None, o.option(SMALL, "MODEL")] = None,
    complete: Annotated[list[str] | None, o.option(COMPLETE, "MODEL")] = None,
    work: Annotated[Path | None, o.option("Trained models; default: OUTPUT.work.", "DIR")] = None,
    only: Annotated[list[str] | None, o.option("Train only this task now; repeatable.", "TASK")] = None,
    keep_models: Annotated[bool, typer.Option("--keep-models", help="Keep trained models.")] = False,
    no_timing: Annotated[bool, typer.Option("--no-timing", help="Only train; time in a later run.")] = False,
    from_arrays: Annotated[bool, typer.Option("--from-arrays", help="Only redo tables and plots.")] = False,
) -> None:
    """Compare cascades with early exit as the paper does; an interrupted run resumes."""
    from cascadebert.paper import run as paper
    from cascadebert.paper.protocol import PRESETS

    if from_arrays:
        summary: dict[str, Any] | None = paper.report(output)
    else:
        models = [model for model in (large, *(small or ()), *(complete or ())) if model]
        summary = paper.reproduce(
            PRESETS[preset].with_models(large, tuple(small or ()), tuple(complete or ())),
            output=output,
            work=work,
            models={Path(model).name: model for model in models},
            data=data,
            only=only or (),
            keep_models=keep_models,
            timed=not no_timing,
        )
    if summary is None:
        typer.echo("Some tasks or timings are missing; run the rest to get the tables.")
        return
    rows = [("at", "cascade", "best early exit", "relative improvement", "95 % interval")]
    for row in summary["comparisons"]:
        values = (row[name] for name in ("relative_improvement", "ci_low", "ci_high"))
        improvement, low, high = ("n/a" if value is None else f"{100 * value:+.1f} %" for value in values)
        at = f"{row['target']:g}x {row['basis']}"
        rows.append((at, row["cascade"], row["best_early_exit"], improvement, f"{low} to {high}"))
    print_table(*rows)
    typer.echo(f"Saved in {output}: runs.jsonl, summary.json, analyses.json and plots.")
    print_json(summary)
