"""The command line: verbs that parse, call one function and print. `cascadebert --help` lists them."""

from cascadebert.cli.app import main

__all__ = ["main"]
