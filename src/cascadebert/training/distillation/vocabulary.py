"""A smaller vocabulary: a tokenizer that keeps the tokens a corpus uses, and its map to the full one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cascadebert.errors import StageError
from cascadebert.types import Ints

MAPPED = "token_map.json"
"""In a student's folder: entry i is the number that its token i has in the large model."""


def keep_tokens(tokenizer: Path, counts: Ints, size: int, *, also: Iterable[int] = ()) -> Ints:
    """The numbers of the tokens to keep, in rising order.

    Kept are: special and added tokens; pieces of one character, and those that cannot be spelled with them,
    so that texts stay known; then the most frequent ones, with the parts that a merge
    needs (byte-pair encoding).

    Args:
        tokenizer: a tokenizer.json.
        counts: (vocabulary,) how often each token occurs.
        size: how many to keep.
        also: numbers that must stay, such as those that a configuration names.

    Raises:
        StageError: if `size` is not enough for those that must stay, or the tokenizer is of another kind
            than WordPiece, BPE and Unigram.
    """
    made = json.loads(tokenizer.read_text("utf-8"))
    parts = _parts(made)
    must = _must_stay(made) | set(also)
    if size < len(must):
        raise StageError(
            f"a vocabulary of {size:,} is too small: {len(must):,} special tokens and single characters must "
            "stay. Ask for more tokens."
        )
    kept = set(must)
    for number in np.argsort(-counts, kind="stable"):
        needed = _with_parts(int(number), parts) - kept
        if counts[number] == 0 or len(kept) + len(needed) > size:
            break
        kept |= needed
    return np.array(sorted(kept), dtype=np.int64)


def prune_tokenizer(source: Path, target: Path, kept: Ints) -> None:
    """Write a tokenizer of the kept tokens, renumbered in order, into the folder `target`.

    A word whose token is gone is spelled with the pieces that are left. Writes `token_map.json` beside it;
    files of other forms of the tokenizer (vocab.txt and such) would hold the old numbers and are left out.

    Args:
        source: folder with tokenizer.json.
        target: folder to write to.
        kept: (tokens,) from `keep_tokens`.
    """
    made = json.loads((source / "tokenizer.json").read_text("utf-8"))
    new = {int(old): number for number, old in enumerate(kept)}
    model = made["model"]
    names = {token for token, number in _tokens(made).items() if number in new}
    if model["type"] == "Unigram":
        model["vocab"] = [entry for number, entry in enumerate(model["vocab"]) if number in new]
        model["unk_id"] = None if model.get("unk_id") is None else new[model["unk_id"]]
    else:
        model["vocab"] = {token: new[i] for token, i in model["vocab"].items() if i in new}
    if model["type"] == "BPE":
        pairs = (entry.split(" ") if isinstance(entry, str) else entry for entry in model["merges"])
        model["merges"] = [pair for pair in pairs if {*pair, "".join(pair)} <= names]
    for added in made["added_tokens"]:
        added["id"] = new[added["id"]]
    if made.get("padding"):
        made["padding"]["pad_id"] = new[made["padding"]["pad_id"]]
    _renumber(made.get("post_processor"), lambda number: new[number])
    _write(target / "tokenizer.json", made)
    _write(target / MAPPED, [int(old) for old in kept])
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    _renumber_config(target / "tokenizer_config.json", new)


def _tokens(made: dict[str, Any]) -> dict[str, int]:
    model = made["model"]
    if model["type"] in ("WordPiece", "BPE"):
        return dict(model["vocab"])
    if model["type"] == "Unigram":
        return {piece: number for number, (piece, _) in enumerate(model["vocab"])}
    raise StageError(f"a {model['type']} tokenizer cannot be pruned; leave out --vocabulary")


def _must_stay(made: dict[str, Any]) -> set[int]:
    """Special tokens, single characters, and what these could not spell."""
    vocabulary, model = _tokens(made), made["model"]
    must = {added["id"] for added in made["added_tokens"]}
    must |= {vocabulary[token] for token in (model.get("unk_token"),) if token in vocabulary}
    must |= {model["unk_id"]} if model.get("unk_id") is not None else set()
    inner = model.get("continuing_subword_prefix") or "" if model["type"] == "WordPiece" else ""
    for token, number in vocabulary.items():
        start = token.startswith(inner) and inner != ""
        letters = token.removeprefix(inner) if start else token
        pieces = [inner + one if start or i else one for i, one in enumerate(letters)]
        spelled = model["type"] == "BPE" or all(piece in vocabulary for piece in pieces)
        if len(letters) <= 1 or _is_byte(token) or not spelled:
            must.add(number)
    return must


def _is_byte(token: str) -> bool:
    """Whether a token is a byte written out, such as <0x0A>."""
    return len(token) == 6 and token.startswith("<0x") and token.endswith(">")


def _parts(made: dict[str, Any]) -> dict[int, tuple[int, int]]:
    """For each token that a merge makes, the two tokens it is made of."""
    if made["model"]["type"] != "BPE":
        return {}
    vocabulary: dict[str, int] = made["model"]["vocab"]
    found: dict[int, tuple[int, int]] = {}
    try:
        for entry in made["model"]["merges"]:
            left, right = entry.split(" ") if isinstance(entry, str) else entry
            found.setdefault(vocabulary[left + right], (vocabulary[left], vocabulary[right]))
    except (KeyError, ValueError) as error:
        raise StageError(
            f"a merge of this BPE tokenizer is not understood ({error}); leave out --vocabulary"
        ) from error
    return found


def _with_parts(number: int, parts: dict[int, tuple[int, int]]) -> set[int]:
    found, open_ones = set(), [number]
    while open_ones:
        one = open_ones.pop()
        found.add(one)
        open_ones.extend(parts.get(one, ()))
    return found


def _renumber(processor: dict[str, Any] | None, new: Callable[[int], int]) -> None:
    """Give a post-processor the new numbers of its special tokens, in place."""
    if processor is None:
        return
    inner: Iterable[dict[str, Any]] = processor.get("processors", ())
    for one in inner:
        _renumber(one, new)
    for special in processor.get("special_tokens", {}).values():
        special["ids"] = [new(number) for number in special["ids"]]
    for name in ("sep", "cls"):
        if name in processor:
            token, number = processor[name]
            processor[name] = [token, new(number)]


def _renumber_config(file: Path, new: dict[int, int]) -> None:
    if not file.is_file():
        return
    config = json.loads(file.read_text("utf-8"))
    before = config.get("added_tokens_decoder")
    if before is not None:
        config["added_tokens_decoder"] = {str(new[int(old)]): token for old, token in before.items()}
        _write(file, config)


def _write(file: Path, content: dict[str, Any] | Sequence[int]) -> None:
    file.write_text(json.dumps(content, ensure_ascii=False), "utf-8")
