"""The saved folder: same answers after loading, opened by plain transformers, refused when changed."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from cascadebert import Cascade, OperatingPoint
from cascadebert.errors import DataError, FolderError
from cascadebert.persistence.folder import read_folder, read_used_rows
from samples import sentences


@pytest.fixture
def folder(saved, tmp_path):
    """A copy that may be damaged."""
    shutil.copytree(saved, tmp_path / "cascade")
    return tmp_path / "cascade"


def edit(file, change):
    """Apply a change to a JSON file."""
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_saving_and_loading_gives_the_same_predictions(saved, tmp_path):
    texts = sentences(60, seed=1)
    first = Cascade.from_pretrained(saved)
    first.save_pretrained(tmp_path / "copy")
    again = Cascade.from_pretrained(tmp_path / "copy")
    one, two = first.predict(texts), again.predict(texts)
    assert one.labels.tolist() == two.labels.tolist()
    assert one.stages.tolist() == two.stages.tolist()
    assert np.array_equal(one.probabilities, two.probabilities)
    assert again.operating_point == first.operating_point


def test_another_operating_point_is_saved_and_what_was_measured_at_the_old_one_goes(saved, tmp_path):
    moved = Cascade.from_pretrained(saved).with_operating_point(OperatingPoint((0.0,)))
    moved.save_pretrained(tmp_path / "copy")
    again = Cascade.from_pretrained(tmp_path / "copy")
    assert again.operating_point.thresholds == (0.0,)
    assert again.spec.tuned_on is None and again.spec.measured is None
    assert (
        "set by hand" in (tmp_path / "copy" / "README.md").read_text()
        and "texts/s" not in (tmp_path / "copy" / "README.md").read_text()
    )


def test_each_stage_opens_alone_in_plain_transformers(saved):
    for stage in Cascade.from_pretrained(saved).stages:
        model = AutoModelForSequenceClassification.from_pretrained(stage.path)
        tokenizer = AutoTokenizer.from_pretrained(stage.path)
        assert model.config.num_hidden_layers == stage.layers
        assert model(**tokenizer("a fine film", return_tensors="pt")).logits.shape == (1, 2)


def test_there_is_no_pickle_and_no_code_in_it(saved):
    endings = {file.suffix for file in saved.rglob("*") if file.is_file()}
    assert endings <= {".json", ".safetensors", ".md", ".npz", ".txt"}


def test_a_changed_weight_file_is_refused(folder):
    file = folder / "stage-1" / "model.safetensors"
    weights = load_file(file)
    name = next(iter(weights))
    weights[name] = weights[name] + 1e-3
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(FolderError, match=r"stage-1/model.safetensors was changed"):
        Cascade.from_pretrained(folder)


@pytest.mark.parametrize("stage", ["stage-1", "stage-2"])
def test_a_changed_label_order_in_a_stage_is_refused(folder, stage):
    def turn(config):
        config["id2label"] = {"0": config["id2label"]["1"], "1": config["id2label"]["0"]}

    edit(folder / stage / "config.json", turn)
    with pytest.raises(FolderError, match=r"config.json was changed"):
        Cascade.from_pretrained(folder)


def test_a_changed_label_order_of_the_cascade_is_refused(folder):
    edit(folder / "cascade.json", lambda spec: spec["label_names"].reverse())
    with pytest.raises(FolderError, match=r"the label order of cascade\.json"):
        Cascade.from_pretrained(folder)


@pytest.mark.parametrize("version", [0, 2, 4, "3", None])
def test_an_unknown_schema_is_refused(folder, version):
    edit(folder / "cascade.json", lambda spec: spec.update(schema_version=version))
    with pytest.raises(FolderError, match=r"schema version .*; this release reads 3"):
        Cascade.from_pretrained(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda spec: spec.update(surprise=1),
        lambda spec: spec.pop("operating_point"),
        lambda spec: spec["stages"][0].update(temperature="warm"),
        lambda spec: spec.update(format="zip"),
        lambda spec: spec.update(stages=[]),
        lambda spec: spec["operating_point"].update(thresholds=[0.5, 0.5]),
        lambda spec: spec["stages"][0].update(temperature=0),
        lambda spec: spec["calibration"]["counts"].append(1),
        lambda spec: spec["calibration"]["edges"].reverse(),
        lambda spec: spec["calibration"].update(counts=[0] * len(spec["calibration"]["counts"])),
    ],
)
def test_an_unknown_missing_or_mistyped_field_is_refused(folder, change):
    edit(folder / "cascade.json", change)
    with pytest.raises(FolderError, match="damaged or edited"):
        read_folder(folder)


def test_a_missing_and_an_added_file_are_named(folder):
    (folder / "stage-2" / "extra.json").write_text("{}")
    with pytest.raises(FolderError, match=r"extra.json was added"):
        Cascade.from_pretrained(folder)
    (folder / "stage-2" / "extra.json").unlink()
    (folder / "stage-2" / "deeper").mkdir()
    with pytest.raises(FolderError, match=r"deeper is a folder"):
        Cascade.from_pretrained(folder)
    (folder / "stage-2" / "deeper").rmdir()
    (folder / "stage-2" / "tokenizer.json").unlink()
    with pytest.raises(FolderError, match=r"tokenizer.json was removed"):
        Cascade.from_pretrained(folder)


def test_a_stage_path_outside_the_folder_is_refused(folder):
    edit(folder / "cascade.json", lambda spec: spec["stages"][0].update(path="../cascade/stage-1"))
    with pytest.raises(FolderError, match="stage folder"):
        Cascade.from_pretrained(folder)


def test_an_ordinary_folder_is_no_cascade(tmp_path):
    with pytest.raises(FolderError, match="not a saved cascade"):
        Cascade.from_pretrained(tmp_path)


def test_an_existing_output_is_not_replaced_unless_asked(saved, folder):
    cascade = Cascade.from_pretrained(saved)
    with pytest.raises(FolderError, match="--overwrite"):
        cascade.save_pretrained(folder)
    cascade.save_pretrained(folder, overwrite=True)
    assert Cascade.from_pretrained(folder).label_names == cascade.label_names


def test_a_folder_of_something_else_is_never_replaced(saved, tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("years of work")
    with pytest.raises(FolderError, match="not replaced"):
        Cascade.from_pretrained(saved).save_pretrained(tmp_path / "precious", overwrite=True)
    assert (tmp_path / "precious" / "thesis.txt").read_text() == "years of work"


def test_whoever_may_read_the_folder_may_read_all_its_files(saved, tmp_path):
    private = tmp_path / "private"
    shutil.copytree(saved, private)
    for file in private.rglob("*.safetensors"):
        file.chmod(0o600)
    Cascade.from_pretrained(private).save_pretrained(tmp_path / "again")
    expected = (tmp_path / "again").stat().st_mode & 0o666
    files = [file for file in (tmp_path / "again").rglob("*") if file.is_file()]
    assert len(files) > 5 and {file.stat().st_mode & 0o777 for file in files} == {expected}


def test_a_model_beside_other_files_is_never_replaced_by_a_cascade(saved, tmp_path):
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "config.json").write_text("{}")
    (tmp_path / "project" / "thesis.txt").write_text("years of work")
    with pytest.raises(FolderError, match="not replaced"):
        Cascade.from_pretrained(saved).save_pretrained(tmp_path / "project", overwrite=True)
    assert (tmp_path / "project" / "thesis.txt").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04cut"])
def test_damaged_row_fingerprints_are_named(folder, content):
    (folder / "rows.npz").write_bytes(content)
    with pytest.raises(FolderError, match=r"no readable rows\.npz"):
        read_used_rows(folder)


def test_nothing_is_left_when_saving_fails(saved, tmp_path):
    cascade = Cascade.from_pretrained(saved)
    with pytest.raises(DataError, match="does not exist"):
        cascade.save_pretrained(tmp_path / "no" / "such" / "parent")
    assert list(tmp_path.iterdir()) == []


def test_the_rows_used_are_known_by_purpose(saved):
    used = read_used_rows(saved)
    assert (len(used.train), len(used.tune), len(used.certify)) == (0, 160, 0)
