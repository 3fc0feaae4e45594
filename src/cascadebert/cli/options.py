"""Options shared by several verbs, and options generated from dataclasses. Imports nothing heavy."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, get_origin, get_type_hints

import typer

from cascadebert.cli.render import JSON_ENABLED, print_notices
from cascadebert.data.columns import Columns
from cascadebert.data.labels import read_label_map
from cascadebert.errors import CascadeError
from cascadebert.thresholds.operating_point import DEFAULT_TARGET, Target
from cascadebert.types import CostUnit, ScoreChoice

if TYPE_CHECKING:
    from cascadebert.inference.cascade import Cascade

DATA, TARGET, SELECTION = "Data", "Target (exactly one)", "Threshold selection"
ENGINE = "Engine (auto: the one that the thresholds were selected on, otherwise the fastest available)"
FILES = "File, folder, pattern in quotes, - for standard input, or Hub dataset (see docs/data.md)."


def option(description: str, metavar: str | None = None, panel: str | None = None, *names: str) -> Any:
    """Annotation of an option; names are needed to rename a parameter."""
    return typer.Option(*names, metavar=metavar, help=description, rich_help_panel=panel)


_STAGES = "Checkpoint: folder or Hub repository; repeat it, from small to large."
_TEXT = "Name of the text column; repeat it for sentence pairs."
_LABEL_MAP = "JSON object, or CSV of two columns without header: label of the data, name in the stages."
_DELIMITER = "Character between the cells of csv files, such as ';' or '\\t'; default: found out."
_ENCODING = "Encoding of text files, such as latin-1; default UTF-8."
_SPEEDUP = "At least X times cheaper than the last stage alone."
_DROP = "Accuracy at most D below the last stage's (0.01 is one point)."
_AGREEMENT = "At least the fraction A of the predictions equal the last stage's; needs no labels."
_UNIT = "Unit of costs and speed-ups: layers, flops, or measured (seconds on this machine)."
_SCORE = (
    "Confidence score to compare with thresholds: max_probability, margin, entropy, learned (predicts "
    "agreement with the last stage) or auto (the best by cross-validation)."
)
_ENGINE, _PRECISION = "openvino, onnxruntime or torch.", "float32, bfloat16 or int8."
_FASTEST = "auto: the fastest on this machine that keeps the last stage's labels."
_TUNED = f"{_ENGINE} By default the folder's own; {_FASTEST}"
_TUNED_PRECISION = f"{_PRECISION} By default the folder's own; {_FASTEST}"
Engine: TypeAlias = Literal["auto", "openvino", "onnxruntime", "torch"]
Precision: TypeAlias = Literal["auto", "float32", "bfloat16", "int8"]
Folder: TypeAlias = Annotated[Path, typer.Argument(metavar="DIR", help="A saved cascade.")]
Data: TypeAlias = Annotated[str, typer.Argument(metavar="DATA", help=FILES)]
Output: TypeAlias = Annotated[Path, option("Folder to write.", "DIR")]
Overwrite: TypeAlias = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one line of JSON at the end.")]
TextColumns: TypeAlias = Annotated[list[str] | None, option(_TEXT, "NAME", DATA, "--text-column")]
LabelColumn: TypeAlias = Annotated[str | None, option("Name of the label column.", "NAME", DATA)]


@dataclass(frozen=True)
class DataOptions:
    """The text columns of data, and the form of its files."""

    text_column: TextColumns = None
    delimiter: Annotated[str | None, option(_DELIMITER, "C", DATA)] = None
    encoding: Annotated[str | None, option(_ENCODING, "NAME", DATA)] = None

    def columns(self) -> Columns:
        """The columns that are named; raises DataError if an option cannot be used."""
        return Columns(self.text_column or (), delimiter=self.delimiter, encoding=self.encoding)


@dataclass(frozen=True)
class LabeledDataOptions(DataOptions):
    """The text and label columns of data, and the names of its labels in the stages."""

    label_column: LabelColumn = None
    label_map: Annotated[Path | None, option(_LABEL_MAP, "FILE", DATA)] = None

    def columns(self) -> Columns:
        """The columns that are named, and the label map; raises DataError if an option cannot be used."""
        label_map = None if self.label_map is None else read_label_map(self.label_map)
        return replace(super().columns(), label=self.label_column, label_map=label_map)


@dataclass(frozen=True)
class TargetOptions:
    """The four targets, of which exactly one is to be given."""

    target_speedup: Annotated[float | None, option(_SPEEDUP, "X", TARGET)] = None
    max_accuracy_drop: Annotated[float | None, option(_DROP, "D", TARGET)] = None
    min_accuracy: Annotated[float | None, option("Accuracy of at least A.", "A", TARGET)] = None
    min_agreement: Annotated[float | None, option(_AGREEMENT, "A", TARGET)] = None

    def build(self) -> Target:
        """Return the target; raises CascadeError if none or several are given, or one is out of range."""
        values = {f"--{name.replace('_', '-')}": value for name, value in vars(self).items()}
        used = [name for name, value in values.items() if value is not None]
        if len(used) != 1:
            raise CascadeError(f"give exactly one of {', '.join(values)}; given: {', '.join(used) or 'none'}")
        return Target(*values.values())


@dataclass(frozen=True)
class OptionalTargetOptions(TargetOptions):
    """The four targets, of which one at most is to be given; by default `DEFAULT_TARGET`."""

    def build(self) -> Target:
        """Return the target; raises CascadeError if several are given, or one is out of range."""
        if all(value is None for value in vars(self).values()):
            return DEFAULT_TARGET
        return super().build()


@dataclass(frozen=True)
class EngineOptions:
    """The engine that runs the stages, and its precision."""

    engine: Annotated[Engine, option(_ENGINE, "NAME", ENGINE)] = "auto"
    precision: Annotated[Precision, option(_PRECISION, "P", ENGINE)] = "auto"

    def load(self, folder: Path) -> Cascade:
        """Load a saved cascade; a notice tells if its certificate does not hold here."""
        from cascadebert.inference.cascade import Cascade

        cascade = Cascade.from_pretrained(folder, engine=self.engine, precision=self.precision)
        if cascade.uncertified_reason is not None:
            print_notices([f"uncertified: {cascade.uncertified_reason}"])
        return cascade


@dataclass(frozen=True)
class TuningOptions:
    """Options of selecting thresholds of a saved cascade, which keeps its own where none is given."""

    engine: Annotated[Engine | None, option(_TUNED, "NAME", ENGINE)] = None
    precision: Annotated[Precision | None, option(_TUNED_PRECISION, "P", ENGINE)] = None
    cost_unit: Annotated[CostUnit, option(_UNIT, "UNIT", SELECTION)] = "flops"
    score: Annotated[ScoreChoice | None, option(_SCORE, "NAME", SELECTION)] = None


@dataclass(frozen=True, kw_only=True)
class BuildOptions(TuningOptions):
    """Options of making a new cascade; the names are those of the arguments of `fit` and `assemble`."""

    stages: Annotated[list[str], option(_STAGES, "MODEL", None, "--stage")]
    output: Output
    overwrite: Overwrite = False
    engine: Annotated[Engine, option(f"{_ENGINE} {_FASTEST}", "NAME", ENGINE)] = "auto"
    precision: Annotated[Precision, option(f"{_PRECISION} {_FASTEST}", "P", ENGINE)] = "auto"
    score: Annotated[ScoreChoice, option(_SCORE, "NAME", SELECTION)] = "max_probability"


def as_command(verb: Callable[..., None]) -> Callable[..., None]:
    """Make a command of a verb: add `--json`, and replace dataclass parameters by an option per field."""
    signature = inspect.signature(verb, eval_str=True)
    options = {name: _options_of(parameter) for name, parameter in signature.parameters.items()}
    json = inspect.Parameter("json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Json)
    parameters = [*(option for group in options.values() for option in group), json]

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
    # A field is described by an Annotated type, or by `help`, `metavar` and `group` in its metadata; a field
    # with neither has no option.
    if not is_dataclass(parameter.annotation):
        return [parameter]
    types, options = get_type_hints(parameter.annotation, include_extras=True), []
    for entry in fields(parameter.annotation):
        annotation, shown = types[entry.name], entry.metadata
        if "help" in shown:
            described = option(shown["help"], shown["metavar"], shown["group"])
            annotation = Annotated[annotation, described]
        if get_origin(annotation) is Annotated:
            default = inspect.Parameter.empty if entry.default is MISSING else entry.default
            options.append(parameter.replace(name=entry.name, default=default, annotation=annotation))
    return options
