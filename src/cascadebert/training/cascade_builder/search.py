"""Makes candidates, the cheapest first, as long as one can pay and there is time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from cascadebert.errors import StageError
from cascadebert.evaluation.cost_model import LatencyModel
from cascadebert.evaluation.templates import duration
from cascadebert.inference.stage import Stage
from cascadebert.thresholds.operating_point import Target
from cascadebert.thresholds.stage_choice import CandidateStages
from cascadebert.timing import interleaved
from cascadebert.training.cascade_builder.candidates import (
    Candidate,
    Lesson,
    MadeFolders,
    make_candidate,
    stage_files,
)
from cascadebert.training.cascade_builder.choose import (
    TIMED_TEXTS,
    Made,
    candidate_stages,
    expected_seconds,
    in_order,
    least_seconds,
    level_of,
    time_stages,
    tuning_logits,
)
from cascadebert.training.cascade_builder.parts import Parts
from cascadebert.training.cascade_builder.progress import Progress
from cascadebert.training.cascade_builder.result import CandidateReport
from cascadebert.training.cascade_builder.schedule import (
    Schedule,
    Speeds,
    affordable_passes,
    make_schedule,
    relative_cost,
    seconds_to_make,
    trained_operations,
    wanted_passes,
)
from cascadebert.training.cascade_builder.teacher import TeacherOutputs, count_stored, run_teacher
from cascadebert.training.checkpoints import fingerprint
from cascadebert.training.stage_check import StageFiles, load_checked
from cascadebert.training.trainer import log
from cascadebert.tuning.engine_choice import EngineChoice
from cascadebert.types import Texts

TIMED_ALONE = 96  # texts, to measure the classifier's speed
PAYS = 0.9  # a candidate must be able to take the expected time below this fraction of itself
MIN_TRAINING_SECONDS = 5.0  # to measure the speed of training by
SEED = 1234


@dataclass(frozen=True)
class BuildJob:
    """The classifier, the texts and the limits of a build."""

    work: Path  # of this classifier and these texts
    progress: Progress
    files: StageFiles  # of the classifier
    classifier: Stage
    engine: EngineChoice  # that it runs on
    candidates: Sequence[Candidate]  # in the order in which they are made
    parts: Parts
    target: Target
    minutes: float
    max_stages: int
    keeps_all: bool = False  # every candidate is a stage, in this order

    def chains(self, arrays: CandidateStages) -> list[tuple[int, ...]]:
        """The cascades to choose among, by the indices of their stages."""
        return [tuple(range(len(arrays.tokenizers)))] if self.keeps_all else arrays.chains(self.max_stages)


@dataclass(frozen=True)
class Searched:
    """The stages that were made, from the fastest to the classifier, and reports on all candidates."""

    made: tuple[Made, ...]
    arrays: CandidateStages
    reports: tuple[CandidateReport, ...]


@dataclass(frozen=True)
class PlannedCandidate:
    """A candidate with its estimates before anything is made."""

    candidate: Candidate
    relative_cost: float  # its operations over the classifier's
    minutes: float | None  # None: there is not enough time


def measure_speeds(stage: Stage, parts: Parts) -> Speeds:
    """Speeds of the classifier on some of the texts; raises StageError if its operations are not known."""
    if stage.flops is None:
        raise StageError(f"{stage.name}: its operations cannot be counted")
    texts = [*parts.train[:TIMED_ALONE], *parts.tune.texts[:TIMED_ALONE]][:TIMED_ALONE]
    tokens = stage.encode(texts)
    seconds = min(interleaved([lambda: stage.logits(tokens)], repeats=2)[0]) / len(texts)
    operations = float(stage.flops.cost_of(tokens.padded_lengths).mean())
    return Speeds(seconds, float(tokens.lengths.mean()), operations / seconds)


@dataclass(frozen=True)
class PlannedBuild:
    """The steps of a build, and the minutes that they would take."""

    parts: dict[str, int]  # texts by purpose
    schedule: Schedule
    candidates: tuple[PlannedCandidate, ...]


def plan(job: BuildJob) -> PlannedBuild:
    """The schedule, and every candidate with its estimates; nothing is trained or written."""
    speeds = measure_speeds(job.classifier, job.parts)
    candidates = [candidate for candidate in job.candidates if candidate.fault is None]
    schedule = _schedule(job, speeds)
    left, planned = 60 * job.minutes - schedule.pass_seconds - schedule.finish_seconds, []
    for i, candidate in enumerate(candidates):
        is_last, seconds = i == len(candidates) - 1, None
        passes = affordable_passes(candidate, left, schedule, speeds, is_last=is_last)
        if passes is not None:
            seconds = seconds_to_make(candidate, passes, schedule, speeds)
            left -= seconds
        share = relative_cost(candidate, speeds)
        planned.append(PlannedCandidate(candidate, share, None if seconds is None else seconds / 60))
    return PlannedBuild(job.parts.counts, schedule, tuple(planned))


def _schedule(job: BuildJob, speeds: Speeds) -> Schedule:
    students = any(candidate.kind == "student" and candidate.fault is None for candidate in job.candidates)
    return make_schedule(job.minutes, len(job.parts.train), students, speeds)


def search(job: BuildJob) -> Searched:
    """Make the candidates that can pay, as long as there is time."""
    return _Search(job).run()


class _Search:
    def __init__(self, job: BuildJob) -> None:
        self._job = job
        self._speeds = job.progress.step("speeds", lambda: measure_speeds(job.classifier, job.parts), Speeds)
        self._candidates = job.candidates
        self._schedule = _schedule(job, self._speeds)
        stage = job.classifier
        assert stage.flops is not None
        whole = Candidate(job.files.name, "classifier", stage.layers, stage.hidden, stage.flops)
        self._made = [self._made_of(whole, job.files, stage)]
        self._made, self._arrays = self._timed(TIMED_TEXTS)
        self._reasons: dict[str, str] = {}

    def run(self) -> Searched:
        job, lesson = self._job, self._lesson()
        for candidate in self._candidates:
            reason = self._refusal(candidate) or self._make(candidate, lesson)
            if reason is not None and job.keeps_all:
                raise StageError(f"{candidate.name}: {reason}")
            if reason is not None:
                log.info("%s: not made, %s", candidate.name, reason)
                self._reasons[candidate.name] = reason
        made, arrays = self._timed()
        reports = [self._report(one, i, arrays) for i, one in enumerate(made)]
        missing = [
            CandidateReport(one.name, "not made", self._reasons[one.name], one.layers, one.hidden)
            for one in self._candidates
            if one.name in self._reasons
        ]
        return Searched(tuple(made), arrays, (*reports[:-1], *missing, reports[-1]))

    def _lesson(self) -> Lesson:
        """The classifier's outputs for the texts to train on, made where they are missing."""
        job, schedule = self._job, self._schedule
        folder = job.work / "outputs"
        count = max(schedule.texts, count_stored(folder))  # of an earlier call, with more minutes
        texts = job.parts.train[:count]
        run = partial(self._run, texts, folder)
        if count:
            log.info(
                "%s: its predictions for %s texts are what small models learn", job.files.name, f"{count:,}"
            )
        job.progress.step(f"pass-{count}", lambda: len(run().logits), int)
        outputs, length = run(), job.classifier.tokenizer.max_length
        hidden = len(outputs.states) if len(outputs.tokens) > 1 else 0
        self._schedule = replace(schedule, texts=count, hidden_tokens=hidden)  # as it is
        return Lesson(job.work, job.classifier, texts, outputs, length, SEED)

    def _run(self, texts: Texts, folder: Path) -> TeacherOutputs:
        """Outputs of the classifier, with hidden states unless it has none that students can learn."""
        run = partial(run_teacher, self._job.classifier, texts, folder=folder)
        try:
            return run(hidden_tokens=self._schedule.hidden_tokens)
        except StageError as error:
            log.info("students learn no hidden states: %s", error)
            return run(hidden_tokens=0)

    def _refusal(self, candidate: Candidate) -> str | None:
        """The reason not to make a candidate: it cannot be made, or cannot pay.

        It cannot pay if it would not even with the classifier's predictions.
        """
        if candidate.fault is not None:
            return candidate.fault
        if self._job.keeps_all or self._job.progress.has(f"passes-{candidate.key}"):  # decided before
            return None
        job, arrays = self._job, self._arrays
        level = level_of(job.target)
        now = expected_seconds(arrays, level, job.max_stages)
        costs = arrays.model_costs[-1] * relative_cost(candidate, self._speeds)
        same = candidate.source is None
        least = least_seconds(arrays, costs, level, job.max_stages, same_tokenizer=same)
        if least <= PAYS * now:
            return None
        return (
            f"it cannot pay: a text takes {1000 * now:.3g} ms now, and would take {1000 * least:.3g} if it "
            "predicted as the classifier does"
        )

    def _make(self, candidate: Candidate, lesson: Lesson) -> str | None:
        """Make a candidate and take it into the choice; the reason if it cannot be made."""
        job, progress, schedule, speeds = self._job, self._job.progress, self._schedule, self._speeds
        passes, key = self._passes(candidate), f"made-{candidate.key}"
        if passes is None:
            wanted = seconds_to_make(candidate, wanted_passes(candidate, schedule.texts), schedule, speeds)
            return f"it takes about {duration(wanted)}, and too little time is left: give more --minutes"
        estimate = seconds_to_make(candidate, passes, schedule, speeds)
        if candidate.is_trained:
            log.info("%s: %.1f passes, about %.1f minutes", candidate.name, passes, estimate / 60)
        try:
            made = progress.step(key, lambda: make_candidate(candidate, lesson, passes), MadeFolders)
            files = stage_files(candidate, made, job.work)
            stage = self._checked(files)
        except StageError as error:
            return str(error)
        seconds = progress.seconds_of(key)
        if candidate.is_trained and candidate.kind != "static" and seconds > MIN_TRAINING_SECONDS:
            done = trained_operations(candidate, passes, schedule, speeds)
            self._speeds = replace(speeds, training=done / seconds)
        self._made.insert(-1, self._made_of(candidate, files, stage))
        self._made, self._arrays = self._timed(TIMED_TEXTS)
        return None

    def _passes(self, candidate: Candidate) -> float | None:
        """Passes that a candidate is trained for, as once decided; None if the minutes are too few."""
        progress, minutes = self._job.progress, self._job.minutes
        decided = f"passes-{candidate.key}"
        if progress.has(decided):
            return progress.step(decided, float, float)

        def decide() -> float:
            left = 60 * minutes - progress.elapsed - self._schedule.finish_seconds
            is_last = candidate is [one for one in self._candidates if one.fault is None][-1]
            passes = affordable_passes(candidate, left, self._schedule, self._speeds, is_last=is_last)
            return -1.0 if passes is None else passes

        passes = progress.step(f"within-{minutes:g}-{candidate.key}", decide, float)
        return progress.step(decided, lambda: passes, float) if passes >= 0 else None

    def _timed(self, texts: int | None = None) -> tuple[list[Made], CandidateStages]:
        """The stages in their order, and their outputs and costs.

        They are timed once: a later call decides as this one.
        """
        job, made, tune = self._job, list(self._made), self._job.parts.tune
        key = fingerprint([one.files.folder.name for one in made], texts)
        time = partial(time_stages, made, tune, texts=texts)
        arrays = candidate_stages(made, tune, job.progress.step(f"timed-{key}", time, LatencyModel))
        return (made, arrays) if job.keeps_all else in_order(made, arrays)

    def _checked(self, files: StageFiles) -> Stage:
        """A stage on the classifier's engine, with its order of labels."""
        last = self._job.classifier
        stage = load_checked(
            files,
            self._job.parts.tune.texts,
            engine=last.engine.name,
            precision=last.engine.precision,
            max_length=last.tokenizer.max_length,
        )
        return stage.with_labels(last.label_names)

    def _made_of(self, candidate: Candidate, files: StageFiles, stage: Stage) -> Made:
        return Made(candidate, files, stage, tuning_logits(stage, self._job.parts.tune, self._job.work))

    def _report(self, one: Made, index: int, arrays: CandidateStages) -> CandidateReport:
        """The report on a stage that was made, or on the classifier."""
        predictions, labels = arrays.probabilities.argmax(axis=2), arrays.labels
        seconds = float((arrays.model_costs + arrays.tokenizing_costs)[index].mean())
        last = index == len(arrays.probabilities) - 1
        agreement = float((predictions[index] == predictions[-1]).mean())
        return CandidateReport(
            name=one.candidate.name,
            state="the classifier" if last else "made",
            reason="" if last else _made_reason(one.candidate, self._schedule),
            layers=one.stage.layers,
            hidden=one.stage.hidden,
            texts_per_second=1 / seconds,
            relative_cost=seconds / arrays.last_stage_cost,
            agreement=agreement,
            accuracy=None if labels is None else float((predictions[index] == labels).mean()),
            seconds=None if last else self._job.progress.seconds_of(f"made-{one.candidate.key}"),
        )


def _made_reason(candidate: Candidate, schedule: Schedule) -> str:
    if not candidate.is_trained:
        return "used as it is: a classifier of the same labels"
    if candidate.kind == "student" and schedule.hidden_tokens:
        return "learned the classifier's hidden states and logits"
    return "learned the classifier's logits"
