"""How far a long task is: a bar on a terminal, elsewhere a line a minute."""

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
    """Is told how much is done so far, and what else there is to say."""

    def __call__(self, done: int, note: str = "") -> None:
        """Show it."""


@contextmanager
def progress_bar(what: str, total: int, unit: str) -> Iterator[ShowProgress]:
    """Show how much of a task is done, how fast it goes and how long it will take, on standard error.

    Args:
        what: the task in words.
        total: its size.
        unit: what is counted.

    Yields:
        A function that is told how much is done so far.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(what, total, unit)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        _Rate(unit),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(what, total=total)

        def show(done: int, note: str = "") -> None:
            told = f"{what} ({note})" if note else what
            progress.update(task, completed=done, description=told)

        yield show


class _Rate(ProgressColumn):
    """Done, total and speed."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        rate = "" if speed is None else f", {_short(speed)}/s"
        return Text(f"{_short(task.completed)} of {_short(task.total or 0)} {self._unit}{rate}")


class _Lines:
    """A line in the log when a minute has passed since the last."""

    def __init__(self, what: str, total: int, unit: str) -> None:
        self._what, self._total, self._unit = what, total, unit
        self._begun: tuple[float, int] | None = None
        self._said = 0.0

    def __call__(self, done: int, note: str = "") -> None:
        time = now()
        if self._begun is None:  # a task that goes on from a checkpoint does not begin at 0
            self._begun, self._said = (time, done), time
        if time - self._said < SECONDS_BETWEEN_LINES:
            return
        self._said = time
        start, before = self._begun
        speed = (done - before) / (time - start)
        left = f"{(self._total - done) / speed / 60:.0f} min left" if speed else "no end in sight"
        share, rate = f"{100 * done / self._total:.0f} % of {_short(self._total)}", _short(speed)
        told = ", ".join([f"{share} {self._unit}", f"{rate}/s", left, *filter(None, [note])])
        log.info("%s: %s", self._what, told)


def _short(number: float) -> str:
    """A count, cut to what a reader needs.

    >>> _short(950), _short(14_360_000)
    ('950', '14.4 M')
    """
    if number >= 1e6:
        return f"{number / 1e6:.1f} M"
    return f"{number:,.0f}" if number >= 10 or number == int(number) else f"{number:.1f}"
