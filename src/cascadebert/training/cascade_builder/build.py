"""From a fine-tuned classifier and texts to the fastest cascade that keeps a target."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from cascadebert.atomic import (
    WORK_MARKER,
    atomic_file,
    check_work_directory,
    work_directory,
    work_directory_path,
)
from cascadebert.data.columns import ColumnNames, Columns, named
from cascadebert.data.dataset import DataSource, Examples
from cascadebert.errors import CascadeError, explain_full_disk, show_paths_as
from cascadebert.evaluation.evaluate import check_has_tokens
from cascadebert.evaluation.report.html import check_report_libraries
from cascadebert.inference.cascade import Cascade, check_input_kind
from cascadebert.inference.engines.load import engine_options
from cascadebert.paths import WORK, check_roles
from cascadebert.persistence.checkpoint_config import config_label_names, read_config
from cascadebert.persistence.folder import (
    REPORT_FILE,
    SPEC_FILE,
    atomic_directory,
    ensure_writable_directory,
    read_folder,
    read_used_rows,
)
from cascadebert.thresholds.operating_point import DEFAULT_TARGET, Target
from cascadebert.thresholds.select import InfeasibleTarget
from cascadebert.training.cascade_builder.candidates import copy_classifier, list_candidates, once
from cascadebert.training.cascade_builder.choose import Made, choose
from cascadebert.training.cascade_builder.curve import save_curve
from cascadebert.training.cascade_builder.finish import certify_cascade, measure, save_cascade, verdict
from cascadebert.training.cascade_builder.kept import KeptStages
from cascadebert.training.cascade_builder.page import write_page
from cascadebert.training.cascade_builder.parts import Parts, divide, load_corpus, load_data
from cascadebert.training.cascade_builder.progress import PROGRESS_FILE, Progress
from cascadebert.training.cascade_builder.result import (
    BuildResult,
    Certification,
    ChosenCascade,
    ReportMetrics,
)
from cascadebert.training.cascade_builder.search import BuildJob, PlannedBuild, Searched, plan, search
from cascadebert.training.checkpoints import (
    check_stages,
    checkpoint_fingerprint,
    display_name,
    fingerprint,
    weight_files,
)
from cascadebert.training.open_stage import open_checkpoint, opened_classifiers
from cascadebert.training.stage_check import StageFiles, load_checked
from cascadebert.tuning.engine_choice import EngineChoice, choose_engine
from cascadebert.tuning.tune import needs_labels

CURVE, MADE_BY = "curve.svg", "build"


@dataclass(frozen=True)
class BuildRequest:
    """All that a build is given but its output; see `build`.

    Raises CascadeError if a number is out of range.
    """

    model: str | Path
    data: DataSource | Sequence[DataSource]
    target: Target
    minutes: float
    confidence_level: float = 0.95
    max_stages: int = 3
    small: Sequence[str | Path] = ()
    corpus: DataSource | None = None
    columns: Columns | None = None
    max_length: int | None = None
    engine: str = "auto"
    precision: str = "auto"
    kept: KeptStages | None = None  # instead of `small` and all other candidates

    def __post_init__(self) -> None:
        if not 0 < self.minutes < math.inf:
            raise CascadeError(f"the minutes must be above 0 and finite, not {self.minutes:g}")
        if self.max_stages < 2:
            raise CascadeError(f"a cascade has two stages or more; --max-stages is {self.max_stages}")
        if not 0.5 <= self.confidence_level < 1:
            level = self.confidence_level
            raise CascadeError(f"the confidence level must be in [0.5, 1) (such as 0.95), not {level}")


@explain_full_disk()
def build(
    model: str | Path,
    *,
    data: DataSource | Sequence[DataSource],
    output: str | Path,
    target: Target = DEFAULT_TARGET,
    confidence_level: float = 0.95,
    small: Sequence[str | Path] = (),
    corpus: DataSource | None = None,
    minutes: float = 60.0,
    max_stages: int = 3,
    columns: Columns | None = None,
    max_length: int | None = None,
    engine: str = "auto",
    precision: str = "auto",
    overwrite: bool = False,
) -> BuildResult:
    """Make the fastest cascade before a fine-tuned classifier that keeps a target, and save it.

    Small models are made within the time and learn the classifier's predictions; stages, score and
    thresholds are chosen as one by cross-validation; the result is certified and measured on texts that had
    no part in it. Where no cascade pays, only the report is saved. All that was made is kept in
    `OUTPUT.work`, from which the same call goes on after an interruption, or with more time.

    Args:
        model: The classifier: a folder or a repository of the Hub.
        data: Texts like those to come, with or without labels: one source or several (see `load_examples`).
        output: The folder to write.
        target: The requirement; accuracy targets need labels.
        confidence_level: Of the certificate, in [0.5, 1).
        small: Small models to try: encoders, or classifiers of the same labels.
        corpus: More texts for the small models to learn from.
        minutes: Time for all of it, on this machine; that of earlier calls for the same output counts.
        max_stages: The most stages, the classifier included.
        columns: Names of the columns, if they are not the usual ones; the cascade remembers them.
        max_length: Maximum tokens per text; by default 128.
        engine: "openvino", "onnxruntime", "torch" or "auto", as for `assemble`.
        precision: "float32", "bfloat16", "int8" or "auto", as for `assemble`.
        overwrite: Replace an existing output that was not made by such a call.

    Returns:
        All that was found; `cascades` tells if a cascade was saved.

    Raises:
        CascadeError: If the classifier, the texts or a limit cannot be used; the output is not changed.
    """
    request = BuildRequest(
        model, data, target, minutes, confidence_level, max_stages, small, corpus, columns, max_length,
        engine, precision,
    )  # fmt: skip
    output = Path(output)
    inputs = {"MODEL": model, "--data": data, "--small": list(small), "--corpus": corpus}
    check_roles({"--output": output, WORK: work_directory_path(output)}, inputs)
    check_work_directory(output)
    ensure_writable_directory(output, overwrite=overwrite or was_built(output, work_directory_path(output)))
    with opened(request, lambda: work_directory(output)) as job:
        return finish(job, search(job), confidence_level, named(columns), output)


def plan_build(
    model: str | Path,
    *,
    data: DataSource | Sequence[DataSource],
    target: Target = DEFAULT_TARGET,
    small: Sequence[str | Path] = (),
    corpus: DataSource | None = None,
    minutes: float = 60.0,
    columns: Columns | None = None,
    max_length: int | None = None,
    engine: str = "auto",
    precision: str = "auto",
) -> PlannedBuild:
    """The candidates that `build` would try and the minutes that they would take; nothing is kept."""
    request = BuildRequest(
        model, data, target, minutes,
        small=small, corpus=corpus, columns=columns, max_length=max_length,
        engine=engine, precision=precision,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as work, opened(request, lambda: Path(work)) as job:
        return plan(job)


def was_built(output: Path, work: Path) -> bool:
    """True if all that an output holds is what an earlier build, with its steps in `work`, wrote."""
    if not (work / PROGRESS_FILE).is_file() or not output.is_dir():
        return False
    if not (output / SPEC_FILE).is_file():
        return True  # no cascade that could be lost
    return read_folder(output, check_files=False).provenance.get("made_by") == MADE_BY


@contextmanager
def opened(request: BuildRequest, work: Callable[[], Path]) -> Iterator[BuildJob]:
    """The classifier and the texts, checked; `work` creates the work directory."""
    check_report_libraries()
    options = engine_options(request.engine, request.precision)
    model, kept = str(request.model), request.kept
    with opened_classifiers([model]) as (source,), tempfile.TemporaryDirectory() as temporary:
        weight_files(source)
        names = config_label_names(read_config(source), source)
        if kept is None:
            places = enumerate(request.small)
            folders = {str(name): open_checkpoint(name, Path(temporary) / str(i)) for i, name in places}
        else:
            folders = kept.folders(model, names)
        for name, folder in folders.items():
            check_stages([name, model], [folder, source], num_labels=len(names))
        examples, parts = _load(request, names)
        texts = (parts.train, parts.tune.texts, parts.certify.texts, parts.report.texts)
        hashes = [Examples(part, None).sha256() for part in texts]
        asked = (request.max_length, request.engine, request.precision)
        key = fingerprint(checkpoint_fingerprint(source), hashes, *asked)
        top = work()
        with _work_folder(top, key) as folder, show_paths_as({folder / "classifier": model, source: model}):
            copy = once(folder / "classifier", partial(copy_classifier, source))
            files = StageFiles(display_name(model), copy, tokenizer=source, model=source)
            progress, tuning_texts = Progress(top, key), parts.tune.texts
            load = partial(load_checked, files, tuning_texts, max_length=request.max_length)
            stage = load(engine=options[0][0], precision=options[0][1])
            check_has_tokens(examples, [stage.tokenizer])
            list_all = partial(list_candidates, stage) if kept is None else partial(kept.candidates, stage)
            candidates = list_all(folders)
            choose = partial(choose_engine, stage, options, tuning_texts)
            choice = progress.step("engine", choose, EngineChoice)
            if (choice.engine, choice.precision) != options[0]:
                stage = load(engine=choice.engine, precision=choice.precision)
            yield BuildJob(
                folder, progress, files, stage, choice, candidates, parts, request.target,
                request.minutes, request.max_stages, keeps_all=kept is not None,
            )  # fmt: skip


@contextmanager
def _work_folder(top: Path, key: str) -> Iterator[Path]:
    """A folder in the work directory, which is removed if an error comes before the first step."""
    folder = top / key
    folder.mkdir(exist_ok=True)
    try:
        yield folder
    except CascadeError:
        if not Progress(top, key).has_any:
            shutil.rmtree(folder)
            if {file.name for file in top.iterdir()} <= {WORK_MARKER}:
                shutil.rmtree(top)
        raise


def _load(request: BuildRequest, label_names: Sequence[str]) -> tuple[Examples, Parts]:
    """The examples, and all texts by purpose."""
    data, columns, kept = request.data, request.columns, request.kept
    sources = list(data) if isinstance(data, (list, tuple)) else [data]
    examples = load_data(sources, label_names, columns=columns, labels=needs_labels(request.target))
    corpus = load_corpus(request.corpus, examples, columns)
    if kept is None:
        return examples, divide(examples, corpus)
    check_input_kind(kept.spec, examples.texts)
    return examples, divide(examples, corpus, kept.used, trains=kept.retrain)


def finish(
    job: BuildJob,
    searched: Searched,
    confidence_level: float,
    columns: ColumnNames | None,
    output: Path,
) -> BuildResult:
    """Choose among the stages that were made, save, certify and measure the cascade, and write the output."""
    progress, parts, made, target = job.progress, job.parts, searched.made, job.target
    folders, names = [one.files.folder.name for one in made], [one.candidate.name for one in made]
    key = fingerprint(folders, repr(target), job.max_stages, parts.tune.sha256())
    labeled = fingerprint(key, parts.certify.sha256(), parts.report.sha256(), confidence_level)
    folder = job.work / f"cascade-{labeled}"
    chosen, certification, report, missed = None, None, None, None
    try:
        if len(made) > 1:
            run = partial(choose, made, searched.arrays, target, job.chains(searched.arrays))
            chosen = progress.step(f"choose-{fingerprint(key, names)}", run, ChosenCascade)
        if chosen is not None and verdict(chosen, None, target)[0]:
            earlier = _earlier_readings(job, output)
            certify = partial(_save_certified, job, made, chosen, confidence_level, columns, folder, earlier)
            certification = progress.step(f"certify-{labeled}", certify, Certification)
            measured = partial(_measure_saved, folder, parts.report)
            report = progress.step(f"measure-{labeled}", measured, ReportMetrics)
    except InfeasibleTarget as error:
        missed = str(error)
    pays, reasons = verdict(chosen, report, target)
    pays = pays and report is not None
    result = BuildResult(
        cascades=pays,
        reasons=tuple(reasons) if missed is None else (missed,),
        output=output,
        model=job.files.name,
        engine=job.engine,
        target=target,
        parts=parts.counts,
        notices=parts.notices,
        candidates=searched.reports,
        chosen=chosen,
        certification=certification if pays else None,
        report=report,
        seconds=progress.seconds,
    )
    return _publish(result, folder if pays else None)


def _save_certified(
    job: BuildJob,
    made: Sequence[Made],
    chosen: ChosenCascade,
    confidence_level: float,
    columns: ColumnNames | None,
    folder: Path,
    earlier: int,
) -> Certification:
    """Save the chosen cascade and certify it: one step, as a certificate reads its texts once only."""
    by_name = {one.candidate.name: one for one in made}
    stages = [by_name[name] for name in chosen.stages]
    provenance = {"made_by": MADE_BY, "rows": job.parts.counts, "target": repr(job.target)}
    save_cascade(stages, chosen, job.target, job.parts, provenance, columns, folder, job.engine.timed)
    return certify_cascade(folder, job.target, job.parts, confidence_level, earlier=earlier)


def _earlier_readings(job: BuildJob, output: Path) -> int:
    """Number of times that a certificate read the certification texts: of builds, or of `tune`."""
    builds = sum(result["bound"] is not None for result in job.progress.results("certify-"))
    if builds or not (output / SPEC_FILE).is_file():
        return builds
    return int(np.isin(job.parts.certify.hashes(), read_used_rows(output).consumed).any())


def _measure_saved(folder: Path, report: Examples) -> ReportMetrics:
    return measure(Cascade.from_pretrained(folder), report)


def _publish(result: BuildResult, cascade: Path | None) -> BuildResult:
    """Replace the output by the cascade, if there is one, and the report.

    If there is none, a cascade in the output is kept, and the report goes to the work folder.
    """
    output = result.output
    if cascade is None and (output / SPEC_FILE).is_file():
        result = replace(result, output=work_directory_path(output))
        with atomic_file(result.output / REPORT_FILE) as page:
            write_page(page, result)
        return result
    with atomic_directory(output, overwrite=True) as new:
        if cascade is not None:
            shutil.copytree(cascade, new, dirs_exist_ok=True)
            save_curve(new / CURVE, result)
        write_page(new / REPORT_FILE, result)
    return result
