"""Pruned vocabularies: the map back to the large model's numbers holds for any string."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerFast

from cascadebert import distill
from cascadebert.errors import StageError
from cascadebert.training.config import DistillConfig
from cascadebert.training.distillation.vocabulary import keep_tokens, prune_tokenizer
from samples import sentences

TEXT = [
    "the quick brown fox jumps over the lazy dog",
    "pack my box with five dozen liquor jugs and more boxes",
    "unbelievable unboxing of foxes and jumping dogs, quickly!",
] * 20
ODD = [
    "", " ", "\t\n", "\u00e9", "\u8bcd\u8bed", "\U0001f600\U0001f468\u200d\U0001f469", "\x00\x07", "a" * 300,
    "[CLS] [MASK]", "<s></s>", "don't stop", "\u0130\u0131", "e\u0301", "\ufeffbom", "1234567890" * 5,
]  # fmt: skip


def word_piece():
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.pre_tokenizer, made.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    made.train_from_iterator(TEXT, trainers.WordPieceTrainer(vocab_size=200, special_tokens=BERT))
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, made.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )  # fmt: skip
    return made


def byte_pairs():
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=ROBERTA, initial_alphabet=alphabet)
    made.train_from_iterator(TEXT, trainer)
    made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return made


def unigram():
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=ROBERTA, unk_token="<unk>")
    made.train_from_iterator(TEXT, trainer)
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return made


BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ROBERTA = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
KINDS = {"WordPiece": word_piece, "BPE": byte_pairs, "Unigram": unigram}


@pytest.fixture(scope="module", params=KINDS)
def pruned(request, tmp_path_factory):
    """A full tokenizer, one pruned to two thirds of what may go, and the map between them."""
    root = tmp_path_factory.mktemp(request.param)
    full = KINDS[request.param]()
    full.save(str(root / "tokenizer.json"))
    PreTrainedTokenizerFast(tokenizer_object=full).save_pretrained(root)
    counts = np.zeros(full.get_vocab_size(), dtype=np.int64)
    for text in TEXT[:2]:
        np.add.at(counts, full.encode(text).ids, 1)
    fewest = len(keep_tokens(root / "tokenizer.json", np.zeros_like(counts), full.get_vocab_size()))
    kept = keep_tokens(root / "tokenizer.json", counts, fewest + 25)
    assert fewest < len(kept) <= fewest + 25 < full.get_vocab_size()
    (root / "small").mkdir()
    prune_tokenizer(root, root / "small", kept)
    return full, Tokenizer.from_file(str(root / "small" / "tokenizer.json")), kept


def check(pruned, text):
    """Tokens map back one by one, nothing known becomes unknown, and the text is still the same."""
    full, small, kept = pruned
    ours, theirs = small.encode(text).ids, full.encode(text).ids
    assert [full.id_to_token(int(kept[i])) for i in ours] == [small.id_to_token(i) for i in ours]
    lost = {"[UNK]", "<unk>"}
    unknown = [sum(side.id_to_token(i) in lost for i in ids) for side, ids in ((small, ours), (full, theirs))]
    assert unknown[0] <= unknown[1]
    assert small.decode(ours) == full.decode(theirs)


@pytest.mark.parametrize("text", ODD)
def test_odd_strings_map_back_token_by_token(pruned, text):
    check(pruned, text)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=60))
def test_any_string_maps_back_token_by_token(pruned, text):
    check(pruned, text)


def test_what_is_spelled_with_kept_tokens_alone_is_spelled_as_before(pruned):
    full, small, kept = pruned
    texts = [*ODD, *TEXT[0].split(), *TEXT[1].split()]
    whole = [text for text in texts if set(full.encode(text).ids) <= set(kept.tolist())]
    assert len(whole) > 5
    for text in whole:
        assert [int(kept[i]) for i in small.encode(text).ids] == full.encode(text).ids


def test_keeping_every_token_changes_nothing(tmp_path):
    for kind, make in KINDS.items():
        folder = tmp_path / kind
        (folder / "small").mkdir(parents=True)
        full = make()
        full.save(str(folder / "tokenizer.json"))
        size = full.get_vocab_size()
        kept = keep_tokens(folder / "tokenizer.json", np.ones(size, dtype=np.int64), size)
        assert kept.tolist() == list(range(size))
        prune_tokenizer(folder, folder / "small", kept)
        small = Tokenizer.from_file(str(folder / "small" / "tokenizer.json"))
        for text in (*ODD, *TEXT[:3]):
            assert small.encode(text).ids == full.encode(text).ids
        assert json.loads((folder / "small" / "token_map.json").read_text()) == list(range(size))


def test_a_vocabulary_smaller_than_its_characters_is_refused(tmp_path):
    full = word_piece()
    full.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(StageError, match=r"a vocabulary of 10 is too small: \d+ special tokens"):
        keep_tokens(tmp_path / "tokenizer.json", np.ones(full.get_vocab_size(), dtype=np.int64), 10)


def test_another_kind_of_tokenizer_is_refused(tmp_path):
    made = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    made.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(StageError, match="a WordLevel tokenizer cannot be pruned"):
        keep_tokens(tmp_path / "tokenizer.json", np.ones(2, dtype=np.int64), 2)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_student_with_a_pruned_vocabulary_opens_in_plain_transformers(make_model, tmp_path, family):
    large = make_model(family, layers=2, hidden=32, labels=None)
    (tmp_path / "corpus.txt").write_text("\n".join(sentences(2000, seed=1, most=30)), "utf-8")
    config = DistillConfig(
        max_length=32, batch_tokens=512, bf16=False, max_tokens=20_000, learning_rate=3e-3, vocabulary=95
    )
    made = distill(large, num_layers=1, corpus=tmp_path / "corpus.txt", output=tmp_path / "s", config=config)
    student, tokenizer = (
        AutoModel.from_pretrained(tmp_path / "s"),
        AutoTokenizer.from_pretrained(tmp_path / "s"),
    )
    kept = np.array(json.loads((tmp_path / "s" / "token_map.json").read_text()))
    full = AutoTokenizer.from_pretrained(large)
    assert student.config.vocab_size == len(kept) == len(tokenizer) <= 95 < len(full)
    assert made.students[0].held_out_loss < 0.9
    ids = tokenizer("a fine film, not dull")["input_ids"]
    assert full.convert_ids_to_tokens(kept[ids].tolist()) == tokenizer.convert_ids_to_tokens(ids)
    frequent = [word for word in ("film", "story", "fine", "dull", "was") if word in tokenizer.get_vocab()]
    assert frequent and all(len(tokenizer(word)["input_ids"]) == 3 for word in frequent)
    assert tokenizer.pad_token_id == student.config.pad_token_id == int(np.searchsorted(kept, 0))
