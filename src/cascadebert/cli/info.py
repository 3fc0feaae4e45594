"""`cascadebert info`."""

from __future__ import annotations

from typing import Annotated

import typer

from cascadebert.cli import options as o
from cascadebert.cli.render import print_json, print_operating_point, print_table


def info(
    folder: o.Folder,
    *,
    check: Annotated[bool, typer.Option("--check", help="Compare every file with its stored hash.")] = False,
) -> None:
    """Describe a saved cascade; with --check, verify that its files are unchanged."""
    from cascadebert.persistence.checkpoint_config import resolve_checkpoint
    from cascadebert.persistence.folder import read_folder

    spec = read_folder(resolve_checkpoint(folder), check_files=check)
    rows: list[tuple[object, ...]] = [("stage", "made from", "layers", "width", "temperature", "exits above")]
    thresholds = [f"{threshold:.4f}" for threshold in spec.operating_point.thresholds]
    for stage, exits in zip(spec.stages, [*thresholds, "always"], strict=True):
        size = stage.layers, stage.hidden
        rows.append((len(rows), stage.name, *size, f"{stage.temperature:.3f}", exits))
    print_table(*rows)
    typer.echo(f"labels: {', '.join(spec.label_names)}")
    print_operating_point(spec.operating_point)
    if check:
        typer.echo("checked: every file of every stage is unchanged")
    print_json(spec.model_dump(mode="json"), checked=check)
