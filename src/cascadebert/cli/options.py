"""Options that several verbs share. No heavy import: `--help` must be quick."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import typer

from cascadebert.tasks import Columns
from cascadebert.types import Target

Folder: TypeAlias = Annotated[
    Path, typer.Argument(metavar="DIR", help="A saved cascade.", show_default=False)
]
Output: TypeAlias = Annotated[Path, typer.Option(help="Folder to write.", show_default=False)]
Overwrite: TypeAlias = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one machine-readable line last.")]
CostUnit: TypeAlias = Annotated[
    Literal["layers", "flops", "measured"],
    typer.Option(help="What speed-up is counted in; measured: seconds on this machine."),
]
TextColumns: TypeAlias = Annotated[
    list[str] | None, typer.Option("--text-column", help="Column of the text; twice for pairs.")
]
LabelColumn: TypeAlias = Annotated[str | None, typer.Option(help="Column of the label.")]
GroupColumn: TypeAlias = Annotated[
    str | None, typer.Option(help="Rows with the same value here stay in one part of the data.")
]
Speedup: TypeAlias = Annotated[
    float | None,
    typer.Option("--target-speedup", help="At least this many times cheaper than the last stage."),
]
Drop: TypeAlias = Annotated[
    float | None,
    typer.Option("--max-accuracy-drop", help="At most this far below the last stage (0.01: 1 point)."),
]
Least: TypeAlias = Annotated[float | None, typer.Option("--min-accuracy", help="At least this accuracy.")]
Agreement: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--min-agreement", help="At least this share of the last stage's answers; no labels needed."
    ),
]


def target_of(
    speedup: float | None, drop: float | None, least: float | None, agreement: float | None
) -> Target:
    """The one target that was asked for."""
    return Target(speedup=speedup, max_accuracy_drop=drop, min_accuracy=least, min_agreement=agreement)


def columns_of(text: list[str] | None, label: str | None = None, group: str | None = None) -> Columns:
    """The columns that were named."""
    return Columns(tuple(text or ()), label, group)
