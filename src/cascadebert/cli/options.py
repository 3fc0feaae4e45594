"""Options that several verbs share. No heavy import: `--help` must be quick."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import typer

from cascadebert.data.columns import Columns
from cascadebert.errors import CascadeError
from cascadebert.thresholds.operating_point import Target
from cascadebert.types import ScoreChoice

TARGET, ROWS, TRAINING, DIFFICULTY = "Target: exactly one", "Rows and columns", "Training", "Difficulty"
ENGINE = "Engine: default the fastest here, and then the one that thresholds were picked on"

Folder: TypeAlias = Annotated[
    Path, typer.Argument(metavar="DIR", help="A saved cascade.", show_default=False)
]
Output: TypeAlias = Annotated[Path, typer.Option(metavar="DIR", help="Folder to write.", show_default=False)]
Overwrite: TypeAlias = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one machine-readable line last.")]
CostUnit: TypeAlias = Annotated[
    Literal["layers", "flops", "measured"],
    typer.Option(
        metavar="UNIT",
        help="Count speed-up in layers, flops, or measured seconds on this machine.",
        rich_help_panel=TARGET,
    ),
]
_SCORE = typer.Option(
    "--score",
    metavar="NAME",
    help="Compare max_probability, margin, entropy or learned (will the last stage agree?) with thresholds; "
    "auto: the best by cross-validation.",
    rich_help_panel=TARGET,
)
ScoreOption: TypeAlias = Annotated[ScoreChoice, _SCORE]
KeptScore: TypeAlias = Annotated[ScoreChoice | None, _SCORE]
EngineName: TypeAlias = Annotated[
    Literal["auto", "openvino", "onnxruntime", "torch"],
    typer.Option("--engine", metavar="NAME", help="openvino, onnxruntime or torch.", rich_help_panel=ENGINE),
]
Precision: TypeAlias = Annotated[
    Literal["auto", "float32", "bfloat16"],
    typer.Option(metavar="P", help="float32 or bfloat16.", rich_help_panel=ENGINE),
]
TextColumns: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--text-column", metavar="NAME", help="Of the text; twice for pairs.", rich_help_panel=ROWS),
]
LabelColumn: TypeAlias = Annotated[
    str | None, typer.Option(metavar="NAME", help="Of the label.", rich_help_panel=ROWS)
]
GroupColumn: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Rows with the same value here stay in one part of the data.",
        rich_help_panel=ROWS,
    ),
]
Speedup: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--target-speedup",
        metavar="X",
        help="At least X times cheaper than the last stage alone.",
        rich_help_panel=TARGET,
    ),
]
Drop: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--max-accuracy-drop",
        metavar="D",
        help="At most D below the last stage (0.01: one point).",
        rich_help_panel=TARGET,
    ),
]
Least: TypeAlias = Annotated[
    float | None,
    typer.Option("--min-accuracy", metavar="A", help="Accuracy of at least A.", rich_help_panel=TARGET),
]
Agreement: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--min-agreement",
        metavar="A",
        help="At least the share A of answers is the last stage's own; needs no labels.",
        rich_help_panel=TARGET,
    ),
]


def target_of(
    speedup: float | None, drop: float | None, least: float | None, agreement: float | None
) -> Target:
    """The one target that was asked for.

    Raises:
        CascadeError: if none or several are given, or one is out of range.
    """
    options = {
        "--target-speedup": speedup,
        "--max-accuracy-drop": drop,
        "--min-accuracy": least,
        "--min-agreement": agreement,
    }
    given = [name for name, value in options.items() if value is not None]
    if len(given) != 1:
        raise CascadeError(f"give exactly one of {', '.join(options)}; given: {', '.join(given) or 'none'}")
    return Target(speedup=speedup, max_accuracy_drop=drop, min_accuracy=least, min_agreement=agreement)


def columns_of(text: list[str] | None, label: str | None = None, group: str | None = None) -> Columns:
    """The columns that were named."""
    return Columns(tuple(text or ()), label, group)
