"""Edits of tokenizer_config.json: the tokens of `transformers`, or a refusal; never others or a traceback."""

import json
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from cascadebert.errors import StageError
from cascadebert.inference.tokenizer import StageTokenizer
from cascadebert.training.stage_check import ODD_TEXTS, compare_tokens
from cascadebert.training.tokenizer_files import copy_tokenizer, open_tokenizer

SINGLE = [*ODD_TEXTS, "A Really Good film"]
PAIRS = list(zip(SINGLE, SINGLE[::-1], strict=True))
ODD = st.sampled_from([None, "", "yes", 3, -1, 2.5, [], ["x"], {}, True, False])
TOKENS = st.sampled_from(["[CLS]", "[SEP]", "good", "unheard of", {"content": "[MASK]", "lstrip": True}])
CLASSES = "BertTokenizer BertTokenizerFast PreTrainedTokenizerFast TokenizersBackend MPNetTokenizer Nonsense"
INPUTS = ["input_ids", "attention_mask", "token_type_ids"]
EDITS = {
    "tokenizer_class": st.sampled_from(CLASSES.split()),
    "do_lower_case": st.booleans(),
    "strip_accents": st.booleans(),
    "tokenize_chinese_chars": st.booleans(),
    "truncation_side": st.sampled_from(["left", "right", "middle"]),
    "padding_side": st.sampled_from(["left", "right", "middle"]),
    "model_input_names": st.lists(st.sampled_from(INPUTS), unique=True),
    "model_max_length": st.sampled_from([4, 8, 512, 1e30, "512"]),
    "add_prefix_space": st.booleans(),
    "use_fast": st.booleans(),
    "clean_up_tokenization_spaces": st.booleans(),
    **dict.fromkeys(("unk_token", "cls_token", "sep_token", "pad_token", "mask_token"), TOKENS),
    "extra_special_tokens": st.sampled_from([["good"], ["brand new"], {"image_token": "good"}]),
    "added_tokens_decoder": st.sampled_from([{"7": {"content": "film", "special": True}}, {"x": {}}]),
}


@st.composite
def edits(draw):
    """One to three entries replaced by values that occur, or by values of a wrong kind."""
    names = draw(st.lists(st.sampled_from(sorted(EDITS)), min_size=1, max_size=3, unique=True))
    return {name: draw(EDITS[name] | ODD if draw(st.integers(0, 3)) == 0 else EDITS[name]) for name in names}


def transformers_tokens(source):
    """What `transformers` makes of each text and pair; None where it fails."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        rows = [tokenizer(text, truncation=True, max_length=16) for text in SINGLE]
        return rows + [tokenizer(*pair, truncation=True, max_length=16) for pair in PAIRS]
    except Exception:
        return None


@pytest.mark.slow
@settings(max_examples=20, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(changes=edits())
def test_edited_settings_give_the_tokens_of_transformers_or_are_refused(make_model, changes):
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "source", Path(folder) / "target"
        shutil.copytree(make_model(), source)
        target.mkdir()
        shutil.copyfile(source / "config.json", target / "config.json")
        file = source / "tokenizer_config.json"
        file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | changes), "utf-8")
        expected = transformers_tokens(source)
        try:
            copy_tokenizer(source, target)
            own = StageTokenizer(target, max_length=16)
            for texts in (SINGLE, PAIRS):
                compare_tokens("stage", own, open_tokenizer(source), texts)
        except StageError:
            return
        assert expected is not None
        for text, tokens in zip([*SINGLE, *PAIRS], expected, strict=True):
            if tokens["input_ids"]:
                row = own.encode([text])
                assert row.ids.tolist() == tokens["input_ids"]
                assert row.type_ids.tolist() == tokens.get("token_type_ids", [0] * len(row.ids))
