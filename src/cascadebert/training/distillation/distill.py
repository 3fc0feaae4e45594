"""Small models out of a large one: distilled on unlabelled text, or its first layers as they are."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cascadebert.atomic import work_directory, work_directory_path
from cascadebert.data.columns import Columns
from cascadebert.data.corpus import Corpus, open_corpus
from cascadebert.errors import CascadeError, extra
from cascadebert.inference.engines.torch_checkpoint import POOLER, quiet_transformers
from cascadebert.inference.tokenizer import resolve_max_length
from cascadebert.persistence.checkpoint_config import read_config, resolve_checkpoint
from cascadebert.persistence.folder import atomic_directory, ensure_writable_directory
from cascadebert.training.checkpoints import (
    check_tokenizer,
    checkpoint_fingerprint,
    copy_tokenizer,
    fingerprint,
)
from cascadebert.training.config import DistillConfig
from cascadebert.training.distillation.model_card import card, cut_card
from cascadebert.training.distillation.objective import DistillationObjective, HiddenStateObjective
from cascadebert.training.distillation.student import (
    StudentSize,
    check_size,
    make_student,
    open_encoder,
    spread_layers,
)
from cascadebert.training.distillation.trainer import TokenizedCorpus, recipe, tokenize_corpus, train_students
from cascadebert.training.trainer import log
from cascadebert.types import Ints

with extra("train"):
    from transformers import PreTrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class DistilledModel:
    """One model that was made.

    Attributes:
        path: its folder.
        layers: its depth.
        hidden: its width.
        parameters: how many numbers it is made of.
        held_out_loss: of what it learned, on passages held out: with the default, the share of the variance
            of the large model's last hidden states that it does not reproduce; None if it was not trained.
    """

    path: Path
    layers: int
    hidden: int
    parameters: int
    held_out_loss: float | None


@dataclass(frozen=True)
class DistilledModels:
    """What `distill` made.

    Attributes:
        students: the models, in the order asked for.
        complete: whether they are complete models; False for layers cut off as they are.
        tokens: that were learned from, padding not counted.
        padding: share of the computed tokens that was padding.
        tokens_per_second: of this call, teacher's pass included; None if nothing was left to train.
    """

    students: tuple[DistilledModel, ...]
    complete: bool
    tokens: int = 0
    padding: float = 0.0
    tokens_per_second: float | None = None


def distill(
    large: str | Path,
    *,
    num_layers: int | Sequence[int],
    hidden_size: int | Sequence[int] | None = None,
    embedding_size: int | None = None,
    corpus: str | Path | None = None,
    output: str | Path,
    columns: Columns | None = None,
    overwrite: bool = False,
    config: DistillConfig | None = None,
    transfer: DistillationObjective | None = None,
) -> DistilledModels:
    """Make complete small models from a large encoder and unlabelled text, whatever the task will be.

    A student starts from evenly spaced layers of the large model where the width is the same, and learns
    its last hidden states (see `HiddenStateObjective`). Several students learn from one pass of the large model,
    each as if it were alone. Killed and called again, it goes on and ends in the same weights; half-finished
    work lies in `OUTPUT.work`.

    Without a corpus the first layers are copied as they are ("BERT-kL" in Li et al. 2021), which is no
    complete model.

    Args:
        large: the encoder: a folder or a repository of the Hub.
        num_layers: depth; several for several students.
        hidden_size: width, a multiple of the large model's head size; as many as `layers`, or one for all;
            default the large model's. The inner layer and the number of heads follow in proportion.
        embedding_size: width of the token table, for families that keep it apart (ELECTRA).
        corpus: txt (a document per line), jsonl or parquet, or a folder of them (see `open_corpus`).
        output: the folder to write: the model, or for several students a folder each (`2x384`).
        columns: name of the corpus's text column, where not a usual one.
        overwrite: replace an existing one.
        config: how to train.
        transfer: what is learned; default `HiddenStateObjective`.

    Raises:
        CascadeError: one of its kinds, for a model, size or corpus that cannot be used; nothing is written.
    """
    config, transfer = config or DistillConfig(), transfer or HiddenStateObjective()
    source, output = resolve_checkpoint(large), Path(output)
    read = [source] if corpus is None else [source, Path(corpus)]
    ensure_writable_directory(output, overwrite=overwrite, kind="model", sources=read)
    if corpus is not None and Path(corpus).resolve() in output.resolve().parents:
        raise CascadeError(f"{output} lies in {corpus}, which is read. Choose another --output.")
    teacher, pooled = open_encoder(source)
    sizes = _sizes(teacher.config, num_layers, hidden_size, embedding_size)
    check_tokenizer(source)
    if corpus is None:
        if (
            config != DistillConfig()
            or embedding_size
            or any(s.hidden != teacher.config.hidden_size for s in sizes)
        ):
            raise CascadeError("without a corpus layers are only cut off, nothing is trained. Give --corpus.")
        return _cut(teacher, pooled, sizes, str(large), source, output, overwrite)
    resolve_max_length(read_config(source), config.max_length, source)
    text = open_corpus(corpus, columns=columns)
    log.info("%s", text.words())
    work, passages = _prepared(text, source, config, output)
    students = [_start(teacher, pooled, size, passages.kept, config.seed) for size in sizes]
    key = fingerprint(passages.key, recipe(config), [asdict(size) for size in sizes], transfer.name)
    taught = train_students(teacher, students, passages, config, transfer, folder=work / f"students-{key}")
    told = {"key": checkpoint_fingerprint(source), "objective": transfer.name}
    words = [
        card(str(large), student, text, taught, config, loss=loss, **told)
        for student, loss in zip(students, taught.losses, strict=True)
    ]
    made = _write(students, sizes, taught.losses, passages.tokenizer, words, output, overwrite)
    shutil.rmtree(work)
    return DistilledModels(made, True, taught.tokens, taught.padding, taught.tokens_per_second)


def _prepared(
    corpus: Corpus, source: Path, config: DistillConfig, output: Path
) -> tuple[Path, TokenizedCorpus]:
    """The work folder with the tokenised corpus in it; no folder is left where the corpus is refused."""
    new = not work_directory_path(output).exists()
    work = work_directory(output)
    try:
        return work, tokenize_corpus(corpus, source, config, work)
    except CascadeError:
        if new:
            shutil.rmtree(work)
        raise


def _sizes(
    config: PreTrainedConfig,
    num_layers: int | Sequence[int],
    hidden_size: int | Sequence[int] | None,
    embedding_size: int | None,
) -> list[StudentSize]:
    """The students asked for, each checked."""
    depths = [num_layers] if isinstance(num_layers, int) else list(num_layers)
    hidden_size = config.hidden_size if hidden_size is None else hidden_size
    widths = list(hidden_size) if isinstance(hidden_size, Sequence) else [hidden_size]
    widths = widths * len(depths) if len(widths) == 1 else widths
    if not depths or len(widths) != len(depths):
        raise CascadeError(
            f"give --hidden-size once, or once for each --num-layers; given: {len(widths)} and {len(depths)}"
        )
    sizes = [StudentSize(depth, width, embedding_size) for depth, width in zip(depths, widths, strict=True)]
    for size in sizes:
        check_size(config, size)
    if len(set(sizes)) < len(sizes):
        raise CascadeError(f"the same size is asked for twice: {', '.join(size.name for size in sizes)}")
    return sizes


def _start(
    teacher: PreTrainedModel, pooled: bool, size: StudentSize, tokens: Ints | None, seed: int
) -> PreTrainedModel:
    """A student before it learns; without a pooler where there is none to start from."""
    kept = spread_layers(teacher.config.num_hidden_layers, size.layers)
    student = make_student(teacher, size, kept=kept, tokens=tokens, seed=seed)
    if not pooled or size.hidden != teacher.config.hidden_size:
        _drop_pooler(student)
    return student


def _drop_pooler(student: PreTrainedModel) -> None:
    """It would be noise; fine-tuning starts a new one."""
    if getattr(student, POOLER, None) is not None:
        setattr(student, POOLER, None)


def _cut(
    teacher: PreTrainedModel,
    pooled: bool,
    sizes: Sequence[StudentSize],
    large: str,
    source: Path,
    output: Path,
    overwrite: bool,
) -> DistilledModels:
    """The first layers as they are."""
    students = [make_student(teacher, size, kept=tuple(range(size.layers))) for size in sizes]
    for student in () if pooled else students:
        _drop_pooler(student)
    words = [cut_card(large, size.layers, teacher.config.num_hidden_layers) for size in sizes]
    return DistilledModels(
        _write(students, sizes, [None] * len(sizes), source, words, output, overwrite), False
    )


def _write(
    students: Sequence[PreTrainedModel],
    sizes: Sequence[StudentSize],
    losses: Sequence[float | None],
    tokenizer: Path,
    cards: Sequence[str],
    output: Path,
    overwrite: bool,
) -> tuple[DistilledModel, ...]:
    """One folder a model; a single one is the output itself."""
    made = []
    with atomic_directory(output, overwrite=overwrite, kind="model") as new:
        for student, size, loss, words in zip(students, sizes, losses, cards, strict=True):
            inner = "" if len(students) == 1 else size.name
            folder = new / inner
            folder.mkdir(exist_ok=True)
            with quiet_transformers():
                student.save_pretrained(folder)
            copy_tokenizer(tokenizer, folder)
            (folder / "README.md").write_text(words, "utf-8")
            made.append(
                DistilledModel(output / inner, size.layers, size.hidden, student.num_parameters(), loss)
            )
    return tuple(made)
