"""`cascadebert tune`: select new thresholds, with or without a guarantee."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from cascadebert.cli import options as o
from cascadebert.cli import render
from cascadebert.errors import CascadeError
from cascadebert.thresholds.certificate import Guarantee

GUARANTEE = "Guarantee on new data (one or more, not a speed-up)"


def tune(
    folder: o.Folder,
    *,
    data: Annotated[str, o.option("Held-out data like that to come.", "F")],
    target: o.TargetOptions,
    confidence_level: Annotated[
        float | None,
        o.option("Guarantee the target on new data with this confidence, such as 0.95.", "C", GUARANTEE),
    ] = None,
    min_early_exit_accuracy: Annotated[
        float | None, o.option("Accuracy of the predictions before the last stage.", "A", GUARANTEE)
    ] = None,
    max_false_negative_rate: Annotated[
        list[str] | None,
        o.option("Fraction of a label's examples predicted as another label.", "LABEL=R", GUARANTEE),
    ] = None,
    text_column: o.TextColumns = None,
    label_column: o.LabelColumn = None,
    cost_unit: o.Cost = "flops",
    score: o.SavedScore = None,
    engine: o.EngineOptions,
    json: o.Json = False,
) -> None:
    """Select new thresholds for a saved cascade. An infeasible target changes nothing: exit code 1.

    With --confidence-level the target is guaranteed on new data, tested on examples reserved for that.
    """
    from cascadebert.thresholds.select import InfeasibleTarget
    from cascadebert.tuning.certify import CertificationFailed, certify_folder
    from cascadebert.tuning.tune import tune_folder

    options: dict[str, Any] = {"cost_unit": cost_unit, "score": score, **asdict(engine)}
    options["columns"] = o.columns_of(text_column, label_column)
    try:
        if confidence_level is None:
            if min_early_exit_accuracy is not None or max_false_negative_rate:
                raise CascadeError(
                    "--min-early-exit-accuracy and --max-false-negative-rate are guarantees: "
                    "add --confidence-level"
                )
            result = tune_folder(folder, data, target=target.build(), **options)
        else:
            guarantees = _guarantees(target, min_early_exit_accuracy, max_false_negative_rate or [])
            options |= {"guarantees": guarantees, "confidence_level": confidence_level}
            result = certify_folder(folder, data, **options)
    except (InfeasibleTarget, CertificationFailed) as error:
        render.stderr().print(str(error))
        render.print_json(error.as_dict(), json)
        raise typer.Exit(1) from error
    render.print_tuning(result, cost_unit, json=json)


def _guarantees(
    target: o.TargetOptions, early_exit_accuracy: float | None, false_negative_rates: list[str]
) -> list[Guarantee]:
    if target.target_speedup is not None:
        raise CascadeError(
            "a speed-up cannot be guaranteed: leave out --target-speedup or --confidence-level"
        )
    levels = {
        "min_agreement": target.min_agreement,
        "max_accuracy_drop": target.max_accuracy_drop,
        "min_accuracy": target.min_accuracy,
        "min_early_exit_accuracy": early_exit_accuracy,
    }
    guarantees = [Guarantee(name, level) for name, level in levels.items() if level is not None]  # type: ignore[arg-type]
    return guarantees + [_false_negative_guarantee(text) for text in false_negative_rates]


def _false_negative_guarantee(text: str) -> Guarantee:
    label, _, rate = text.rpartition("=")
    try:
        level = float(rate)
    except ValueError:
        level = None
    if not label or level is None:
        raise CascadeError(f"--max-false-negative-rate takes LABEL=R, such as spam=0.05, not {text!r}")
    return Guarantee("max_false_negative_rate", level, label)
