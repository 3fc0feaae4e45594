"""`cascadebert reproduce`: run the paper's experiment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cascadebert.cli import options as o
from cascadebert.cli.render import console, print_comparisons, print_json
from cascadebert.errors import CascadeError


def reproduce(
    *,
    output: o.Output,
    preset: Annotated[str, o.option("minilm, minilm-full or paper.", "NAME")] = "minilm",
    data: Annotated[
        Path | None, o.option("Folder with one folder of splits per dataset; default: the Hub.", "DIR")
    ] = None,
    large: Annotated[str | None, o.option("Large encoder: folder or Hub repository.", "MODEL")] = None,
    small: Annotated[
        list[str] | None,
        o.option("Complete small encoder; the first is the paper's small stage.", "MODEL"),
    ] = None,
    complete: Annotated[
        list[str] | None,
        o.option("Complete encoder for the analysis of shallow layers alone.", "MODEL"),
    ] = None,
    work: Annotated[Path | None, o.option("Folder of trained models; default OUTPUT.work.", "DIR")] = None,
    only: Annotated[
        list[str] | None, o.option("Train these tasks now, the others in a later run.", "TASK")
    ] = None,
    keep_models: Annotated[bool, o.flag("--keep-models", "Keep trained models.")] = False,
    no_timing: Annotated[
        bool, o.flag("--no-timing", "Only train; a later run on an idle machine measures the timings.")
    ] = False,
    from_arrays: Annotated[
        bool, o.flag("--from-arrays", "Make tables and plots from the arrays in the output folder.")
    ] = False,
    json: o.Json = False,
) -> None:
    """Compare cascades with early exit as the paper does; an interrupted run resumes."""
    from cascadebert.paper import run as paper

    if from_arrays:
        summary: dict[str, Any] | None = paper.report(output)
    else:
        from cascadebert.atomic import work_directory
        from cascadebert.paper.protocol import PRESETS

        if preset not in PRESETS:
            raise CascadeError(f"unknown preset {preset!r}; expected {', '.join(PRESETS)}")
        models = [model for model in (large, *(small or ()), *(complete or ())) if model]
        output.mkdir(parents=True, exist_ok=True)
        summary = paper.reproduce(
            PRESETS[preset].with_models(large, tuple(small or ()), tuple(complete or ())),
            output=output,
            work=work or work_directory(output),
            models={Path(model).name: model for model in models},
            data=data,
            only=only or (),
            keep_models=keep_models,
            timed=not no_timing,
        )
    if summary is None:
        console().print("Some tasks or timings are missing; run the rest to get the tables.")
        return
    print_comparisons(summary["comparisons"], output)
    print_json(summary, json)
