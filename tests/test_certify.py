"""Certification of a folder: which examples are read, what is stored, what is rejected."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from cascadebert import Cascade, OperatingPoint
from cascadebert.data.dataset import load_examples
from cascadebert.errors import CascadeError, DataError, FolderError
from cascadebert.persistence.folder import read_folder, read_used_rows
from cascadebert.thresholds.operating_point import Guarantee
from cascadebert.tuning.certify import CertificationFailed, certify_folder, split_rows
from samples import reviews, write_csv

AGREE = [Guarantee("min_agreement", 0.3)]


@pytest.fixture
def cascade(saved, tmp_path):
    """A copy of a saved cascade that may be changed."""
    shutil.copytree(saved, tmp_path / "cascade")
    return tmp_path / "cascade"


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """900 labeled rows that no cascade has seen."""
    return write_csv(tmp_path_factory.mktemp("rows") / "rows.csv", *reviews(900, seed=77))


def test_a_certificate_is_stored_and_names_what_it_belongs_to(cascade, rows):
    tuned = certify_folder(cascade, rows, guarantees=AGREE, confidence_level=0.9)
    stored = Cascade.from_pretrained(cascade)
    certificate = stored.operating_point.certificate
    assert certificate == tuned.point.certificate and stored.uncertified_reason is None
    assert certificate.points[-1].thresholds == stored.operating_point.thresholds
    assert (certificate.delta, certificate.engine, certificate.device) == (0.1, "torch", "cpu")
    assert [one.guarantee for one in certificate.guarantees] == AGREE
    assert 0.3 <= certificate.guarantees[0].bound <= 1
    assert "Certified on" in (cascade / "README.md").read_text("utf-8")


def test_every_point_of_the_certificate_may_be_moved_to(cascade, rows):
    certify_folder(cascade, rows, guarantees=AGREE, confidence_level=0.9)
    stored = Cascade.from_pretrained(cascade)
    for point in stored.operating_point.certificate.points:
        assert stored.with_operating_point(OperatingPoint(point.thresholds)).uncertified_reason is None
    assert "by hand" in stored.with_operating_point(OperatingPoint((0.123,))).uncertified_reason


def test_agreement_needs_no_labels_and_accuracy_does(cascade, rows, tmp_path):
    texts = load_examples(rows).texts
    plain = tmp_path / "plain.csv"
    plain.write_text("text\n" + "\n".join(texts) + "\n", "utf-8")
    assert certify_folder(cascade, plain, guarantees=AGREE, confidence_level=0.9).report is None
    with pytest.raises(DataError, match="label"):
        certify_folder(cascade, plain, guarantees=[Guarantee("min_accuracy", 0.1)], confidence_level=0.9)


def test_rows_read_for_a_certificate_cannot_serve_another(cascade, rows):
    first = certify_folder(cascade, rows, guarantees=AGREE, confidence_level=0.9)
    before = (cascade / "cascade.json").read_bytes()
    with pytest.raises(DataError, match=r"earlier certificate and cannot be used for another.*new examples"):
        certify_folder(cascade, rows, guarantees=AGREE, confidence_level=0.9)
    assert (cascade / "cascade.json").read_bytes() == before
    assert len(read_used_rows(cascade).consumed) == first.point.certificate.n


def test_what_cannot_be_promised_leaves_the_thresholds_and_spends_the_rows(cascade, rows):
    before = (cascade / "cascade.json").read_bytes()
    with pytest.raises(CertificationFailed, match="cannot be guaranteed") as refused:
        certify_folder(cascade, rows, guarantees=[Guarantee("min_accuracy", 0.97)], confidence_level=0.95)
    assert (cascade / "cascade.json").read_bytes() == before
    assert 0 < refused.value.as_dict()["nearest"]["value"] < 0.97
    assert len(read_used_rows(cascade).consumed) == refused.value.n > 400


def test_too_few_rows_are_refused_before_any_is_read(cascade, rows):
    wanted = [Guarantee("max_accuracy_drop", 0.0005)]
    with pytest.raises(CascadeError, match="certification examples without any loss"):
        certify_folder(cascade, rows, guarantees=wanted, confidence_level=0.95)
    assert not len(read_used_rows(cascade).consumed)


def test_rows_are_split_by_what_they_were_used_for(cascade, rows):
    examples, used = load_examples(rows), read_used_rows(cascade)
    hashes = examples.hashes()
    marked = type(used)(
        train=hashes[:100], tune=hashes[100:200], certify=hashes[200:300], consumed=hashes[300:400]
    )
    tuning_set, certification_set, notices = split_rows(examples, marked)
    tune, certify = tuning_set.hashes(), certification_set.hashes()
    assert not np.isin(hashes[:100], np.union1d(tune, certify)).any()
    assert not np.isin(hashes[300:400], np.union1d(tune, certify)).any()
    assert np.isin(hashes[100:200], tune).all() and np.isin(hashes[200:300], certify).all()
    new = np.isin(hashes[400:], certify)
    assert 0.55 < new.mean() < 0.78 and np.isin(hashes[400:], tune)[~new].all()
    assert [notice.split()[0] for notice in notices] == ["100", "100"]


def test_a_certificate_moved_to_another_cascade_is_refused(cascade, rows):
    certify_folder(cascade, rows, guarantees=AGREE, confidence_level=0.9)
    spec = json.loads((cascade / "cascade.json").read_text("utf-8"))
    for change in ("stages_sha256", "engine", "temperatures"):
        edited = json.loads(json.dumps(spec))
        edited["operating_point"]["certificate"][change] = [9.0, 9.0] if change == "temperatures" else "other"
        (cascade / "cascade.json").write_text(json.dumps(edited), "utf-8")
        with pytest.raises(FolderError, match="certificate belongs to other"):
            read_folder(cascade)


@pytest.mark.parametrize("guarantees", [[], AGREE * 2])
def test_no_promise_and_the_same_one_twice_are_refused(cascade, rows, guarantees):
    with pytest.raises(CascadeError, match="each only once"):
        certify_folder(cascade, rows, guarantees=guarantees, confidence_level=0.9)


@pytest.mark.parametrize("level", [0.0, 0.4, 1.0])
def test_a_confidence_level_out_of_range_is_refused(cascade, rows, level):
    with pytest.raises(CascadeError, match=r"in \[0\.5, 1\)"):
        certify_folder(cascade, rows, guarantees=AGREE, confidence_level=level)
