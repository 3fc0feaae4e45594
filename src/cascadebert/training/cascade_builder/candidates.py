"""Models that may stand before a classifier: which there are, and how each is made."""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from cascadebert.data.labels import same_labels, without_prefix
from cascadebert.errors import StageError
from cascadebert.inference.engines.static import MODEL_TYPE
from cascadebert.inference.stage import Stage
from cascadebert.persistence.checkpoint_config import config_int, config_label_names, read_config
from cascadebert.training.cascade_builder.student import distill_student
from cascadebert.training.cascade_builder.teacher import TeacherOutputs
from cascadebert.training.checkpoints import (
    checkpoint_fingerprint,
    copy_checkpoint,
    count_flops,
    display_name,
    weight_files,
)
from cascadebert.training.config import DistillConfig, FitConfig
from cascadebert.training.distillation.student import StudentSize, check_size, open_encoder
from cascadebert.training.losses import NO_LABEL
from cascadebert.training.stage_check import StageFiles
from cascadebert.training.stage_limits import write_limits
from cascadebert.training.static_model import create_static_checkpoint
from cascadebert.training.train_stage import TrainingData, train_stage
from cascadebert.types import Flops, Texts

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

Kind = Literal["static", "classifier", "encoder", "student"]
DEPTHS = (1 / 12, 1 / 6, 1 / 4, 1 / 2)  # of the classifier's layers
BATCH_SIZE, SMALL_BATCH_SIZE, MANY_TEXTS = 64, 32, 4000
# learning rates, see benchmarks/LOG.md
MAX_RATE, RATE_TIMES_WIDTH, HIDDEN_RATE_TIMES_WIDTH = 6e-4, 0.13, 0.3
HIDDEN_EPOCHS = 3.0


@dataclass(frozen=True)
class Candidate:
    """A model that may become an earlier stage."""

    name: str
    kind: Kind
    layers: int
    hidden: int
    flops: Flops
    source: Path | None = None  # of a classifier or an encoder
    fault: str | None = None  # the reason why it cannot be made
    is_retrained: bool = False  # the source is a classifier of the same labels, and learns more

    @cached_property
    def key(self) -> str:
        """Identifies the model, whatever its name, among the candidates for one classifier."""
        return self.name if self.source is None else checkpoint_fingerprint(self.source)

    @property
    def size(self) -> StudentSize:
        """Its depth and width."""
        return StudentSize(self.layers, self.hidden)

    @property
    def is_trained(self) -> bool:
        """True if it is trained by a build, rather than used as it is."""
        return self.kind != "classifier" or self.is_retrained

    def operations(self, tokens: float) -> float:
        """Floating-point operations of a text of so many tokens."""
        return float(self.flops.cost_of(np.array([tokens]))[0])


@dataclass(frozen=True)
class Lesson:
    """All that candidates learn from, and the settings that they share."""

    work: Path
    classifier: Stage
    texts: Texts
    outputs: TeacherOutputs  # of the classifier for these texts
    max_length: int
    seed: int


def list_candidates(classifier: Stage, small: Mapping[str, Path]) -> list[Candidate]:
    """The static stage, the small models and the students of a classifier, each kind from small to large.

    `small` holds folders by name; a complete model is more likely to pay than a student of an hour. Raises
    StageError if one cannot be a stage.
    """
    assert classifier.flops is not None
    labels = len(classifier.label_names)
    static = Candidate("static", "static", 0, 0, Flops(2.0 * labels, 2.0 * (labels + 1), 0.0))
    students = _students(classifier)
    taken = [one.name for one in (static, *students)] + [classifier.name]
    names = _distinct_names(list(small), taken)
    given = [
        given_candidate(name, path, classifier) for name, path in zip(names, small.values(), strict=True)
    ]
    distinct = {candidate.key: candidate for candidate in reversed(given)}.values()
    return [static, *sorted(distinct, key=lambda candidate: candidate.operations(32)), *students]


def _distinct_names(names: Sequence[str], taken: Sequence[str]) -> list[str]:
    """Display names of models; whole paths where these are not distinct."""
    shown = Counter([*map(display_name, names), *taken])
    return [
        str(Path(name).absolute())
        if shown[display_name(name)] > 1 and Path(name).is_dir()
        else display_name(name)
        for name in names
    ]


def student_sizes(classifier: Stage) -> list[StudentSize]:
    """Depths of students at the classifier's width."""
    depth = classifier.layers
    depths = sorted({max(1, round(depth * fraction)) for fraction in DEPTHS})
    return [StudentSize(layers, classifier.hidden) for layers in depths if layers < depth]


def _students(classifier: Stage) -> list[Candidate]:
    """Students of all sizes, with the reasons why some cannot be made."""
    sizes = student_sizes(classifier)
    try:
        config = open_encoder(classifier.path).config
    except StageError as error:
        return [_student(size, classifier, str(error)) for size in sizes]
    return [_student(size, classifier, _fault(config, size)) for size in sizes]


def _fault(config: PreTrainedConfig, size: StudentSize) -> str | None:
    """The reason why a student cannot be made."""
    try:
        check_size(config, size)
    except StageError as error:
        return str(error)
    return None


