"""Verbs that make a cascade: demo, fit, assemble, shrink."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cascadebert.cli import options as o
from cascadebert.cli import render as out
from cascadebert.timing import now
from cascadebert.training.config import DistillConfig, FitConfig

if TYPE_CHECKING:
    from cascadebert.inference.cascade import Cascade
    from cascadebert.training.distillation.distill import DistilledModels

_DEFAULT = FitConfig()
_SHRINK = DistillConfig()
LITTLE_LEARNED = 0.9
_STAGE = typer.Option(
    "--stage",
    metavar="MODEL",
    help="Folder or Hub repository; twice or more, small to large. The first may be: static.",
    show_default=False,
)
_TRAIN = typer.Option(
    metavar="F",
    help="csv, tsv, jsonl, parquet or a Hub data set.",
    show_default=False,
    rich_help_panel=o.ROWS,
)


def _knob(words: str, panel: str = o.TRAINING, metavar: str = "X") -> Any:
    return typer.Option(help=words, rich_help_panel=panel, metavar=metavar)


def fit(
    *,
    train: Annotated[str, _TRAIN],
    stage: Annotated[list[str], _STAGE],
    output: o.Output,
    validation: Annotated[str | None, _knob("Rows to tune and certify on.", o.ROWS, "F")] = None,
    unlabelled: Annotated[
        str | None, _knob("More rows, without labels, to learn the last stage's logits on.", o.ROWS, "F")
    ] = None,
    target_speedup: o.Speedup = None,
    max_accuracy_drop: o.Drop = None,
    min_accuracy: o.Least = None,
    min_agreement: o.Agreement = None,
    cost_unit: o.CostUnit = "flops",
    score: o.ScoreOption = "max_probability",
    engine: o.EngineName = "auto",
    precision: o.Precision = "auto",
    text_column: o.TextColumns = None,
    label_column: o.LabelColumn = None,
    group_column: o.GroupColumn = None,
    tune_fraction: Annotated[float, _knob("Of the train rows.", o.ROWS)] = _DEFAULT.tune_fraction,
    certify_fraction: Annotated[float, _knob("Of the train rows.", o.ROWS)] = _DEFAULT.certify_fraction,
    max_length: Annotated[int, _knob("Longest row in tokens.", metavar="N")] = _DEFAULT.max_length,
    epochs: Annotated[float, _knob("Passes over the train rows.")] = _DEFAULT.epochs,
    batch_size: Annotated[int, _knob("Rows per step.", metavar="N")] = _DEFAULT.batch_size,
    learning_rate: Annotated[float, _knob("Of AdamW.")] = _DEFAULT.learning_rate,
    warmup_ratio: Annotated[float, _knob("Share of steps with rising rate.")] = _DEFAULT.warmup_ratio,
    bf16: Annotated[
        bool | None, _knob("Train in bfloat16; default asks the processor.", metavar="")
    ] = _DEFAULT.bf16,
    distill_weight: Annotated[
        float | None, _knob("Learn the last stage's logits; default 1 with --unlabelled, else 0.")
    ] = _DEFAULT.distill_weight,
    distill_temperature: Annotated[
        float, _knob("Divides both sides' logits.")
    ] = _DEFAULT.distill_temperature,
    seed: Annotated[int, _knob("Of everything random.", metavar="N")] = _DEFAULT.seed,
    dar_weight: Annotated[
        float, _knob("Difficulty-aware regularisation; 0 is off.", o.DIFFICULTY)
    ] = _DEFAULT.dar_weight,
    dar_margin: Annotated[float, _knob("Its margin.", o.DIFFICULTY)] = _DEFAULT.dar_margin,
    difficulty: Annotated[
        list[Path] | None,
        _knob("Labels of an earlier run; one file per stage but the last.", o.DIFFICULTY, "F"),
    ] = None,
    difficulty_folds: Annotated[
        int, _knob("Folds behind its labels.", o.DIFFICULTY, "N")
    ] = _DEFAULT.difficulty_folds,
    difficulty_seeds: Annotated[
        int, _knob("Repeats behind its labels; the paper: 5.", o.DIFFICULTY, "N")
    ] = _DEFAULT.difficulty_seeds,
    difficulty_votes: Annotated[
        float, _knob("Share of right repeats that makes a row easy.", o.DIFFICULTY)
    ] = _DEFAULT.difficulty_votes,
    overwrite: o.Overwrite = False,
    json: o.Json = False,
) -> None:
    """Train the stages, calibrate, pick thresholds, save one folder."""
    from cascadebert.training.fit import fit as run

    target = o.target_of(target_speedup, max_accuracy_drop, min_accuracy, min_agreement)
    start = now()
    cascade = run(
        train,
        stages=stage,
        target=target,
        output=output,
        validation=validation,
        unlabelled=unlabelled,
        columns=o.columns_of(text_column, label_column, group_column),
        difficulty=difficulty or (),
        cost_unit=cost_unit,
        score=score,
        engine=engine,
        precision=precision,
        overwrite=overwrite,
        config=FitConfig(
            max_length=max_length,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            warmup_ratio=warmup_ratio,
            bf16=bf16,
            dar_weight=dar_weight,
            dar_margin=dar_margin,
            difficulty_folds=difficulty_folds,
            difficulty_seeds=difficulty_seeds,
            difficulty_votes=difficulty_votes,
            distill_weight=distill_weight,
            distill_temperature=distill_temperature,
            tune_fraction=tune_fraction,
            certify_fraction=certify_fraction,
            seed=seed,
        ),
    )
    _made(cascade, output, now() - start, json)


def assemble(
    *,
    stage: Annotated[list[str], _STAGE],
    data: Annotated[
        str, typer.Option(metavar="F", help="Held-out rows; labels are optional.", show_default=False)
    ],
    output: o.Output,
    target_speedup: o.Speedup = None,
    max_accuracy_drop: o.Drop = None,
    min_accuracy: o.Least = None,
    min_agreement: o.Agreement = None,
    text_column: o.TextColumns = None,
    label_column: o.LabelColumn = None,
    cost_unit: o.CostUnit = "flops",
    score: o.ScoreOption = "max_probability",
    engine: o.EngineName = "auto",
    precision: o.Precision = "auto",
    max_length: Annotated[int | None, _knob("Longest row in tokens; default 128.", o.ROWS, "N")] = None,
    overwrite: o.Overwrite = False,
    json: o.Json = False,
) -> None:
    """Make a cascade of fine-tuned classifiers as they are: only thresholds are picked."""
    from cascadebert.training.assemble import assemble as run

    target = o.target_of(target_speedup, max_accuracy_drop, min_accuracy, min_agreement)
    start = now()
    cascade = run(
        stage,
        data=data,
        target=target,
        output=output,
        columns=o.columns_of(text_column, label_column),
        max_length=max_length,
        cost_unit=cost_unit,
        score=score,
        engine=engine,
        precision=precision,
        overwrite=overwrite,
    )
    _made(cascade, output, now() - start, json)


def distill(
    large: Annotated[str, typer.Argument(metavar="LARGE", help="Encoder: folder or Hub repository.")],
    *,
    num_layers: Annotated[
        list[int],
        typer.Option(metavar="K", help="Depth; several times for several models.", show_default=False),
    ],
    output: o.Output,
    hidden_size: Annotated[
        list[int] | None, typer.Option(metavar="H", help="Width; once, or once for each depth.")
    ] = None,
    embedding_size: Annotated[
        int | None, typer.Option(metavar="E", help="Width of the token table (ELECTRA only).")
    ] = None,
    corpus: Annotated[
        str | None,
        typer.Option(
            metavar="F", help="Unlabelled text: txt, jsonl, parquet or a folder. Without it: cut layers."
        ),
    ] = None,
    text_column: o.TextColumns = None,
    max_tokens: Annotated[
        int | None, _knob("To train on; default the corpus once.", metavar="N")
    ] = _SHRINK.max_tokens,
    vocabulary: Annotated[
        int | None, _knob("Keep the N most frequent tokens.", metavar="N")
    ] = _SHRINK.vocabulary,
    max_length: Annotated[int, _knob("Longest passage in tokens.", metavar="N")] = _SHRINK.max_length,
    batch_tokens: Annotated[int, _knob("Tokens per step.", metavar="N")] = _SHRINK.batch_tokens,
    learning_rate: Annotated[float, _knob("Of AdamW.")] = _SHRINK.learning_rate,
    warmup_ratio: Annotated[float, _knob("Share of steps with rising rate.")] = _SHRINK.warmup_ratio,
    bf16: Annotated[
        bool | None, _knob("Train in bfloat16; default asks the processor.", metavar="")
    ] = _SHRINK.bf16,
    seed: Annotated[int, _knob("Of everything random.", metavar="N")] = _SHRINK.seed,
    overwrite: o.Overwrite = False,
    json: o.Json = False,
) -> None:
    """Make complete small models from a large encoder and unlabelled text.

    Without --corpus its first layers are cut off as they are, which is NOT a complete model.
    """
    from cascadebert.training.distillation.distill import distill as run

    start = now()
    made = run(
        large,
        num_layers=num_layers,
        hidden_size=hidden_size,
        embedding_size=embedding_size,
        corpus=corpus,
        output=output,
        columns=o.columns_of(text_column),
        overwrite=overwrite,
        config=DistillConfig(
            max_tokens=max_tokens,
            vocabulary=vocabulary,
            max_length=max_length,
            batch_tokens=batch_tokens,
            learning_rate=learning_rate,
            warmup_ratio=warmup_ratio,
            bf16=bf16,
            seed=seed,
        ),
    )
    _shrunk(made, now() - start, json)


def demo(
    *,
    output: Annotated[Path, typer.Option(help="Folder to write.")] = Path("cascadebert-demo"),
    seed: Annotated[int, typer.Option(help="Of the data and the models.")] = 0,
    overwrite: o.Overwrite = False,
    json: o.Json = False,
) -> None:
    """Train, save, load and time a cascade on a generated task; minutes, no network, no data needed."""
    from cascadebert.demo.run import demo as run

    result = run(output, seed=seed, overwrite=overwrite)
    out.console().print(result.words())
    out.machine_line(asdict(result), json)


def _shrunk(made: DistilledModels, seconds: float, json: bool) -> None:
    """Say which models were made and how well they copy."""
    rows = [
        (
            str(one.path),
            f"{one.layers} x {one.hidden}",
            f"{one.parameters / 1e6:.1f} M",
            "not trained" if one.held_out_loss is None else out.share(1 - one.held_out_loss),
        )
        for one in made.students
    ]
    out.table(("model", "layers x width", "parameters", "of the large model's hidden states"), rows)
    failed = [str(one.path) for one in made.students if (one.held_out_loss or 0) > LITTLE_LEARNED]
    if failed:
        out.say_notices([f"{', '.join(failed)}: hardly anything was learned. Lower --learning-rate."])
    if made.complete:
        speed = f", {made.tokens_per_second:,.0f} a second" if made.tokens_per_second else ""
        out.console().print(f"{made.tokens / 1e6:.1f} M tokens{speed}; {out.share(made.padding)} padding.")
    else:
        out.say_notices(["layers cut off as they are, NOT complete models. Give --corpus to distil them."])
    students = [{**asdict(one), "path": str(one.path)} for one in made.students]
    values = {**asdict(made), "students": students, "seconds": round(seconds, 1)}
    out.machine_line(values, json)


def _made(cascade: Cascade, output: Path, seconds: float, json: bool) -> None:
    """Say what was made and what it gave on the rows it was tuned on."""
    spec, expected = cascade.spec, cascade.operating_point.metrics
    assert spec is not None and expected is not None
    report, timing = spec.measured, spec.timing
    out.say_notices(expected.notices)
    if report is not None:
        out.report_table(report)
    out.console().print(out.expected_line(expected))
    if timing is not None:
        out.console().print(out.timing_line(timing))
    out.console().print(f"Saved in {output}. Next: cascadebert evaluate {output} TEST_FILE")
    stages = [
        {"name": entry.name, "layers": entry.layers, "hidden": entry.hidden, "temperature": entry.temperature}
        for entry in spec.stages
    ]
    for i, stage in enumerate(report.stages if report else ()):
        stages[i].update(asdict(stage))
    values = {
        "output": str(output),
        "accuracy": report.accuracy if report else None,
        "measured_on": {
            "rows": "tune",
            "n": expected.n,
            "measure": expected.metric,
            "value": expected.value,
            "cross_validated": expected.cross_validated,
        },
        "stages": stages,
        "thresholds": cascade.operating_point.thresholds,
        "exit_rates": expected.exit_rates,
        "layers_speedup": report.layers_speedup if report else None,
        "flops_speedup": report.flops_speedup if report else None,
        "expected_speedup": timing.expected_speedup if timing else None,
        "seconds": round(seconds, 1),
        "notices": expected.notices,
    }
    out.machine_line(values, json)
