"""`cascadebert tune`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from cascadebert.cli import options as o
from cascadebert.cli.render import console, print_json, print_tuning
from cascadebert.errors import CascadeError
from cascadebert.thresholds.operating_point import Guarantee

GUARANTEE = "Guarantee on new data (one or more, not a speed-up)"
LEVEL = "Guarantee the target on new data with this confidence, such as 0.95."
EARLY = "Accuracy of the predictions before the last stage."
FALSE_NEGATIVES = "Fraction of a label's examples predicted as another label."


def tune(
    folder: o.Folder,
    *,
    data: Annotated[str, o.option("Held-out data like that to come.", "F")],
    target: o.TargetOptions,
    confidence_level: Annotated[float | None, o.option(LEVEL, "C", GUARANTEE)] = None,
    min_early_exit_accuracy: Annotated[float | None, o.option(EARLY, "A", GUARANTEE)] = None,
    max_false_negative_rate: Annotated[
        list[str] | None, o.option(FALSE_NEGATIVES, "LABEL=R", GUARANTEE)
    ] = None,
    text_column: o.TextColumns = None,
    label_column: o.LabelColumn = None,
    tuning: o.TuningOptions,
) -> None:
    """Select new thresholds for a saved cascade. An infeasible target changes nothing: exit code 1.

    With --confidence-level the target is guaranteed on new data, tested on reserved examples.
    """
    from cascadebert.thresholds.select import InfeasibleTarget
    from cascadebert.tuning.certify import CertificationFailed, certify_folder
    from cascadebert.tuning.tune import tune_folder

    options = {**asdict(tuning), "columns": o.columns_of(text_column, label_column)}
    try:
        if confidence_level is not None:
            guarantees = _guarantees(target, min_early_exit_accuracy, max_false_negative_rate or [])
            options |= {"guarantees": guarantees, "confidence_level": confidence_level}
            result = certify_folder(folder, data, **options)
        elif min_early_exit_accuracy is None and not max_false_negative_rate:
            result = tune_folder(folder, data, target=target.build(), **options)
        else:
            names = "--min-early-exit-accuracy and --max-false-negative-rate"
            raise CascadeError(f"{names} are guarantees: add --confidence-level")
    except (InfeasibleTarget, CertificationFailed) as error:
        console(error=True).print(str(error))
        print_json(error.as_dict())
        raise typer.Exit(1) from error
    print_tuning(result)


def _guarantees(
    target: o.TargetOptions, early_exit_accuracy: float | None, false_negative_rates: list[str]
) -> list[Guarantee]:
    levels: dict[Any, float | None] = {"min_agreement": None, **asdict(target)}
    levels["min_early_exit_accuracy"] = early_exit_accuracy
    if levels.pop("target_speedup") is not None:
        raise CascadeError("a speed-up has no guarantee: leave out --target-speedup or --confidence-level")
    guarantees = [Guarantee(name, level) for name, level in levels.items() if level is not None]
    return guarantees + [_false_negative_rate(text) for text in false_negative_rates]


def _false_negative_rate(text: str) -> Guarantee:
    label, _, rate = text.rpartition("=")
    try:
        level = float(rate if label else "")
    except ValueError as error:
        raise CascadeError(
            f"--max-false-negative-rate takes LABEL=R, such as spam=0.05, not {text!r}"
        ) from error
    return Guarantee("max_false_negative_rate", level, label)
