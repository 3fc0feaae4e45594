"""The time that the steps of a build take, estimated from measured speeds."""

from __future__ import annotations

from dataclasses import dataclass

from cascadebert.training.cascade_builder.candidates import HIDDEN_EPOCHS, Candidate, batch_size

PASS_SHARE, HIDDEN_SHARE, FINISH_SHARE = 0.25, 0.4, 0.2  # of the minutes, of the pass, of the minutes
MIN_HIDDEN_TOKENS, MAX_HIDDEN_TOKENS = 200_000, 500_000
FINISH_TEXTS = 15_000  # that the classifier runs on after the last training: tuning, certifying, timing
MIN_PASSES, MAX_PASSES, WANTED_STEPS, MIN_STEPS = 3.0, 10.0, 4000, 500  # see benchmarks/LOG.md
TRAINING_EFFICIENCY = 0.35  # operations per second of training over those of prediction, until measured
TRAINING_FACTOR = 3.0  # a forward and a backward pass over a forward pass
STATIC_PASSES, STATIC_TEXTS_PER_SECOND = 10.0, 5000.0


@dataclass(frozen=True)
class Speeds:
    """Speeds that estimates are made from."""

    seconds: float  # of the classifier for a text
    tokens: float  # mean, of a text
    operations: float  # of the classifier per second
    training: float | None = None  # operations per second of the last training; None before it


@dataclass(frozen=True)
class Schedule:
    """The size of the classifier's pass, and the time to leave for the end."""

    texts: int  # of those to train on, that the classifier runs on
    hidden_tokens: int  # whose hidden states are kept
    pass_seconds: float
    finish_seconds: float


def make_schedule(minutes: float, texts: int, students: bool, speeds: Speeds) -> Schedule:
    """The largest pass over the texts that takes a quarter of the time at most.

    Hidden states are kept for up to 40 % of it, if there are students to learn them, and enough tokens: from
    57,000 they learned nothing (benchmarks/LOG.md).
    """
    total = 60 * minutes
    count = int(min(texts, max(1, PASS_SHARE * total / speeds.seconds)))
    hidden = int(min(MAX_HIDDEN_TOKENS, HIDDEN_SHARE * count * speeds.tokens))
    hidden = hidden if students and hidden >= MIN_HIDDEN_TOKENS else 0
    finish = min(FINISH_SHARE * total, FINISH_TEXTS * speeds.seconds)
    return Schedule(count, hidden, count * speeds.seconds, finish)


def relative_cost(candidate: Candidate, speeds: Speeds) -> float:
    """Operations of a candidate for a text, over the classifier's."""
    return candidate.operations(speeds.tokens) / (speeds.operations * speeds.seconds)


def wanted_passes(candidate: Candidate, texts: int) -> float:
    """Passes over the texts that a candidate is trained for where there is time."""
    if not candidate.is_trained:
        return 0.0
    if candidate.kind == "static":
        return STATIC_PASSES
    return min(MAX_PASSES, max(MIN_PASSES, WANTED_STEPS * batch_size(texts) / texts))


def seconds_per_pass(candidate: Candidate, texts: int, speeds: Speeds) -> float:
    """Estimated seconds of one pass of training over the texts."""
    if not candidate.is_trained:
        return 0.0
    if candidate.kind == "static":
        return texts / STATIC_TEXTS_PER_SECOND
    rate = speeds.training or TRAINING_EFFICIENCY * speeds.operations
    return TRAINING_FACTOR * candidate.operations(speeds.tokens) * texts / rate


def seconds_to_make(candidate: Candidate, passes: float, schedule: Schedule, speeds: Speeds) -> float:
    """Estimated seconds of a training, hidden states included."""
    seconds = passes * seconds_per_pass(candidate, schedule.texts, speeds)
    if candidate.kind == "student":
        texts = int(schedule.hidden_tokens / speeds.tokens)
        seconds += min(HIDDEN_EPOCHS, passes) * seconds_per_pass(candidate, texts, speeds)
    return seconds


def trained_operations(candidate: Candidate, passes: float, schedule: Schedule, speeds: Speeds) -> float:
    """Operations of a training, to measure its speed by."""
    one = Speeds(speeds.seconds, speeds.tokens, speeds.operations, training=1.0)
    return seconds_to_make(candidate, passes, schedule, one)


def affordable_passes(
    candidate: Candidate, left: float, schedule: Schedule, speeds: Speeds, *, is_last: bool
) -> float | None:
    """Passes that a candidate is trained for: as many as it wants, in half of the seconds that are left.

    The last candidate may take all of them. From fewer than 500 steps too little is learned: it gets as many
    (or all that it wants, if that is less) if there is time at all, otherwise None.
    """
    passes = wanted_passes(candidate, schedule.texts)
    if not seconds_to_make(candidate, passes, schedule, speeds):
        return passes
    least = min(passes, MIN_STEPS * batch_size(schedule.texts) / schedule.texts)
    if seconds_to_make(candidate, least, schedule, speeds) > left:
        return None
    share = _passes_in(left if is_last else left / 2, candidate, schedule, speeds)
    return max(least, min(passes, share))


def _passes_in(seconds: float, candidate: Candidate, schedule: Schedule, speeds: Speeds) -> float:
    """The passes of training that take so many seconds; those over hidden states end first."""
    all_hidden = seconds_to_make(candidate, HIDDEN_EPOCHS, schedule, speeds)
    if seconds <= all_hidden:
        return HIDDEN_EPOCHS * seconds / all_hidden
    return HIDDEN_EPOCHS + (seconds - all_hidden) / seconds_per_pass(candidate, schedule.texts, speeds)
