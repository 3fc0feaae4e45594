"""The `cascadebert` command: its verbs, `--version`, and how errors end it."""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from typing import Annotated

import typer

from cascadebert import __version__
from cascadebert.cli.options import as_command
from cascadebert.cli.render import configure_logging, print_notices
from cascadebert.errors import CascadeError, describe_os_error, explain_full_disk

# Each verb is the function of that name in the module of that name.
VERBS = "demo build fit assemble distill tune predict evaluate drift bench info serve reproduce".split()
TRAINING = {"build", "fit", "distill", "reproduce"}

app = typer.Typer(
    name="cascadebert",
    help="Cascades of complete text classifiers: small first, large only for uncertain texts.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for verb in VERBS:
    app.command()(as_command(getattr(import_module(f"cascadebert.cli.{verb}"), verb)))


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"cascadebert {__version__}")
        raise typer.Exit


VERSION = typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")


@app.callback()
def _options(_: Annotated[bool, VERSION] = False) -> None:
    pass


def _other_processes() -> AbstractContextManager[None]:
    """Those that a launcher such as torchrun started beside this one, for commands that train."""
    if "WORLD_SIZE" not in os.environ or not TRAINING & set(sys.argv[1:2]):
        return nullcontext()
    from cascadebert.training.processes import joined

    return joined()


def main() -> None:
    """Run the command line; an error that the user can fix is one message and exit code 2."""
    configure_logging()
    try:
        with explain_full_disk(), _other_processes():
            app()
    except CascadeError as error:
        message = str(error)
    except OSError as error:
        message = describe_os_error(error)
    else:
        return
    print_notices([message], label="error: ", color="red")
    sys.exit(2)
