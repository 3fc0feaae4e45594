"""Makes small models from a large one: distilled on unlabeled text, or its first layers as they are."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from cascadebert.atomic import check_work_directory, work_directory, work_directory_path
from cascadebert.data.columns import Columns
from cascadebert.data.corpus import Corpus, open_corpus
from cascadebert.environment import versions
from cascadebert.errors import CascadeError, explain_full_disk, extra
from cascadebert.inference.batching import TokenizedTexts
from cascadebert.inference.engines.torch import max_positions, quiet_transformers
from cascadebert.inference.tokenizer import resolve_max_length
from cascadebert.paths import WORK, check_roles
from cascadebert.persistence.checkpoint_config import read_config, resolve_checkpoint
from cascadebert.persistence.folder import atomic_directory, ensure_writable_directory
from cascadebert.training.checkpoints import (
    checkpoint_fingerprint,
    display_name,
    fingerprint,
)
from cascadebert.training.config import DistillConfig
from cascadebert.training.distillation.student import (
    StudentSize,
    check_size,
    make_student,
    open_encoder,
    spread_layers,
)
from cascadebert.training.distillation.token_store import tokenize_corpus
from cascadebert.training.distillation.trainer import (
    DistillationObjective,
    HiddenStateObjective,
    running_teacher,
    train_students,
)
from cascadebert.training.tokenizer_files import check_tokenizer, copy_tokenizer
from cascadebert.training.trainer import log, use_bf16

with extra("train"):
    from transformers import PreTrainedConfig, PreTrainedModel

CARD_TEMPLATE = Path(__file__).with_name("model_card.md.j2")


@dataclass(frozen=True)
class DistilledModel:
    """One model made by `distill`."""

    path: Path
    layers: int
    hidden: int
    parameters: int
    held_out_loss: float | None  # of the objective, on held-out passages; None if the model was not trained


@dataclass(frozen=True)
class DistilledModels:
    """All models made by one call of `distill`, in the order asked for."""

    students: tuple[DistilledModel, ...]
    complete: bool  # False for truncated models
    tokens: int = 0  # trained on, without padding
    padding: float = 0.0  # fraction of the computed tokens that was padding
    tokens_per_second: float | None = None  # of this call, teacher included; None if all was trained before


@explain_full_disk()
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
    objective: DistillationObjective | None = None,
) -> DistilledModels:
    """Make complete small models from a large encoder and unlabeled text, whatever the task will be.

    A student starts from evenly spaced layers of the large model where the width is the same, and learns
    its last hidden states (see `HiddenStateObjective`). Several students learn from one pass of the large
    model, with the weights that each would get alone. After an interruption the same call resumes and ends
    in the same weights; unfinished work lies in `OUTPUT.work`.

    Without a corpus the first layers are copied as they are ("BERT-kL" in Li et al. 2021), which does not
    make a complete model.

    Args:
        large: The encoder: a folder or a repository of the Hub.
        num_layers: Depth; several for several students.
        hidden_size: Width, a multiple of the large model's head size; as many as `num_layers`, or one for
            all; by default the large model's. The inner layer and the number of heads follow in proportion.
        embedding_size: Width of the token table, for families that keep it apart (ELECTRA).
        corpus: A txt (one document per line), jsonl or parquet file, or a folder of them (see
            `open_corpus`).
        output: The folder to write: the model, or for several students a folder each (`2x384`).
        columns: Name of the corpus's text column, if it is not one of the usual ones.
        overwrite: Replace an existing output.
        config: Training options.
        objective: What the students learn; by default `HiddenStateObjective`.

    Returns:
        Paths, sizes and held-out losses of the models.

    Raises:
        CascadeError: If the model, a size or the corpus cannot be used; nothing is written.
    """
    config, objective = config or DistillConfig(), objective or HiddenStateObjective()
    output = Path(output)
    roles = {"--output": output, WORK: work_directory_path(output)}
    check_roles(roles, {"LARGE": large, "--corpus": corpus})
    ensure_writable_directory(output, overwrite=overwrite, kind="model")
    check_work_directory(output)
    source = resolve_checkpoint(large)
    teacher = open_encoder(source)
    depth = teacher.config.num_hidden_layers
    facts: dict[str, Any] = {"large": display_name(str(large)), "depth": depth}
    sizes = _student_sizes(teacher.config, num_layers, hidden_size, embedding_size)
    check_tokenizer(source)
    if corpus is None:
        cut = [StudentSize(size.layers, teacher.config.hidden_size) for size in sizes]
        if config != DistillConfig() or sizes != cut:
            raise CascadeError("without a corpus layers are only cut off, nothing is trained. Give --corpus.")
        students = [make_student(teacher, size, layers=range(size.layers)) for size in sizes]
        models = _write(students, [None] * len(sizes), source, output, overwrite, **facts)
        return DistilledModels(models, complete=False)
    resolve_max_length(read_config(source), config.max_length, source, max_positions(teacher))
    text = open_corpus(corpus, columns=columns)
    log.info("%s", text.description)
    work, passages, key = _tokenize(text, source, config, output)
    students = [
        make_student(teacher, size, layers=spread_layers(depth, size.layers), seed=config.seed)
        for size in sizes
    ]
    recipe = {**asdict(config), "bf16": use_bf16(config.bf16)}
    key = fingerprint(key, recipe, [asdict(size) for size in sizes], objective.name)
    features = running_teacher(teacher, objective, bf16=config.bf16)
    result = train_students(
        teacher, students, passages, config, objective, features, folder=work / f"students-{key}"
    )
    facts |= {"corpus": text, "result": result, "config": config, "objective": objective.name}
    facts["fingerprint"] = checkpoint_fingerprint(source)
    facts["precision"] = "bfloat16" if recipe["bf16"] else "float32"
    models = _write(students, result.losses, source, output, overwrite, **facts)
    shutil.rmtree(work)
    return DistilledModels(models, True, result.tokens, result.padding, result.tokens_per_second)


def _tokenize(
    corpus: Corpus, source: Path, config: DistillConfig, output: Path
) -> tuple[Path, TokenizedTexts, str]:
    """The work folder, the tokenized corpus in it, and the fingerprint of source, text and settings.

    A new work folder is removed if the corpus is refused.
    """
    settings = (config.max_tokens, config.max_length, config.seed)
    key = fingerprint(checkpoint_fingerprint(source), corpus.sha256, settings)
    new = not work_directory_path(output).exists()
    work = work_directory(output)
    try:
        return work, tokenize_corpus(corpus, source, config, work / f"text-{key}"), key
    except CascadeError:
        if new:
            shutil.rmtree(work)
        raise


def _student_sizes(
    config: PreTrainedConfig,
    num_layers: int | Sequence[int],
    hidden_size: int | Sequence[int] | None,
    embedding_size: int | None,
) -> list[StudentSize]:
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


def _write(
    students: Sequence[PreTrainedModel],
    losses: Sequence[float | None],
    tokenizer: Path,
    output: Path,
    overwrite: bool,
    **facts: Any,  # for the card; that of a truncated model has no `corpus`
) -> tuple[DistilledModel, ...]:
    """Write one folder per model; a single model is the output itself."""
    data = ModelCardData(library_name="transformers", tags=["cascadebert", "distillation"])
    models = []
    with atomic_directory(output, overwrite=overwrite, kind="model") as new:
        for student, loss in zip(students, losses, strict=True):
            layers, hidden = student.config.num_hidden_layers, student.config.hidden_size
            name, parameters = f"{layers}x{hidden}" * (len(students) > 1), student.num_parameters()
            (new / name).mkdir(exist_ok=True)
            with quiet_transformers():
                student.save_pretrained(new / name)
            copy_tokenizer(tokenizer, new / name)
            facts |= {"size": student.config, "parameters": parameters, "loss": loss, "versions": versions()}
            card = ModelCard.from_template(data, template_path=str(CARD_TEMPLATE), **facts)
            (new / name / "README.md").write_text(str(card), "utf-8")
            models.append(DistilledModel(output / name, layers, hidden, parameters, loss))
    return tuple(models)
