"""`cascadebert tune`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cascadebert.cli import options as o
from cascadebert.cli.render import print_json, print_operating_point, tuning_values
from cascadebert.errors import CascadeError
from cascadebert.thresholds.operating_point import Guarantee

GUARANTEE = "Guarantee on new data (one or more, not a speed-up)"
LEVEL = "Guarantee the target on new data with this confidence, such as 0.95."
EARLY = "Accuracy of the predictions before the last stage."
MISSED = "Fraction of a label's examples predicted as another label."


def tune(
    folder: o.Folder,
    *,
    data: Annotated[str, o.option(f"Held-out data: {o.FILES}", "DATA", o.DATA)],
    target: o.TargetOptions,
    confidence_level: Annotated[float | None, o.option(LEVEL, "C", GUARANTEE)] = None,
    min_early_exit_accuracy: Annotated[float | None, o.option(EARLY, "A", GUARANTEE)] = None,
    max_false_negative_rate: Annotated[list[str] | None, o.option(MISSED, "LABEL=R", GUARANTEE)] = None,
    data_options: o.LabeledDataOptions,
    tuning: o.TuningOptions,
) -> None:
    """Select new thresholds for a saved cascade; an infeasible target changes nothing (exit code 1).

    With --confidence-level the target is guaranteed on new data, tested on reserved examples.
    """
    from cascadebert.thresholds.select import InfeasibleTarget
    from cascadebert.tuning.certify import CertificationFailed, certify_folder
    from cascadebert.tuning.tune import tune_folder

    guarantees = [_false_negative_rate(text) for text in max_false_negative_rate or []]
    if min_early_exit_accuracy is not None:
        guarantees.insert(0, Guarantee("min_early_exit_accuracy", min_early_exit_accuracy))
    if guarantees and confidence_level is None:
        names = "--min-early-exit-accuracy and --max-false-negative-rate"
        raise CascadeError(f"{names} are guarantees: add --confidence-level")
    options = {**vars(tuning), "columns": data_options.columns()}
    try:
        if confidence_level is None:
            result = tune_folder(folder, data, target=target.build(), **options)
        else:
            options["confidence_level"] = confidence_level
            result = certify_folder(folder, data, guarantees=_guarantees(target) + guarantees, **options)
    except (InfeasibleTarget, CertificationFailed) as error:
        typer.echo(error, err=True)
        print_json(error.as_dict())
        raise typer.Exit(1) from error
    print_operating_point(result.point, result.timing)
    values = tuning_values(result.point, result.report, result.timing)
    print_json(values, feasible=True, nearest=None)


def _guarantees(target: o.TargetOptions) -> list[Guarantee]:
    levels: dict[Any, float | None] = {"min_agreement": None, **vars(target)}
    if levels.pop("target_speedup") is not None:
        raise CascadeError("a speed-up has no guarantee: leave out --target-speedup or --confidence-level")
    return [Guarantee(name, level) for name, level in levels.items() if level is not None]


def _false_negative_rate(text: str) -> Guarantee:
    label, _, rate = text.rpartition("=")
    try:
        level = float(rate if label else "")
    except ValueError as error:
        message = f"--max-false-negative-rate takes LABEL=R, such as spam=0.05, not {text!r}"
        raise CascadeError(message) from error
    return Guarantee("max_false_negative_rate", level, label)
