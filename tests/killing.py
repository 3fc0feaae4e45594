"""Processes that kill themselves half-way, to see what a later run makes of what they left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

KILL_AT = """
import os, signal, sys
def kill_at(owner, name, call):
    count, original = 0, getattr(owner, name)
    def counted(*args, **kwargs):
        nonlocal count
        count += 1
        if count == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)
    setattr(owner, name, counted)
"""


def run_killed(code: str, *words: object) -> None:
    """Run code that calls `kill_at(owner, name, call)`: the process dies at that call of `owner.name`."""
    command = [sys.executable, "-c", KILL_AT + code, *map(str, words)]
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-2000:]
