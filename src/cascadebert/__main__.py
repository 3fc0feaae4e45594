"""`python -m cascadebert` is the command line."""

from cascadebert.cli import main

main()
