"""The `cascadebert` command: its verbs, `--version`, and how errors end it."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from cascadebert import __version__
from cascadebert.cli.assemble import assemble
from cascadebert.cli.bench import bench
from cascadebert.cli.demo import demo
from cascadebert.cli.distill import distill
from cascadebert.cli.drift import drift
from cascadebert.cli.evaluate import evaluate
from cascadebert.cli.fit import fit
from cascadebert.cli.info import info
from cascadebert.cli.options import as_command
from cascadebert.cli.predict import predict
from cascadebert.cli.render import configure_logging, print_notices
from cascadebert.cli.reproduce import reproduce
from cascadebert.cli.serve import serve
from cascadebert.cli.tune import tune
from cascadebert.errors import CascadeError

VERBS = (demo, fit, assemble, distill, tune, predict, evaluate, drift, bench, info, serve, reproduce)

app = typer.Typer(
    name="cascadebert",
    help="Cascades of complete text classifiers: small first, large only for uncertain texts.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for verb in VERBS:
    app.command()(as_command(verb))


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"cascadebert {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; an error that the user can fix is one message and exit code 2."""
    configure_logging()
    try:
        app()
    except (CascadeError, OSError) as error:
        print_notices([str(error)], label="error", color="red")
        sys.exit(2)
