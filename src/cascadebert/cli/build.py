"""`cascadebert build`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cascadebert.cli import options as o
from cascadebert.cli.build_output import RETRY, print_build, print_plan
from cascadebert.cli.render import print_notices
from cascadebert.errors import CascadeError

if TYPE_CHECKING:
    from cascadebert.training.cascade_builder.result import BuildResult

USAGE = "Expected: `build MODEL --data F --output DIR`, or `build --from DIR --model NEW --data F`."

MODEL = "Fine-tuned classifier: folder or Hub repository."
DATA = f"Texts like those to come, with or without labels; repeat it. {o.FILES}"
SMALL = "Small model to try: an encoder, or a classifier of the same labels; repeat it."
CORPUS = "More texts for small models to learn from."
MINUTES = "Time for all of it on this machine; that of earlier runs for the same output counts."
MAX_STAGES = "Most stages, the classifier included."
CONFIDENCE = "Confidence level of the certificate."
DRY_RUN = "Print the plan with estimated minutes, and write nothing."
MAX_LENGTH = "Maximum tokens per text; by default 128, with --from that of the cascade."
OUTPUT = "Folder to write; with --from by default that folder."
FROM = "Saved cascade whose earlier stages stay; instead of MODEL."
NEW_MODEL = "Its new last stage: a fine-tuned classifier of the same labels."
RETEACH = "Train its earlier stages on the new classifier's predictions, from their present weights."
REPLACEMENT, DEFAULT_STAGES = "Another last stage", 3


def build(
    model: Annotated[str | None, typer.Argument(metavar="MODEL", help=MODEL)] = None,
    *,
    data: Annotated[list[str], o.option(DATA, "DATA", o.DATA)],
    output: Annotated[Path | None, o.option(OUTPUT, "DIR")] = None,
    target: o.OptionalTargetOptions,
    confidence_level: Annotated[float, o.option(CONFIDENCE, "C")] = 0.95,
    small: Annotated[list[str] | None, o.option(SMALL, "MODEL")] = None,
    corpus: Annotated[str | None, o.option(CORPUS, "DATA", o.DATA)] = None,
    minutes: Annotated[float, o.option(MINUTES, "M")] = 60.0,
    max_stages: Annotated[int, o.option(MAX_STAGES, "N")] = DEFAULT_STAGES,
    max_length: Annotated[int | None, o.option(MAX_LENGTH, "N")] = None,
    data_options: o.LabeledDataOptions,
    engine: o.EngineOptions,
    cascade: Annotated[Path | None, o.option(FROM, "DIR", REPLACEMENT, "--from")] = None,
    new_model: Annotated[str | None, o.option(NEW_MODEL, "MODEL", REPLACEMENT, "--model")] = None,
    reteach: Annotated[bool, typer.Option("--reteach", help=RETEACH, rich_help_panel=REPLACEMENT)] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help=DRY_RUN)] = False,
    overwrite: o.Overwrite = False,
) -> None:
    """Make a classifier faster: find, certify and save the fastest cascade that keeps the target.

    Without a target, at least 0.99 of the predictions equal the classifier's. Where no cascade pays, it
    exits with code 1 and saves only a report.
    """
    shared = {
        "data": data,
        "target": target.build(),
        "corpus": corpus,
        "minutes": minutes,
        "columns": data_options.columns(),
        "max_length": max_length,
        **vars(engine),
    }
    saving = {"output": output, "confidence_level": confidence_level, "overwrite": overwrite}
    if cascade is not None:
        others = {"--max-stages": max_stages != DEFAULT_STAGES, "--dry-run": dry_run}
        _refuse("with --from", {"MODEL": model, "--small": small, **others})
        _replace(cascade, new_model, {**shared, **saving, "reteach": reteach})
        return
    _refuse("without --from", {"--model": new_model, "--reteach": reteach})
    _build(model, {**shared, "small": small or ()}, {**saving, "max_stages": max_stages}, dry_run)


def _refuse(where: str, options: dict[str, object]) -> None:
    """Raise CascadeError if one of these options is given."""
    given = ", ".join(name for name, value in options.items() if value)
    if given:
        raise CascadeError(f"{given} cannot be used {where}. {USAGE}")


def _build(model: str | None, shared: dict[str, Any], saving: dict[str, Any], dry_run: bool) -> None:
    from cascadebert.training.cascade_builder.build import build, plan_build

    if model is None:
        raise CascadeError(f"no MODEL is given. {USAGE}")
    if dry_run:
        print_plan(plan_build(model, **shared))
        return
    if saving["output"] is None:
        raise CascadeError(f"no --output is given. {USAGE}")
    with _resumable():
        result = build(model, **shared, **saving)
    _print(result, RETRY)


def _replace(cascade: Path, model: str | None, options: dict[str, Any]) -> None:
    from cascadebert.training.cascade_builder.replace import replace_last_stage

    if model is None:
        raise CascadeError(f"--from needs the new classifier: give --model too. {USAGE}")
    with _resumable():
        result = replace_last_stage(cascade, model, **options)
    _print(result, "--reteach or a lower target")


@contextmanager
def _resumable() -> Iterator[None]:
    """Tell who interrupts a build that nothing is lost."""
    try:
        yield
    except KeyboardInterrupt:
        print_notices(["interrupted. The same command resumes after the last finished step."])
        raise


def _print(result: BuildResult, retry: str) -> None:
    print_build(result, retry)
    if not result.cascades:
        raise typer.Exit(1)
