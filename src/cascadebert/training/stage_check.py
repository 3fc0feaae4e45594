"""Checks a stage against transformers: the same tokens, and the same answers as of each text alone."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cascadebert.data.labels import shorten
from cascadebert.errors import StageError, extra
from cascadebert.inference.batching import length_batches
from cascadebert.inference.engines.load import load_engine, stage_kind
from cascadebert.inference.engines.torch import load_classifier
from cascadebert.inference.stage import BATCH_TOKENS, Stage
from cascadebert.inference.tokenizer import StageTokenizer
from cascadebert.training.checkpoints import count_flops, display_name
from cascadebert.training.export import write_engine_file
from cascadebert.training.tokenizer_files import check_vocabulary, open_tokenizer
from cascadebert.types import Logits, PaddingSide, Texts

with extra("train"):
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MAX_TOKENIZED, MAX_RUN = 1000, 24
TOLERANCE = 1e-3  # of logits, relative to the largest; float32 on another engine differs by some 1e-5
SIDES: tuple[PaddingSide, ...] = ("right", "left", "none")
ODD_TEXTS = (
    " leading and trailing space ",
    "UPPER CASE, Title Case and CamelCase",
    "caf\u00e9 na\u00efve \u00c5ngstr\u00f6m cafe\u0301",
    "two\nlines\tand a tab\r\n",
    "\u4e2d\u6587 \u65e5\u672c\u8a9e \ud55c\uad6d\uc5b4",
    "\u0627\u0644\u0639\u0631\u0628\u064a\u0629 \u05e2\u05d1\u05e8\u05d9\u05ea",
    "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 \ufb01ne\u00a0\u200bzero\u00adwidth",
    "[CLS] [SEP] [MASK] <s> </s> <unk> <|endoftext|>",
    "3.14159 1,000,000 $5 50% #tag @user http://example.com/?a=b&c=d",
    "!?... ((())) --- ''' \"\"\" \\n",
    "x",
    "antidisestablishmentarianism" * 4,
    "a much longer text of the same few words " * 200,
)
"""Texts on which tokenizers differ: case, accents, spaces, other scripts, special tokens, truncation."""


@dataclass(frozen=True)
class StageFiles:
    """The folder of a stage, and the folders that transformers opens to compare it with."""

    name: str  # of the checkpoint it was made from
    folder: Path
    tokenizer: Path
    model: Path


def load_checked(
    files: StageFiles, texts: Texts, *, engine: str, precision: str, max_length: int | None
) -> Stage:
    """Load a stage on an engine, for which it is exported where needed, after `check_stage`."""
    write_engine_file(files.folder, engine)
    stage = Stage.from_pretrained(files.folder, engine=engine, precision=precision, max_length=max_length)
    stage = replace(stage, name=display_name(files.name), flops=count_flops(files.folder))
    return check_stage(stage, files, texts)


def check_stage(stage: Stage, files: StageFiles, texts: Texts) -> Stage:
    """The stage, padding as its model bears it, after a check that it answers as transformers does.

    Up to 1,000 of the `texts` and some odd ones must get the tokens and token types of `AutoTokenizer`. 24 of
    them and the odd ones go one by one through the model itself in float32, at their exact lengths; the
    stage's engine must give the same logits, and so labels, in float32 at padded lengths. A model whose
    answers depend on padding at the right is padded at the left, or not at all. Raises StageError with the
    first difference.
    """
    tokenizer = open_tokenizer(files.tokenizer)
    check_tokens(stage.name, stage.tokenizer, tokenizer, _sample(texts, MAX_TOKENIZED))
    if stage_kind(stage.path).own_engine is not None:  # transformers cannot run it
        return stage
    model = load_classifier(files.model).eval()
    model.__dict__.pop("forward", None)  # as its class runs it
    check_vocabulary(stage.name, tokenizer, model)
    texts, expected = _run_one_by_one(model, tokenizer, _sample(texts, MAX_RUN), stage.tokenizer.max_length)
    names = tuple(str(name) for _, name in sorted((model.config.id2label or {}).items()))
    if expected.shape[-1] != stage.num_labels or names != stage.label_names:
        raise StageError(
            f"{stage.name}: the model gives {expected.shape[-1]} logits for {shorten(names)}; its "
            f"config.json is read as {stage.num_labels} labels ({shorten(stage.label_names)})"
        )
    stage = _find_padding(stage, texts, expected)
    _check_engine(stage, texts, expected)
    return stage


def _sample(texts: Texts, count: int) -> list[Any]:
    """Up to `count` texts of all lengths, the longest included, and odd ones; of pairs likewise."""
    order = sorted(range(len(texts)), key=lambda i: len("".join(texts[i])))
    chosen = np.unique(np.linspace(0, len(order) - 1, min(len(order), count)).astype(int))
    odd: Any = ODD_TEXTS
    if not isinstance(texts[0], str):
        odd = zip(ODD_TEXTS, ODD_TEXTS[1:] + ODD_TEXTS[:1], strict=True)
    return [*(texts[order[i]] for i in chosen), *odd]


def _encode(
    tokenizer: PreTrainedTokenizerBase, text: str | tuple[str, str], max_length: int
) -> dict[str, list[int]]:
    parts = (text,) if isinstance(text, str) else text
    return dict(tokenizer(*parts, truncation=True, max_length=max_length))


def check_tokens(
    name: str, own: StageTokenizer, tokenizer: PreTrainedTokenizerBase, texts: Sequence[Any]
) -> None:
    """Raise StageError if a stage's tokenizer gives a text other token ids or types than transformers' own.

    Texts without tokens are refused wherever they are met.
    """
    for text in texts:
        tokens = _encode(tokenizer, text, own.max_length)
        ids = tokens["input_ids"]
        if not ids:
            continue
        row = own.encode([text])
        types = tokens.get("token_type_ids") or [0] * len(ids)
        for kind, given, expected in (
            ("ids", row.ids.tolist(), ids),
            ("types", row.type_ids.tolist(), types),
        ):
            if given != expected:
                raise StageError(
                    f"{name}: its tokenizer.json gives other token {kind} than transformers for the text "
                    f"{''.join(text)!r:.60}: {expected[:12]} expected, {given[:12]} given. Save the "
                    "checkpoint again with a fast tokenizer."
                )


@torch.inference_mode()
def _run_one_by_one(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[Any], max_length: int
) -> tuple[list[Any], Logits]:
    """The texts that transformers answers, and their (n, num_labels) logits, each text run alone."""
    accepted = inspect.signature(model.forward).parameters
    answered, logits, fault = list[Any](), list[Logits](), ""
    for text in texts:
        encoded = _encode(tokenizer, text, max_length)
        inputs = {name: torch.tensor([ids]) for name, ids in encoded.items() if name in accepted}
        try:
            logits.append(model(**inputs).logits[0].float().numpy())
            answered.append(text)
        except (ValueError, IndexError, RuntimeError) as error:
            fault = str(error)
    if not answered:
        raise StageError(f"transformers cannot run this model on any of {len(texts)} texts ({fault})")
    return answered, np.stack(logits)


def _find_padding(stage: Stage, texts: Texts, expected: Logits) -> Stage:
    """The stage with the first kind of padding that does not change its answers in torch."""
    engine = load_engine(stage.path, engine="torch", precision="float32")
    differences = []
    for side in SIDES:
        padded = _with_padding(replace(stage, engine=engine), side)
        difference = _largest_difference(padded, texts, expected)
        if difference <= TOLERANCE:
            return _with_padding(stage, side)
        differences.append(f"{side} {difference:.2g}")
    raise StageError(
        f"{stage.name}: its logits differ from those of transformers for the same text alone, by padding: "
        f"{', '.join(differences)} (of the largest). It cannot be a stage."
    )


def _with_padding(stage: Stage, side: PaddingSide) -> Stage:
    """The stage with another padding side."""
    tokenizer = StageTokenizer(stage.path, max_length=stage.tokenizer.max_length, padding_side=side)
    return replace(stage, tokenizer=tokenizer)


def _largest_difference(stage: Stage, texts: Texts, expected: Logits) -> float:
    """Largest difference of logits, relative to the largest logit.

    The texts run in batches of one padded length, as in prediction, and padded to twice their length, where
    a model that reads padding shows it.
    """
    tokens = stage.encode(texts)
    logits = [stage.logits(tokens)]
    if stage.tokenizer.padding.side != "none":
        own = tokens.padded_lengths
        doubled = np.minimum(2 * own, np.maximum(stage.tokenizer.max_length, own))
        logits.append(np.empty_like(expected))
        for batch in length_batches(doubled, tokens=BATCH_TOKENS):
            logits[1][batch] = stage.run(tokens.batch(batch, length=int(doubled[batch[0]])))
    return max(float(np.abs(given - expected).max()) for given in logits) / float(np.abs(expected).max() + 1)


def _check_engine(stage: Stage, texts: Texts, expected: Logits) -> None:
    """Compare the stage's engine in float32 with transformers, logits and labels."""
    if stage.engine.name == "torch":
        return
    engine = load_engine(stage.path, engine=stage.engine.name, precision="float32")
    difference = _largest_difference(replace(stage, engine=engine), texts, expected)
    if not difference <= TOLERANCE:  # nor where it is no number
        raise StageError(
            f"{stage.name}: on {engine.name} its logits differ from those of transformers by up to "
            f"{difference:.2g} of the largest; {TOLERANCE:g} is allowed. Use --engine torch."
        )