def _student(size: StudentSize, classifier: Stage, fault: str | None) -> Candidate:
    whole = classifier.flops
    assert whole is not None
    share = size.layers / classifier.layers
    flops = Flops(whole.row * share, whole.token * share, whole.pair * share)
    return Candidate(f"student {size.name}", "student", size.layers, size.hidden, flops, fault=fault)


def given_candidate(name: str, path: Path, classifier: Stage) -> Candidate:
    """A model that the user gave: used as it is if it is a classifier of the same labels."""
    weight_files(path)
    config = read_config(path)
    kind: Kind = "encoder"
    with suppress(StageError):  # its labels are not those of a classifier
        heads = [str(name) for name in config.get("architectures") or []]
        if any(head.endswith("ForSequenceClassification") for head in heads) and same_labels(
            config_label_names(config, path), classifier.label_names
        ):
            kind = "classifier"
    if config.get("model_type") == MODEL_TYPE:
        kind = "classifier"
    flops = count_flops(path) if kind == "classifier" else count_flops(path, num_labels=2)
    layers, hidden = (config_int(config, key, path) for key in ("num_hidden_layers", "hidden_size"))
    return Candidate(name, kind, layers, hidden, flops, path)


@dataclass(frozen=True)
class MadeFolders:
    """Names of a candidate's folders in the work directory."""

    stage: str
    source: str | None  # that a student was trained from; None for other kinds


def make_candidate(candidate: Candidate, lesson: Lesson, passes: float) -> MadeFolders:
    """Train a candidate in the work directory; an interrupted training resumes.

    Raises StageError if it cannot be made.
    """
    source = _source(candidate, lesson, passes)
    if not candidate.is_trained:
        return MadeFolders(source.name, None)
    unlabeled = np.full(len(lesson.texts), NO_LABEL, dtype=np.int64)
    names, logits = lesson.classifier.label_names, np.asarray(lesson.outputs.logits)
    if candidate.is_retrained:  # its head keeps its columns
        names = config_label_names(read_config(source), source)
        known = without_prefix(lesson.classifier.label_names)
        logits = logits[:, [known.index(name) for name in without_prefix(names)]]
    data = TrainingData(lesson.texts, unlabeled, names, teacher=logits)
    settings = recipe(candidate, lesson, passes)
    folder = train_stage(source, data, settings, work=lesson.work, description=candidate.name)
    return MadeFolders(folder.name, source.name if candidate.kind == "student" else None)


def stage_files(candidate: Candidate, made: MadeFolders, work: Path) -> StageFiles:
    """The files of a candidate that was made."""
    folder = work / made.stage
    if candidate.kind == "static":
        return StageFiles(candidate.name, folder, tokenizer=folder, model=folder)
    source = work / made.source if made.source is not None else candidate.source
    assert source is not None
    model = folder if candidate.is_trained else source
    return StageFiles(candidate.name, folder, tokenizer=source, model=model)


def recipe(candidate: Candidate, lesson: Lesson, passes: float) -> FitConfig:
    """The training of a candidate on the classifier's logits alone."""
    return FitConfig(
        max_length=lesson.max_length,
        epochs=passes,
        batch_size=batch_size(len(lesson.texts)),
        learning_rate=learning_rate(candidate),
        warmup_ratio=0.05,
        dar_weight=0.0,
        distill_weight=1.0,
        seed=lesson.seed,
    )


def learning_rate(candidate: Candidate) -> float:
    """Peak learning rate: the deeper a student, or the wider a model that is given, the lower."""
    if candidate.kind == "student":
        return MAX_RATE / math.sqrt(candidate.layers)
    return min(MAX_RATE, RATE_TIMES_WIDTH / max(candidate.hidden, 1))


def batch_size(texts: int) -> int:
    """Texts per training step."""
    return BATCH_SIZE if texts >= MANY_TEXTS else SMALL_BATCH_SIZE


def _source(candidate: Candidate, lesson: Lesson, passes: float) -> Path:
    """The checkpoint that is trained; of a classifier that is used as it is, a copy."""
    if candidate.kind == "static" and candidate.source is None:
        create = partial(create_static_checkpoint, lesson.classifier.path)
        return once(lesson.work / "static", create)
    if candidate.kind == "student":
        config = DistillConfig(
            max_length=lesson.max_length,
            learning_rate=HIDDEN_RATE_TIMES_WIDTH / candidate.hidden,
            seed=lesson.seed,
        )
        return distill_student(
            lesson.classifier.path,
            candidate.size,
            lesson.outputs,
            epochs=min(HIDDEN_EPOCHS, passes) if len(lesson.outputs.tokens) > 1 else 0.0,
            config=config,
            work=lesson.work,
            description=f"{candidate.name}, hidden states",
        )
    assert candidate.source is not None
    if candidate.is_trained:
        return candidate.source
    folder = lesson.work / f"given-{checkpoint_fingerprint(candidate.source)}"
    return once(folder, partial(copy_classifier, candidate.source))


def once(folder: Path, make: Callable[[Path], object]) -> Path:
    """A folder that is made unless it is there; an interrupted one is made again."""
    if not folder.is_dir():
        part = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        make(part)
        part.replace(folder)
    return folder


def copy_classifier(source: Path, output: Path) -> None:
    """Copy a fine-tuned classifier, and add the limits that its stage states."""
    output.mkdir()
    copy_checkpoint(source, output)
    write_limits(output)
