"""Generated files through the command line, in this process, against what is to come out."""

from __future__ import annotations

import gc
import io
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from typer.main import get_command

from cascadebert import Cascade
from cascadebert.cli import app
from cascadebert.inference import predict_file
from cascadebert.inference.predict_work import Work
from generated import Case
from generated_checks import CHECKS, Wrong, check_rejects, same, unpacked

MOST_CHARACTERS = 600  # of an error


class Killed(BaseException):
    """The end of a run that nothing in it can catch."""


class Told(NamedTuple):
    """How a command ended."""

    code: int
    out: bytes
    err: str


class Found(NamedTuple):
    """How a case ended."""

    end: str  # "answered" or "refused"
    resumed: bool = False  # after an interruption
    evaluated: bool = False


@contextmanager
def replaced(owner: Any, **values: Any) -> Iterator[None]:
    """Attributes with other values for a while."""
    old = {name: owner.__dict__[name] for name in values}
    for name, value in values.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name, value in old.items():
            setattr(owner, name, value)


def command(*words: str, stdin: bytes = b"") -> Told:
    """Run the command line as the shell does."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    streams = {"stdin": io.TextIOWrapper(io.BytesIO(stdin), "utf-8"), "stdout": out, "stderr": err}
    code: Any = None
    with replaced(sys, argv=["cascadebert", *words], **streams):
        try:
            app.main()
        except SystemExit as end:
            code = end.code or 0
        except Exception as error:
            raise Wrong(f"{words[0]}: {type(error).__name__}: {error!s:.300}") from error
    return Told(code, out.buffer.getvalue(), err.buffer.getvalue().decode())


class Runner:
    """Runs cases on one saved cascade, which is loaded once."""

    def __init__(self, saved: Path, temporary: Path) -> None:
        self.saved, self.temporary = str(saved), temporary
        self.cascade = Cascade.from_pretrained(saved)
        self.verbs = get_command(app.app)

    def run(self, case: Case, folder: Path) -> Found:
        """Run a case in an empty folder. Raises Wrong where the end is not the right one."""
        for name, content in case.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        for name, target in case.links.items():
            (folder / name).symlink_to(target)
        before, here = listing(folder), Path.cwd()
        os.chdir(folder)
        try:
            with self._prepared(case):
                is_evaluated = self._evaluate(case)
                check_untouched(folder, before)
                found = self._predict(case, folder, before)
        finally:
            os.chdir(here)
        if list(self.temporary.iterdir()) and not gc.collect() and list(self.temporary.iterdir()):
            raise Wrong(f"predict: leaves {list(self.temporary.iterdir())}")
        return found._replace(evaluated=is_evaluated)

    @contextmanager
    def _prepared(self, case: Case) -> Iterator[None]:
        """The cascade is loaded and the command line made once; batch sizes are not measured."""
        chunks = {"CHUNK_ROWS": case.chunk_rows, "with_tuned_batch_sizes": lambda cascade, **_: cascade}
        with (
            replaced(Cascade, from_pretrained=lambda *_, **__: self.cascade),
            replaced(predict_file, **chunks),
            replaced(app, app=self.verbs),
            replaced(tempfile, tempdir=str(self.temporary)),
        ):
            yield

    def _evaluate(self, case: Case) -> bool:
        """True if the command answered, which it did rightly."""
        if case.evaluate == "":
            return False
        source = case.source if case.evaluate is None else case.evaluate
        told = command("evaluate", self.saved, source, "--json", *case.options, stdin=case.stdin)
        if case.is_free and told.code == 0:
            return True
        places = range(len(case.rows)) if case.evaluated is None else case.evaluated
        is_bad = case.is_free or case.refused is not None or any(row.fault for row in case.rows)
        labels = (None,) if is_bad or case.labels is None else [case.labels[i] for i in places]
        if None in labels:
            check_refused("evaluate", told, () if case.labels is None else case.refused or ())
            return False
        if told.code:
            raise Wrong(f"evaluate: expected an answer, got {told.err[-300:]}")
        values = json.loads(told.out.splitlines()[-1])
        right = self.cascade.predict([case.rows[i].text for i in places]).labels == np.array(labels)
        if (values["n"], round(values["accuracy"], 9)) != (len(right), round(float(np.mean(right)), 9)):
            raise Wrong(f"evaluate: {values['n']} rows, accuracy {values['accuracy']}, expected {right}")
        return True

    def _predict(self, case: Case, folder: Path, before: Mapping[str, bytes]) -> Found:
        told = self._command(case)
        if told.code and told.out:
            raise Wrong(f"predict: writes before it fails: {told.out!r:.200}")
        bad = [row for row in case.rows if row.fault]
        work = f"{case.output}.work"
        if case.is_free and told.code == 0:
            return Found("answered")
        if case.is_free or case.refused is not None:
            check_refused("predict", told, case.refused or ())
            check_untouched(folder, before, *[work] * case.is_free)
            return Found("refused")
        if bad and case.rejects is None:
            words = (f"row {bad[0].number}", bad[0].fault, bad[0].fault_in_full, "--rejects")
            check_refused("predict", told, words)
            has_work = bool(list((folder / work).glob("0*.json")))
            check_untouched(folder, before, *[work] * has_work)
            return self._go_on(case, folder) if has_work else Found("refused")
        self._check(case, told, folder)
        expected = {case.output, case.rejects or case.output} - {"-"}
        check_untouched(folder, before, *expected)
        if case.output == "-" or case.chunk_rows >= len(case.rows):
            return Found("answered")
        self._resume(case, folder, expected)
        check_untouched(folder, before, *expected)
        return Found("answered", resumed=True)

    def _command(self, case: Case) -> Told:
        rejects = () if case.rejects is None else ("--rejects", case.rejects)
        words = (
            "predict",
            self.saved,
            case.source,
            "--output",
            case.output,
            *case.options,
            *case.predict_options,
            *rejects,
        )
        return command(*words, stdin=case.stdin)

    def _go_on(self, case: Case, folder: Path) -> Found:
        """Go on with a run that a bad row has stopped, now with rejects."""
        case = replace(case, rejects="rejects.jsonl")
        self._check(case, self._command(case), folder)
        if (folder / f"{case.output}.work").exists():
            raise Wrong("predict: the work folder is left over")
        return Found("refused", resumed=True)

    def _resume(self, case: Case, folder: Path, outputs: set[str]) -> None:
        """Kill a run after some chunks and let it go on: it keeps them and writes the same bytes."""
        whole = {name: (folder / name).read_bytes() for name in outputs}
        for name in outputs:
            (folder / name).unlink()
        last = len(case.rows) // case.chunk_rows // 2
        store, numbers = Work.store, list[int]()

        def store_and_die(work: Work, number: int, report: Mapping[str, Any]) -> None:
            store(work, number, report)
            numbers.append(number)
            if len(numbers) == last + 1:
                raise Killed

        with replaced(Work, store=store_and_die):
            try:
                self._command(case)
                raise Wrong("predict: stores too few chunks")
            except Killed:
                pass
            self._check(case, self._command(case), folder)
        same("chunks that are stored", numbers, list(range(len(numbers))))
        if whole != {name: (folder / name).read_bytes() for name in outputs}:
            raise Wrong("predict: a resumed run writes other bytes")

    def _check(self, case: Case, told: Told, folder: Path) -> None:
        """Check the output of a run that should have answered."""
        if told.code:
            raise Wrong(f"predict: expected an answer, got {told.err[-300:]}")
        missing = [word for word in case.says if word not in told.err]
        if missing:
            raise Wrong(f"predict: says nothing of {missing}: {told.err[-300:]}")
        good = [row for row in case.rows if not row.fault]
        predictions = self.cascade.predict([row.text for row in good])
        added = list(
            zip(predictions.labels.tolist(), predictions.confidences, predictions.stages, strict=True)
        )
        if case.output == "-":
            content, suffix = told.out, "csv" if case.stdin.startswith(b"id,") else "jsonl"
        else:
            content, suffix = (folder / case.output).read_bytes(), case.output.partition(".")[2]
        CHECKS[suffix.replace("ndjson", "jsonl").partition(".")[0]](
            case, good, added, unpacked(content, suffix)
        )
        if case.rejects is not None:
            check_rejects([row for row in case.rows if row.fault], folder / case.rejects)


def listing(folder: Path) -> dict[str, bytes]:
    """Every file with its content, and every folder."""
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    return {name: path.read_bytes() if path.is_file() else b"" for name, path in paths.items()}


def check_untouched(folder: Path, before: Mapping[str, bytes], *added: str) -> None:
    """Check that nothing has changed but what was added."""
    after = listing(folder)
    changed = [name for name in {*after, *before} if after.get(name) != before.get(name)]
    wrong = [name for name in changed if not name.startswith(added or "\0")]
    if wrong:
        raise Wrong(f"changed files: {sorted(wrong)}")


def check_refused(verb: str, told: Told, words: Sequence[str]) -> None:
    """Check that a command ended with one message that has these words."""
    _, _, message = told.err.rpartition("error: ")
    if (
        told.code != 2
        or told.err.count("error: ") != 1
        or len(message) >= MOST_CHARACTERS
        or "Traceback" in told.err
    ):
        raise Wrong(
            f"{verb}: expected one error with {words}, got {told.code}: {told.err[:700]}{told.out[:200]!r}"
        )
    missing = [word for word in words if word.lower() not in message.lower()]
    if missing:
        raise Wrong(f"{verb}: the error lacks {missing}: {message}")
