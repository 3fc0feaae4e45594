"""Tokens by nanotoken: to the last one those that tokenizers makes."""

import json
import random
from concurrent.futures import ThreadPoolExecutor

import nanotoken
import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from cascadebert.inference.batching import Padding
from cascadebert.inference.tokenizer import StageTokenizer
from cascadebert.inference.wordpiece import WordPieceTokens

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = (
    "the film is not , . ! bad goodness don't 3.14 $5 a-b naïve café Straße ΣΑΣ \u017f \ufb01ne 日本 ##ing"
).split()
LETTERS = [chr(code) for span in ((0, 0x250), (0x300, 0x370), (0x2000, 0x2070)) for code in range(*span)]
LETTERS += list("ςßİıŉǅﬀ一中かなカ한국हिन्दीעבالع🙂\u200d👩\ufeff\u3000\u1680\ue000\U000e0001\ufffd\uffff")
SPACES = (" ", "  ", "\n", "\t", "\r\n", " \n ", "\x0b", "\x1c", "\x85", "\xa0", "\u2028")


def odd_texts(n, seed):
    """Words of any script, special tokens, single characters of all kinds and unusual white space."""
    rng = random.Random(seed)

    def piece():
        kind = rng.random()
        if kind < 0.5:
            return rng.choice([*WORDS, *SPECIAL, "<extra>"])
        if kind < 0.7:
            return "".join(rng.choices(LETTERS, k=rng.randrange(1, 6)))
        if kind < 0.72:
            return rng.choice("abc") * rng.randrange(95, 106)  # about the longest word that WordPiece divides
        if kind < 0.8:
            return "".join(rng.choices("abcdefgh", k=rng.randrange(1, 9)))
        return rng.choice(SPACES)

    return ["".join(piece() + rng.choice(("", " ")) for _ in range(rng.randrange(30))) for _ in range(n)]


def tokenizer(max_length, *, lowercase=True, roberta=False, lstrip=False):
    """A WordPiece tokenizer whose pieces are letters and some of the words."""
    letters = sorted(
        {letter for word in WORDS for letter in word.lower()} | set("abcdefghijklmnopqrstuvwxyz")
    )
    pieces = [
        *SPECIAL,
        *letters,
        *(f"##{letter}" for letter in letters),
        "the",
        "film",
        "good",
        "##ness",
        "<extra>",
    ]
    made = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.add_special_tokens(list(SPECIAL))
    settings = json.loads(made.to_str())
    settings["added_tokens"][-1]["lstrip"] = lstrip
    settings["added_tokens"].append({
        "id": len(pieces) - 1, "content": "<extra>", "single_word": True, "lstrip": False, "rstrip": True,
        "normalized": True, "special": False,
    })  # fmt: skip
    made = Tokenizer.from_str(json.dumps(settings))
    ends = ("[SEP]", 3), ("[CLS]", 2)
    made.post_processor = processors.RobertaProcessing(*ends) if roberta else processors.BertProcessing(*ends)
    made.enable_truncation(max_length)
    return made


def assert_equal(found, encodings, max_length):
    """The tokens, their types and what was cut are those of the tokenizer."""
    assert found.lengths.tolist() == [len(encoding.ids) for encoding in encodings]
    assert found.ids.tolist() == [one for encoding in encodings for one in encoding.ids]
    assert found.type_ids.tolist() == [one for encoding in encodings for one in encoding.type_ids]
    cut = [len(encoding.ids) >= max_length and bool(encoding.overflowing) for encoding in encodings]
    assert found.truncated.tolist() == cut


@pytest.mark.slow
@pytest.mark.parametrize("max_length", [6, 16, 128])
@pytest.mark.parametrize("kind", [{}, {"lowercase": False}, {"roberta": True, "lstrip": True}])
def test_odd_texts_and_pairs_have_the_same_tokens(kind, max_length):
    whole = tokenizer(max_length, **kind)
    tokens = WordPieceTokens.of(whole, max_length=max_length, padding=Padding())
    texts = odd_texts(300, seed=max_length)
    for batch in (texts, list(zip(texts[::2], texts[1::2], strict=True)), texts[:5]):
        assert_equal(tokens.encode(batch), whole.encode_batch_fast(batch), max_length)


def test_threads_share_it():
    whole = tokenizer(32)
    tokens = WordPieceTokens.of(whole, max_length=32, padding=Padding())
    parts = [odd_texts(50, seed=seed) for seed in range(8)] * 3
    with ThreadPoolExecutor(8) as threads:
        for found, part in zip(threads.map(tokens.encode, parts), parts, strict=True):
            assert_equal(found, whole.encode_batch_fast(part), 32)


def test_a_tokenizer_of_which_the_library_makes_something_else_is_not_given_to_it(monkeypatch):
    options = {"max_length": 16, "padding": Padding()}
    plain = tokenizer(16)
    assert WordPieceTokens.of(plain, **options)
    assert WordPieceTokens.of(Tokenizer(models.BPE()), **options) is None
    byte_level = Tokenizer.from_str(plain.to_str())
    byte_level.pre_tokenizer = pre_tokenizers.ByteLevel()
    assert WordPieceTokens.of(byte_level, **options) is None
    other = tokenizer(16, lowercase=False).to_str()
    read = nanotoken.Tokenizer.from_json
    monkeypatch.setattr(nanotoken.Tokenizer, "from_json", lambda _: read(other))
    assert WordPieceTokens.of(plain, **options) is None


def test_what_cannot_be_encoded_or_is_mixed_is_left_to_the_tokenizer():
    tokens = WordPieceTokens.of(tokenizer(16), max_length=16, padding=Padding())
    assert tokens.encode(["the film", "\ud800"]) is None
    assert tokens.encode(["the film", ("the", "film")]) is None


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("types", [True, False])
def test_a_stage_gives_the_same_tokens_to_few_texts_and_to_many(make_model, tmp_path, side, types):
    source = make_model("bert")
    for name in ("tokenizer.json", "config.json"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    inputs = ["input_ids", "token_type_ids"] if types else ["input_ids"]
    settings = {"truncation_side": side, "model_input_names": inputs}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    stage = StageTokenizer(tmp_path, max_length=8)
    texts = ["the film was very great and warm and bright", "a dull book", "", "\x00", "fine fine", "not"]
    for many in (texts, list(zip(texts, texts[::-1], strict=True))):
        together, alone = stage.encode(many), [stage.encode([text]) for text in many]
        for name in ("ids", "type_ids", "truncated"):
            expected = np.concatenate([getattr(one, name) for one in alone])
            assert getattr(together, name).tolist() == expected.tolist()
        assert together.lengths.tolist() == [int(one.lengths[0]) for one in alone]
    mixed = [texts[0], (texts[1], texts[4]), texts[2], texts[3]]
    assert stage.encode(mixed).lengths.tolist() == [int(stage.encode([one]).lengths[0]) for one in mixed]
