"""Options shared by several verbs, and options generated from configuration dataclasses.

Imports nothing heavy, so that `--help` is fast.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, get_type_hints

import typer

from cascadebert.data.columns import Columns
from cascadebert.errors import CascadeError
from cascadebert.types import CostUnit, ScoreChoice

if TYPE_CHECKING:
    from cascadebert.inference.cascade import Cascade
    from cascadebert.thresholds.operating_point import Target

DATA, TARGET = "Data", "Target (exactly one)"
SELECTION = "Threshold selection"
ENGINE = "Engine (auto: the fastest available, or the one that the thresholds were selected on)"


def option(description: str, metavar: str | None = None, group: str | None = None, *names: str) -> Any:
    """Annotation of an option; `group` is its panel in `--help`."""
    return typer.Option(*names, metavar=metavar, help=description, rich_help_panel=group)


def flag(name: str, description: str) -> Any:
    """Annotation of a boolean option without a `--no-` form."""
    return typer.Option(name, help=description)


Folder: TypeAlias = Annotated[Path, typer.Argument(metavar="DIR", help="A saved cascade.")]
Data: TypeAlias = Annotated[str, typer.Argument(metavar="F", help="csv, tsv, jsonl, parquet or Hub dataset.")]
Stages: TypeAlias = Annotated[
    list[str],
    option(
        "Folder or Hub repository; repeat it for each stage, small to large. The first may be: static.",
        "MODEL",
        None,
        "--stage",
    ),
]
Output: TypeAlias = Annotated[Path, option("Folder to write.", "DIR")]
Overwrite: TypeAlias = Annotated[bool, flag("--overwrite", "Replace an existing output.")]
Json: TypeAlias = Annotated[bool, flag("--json", "Print one line of JSON at the end.")]
TextColumns: TypeAlias = Annotated[
    list[str] | None,
    option("Name of the text column; repeat it for sentence pairs.", "NAME", DATA, "--text-column"),
]
LabelColumn: TypeAlias = Annotated[str | None, option("Name of the label column.", "NAME", DATA)]
Cost: TypeAlias = Annotated[
    CostUnit, option("Unit of the speed-up: layers, flops, or measured (seconds here).", "UNIT", SELECTION)
]
_SCORE = option(
    "Confidence to compare with thresholds: max_probability, margin, entropy, learned (agreement with the "
    "last stage) or auto (the best by cross-validation).",
    "NAME",
    SELECTION,
)
ScoreName: TypeAlias = Annotated[ScoreChoice, _SCORE]
SavedScore: TypeAlias = Annotated[ScoreChoice | None, _SCORE]


def _documented(default: Any, group: str, metavar: str, description: str) -> Any:
    return field(default=default, metadata={"help": description, "group": group, "metavar": metavar})


@dataclass(frozen=True)
class TargetOptions:
    """The four targets, of which exactly one is to be given."""

    target_speedup: float | None = _documented(
        None, TARGET, "X", "At least X times cheaper than the last stage alone."
    )
    max_accuracy_drop: float | None = _documented(
        None, TARGET, "D", "Accuracy at most D below the last stage's (0.01 is one point)."
    )
    min_accuracy: float | None = _documented(None, TARGET, "A", "Accuracy of at least A.")
    min_agreement: float | None = _documented(
        None, TARGET, "A", "At least the fraction A of predictions equals the last stage's; needs no labels."
    )

    def build(self) -> Target:
        """Return the target. Raises CascadeError if none or several are given, or one is out of range."""
        from cascadebert.thresholds.operating_point import Target

        options = {f"--{name.replace('_', '-')}": value for name, value in vars(self).items()}
        used = [name for name, value in options.items() if value is not None]
        if len(used) != 1:
            raise CascadeError(
                f"give exactly one of {', '.join(options)}; given: {', '.join(used) or 'none'}"
            )
        return Target(self.target_speedup, self.max_accuracy_drop, self.min_accuracy, self.min_agreement)


@dataclass(frozen=True)
class EngineOptions:
    """The engine that runs the stages, and its precision."""

    engine: Literal["auto", "openvino", "onnxruntime", "torch"] = _documented(
        "auto", ENGINE, "NAME", "openvino, onnxruntime or torch."
    )
    precision: Literal["auto", "float32", "bfloat16"] = _documented(
        "auto", ENGINE, "P", "float32 or bfloat16."
    )

    def load(self, folder: Path) -> Cascade:
        """Load a saved cascade; a note on standard error tells if its certificate does not hold here."""
        from cascadebert.cli.render import print_notices
        from cascadebert.inference.cascade import Cascade

        cascade = Cascade.from_pretrained(folder, engine=self.engine, precision=self.precision)
        if cascade.uncertified_reason is not None:
            print_notices([f"uncertified: {cascade.uncertified_reason}"])
        return cascade


def columns_of(text: list[str] | None, label: str | None = None, group: str | None = None) -> Columns:
    """Columns named by `--text-column`, `--label-column` and `--group-column`."""
    return Columns(tuple(text or ()), label, group)


def expand_configs(verb: Callable[..., None]) -> Callable[..., None]:
    """Replace each parameter whose type is a dataclass by one option per field; `verb` gets the dataclass.

    The metadata of a field holds the `help`, `group` and `metavar` of its option; a field without `help`
    keeps its default. Durations with the metavar "MS" are fields in seconds and options in milliseconds (`--*-ms`).
    """
    signature = inspect.signature(verb, eval_str=True)
    configs = {p.name: p.annotation for p in signature.parameters.values() if is_dataclass(p.annotation)}
    parameters: list[inspect.Parameter] = []
    for parameter in signature.parameters.values():
        config = configs.get(parameter.name)
        parameters += [parameter] if config is None else _parameters_of(config)

    @wraps(verb)
    def command(**values: Any) -> None:
        built = {name: _build(config, values) for name, config in configs.items()}
        verb(**values, **built)

    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _exposed(config: type[Any]) -> list[Field[Any]]:
    return [entry for entry in fields(config) if "help" in entry.metadata]


def _in_milliseconds(metadata: Mapping[str, Any]) -> bool:
    return bool(metadata["metavar"] == "MS")


def _parameters_of(config: type[Any]) -> list[inspect.Parameter]:
    types, parameters = get_type_hints(config), []
    for entry in _exposed(config):
        name, default = entry.name, entry.default
        if _in_milliseconds(entry.metadata):
            name, default = f"{name}_ms", 1000 * default
        info = option(entry.metadata["help"], entry.metadata["metavar"], entry.metadata["group"])
        annotation = Annotated[types[entry.name], info]
        parameters.append(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        )
    return parameters


def _build(config: type[Any], values: dict[str, Any]) -> Any:
    """The configuration whose options are in `values`, from which they are removed."""
    options = {}
    for entry in _exposed(config):
        if _in_milliseconds(entry.metadata):
            options[entry.name] = values.pop(f"{entry.name}_ms") / 1000
        else:
            options[entry.name] = values.pop(entry.name)
    return config(**options)
