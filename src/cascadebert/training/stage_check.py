"""Checks a stage against transformers: the same tokens, and the same answers as of each text alone."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from cascadebert.data.labels import shorten
from cascadebert.errors import StageError, extra, reason
from cascadebert.inference.batching import TokenizedTexts, length_batches
from cascadebert.inference.engines.base import Engine, TokenBatch
from cascadebert.inference.engines.load import load_engine, stage_kind
from cascadebert.inference.engines.torch import load_classifier, quiet_transformers
from cascadebert.inference.stage import BATCH_TOKENS, Stage
from cascadebert.inference.tokenizer import StageTokenizer
from cascadebert.training.checkpoints import count_flops, display_name
from cascadebert.training.export import write_engine_file
from cascadebert.training.tokenizer_files import check_vocabulary, open_tokenizer
from cascadebert.types import Logits, PaddingSide, Texts

with extra("train"):
    import torch
    from transformers import PreTrainedTokenizerBase

MAX_TOKENIZED, MAX_RUN = 1000, 24
TOLERANCE = 1e-3  # of logits, relative to the largest; float32 on another engine differs by some 1e-5
SIDES: tuple[PaddingSide, ...] = ("right", "left")
Run: TypeAlias = Callable[[TokenBatch], Logits]
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
    """The stage with the padding that its model tolerates, if it answers as transformers does.

    Up to 1,000 of the `texts` and some odd ones must get the tokens and token types of `AutoTokenizer`. 24 of
    them and the odd ones go one by one through the model itself in float32, at their exact lengths; the
    stage's engine must give the same logits in float32 at padded lengths. A model whose answers depend on
    padding at the right is padded at the left, or not at all. Raises StageError with the first difference.
    """
    tokenizer = open_tokenizer(files.tokenizer)
    compare_tokens(stage.name, stage.tokenizer, tokenizer, sample_texts(texts, MAX_TOKENIZED))
    if stage_kind(stage.path).own_engine is not None:  # transformers cannot run it
        return stage
    texts, expected = _reference(stage, files, tokenizer, sample_texts(texts, MAX_RUN))
    engines = [_in_float32(stage, name) for name in dict.fromkeys(("torch", stage.engine.name))]
    with _failures_reported(stage.name, "torch"):
        side = find_padding(engines[0].logits, stage.tokenizer, texts)
    own = StageTokenizer(stage.path, max_length=stage.tokenizer.max_length, padding_side=side)
    for engine in engines:
        with _failures_reported(stage.name, engine.name):
            difference = _largest_difference(engine.logits, own.encode(texts), own.max_length, expected)
        if not difference <= TOLERANCE:  # nor where it is no number
            raise StageError(
                f"{stage.name}: on {engine.name} its logits differ from those of transformers by up to "
                f"{difference:.2g} of the largest; {TOLERANCE:g} is allowed. {_remedy(engine.name)}"
            )
    return replace(stage, tokenizer=own)


@contextmanager
def _failures_reported(stage: str, engine: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # each engine raises its own
        raise StageError(f"{stage}: {engine} cannot run it ({reason(error)}). {_remedy(engine)}") from error


def _remedy(engine: str) -> str:
    return "It cannot be a stage." if engine == "torch" else "Use --engine torch."


def find_padding(run: Run, tokenizer: StageTokenizer, texts: Sequence[Any]) -> PaddingSide:
    """The side of padding that does not change the logits that texts get at their exact lengths, else "none".

    `run` gives the (rows, num_labels) logits of a batch.
    """
    empty = set(tokenizer.without_tokens(texts))
    tokens = tokenizer.encode([text for i, text in enumerate(texts) if i not in empty])
    alone = enumerate(tokens.lengths.tolist())
    expected = np.concatenate([run(tokens.batch(np.array([i]), length=length)) for i, length in alone])
    for side in SIDES:
        padded = replace(tokens, padding=replace(tokens.padding, side=side))
        if _largest_difference(run, padded, tokenizer.max_length, expected) <= TOLERANCE:
            return side
    return "none"


def _in_float32(stage: Stage, engine: str) -> Engine:
    if (stage.engine.name, stage.engine.precision) == (engine, "float32"):
        return stage.engine
    return load_engine(stage.path, engine=engine, precision="float32")


def sample_texts(texts: Texts, count: int) -> list[Any]:
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


def compare_tokens(
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


def _reference(
    stage: Stage, files: StageFiles, tokenizer: PreTrainedTokenizerBase, texts: Sequence[Any]
) -> tuple[list[Any], Logits]:
    """The texts that transformers answers, and their (n, num_labels) logits, each text run alone.

    Odd texts that it cannot run are left out. Raises StageError if it cannot run another one, or the model
    has other labels than the stage.
    """
    model = load_classifier(files.model).eval()
    model.__dict__.pop("forward", None)  # as its class runs it
    check_vocabulary(stage.name, tokenizer, model)
    names = tuple(str(name) for _, name in sorted((model.config.id2label or {}).items()))
    accepted = inspect.signature(model.forward).parameters
    rows = [(text, _encode(tokenizer, text, stage.tokenizer.max_length)) for text in texts]
    rows = [row for row in rows if row[1]["input_ids"]]  # others are refused where they are met
    rows.sort(key=lambda row: -len(row[1]["input_ids"]))  # BigBird changes its attention after a short text
    answered, logits = list[Any](), list[Logits]()
    for text, encoded in rows:
        inputs = {name: torch.tensor([ids]) for name, ids in encoded.items() if name in accepted}
        try:
            with torch.inference_mode(), quiet_transformers():
                logits.append(model(**inputs).logits[0].float().numpy())
            answered.append(text)
        except Exception as error:  # what a model's own code raises
            if not set(text if isinstance(text, tuple) else (text,)) <= set(ODD_TEXTS):
                raise StageError(
                    f"{stage.name}: transformers itself cannot run the text {''.join(text)!r:.60} "
                    f"({reason(error)})"
                ) from error
    if names != stage.label_names or len(logits[0]) != stage.num_labels:
        raise StageError(
            f"{stage.name}: the model gives {len(logits[0])} logits for {shorten(names)}; its config.json is "
            f"read as {stage.num_labels} labels ({shorten(stage.label_names)})"
        )
    return answered, np.stack(logits)


def _largest_difference(run: Run, tokens: TokenizedTexts, limit: int, expected: Logits) -> float:
    """Largest difference of logits, relative to the largest logit.

    The texts run in batches of one padded length, as in prediction, and padded to twice their length (up to
    the `limit`), where a model that reads padding shows it.
    """
    own, largest = tokens.padded_lengths, 0.0
    doubled = own if tokens.padding.side == "none" else np.minimum(2 * own, np.maximum(limit, own))
    for lengths in (own, doubled):
        for batch in length_batches(lengths, tokens=BATCH_TOKENS):
            logits = run(tokens.batch(batch, length=int(lengths[batch[0]])))
            largest = np.maximum(largest, np.abs(logits - expected[batch]).max())  # keeps what is no number
    return float(largest / (np.abs(expected).max() + 1))
