"""The verbs, and how errors leave."""

from __future__ import annotations

import sys

import typer

from cascadebert.cli import making, reproducing, running, serving, tuning
from cascadebert.cli.render import say_error, show_log
from cascadebert.errors import CascadeError

app = typer.Typer(
    name="cascadebert",
    help="Cascades of complete text classifiers: small first, large only for the unsure rows.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(making.demo)
app.command()(making.fit)
app.command()(making.assemble)
app.command()(making.distill)
app.command()(tuning.tune)
app.command()(running.predict)
app.command()(running.evaluate)
app.command()(running.drift)
app.command()(running.bench)
app.command()(running.info)
app.command()(serving.serve)
app.command()(reproducing.reproduce)


def main() -> None:
    """Run the command line; an error that is the caller's to mend is one message and exit code 2."""
    show_log()
    try:
        app()
    except (CascadeError, OSError) as error:
        say_error(str(error))
        sys.exit(2)
