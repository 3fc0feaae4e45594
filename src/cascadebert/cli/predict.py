"""`cascadebert predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from cascadebert.cli import options as o
from cascadebert.cli.render import JSON_ENABLED, percentages, print_json, print_notices
from cascadebert.errors import CascadeError
from cascadebert.inference.cascade import Cascade
from cascadebert.inference.predict_chunks import Answer, FilePredictions
from cascadebert.inference.stage import truncation_notices
from cascadebert.paths import is_standard_output, shown
from cascadebert.remote_files import remote_url

Runner = Literal["local", "ray"]

SOURCE = "File, folder of files, pattern in quotes, URL, or - for standard input (see docs/data.md)."
OUTPUT = "File or URL to write; its suffix sets its format; - for standard output."
SHARD = "Predict one of N parts of the rows, from 1/N to N/N; in turn, their outputs are the whole."
RUNNER = "ray: compute on the Ray cluster that this machine is connected to, or here as one."
TRUNCATE = "Cut texts that are longer than the stages read; otherwise such rows are invalid."


def predict(
    folder: o.Folder,
    source: Annotated[Path, typer.Argument(metavar="IN", help=SOURCE)],
    *,
    output: Annotated[Path, o.option(OUTPUT, "OUT")],
    data_options: o.DataOptions,
    rejects: Annotated[
        Path | None, o.option("File for invalid rows, which otherwise end the run.", "FILE")
    ] = None,
    truncate: Annotated[bool, typer.Option(help=TRUNCATE)] = True,
    shard: Annotated[str | None, o.option(SHARD, "I/N")] = None,
    runner: Annotated[Runner, o.option(RUNNER, "local|ray")] = "local",
    engine: o.EngineOptions,
    overwrite: o.Overwrite = False,
) -> None:
    """Add label, confidence and stage to every row of a file; resumes after an interruption."""
    from cascadebert.inference.predict_file import predict_file
    from cascadebert.inference.shard import Shard

    outputs = {"--output": output, "--rejects": rejects}
    printed = [f"{name} {path}" for name, path in outputs.items() if path and is_standard_output(path)]
    if printed and JSON_ENABLED.get():
        raise CascadeError(f"{printed[0]} and --json both write to standard output. Leave one out.")
    columns, cascade = data_options.columns(), engine.load(folder)
    result = predict_file(
        cascade,
        source,
        output,
        columns=columns,
        rejects=rejects,
        truncate=truncate,
        shard=None if shard is None else Shard.parse(shard),
        overwrite=overwrite,
        answer=_answer(runner, shard),
    )
    _report(cascade, result, output, rejects, err=bool(printed))
    values = {
        "output": remote_url(output) or output,
        "n": result.n,
        "exit_rates": result.exit_rates,
        "rejects": result.rejected,
        "truncated": result.truncated,
    }
    print_json(values, uncertified_reason=cascade.uncertified_reason)


def _answer(runner: Runner, shard: str | None) -> Answer | None:
    """What computes the answers; None for this process."""
    if runner == "local":
        return None
    if shard is not None:
        raise CascadeError("--runner ray and --shard both divide the work. Leave one out.")
    from cascadebert.distributed.ray_files import RayAnswers

    return RayAnswers()


def _report(
    cascade: Cascade, result: FilePredictions, output: Path, rejects: Path | None, *, err: bool
) -> None:
    """Tell what was written, on standard error if the output is on standard output."""
    target = "standard output" if is_standard_output(output) else shown(output)
    count = f"{result.n:,} prediction{'' if result.n == 1 else 's'}"
    typer.echo(f"{count} written to {target}; exits by stage: {percentages(result.exit_rates)}", err=err)
    if rejects is not None and result.rejected:
        verb = "row is invalid and was" if result.rejected == 1 else "rows are invalid and were"
        print_notices([f"{result.rejected:,} {verb} written to {shown(rejects)}"])
    print_notices(truncation_notices(cascade.stages, result.truncated, result.n))
