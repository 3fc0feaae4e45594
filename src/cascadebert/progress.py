"""Progress of long tasks: a bar on a terminal, otherwise one log line per minute."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from cascadebert.timing import now

log = logging.getLogger("cascadebert")
SECONDS_BETWEEN_LINES = 60.0


class ShowProgress(Protocol):
    """A function that displays the amount done so far, and a note."""

    def __call__(self, done: int, note: str = "") -> None:
        """Display it."""


@contextmanager
def progress_bar(task: str, total: int, unit: str) -> Iterator[ShowProgress]:
    """Display progress, speed and remaining time of a task of `total` units on standard error."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _log_lines(task, total, unit)
        return
    remaining = TimeRemainingColumn(compact=True, elapsed_when_finished=True)
    columns = (TextColumn("{task.description}"), BarColumn(), _RateColumn(unit), remaining)
    with Progress(*columns, console=console) as progress:
        task_id = progress.add_task(task, total=total)

        def show(done: int, note: str = "") -> None:
            progress.update(task_id, completed=done, description=f"{task} ({note})" if note else task)

        yield show


class _RateColumn(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        rate = "" if speed is None else f", {_short(speed)}/s"
        return Text(f"{_short(task.completed)} of {_short(task.total or 0)} {self._unit}{rate}")


def _log_lines(task: str, total: int, unit: str) -> ShowProgress:
    start: tuple[float, int] | None = None
    last_line = 0.0

    def show(done: int, note: str = "") -> None:
        nonlocal start, last_line
        time = now()
        if start is None:  # a task resumed from a checkpoint does not start at 0
            start, last_line = (time, done), time
        if time - last_line < SECONDS_BETWEEN_LINES:
            return
        last_line = time
        speed = (done - start[1]) / (time - start[0])
        left = f"{(total - done) / speed / 60:.0f} min left" if speed else "remaining time unknown"
        percent = f"{100 * done / total:.0f} % of {_short(total)} {unit}"
        log.info("%s: %s", task, ", ".join([percent, f"{_short(speed)}/s", left, *filter(None, [note])]))

    return show


def _short(number: float) -> str:
    """A number with the digits that a reader needs.

    >>> _short(950), _short(14_360_000)
    ('950', '14.4 M')
    """
    if number >= 1e6:
        return f"{number / 1e6:.1f} M"
    return f"{number:,.0f}" if number >= 10 or number == int(number) else f"{number:.1f}"
