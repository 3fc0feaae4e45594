"""Families of models on every engine, single texts and pairs, against `transformers` one text at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import tiny
from cascadebert.errors import StageError
from cascadebert.inference.stage import Stage
from cascadebert.training.checkpoints import copy_checkpoint
from cascadebert.training.stage_check import StageFiles, load_checked
from cascadebert.training.stage_limits import write_limits
from samples import sentences

FAMILIES = (*tiny.ENCODERS, *tiny.DECODERS, *tiny.ENCODER_DECODERS)
ENGINES = ("torch", "onnxruntime", "openvino")
KINDS = ("single", "pair")
MAX_LENGTH = 48
TOLERANCE = 2e-3  # of logits, relative to the largest
ODD = (
    *("good", "x", "a", "Good FILM", "GOOD", "gööd", "g\u0301ood", "ﬁlm", "good\u00a0film", "good\u200bfilm"),
    *("  good  ", "\tgood\n", "good\r\nbad", "good.bad!ugly?", "¿good?", "…", "—", "'good'", '"bad"', "`x`"),
    *(
        "[CLS]",
        "[SEP] good",
        "[MASK] film",
        "[PAD]",
        "<s> good </s>",
        "<|endoftext|>",
        "##ood",
        "[UNK] [UNK]",
    ),
    *("中文 good", "日本語", "한국어 film", "العربية", "עברית", "ไทย", "हिन्दी", "\U0001f600", "👩‍👧 good"),
    *("1234567890", "3.14", "$5.00", "a" * 300, "really good " * 100, "\\n\\t", "<b>good</b>", "a@b.c"),
)
TEXTS = (*ODD, *sentences(50 - len(ODD), seed=11, most=30))


def stage_of(family: str, root: Path, engine: str, texts: Any) -> Stage:
    """A tiny random classifier as `assemble` takes it. Raises StageError where it is refused."""
    source, copy = tiny.checkpoint(root, family, layers=2), root / f"stage-{family}"
    if not copy.is_dir():
        copy.mkdir()
        copy_checkpoint(source, copy)
        write_limits(copy)
    files = StageFiles(family, copy, tokenizer=source, model=source)
    return load_checked(files, texts, engine=engine, precision="float32", max_length=MAX_LENGTH)


def expected_logits(source: Path, texts: Any) -> tuple[list[int], np.ndarray]:
    """Positions of the texts that `transformers` answers, and logits of each alone at its own length."""
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = AutoModelForSequenceClassification.from_pretrained(source).eval()
    answered, logits = [], []
    for i, text in enumerate(texts):
        parts = (text,) if isinstance(text, str) else text
        encoded = tokenizer(*parts, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
        try:
            with torch.inference_mode():
                logits.append(model(**encoded).logits[0].numpy())
            answered.append(i)
        except (TypeError, ValueError):
            continue
    return answered, np.stack(logits)


def outcome(family: str, engine: str, kind: str, root: Path) -> str:
    """The padding of a stage that answers as `transformers` does, or the reason why it was refused.

    Raises AssertionError if a stage was taken that answers otherwise.
    """
    texts = TEXTS if kind == "single" else list(zip(TEXTS, TEXTS[7:] + TEXTS[:7], strict=True))
    try:
        stage = stage_of(family, root, engine, texts)
    except StageError as error:
        return str(error).replace(f"{root}/", "").splitlines()[0]
    answered, expected = expected_logits(tiny.checkpoint(root, family, layers=2), texts)
    tokens = stage.encode([texts[i] for i in answered])
    exact = [stage.run(tokens.batch(np.array([i]), length=int(n))) for i, n in enumerate(tokens.lengths)]
    for logits in (stage.logits(tokens), np.concatenate(exact)):
        difference = np.abs(logits - expected).max() / (1 + np.abs(expected).max())
        assert difference <= TOLERANCE, f"{family} {engine} {kind}: logits differ by {difference:.2g}"
        certain = np.ptp(expected, axis=1) > 2 * TOLERANCE * (1 + np.abs(expected).max())
        assert (logits.argmax(axis=1) == expected.argmax(axis=1))[certain].all()
    return stage.tokenizer.padding.side
