"""The result of a build, as plain values: what was tried, what was chosen, and what it is worth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cascadebert.evaluation.benchmark import BenchmarkResult
from cascadebert.thresholds.operating_point import Target
from cascadebert.thresholds.stage_choice import HeldOutMetrics
from cascadebert.tuning.engine_choice import EngineChoice
from cascadebert.types import Interval

State = Literal["made", "not made", "the classifier"]


@dataclass(frozen=True)
class CandidateReport:
    """One model that was tried, or not, and the decision about it."""

    name: str
    state: State
    reason: str  # of the decision, a sentence
    layers: int
    hidden: int
    texts_per_second: float | None = None  # alone, tokenization included; None if it was not made
    relative_cost: float | None = None  # its time per text over the classifier's
    agreement: float | None = None  # with the classifier on the tuning set
    accuracy: float | None = None  # there; None without labels
    seconds: float | None = None  # that it took to make


@dataclass(frozen=True)
class TriedChain:
    """The best thresholds of one set of stages, on the tuning set."""

    stages: tuple[str, ...]
    score: str
    speedup: float  # expected, over the classifier alone
    agreement: float
    exit_rates: tuple[float, ...]


@dataclass(frozen=True)
class ChosenCascade:
    """The stages and thresholds that were chosen, and their metrics by cross-validation."""

    stages: tuple[str, ...]  # names of candidates; the last is the classifier
    score: str
    level: float | None  # of agreement that was asked for on the tuning set; None for a speed-up
    held_out: HeldOutMetrics
    meets_target: bool  # on held-out examples
    tried: tuple[TriedChain, ...]  # the best of every chain, fastest first
    curve: tuple[tuple[float, float], ...]  # (expected speed-up, agreement) of this chain, tuning set


@dataclass(frozen=True)
class Certification:
    """The certificate of the saved folder, or the reason why there is none."""

    guarantee: str | None  # in words
    confidence_level: float
    n: int  # certification examples
    bound: float | None  # of the guaranteed quantity, at the operating point
    reason: str | None  # why there is no certificate, and how many texts it would take


@dataclass(frozen=True)
class ReportMetrics:
    """The cascade on texts that had no part in making it."""

    n: int
    agreement: Interval  # with the classifier, 95 %
    accuracy: float | None  # of the cascade; None without labels
    classifier_accuracy: float | None
    accuracy_drop: Interval | None  # below the classifier's
    oracle_share: float | None  # expected speed-up over that of oracle routing with the same stages
    timing: BenchmarkResult


@dataclass(frozen=True)
class BuildResult:
    """All that a build found.

    Attributes:
        cascades: True if a cascade pays and was saved; otherwise only the report was.
        reasons: the verdict in sentences.
        output: the folder with the cascade and the report.
        model: the classifier, as it was named.
        engine: the engine and precision that all was timed and certified on, and the others that were tried.
        target: the requirement.
        parts: examples by purpose: train, tune, certify, report, and corpus.
        notices: what was dropped or left out, one sentence each.
        candidates: every model considered, the cheapest first; the last is the classifier.
        chosen: the choice; None if no candidate was made.
        certification: of the saved cascade; None if none was saved.
        report: the metrics on the report examples; None if nothing was chosen.
        seconds: that all steps took together, those of earlier runs included.
    """

    cascades: bool
    reasons: tuple[str, ...]
    output: Path
    model: str
    engine: EngineChoice
    target: Target
    parts: dict[str, int]
    notices: tuple[str, ...]
    candidates: tuple[CandidateReport, ...]
    chosen: ChosenCascade | None
    certification: Certification | None
    report: ReportMetrics | None
    seconds: float
