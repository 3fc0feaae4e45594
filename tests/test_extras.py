"""A base install: what needs no extra works, what needs one names it and its install command."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cascadebert import Target, assemble
from samples import reviews, write_csv

BLOCKED = """
import sys
from importlib.abc import MetaPathFinder
class Absent(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in %r:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
sys.argv = ["cascadebert", *sys.argv[1:]]
from cascadebert.cli import main
main()
"""
EXTRAS = (
    "torch",
    "transformers",
    "datasets",
    "accelerate",
    "scipy",
    "sklearn",
    "pyarrow",
    "matplotlib",
    "jinja2",
)


def run(*words, absent=EXTRAS):
    """The command line in a process of its own in which some libraries cannot be imported."""
    command = [sys.executable, "-c", BLOCKED % (absent,), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_saved_cascade_is_described_and_checked_without_any_extra(saved):
    done = run("info", saved, "--check", "--json")
    assert done.returncode == 0, done.stderr
    assert '"checked": true' in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("fit", "--train", "t.csv", "--stage", "a", "--stage", "b", "--output", "c", "--target-speedup", "2"),
        (
            "assemble",
            "--stage",
            "a",
            "--stage",
            "b",
            "--data",
            "t.csv",
            "--output",
            "c",
            "--min-agreement",
            "1",
        ),
        ("distill", "a", "--num-layers", "1", "--output", "c"),
        ("demo", "--output", "c"),
    ],
)
def test_training_without_its_libraries_names_the_extra(words):
    done = run(*words)
    assert done.returncode == 2
    assert "pip install 'cascadebert[train]'" in done.stderr and "Traceback" not in done.stderr


def test_serving_without_its_libraries_names_the_extra(saved):
    done = run("serve", saved, absent=("starlette", "uvicorn", "prometheus_client"))
    assert done.returncode == 2
    assert "pip install 'cascadebert[serve]'" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_cascade_answers_without_torch(make_model, tmp_path):
    rows = write_csv(tmp_path / "rows.csv", *reviews(120, seed=5))
    stages = [make_model(layers=i, hidden=16 * i, seed=i) for i in (1, 3)]
    assemble(stages, data=rows, target=Target(speedup=1.5), output=tmp_path / "c", precision="float32")
    done = run("predict", tmp_path / "c", rows, "--output", tmp_path / "answers.csv", "--json")
    assert done.returncode == 0 and '"n": 120' in done.stdout, done.stderr
    absent = run("info", tmp_path / "c"), run("evaluate", tmp_path / "c", rows, absent=("openvino",))
    assert absent[0].returncode == 0
    assert absent[1].returncode == 2 and "openvino is not installed" in absent[1].stderr


@pytest.mark.slow
def test_inference_without_torch_names_the_extra(saved):
    done = run("evaluate", saved, saved.parent / "data.csv", absent=("torch",))
    assert done.returncode == 2 and "pip install 'cascadebert[train]'" in done.stderr


@pytest.mark.slow
def test_a_report_without_its_libraries_names_the_extra(saved):
    rows = saved.parent / "data.csv"
    done = run("evaluate", saved, rows, "--report", saved.parent / "page.html", absent=("jinja2",))
    assert done.returncode == 2 and "pip install 'cascadebert[tune]'" in done.stderr


@pytest.mark.slow
def test_parquet_without_pyarrow_names_the_extra(saved, tmp_path):
    (tmp_path / "rows.parquet").write_bytes(b"PAR1")
    done = run("evaluate", saved, tmp_path / "rows.parquet", absent=("pyarrow",))
    assert done.returncode == 2 and "pip install 'cascadebert[tune]'" in done.stderr
