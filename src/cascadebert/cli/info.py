"""`cascadebert info`."""

from __future__ import annotations

from typing import Annotated

from cascadebert.cli import options as o
from cascadebert.cli.render import print_json, print_spec


def info(
    folder: o.Folder,
    *,
    check: Annotated[bool, o.flag("--check", "Compare every file with its stored hash.")] = False,
) -> None:
    """Describe a saved cascade; with --check, verify that its files are unchanged."""
    from cascadebert.persistence.checkpoint_config import resolve_checkpoint
    from cascadebert.persistence.folder import read_folder

    spec = read_folder(resolve_checkpoint(folder), check_files=check)
    print_spec(spec, checked=check)
    print_json({**spec.model_dump(mode="json"), "checked": check})
