"""Declared label names: a data set in memory, its parquet file and its saved folder say the same."""

from __future__ import annotations

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from cascadebert.data.columns import Columns
from cascadebert.data.dataset import load_examples
from cascadebert.data.labels import declared_names
from cascadebert.data.table import Table
from samples import write_csv

TEXTS, IDS, LABELS = ["a", "b", "c", "d", "e"], [1, 0, 1, None, -1], ("good", "bad", "good", None, None)


@pytest.fixture
def declared():
    """A data set whose labels are ids with declared names, some of them missing."""
    features = {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    features |= {"other": datasets.ClassLabel(names=["1", "0"])}
    rows = {"text": TEXTS, "label": IDS, "other": [0, 1, 0, 1, 0]}
    return datasets.Dataset.from_dict(rows, features=datasets.Features(features))


def test_the_metadata_of_files_that_datasets_writes_declare_the_names(declared, tmp_path):
    declared.to_parquet(tmp_path / "rows.parquet")
    declared.save_to_disk(tmp_path / "folder")
    (saved,) = (tmp_path / "folder").glob("*.arrow")
    with pyarrow.ipc.open_stream(saved) as stream:
        schemas = [stream.schema, pyarrow.parquet.read_schema(tmp_path / "rows.parquet")]
    for schema in schemas:
        assert declared_names(schema.metadata) == {"label": ("bad", "good"), "other": ("1", "0")}


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {},
        {b"pandas": b"{}"},
        {b"huggingface": b"{"},
        {b"huggingface": b"[]"},
        {b"huggingface": b'{"info": {"features": {"label": {"_type": "ClassLabel"}}}}'},
        {b"huggingface": b'{"info": {"features": {"label": [{"_type": "ClassLabel", "names": ["x"]}]}}}'},
        {b"huggingface": b"\xff"},
    ],
)
def test_other_metadata_declare_nothing(metadata):
    assert declared_names(metadata) == {}


def test_a_data_set_its_parquet_file_and_its_saved_table_give_equal_examples(declared, tmp_path):
    declared.to_parquet(tmp_path / "rows.parquet")
    declared.save_to_disk(tmp_path / "folder")
    found = [
        load_examples(source)
        for source in (declared, tmp_path / "rows.parquet", datasets.load_from_disk(tmp_path / "folder"))
    ]
    for examples in found:
        assert examples.labels == LABELS and examples.label_order == ("bad", "good")


def test_names_that_look_like_ids_are_not_taken_for_ids(declared, tmp_path):
    declared.to_parquet(tmp_path / "rows.parquet")
    for source in (declared, tmp_path / "rows.parquet"):
        examples = load_examples(source, columns=Columns(label="other"))
        assert examples.labels == ("1", "0", "1", "0", "1") and examples.label_order == ("1", "0")


def test_an_id_beyond_the_declared_names_is_kept_as_it_is():
    table = Table({"text": ["a"], "label": [7]}, "table", declared={"label": ("bad", "good")})
    assert load_examples(table).labels == ("7",)


def test_a_map_also_renames_what_is_declared(declared):
    mapped = load_examples(declared, columns=Columns(label_map={"good": "positive"}))
    assert mapped.labels[:2] == ("positive", "bad") and mapped.label_order == ("bad", "positive")


def test_the_same_labels_undeclared_are_read_alike(declared, tmp_path):
    plain = write_csv(tmp_path / "rows.csv", TEXTS, [label or "" for label in LABELS])
    assert load_examples(plain).labels == load_examples(declared).labels
