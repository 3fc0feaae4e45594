"""A part of the matrix of families, engines and kinds of texts; `make families` fills all of it."""

import json
from itertools import product
from pathlib import Path

import pytest

from matrix import ENGINES, FAMILIES, KINDS, outcome

STORED = Path(__file__).resolve().parents[1] / "results" / "models" / "families.json"


@pytest.fixture(scope="module")
def stored():
    return json.loads(STORED.read_text("utf-8"))["families"]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert", "convbert", "fnet", "llama"])
def test_families_answer_as_transformers_or_are_refused_on_every_engine(stored, family, tmp_path):
    for engine, kind in product(ENGINES, KINDS):
        assert outcome(family, engine, kind, tmp_path) == stored[family][f"{engine} {kind}"]


def test_the_documented_table_holds_every_family_engine_and_kind(stored):
    cells = {f"{engine} {kind}" for engine, kind in product(ENGINES, KINDS)}
    assert set(stored) == set(FAMILIES)
    assert all(set(outcomes) == cells for outcomes in stored.values())
