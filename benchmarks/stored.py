"""Result files: what was found, with all that is needed to find it again."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from cascadebert.environment import instruction_sets, machine, versions

ROOT = Path(__file__).resolve().parents[1]


def write_result(path: Path, values: Mapping[str, Any], *, data: Sequence[Path], commit: str) -> None:
    """Write values as JSON, with command, commit, machine, versions, data fingerprints and date.

    Args:
        path: the result file.
        values: what was found.
        data: files that it was found on.
        commit: of the code that found it, from `current_commit` before the run.
    """
    where = {
        "command": shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *map(_plain, sys.argv[1:])]),
        "commit": commit,
        "machine": machine(),
        "instruction_sets": instruction_sets(),
        "versions": versions(),
        "data_sha256": {
            f"{p.parent.name}/{p.name}": hashlib.sha256(p.read_bytes()).hexdigest() for p in data
        },
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**values, **where}, indent=2) + "\n", "utf-8")


def part(file: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A part of a result, from its file if it is done; so a killed run goes on where it was."""
    if not file.is_file():
        made = make()
        file.parent.mkdir(parents=True, exist_ok=True)
        file.with_suffix(".new").write_text(json.dumps(made), "utf-8")
        file.with_suffix(".new").replace(file)
        print(file.stem, made, flush=True)
    return dict(json.loads(file.read_text("utf-8")))


def current_commit() -> str:
    """The commit of the working tree; "-dirty" is added where the package differs from it."""
    head = _git("rev-parse", "HEAD")
    return f"{head}-dirty" if _git("status", "--porcelain", "--", "src") else head


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _plain(argument: str) -> str:
    """An argument without the folders of this machine: an absolute path becomes one from the checkout."""
    return os.path.relpath(argument, ROOT) if Path(argument).is_absolute() else argument
