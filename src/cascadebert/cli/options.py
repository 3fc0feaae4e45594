"""Options shared by several verbs, and options generated from dataclasses. Imports nothing heavy."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, get_origin, get_type_hints

import typer

from cascadebert.cli.render import JSON_ENABLED, print_notices
from cascadebert.data.columns import Columns
from cascadebert.errors import CascadeError
from cascadebert.types import CostUnit, ScoreChoice

if TYPE_CHECKING:
    from cascadebert.inference.cascade import Cascade
    from cascadebert.thresholds.operating_point import Target

DATA, TARGET, SELECTION = "Data", "Target (exactly one)", "Threshold selection"
ENGINE = "Engine (auto: the fastest available, or the one that the thresholds were selected on)"
FILES = "csv, tsv, jsonl, parquet or Hub dataset."


def option(description: str, metavar: str | None = None, panel: str | None = None, *names: str) -> Any:
    """Annotation of an option; names are needed for flags and to rename a parameter."""
    return typer.Option(*names, metavar=metavar, help=description, rich_help_panel=panel)


def argument(metavar: str, description: str) -> Any:
    """Annotation of a positional argument."""
    return typer.Argument(metavar=metavar, help=description)


def flag(name: str, description: str) -> Any:
    """Annotation of a boolean option without a `--no-` form."""
    return typer.Option(name, help=description)


_TEXT = "Name of the text column; repeat it for sentence pairs."
_SPEEDUP = "At least X times cheaper than the last stage alone."
_DROP = "Accuracy at most D below the last stage's (0.01 is one point)."
_AGREEMENT = "Predictions equal to the last stage's, at least the fraction A; needs no labels."
_UNIT = "Unit of costs and speed-ups: layers, flops, or measured (seconds here)."
_SCORE = (
    "Confidence to compare with thresholds: max_probability, margin, entropy, learned (will the last stage "
    "agree?) or auto (the best by cross-validation)."
)
_STAGES = "Folder or Hub repository; repeat it, small to large. The first may be: static."
Engine: TypeAlias = Literal["auto", "openvino", "onnxruntime", "torch"]
Precision: TypeAlias = Literal["auto", "float32", "bfloat16"]
Folder: TypeAlias = Annotated[Path, argument("DIR", "A saved cascade.")]
Data: TypeAlias = Annotated[str, argument("F", FILES)]
Stages: TypeAlias = Annotated[list[str], option(_STAGES, "MODEL", None, "--stage")]
Output: TypeAlias = Annotated[Path, option("Folder to write.", "DIR")]
Overwrite: TypeAlias = Annotated[bool, flag("--overwrite", "Replace an existing output.")]
Json: TypeAlias = Annotated[bool, flag("--json", "Print one line of JSON at the end.")]
TextColumns: TypeAlias = Annotated[list[str] | None, option(_TEXT, "NAME", DATA, "--text-column")]
LabelColumn: TypeAlias = Annotated[str | None, option("Name of the label column.", "NAME", DATA)]


@dataclass(frozen=True)
class TargetOptions:
    """The four targets, of which exactly one is to be given."""

    target_speedup: Annotated[float | None, option(_SPEEDUP, "X", TARGET)] = None
    max_accuracy_drop: Annotated[float | None, option(_DROP, "D", TARGET)] = None
    min_accuracy: Annotated[float | None, option("Accuracy of at least A.", "A", TARGET)] = None
    min_agreement: Annotated[float | None, option(_AGREEMENT, "A", TARGET)] = None

    def build(self) -> Target:
        """Return the target; raises CascadeError if none or several are given, or one is out of range."""
        from cascadebert.thresholds.operating_point import Target

        values = {f"--{name.replace('_', '-')}": value for name, value in vars(self).items()}
        used = [name for name, value in values.items() if value is not None]
        if len(used) != 1:
            raise CascadeError(f"give exactly one of {', '.join(values)}; given: {', '.join(used) or 'none'}")
        return Target(self.target_speedup, self.max_accuracy_drop, self.min_accuracy, self.min_agreement)


@dataclass(frozen=True)
class EngineOptions:
    """The engine that runs the stages, and its precision."""

    engine: Annotated[Engine, option("openvino, onnxruntime or torch.", "NAME", ENGINE)] = "auto"
    precision: Annotated[Precision, option("float32 or bfloat16.", "P", ENGINE)] = "auto"

    def load(self, folder: Path) -> Cascade:
        """Load a saved cascade; a notice tells if its certificate does not hold here."""
        from cascadebert.inference.cascade import Cascade

        cascade = Cascade.from_pretrained(folder, engine=self.engine, precision=self.precision)
        if cascade.uncertified_reason is not None:
            print_notices([f"uncertified: {cascade.uncertified_reason}"])
        return cascade


@dataclass(frozen=True)
class TuningOptions(EngineOptions):
    """How thresholds of a saved cascade are selected; without a score it keeps its own."""

    cost_unit: Annotated[CostUnit, option(_UNIT, "UNIT", SELECTION)] = "flops"
    score: Annotated[ScoreChoice | None, option(_SCORE, "NAME", SELECTION)] = None


@dataclass(frozen=True)
class BuildOptions(TuningOptions):
    """How thresholds of a new cascade are selected."""

    score: Annotated[ScoreChoice, option(_SCORE, "NAME", SELECTION)] = "max_probability"


def columns_of(text: list[str] | None, label: str | None = None, group: str | None = None) -> Columns:
    """Columns named by `--text-column`, `--label-column` and `--group-column`."""
    return Columns(tuple(text or ()), label, group)


def as_command(verb: Callable[..., None]) -> Callable[..., None]:
    """Make a command of a verb: add `--json`, and replace dataclass parameters by an option per field.

    An option is described by the annotation of its field, or by `help`, `group` and `metavar` in its
    metadata; a field with neither has no option.
    """
    signature = inspect.signature(verb, eval_str=True)
    options = {name: _options_of(parameter) for name, parameter in signature.parameters.items()}
    parameters = [option for several in options.values() for option in several]
    parameters.append(inspect.Parameter("json", parameters[-1].kind, default=False, annotation=Json))

    @wraps(verb)
    def command(**values: Any) -> None:
        JSON_ENABLED.set(values.pop("json"))
        for name, parameter in signature.parameters.items():
            if is_dataclass(parameter.annotation):
                arguments = {option.name: values.pop(option.name) for option in options[name]}
                values[name] = parameter.annotation(**arguments)  # type: ignore[operator]
        verb(**values)

    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _options_of(parameter: inspect.Parameter) -> list[inspect.Parameter]:
    if not is_dataclass(parameter.annotation):
        return [parameter]
    types, options = get_type_hints(parameter.annotation, include_extras=True), []
    for entry in fields(parameter.annotation):
        default, shown = entry.default, entry.metadata
        if "help" in shown:
            default = typer.Option(
                default, help=shown["help"], metavar=shown["metavar"], rich_help_panel=shown["group"]
            )
        if "help" in shown or get_origin(types[entry.name]) is Annotated:
            options.append(parameter.replace(name=entry.name, default=default, annotation=types[entry.name]))
    return options
