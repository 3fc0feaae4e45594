"""`cascadebert predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cascadebert.cli import options as o
from cascadebert.cli.render import JSON_ENABLED, percentages, print_json, print_notices
from cascadebert.errors import CascadeError

SOURCE = "File, folder of files, pattern in quotes, or - for standard input (see docs/data.md)."
OUTPUT = "File to write; its suffix sets its format; - for standard output."
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
    engine: o.EngineOptions,
    overwrite: o.Overwrite = False,
) -> None:
    """Add label, confidence and stage to every row of a file; resumes after an interruption."""
    from cascadebert.inference.predict_file import predict_file
    from cascadebert.inference.stage import truncation_notices

    is_standard = str(output) == "-"
    if is_standard and JSON_ENABLED.get():
        raise CascadeError("--output - and --json both write to standard output. Leave one out.")
    columns, cascade = data_options.columns(), engine.load(folder)
    result = predict_file(
        cascade, source, output, columns=columns, rejects=rejects, truncate=truncate, overwrite=overwrite
    )
    exits = percentages(result.exit_rates)
    target = "standard output" if is_standard else output
    typer.echo(f"{result.n:,} predictions written to {target}; exits by stage: {exits}", err=is_standard)
    if result.rejected:
        print_notices([f"{result.rejected:,} rows are invalid and were written to {rejects}"])
    print_notices(truncation_notices(cascade.stages, result.truncated, result.n))
    values = {"output": output, "n": result.n, "exit_rates": result.exit_rates, "rejects": result.rejected}
    values["truncated"] = result.truncated
    print_json(values, uncertified_reason=cascade.uncertified_reason)
