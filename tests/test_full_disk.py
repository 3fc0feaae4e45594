"""A full disk is one message, and nothing is half-written; a limit on the size of files stands for it."""

from __future__ import annotations

import errno
import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models

from cascadebert import Cascade, FitConfig, Target, assemble, distill, fit
from cascadebert.errors import DataError, DiskFullError, explain_full_disk
from cascadebert.inference.predict_file import predict_file
from cascadebert.training.config import DistillConfig
from samples import reviews, sentences, write_csv

NUMBERS = np.zeros(10_000)


@contextmanager
def small_disk(size: int) -> Iterator[None]:
    """No file gets larger than `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def save_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, NUMBERS)


def copy_tree(path: Path) -> None:
    (path.parent / "from").mkdir()
    (path.parent / "from" / "numbers").write_bytes(NUMBERS.tobytes())
    with small_disk(1000):
        shutil.copytree(path.parent / "from", path)


SAVERS = {
    "python": lambda path: path.write_bytes(NUMBERS.tobytes()),
    "numpy": save_array,
    "numpy, compressed": lambda path: np.savez(path, numbers=NUMBERS),
    "safetensors": lambda path: save_file({"numbers": NUMBERS}, path),
    "torch": lambda path: torch.save(torch.zeros(10_000), path),
    "tokenizers": lambda path: Tokenizer(models.WordLevel({"a" * 2000: 0}, unk_token="a")).save(str(path)),
}


@pytest.mark.parametrize("save", SAVERS.values(), ids=SAVERS)
def test_what_each_library_raises_becomes_one_error(tmp_path, save):
    with pytest.raises(
        DiskFullError, match=r"^no space left .*Free some.* run the same command again"
    ) as error:
        with explain_full_disk(), small_disk(1000):
            save(tmp_path / "file")
    assert len(str(error.value)) < 600


def test_an_error_of_copying_a_folder_is_explained_too(tmp_path):
    (tmp_path / "numbers").write_bytes(NUMBERS.tobytes())
    with pytest.raises(DiskFullError), explain_full_disk():
        copy_tree(tmp_path / "to")


def raise_chain(*errors: Exception) -> None:
    """Raise the last error, caused by those before it."""
    for cause, error in zip((None, *errors), errors, strict=False):
        error.__cause__ = cause
    raise errors[-1]


@pytest.mark.parametrize("name", ["ENOSPC", "EDQUOT", "EFBIG"])
def test_an_error_that_hides_a_full_disk_is_explained(name):
    number = getattr(errno, name)
    with pytest.raises(DiskFullError), explain_full_disk():
        raise_chain(OSError(number, os.strerror(number)), ValueError("step"), DataError("cannot be exported"))


@pytest.mark.parametrize(
    "error",
    [
        DataError("row 3: 'No space left on device' is no label"),
        OSError(errno.EACCES, "denied"),
        KeyError("a"),
    ],
)
def test_other_errors_stay_as_they_are(error):
    with pytest.raises(type(error)) as raised, explain_full_disk():
        raise error
    assert raised.value is error


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_predict_on_a_full_disk_leaves_no_output_and_resumes(saved, tmp_path, suffix):
    cascade, source = Cascade.from_pretrained(saved), write_csv(tmp_path / "in.csv", *reviews(160, seed=3))
    output = tmp_path / f"out{suffix}"
    with pytest.raises(DiskFullError), explain_full_disk(), small_disk(1000):
        predict_file(cascade, source, output)
    assert not output.exists()
    assert predict_file(cascade, source, output).n == 160


def test_predict_into_a_full_device_is_one_message_and_exit_code_2(run, saved, tmp_path):
    source, link = write_csv(tmp_path / "in.csv", *reviews(20, seed=3)), tmp_path / "out.csv"
    link.symlink_to("/dev/full")
    code, _, said = run("predict", saved, source, "--output", link)
    assert code == 2 and "no space left" in said and "Traceback" not in said
    assert "run the same command again: all of the work" in said and "OUTPUT.work" not in said
    assert link.is_symlink() and Path("/dev/full").is_char_device()


def test_tune_on_a_full_disk_changes_nothing(run, saved, tmp_path):
    cascade = shutil.copytree(saved, tmp_path / "cascade")
    before = {path: path.read_bytes() for path in cascade.rglob("*") if path.is_file()}
    data = write_csv(tmp_path / "in.csv", *reviews(60, seed=3))
    with small_disk(1000):
        code, _, said = run("tune", cascade, "--data", data, "--target-speedup", 1.1)
    assert code == 2 and "no space left" in said
    assert {path: path.read_bytes() for path in cascade.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "size, engine",
    [(1000, "torch"), (100_000, "torch"), pytest.param(290_000, "onnxruntime", marks=pytest.mark.slow)],
)
def test_assemble_on_a_full_disk_leaves_nothing(make_model, saved, tmp_path, size, engine):
    stages = [make_model(layers=i, hidden=16 * i, seed=i) for i in (1, 3)]
    options = {"data": saved.parent / "data.csv", "target": Target(speedup=2.0), "engine": engine}
    with pytest.raises(DiskFullError, match="no space left"), small_disk(size):
        assemble(stages, output=tmp_path / "c", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_fit_resumes_after_every_file_that_a_full_disk_did_not_take(make_model, tmp_path):
    train = write_csv(tmp_path / "train.csv", *reviews(160, seed=1))
    stages = [make_model(layers=i, hidden=16 * i, seed=i) for i in (1, 3)]
    config = FitConfig(epochs=1, max_length=64)
    options = {"target": Target(speedup=1.2), "output": tmp_path / "c", "config": config, "engine": "torch"}
    # the tokenizer; the weights in a checkpoint; its optimizer, by torch
    for size in (1000, 10_000, 400_000):
        with pytest.raises(DiskFullError, match="no space left"), small_disk(size):
            fit(train, stages=stages, **options)
        assert not (tmp_path / "c").exists()
    assert fit(train, stages=stages, **options).path == tmp_path / "c"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "train.csv"]


@pytest.mark.slow
def test_distill_resumes_after_a_full_disk(make_model, tmp_path):
    (tmp_path / "corpus.txt").write_text("\n".join(sentences(3000, seed=3)))
    large = make_model(layers=3, hidden=32, labels=None)
    config = DistillConfig(max_length=32, batch_tokens=512, bf16=False)
    options = {"num_layers": 1, "corpus": tmp_path / "corpus.txt", "output": tmp_path / "s", "config": config}
    # the tokens of the corpus; a checkpoint
    for size in (5000, 120_000):
        with pytest.raises(DiskFullError, match="no space left"), small_disk(size):
            distill(large, **options)
        assert not (tmp_path / "s").exists()
    assert distill(large, **options).complete
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus.txt", "s"]
