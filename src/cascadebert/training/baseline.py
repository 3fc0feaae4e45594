"""Opens what a cascade is compared with."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cascadebert.errors import show_paths_as
from cascadebert.inference.cascade import Cascade
from cascadebert.persistence.checkpoint_config import resolve_checkpoint
from cascadebert.persistence.folder import SPEC_FILE
from cascadebert.thresholds.operating_point import OperatingPoint
from cascadebert.training.checkpoints import copy_checkpoint
from cascadebert.training.open_stage import opened_classifiers
from cascadebert.training.stage_check import ODD_TEXTS, StageFiles, load_checked
from cascadebert.training.stage_limits import write_limits
from cascadebert.types import Texts


@contextmanager
def opened_baseline(path: str | Path, cascade: Cascade) -> Iterator[Cascade]:
    """Another saved cascade, or a fine-tuned classifier as a cascade of one stage.

    A classifier runs on the engine and with the maximum length of the cascade's last stage, from a temporary
    copy that is checked against transformers as a stage is. Raises StageError if it cannot be used.
    """
    if (resolve_checkpoint(path) / SPEC_FILE).is_file():
        yield Cascade.from_pretrained(path)
        return
    with opened_classifiers([path]) as (source,), tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / source.name
        copy.mkdir()
        last, texts = cascade.stages[-1], _sample_texts(cascade)
        with show_paths_as({copy: str(path), source: str(path)}):
            copy_checkpoint(source, copy)
            write_limits(copy)
            stage = load_checked(
                StageFiles(str(path), copy, tokenizer=source, model=source),
                texts,
                engine=last.engine.name,
                precision=last.engine.precision,
                max_length=last.tokenizer.max_length,
            )
            yield Cascade((stage.with_labels(cascade.label_names),), (1.0,), OperatingPoint(()))


def _sample_texts(cascade: Cascade) -> Texts:
    pairs = cascade.spec is not None and cascade.spec.texts_per_row == 2
    return list(zip(ODD_TEXTS, ODD_TEXTS, strict=True)) if pairs else ODD_TEXTS
