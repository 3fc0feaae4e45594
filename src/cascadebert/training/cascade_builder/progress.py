"""Steps of a build that are done, and what they found: a killed build goes on after the last of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from cascadebert.atomic import write_text_atomically
from cascadebert.errors import CascadeError
from cascadebert.timing import now

PROGRESS_FILE = "progress.json"
ResultT = TypeVar("ResultT")


class Progress:
    """The finished steps in a work directory, with their results and the seconds that they took.

    Steps of one classifier and one set of texts belong together: their keys begin with the same `prefix`.
    """

    def __init__(self, work: Path, prefix: str) -> None:
        """Read what is there. Raises CascadeError if the file is damaged."""
        self._file, self._prefix = work / PROGRESS_FILE, prefix
        self._steps: dict[str, dict[str, Any]] = {}
        self._start = now()
        if self._file.is_file():
            try:
                self._steps = dict(json.loads(self._file.read_text("utf-8")))
            except ValueError as error:
                raise self._damaged(error) from error
        self._earlier = self.seconds

    @property
    def elapsed(self) -> float:
        """Seconds since this object was made, and those that the steps finished before then took."""
        return self._earlier + now() - self._start

    @property
    def seconds(self) -> float:
        """Seconds that the finished steps took."""
        return float(sum(step["seconds"] for step in self._own().values()))

    def seconds_of(self, key: str) -> float:
        """Seconds that a finished step took; 0 if it is not finished."""
        return float(self._own().get(key, {}).get("seconds", 0.0))

    @property
    def has_any(self) -> bool:
        """True if a step is finished."""
        return bool(self._own())

    def has(self, key: str) -> bool:
        """True if a step is finished."""
        return key in self._own()

    def results(self, kind: str) -> list[Any]:
        """Plain results of the finished steps of a kind, those of other classifiers and texts included."""
        return [step["result"] for key, step in self._steps.items() if f"/{kind}" in key]

    def step(self, key: str, make: Callable[[], ResultT], kind: type[ResultT]) -> ResultT:
        """The result of a step: as it was found before, or made and stored now."""
        adapter, full = TypeAdapter(kind), f"{self._prefix}/{key}"
        if full in self._steps:
            try:
                return adapter.validate_python(self._steps[full]["result"])
            except ValidationError as error:
                raise self._damaged(error) from error
        start = now()
        result = make()
        dumped = adapter.dump_python(result, mode="json")
        self._steps[full] = {"seconds": now() - start, "result": dumped}
        write_text_atomically(self._file, json.dumps(self._steps, indent=1))
        return result

    def _own(self) -> dict[str, dict[str, Any]]:
        start = f"{self._prefix}/"
        return {key.removeprefix(start): step for key, step in self._steps.items() if key.startswith(start)}

    def _damaged(self, error: Exception) -> CascadeError:
        reason = str(error).splitlines()[0]
        return CascadeError(f"{self._file} is damaged ({reason}). Remove {self._file.parent}.")
