"""Every verb refuses a file in two roles before anything costly, and leaves the file system untouched."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cascadebert import Cascade, CascadeError
from cascadebert.training.difficulty import label_difficulty

STAGES = ("--stage", "no/such/model", "--stage", "m")
TARGET = ("--target-speedup", 2)
FIT = ("fit", *STAGES, *TARGET, "--overwrite")
ASSEMBLE = ("assemble", *STAGES, *TARGET, "--overwrite")
REPRODUCE = ("reproduce", "--large", "no/large", "--small", "no/small")
CASES = {
    "an output that is the input": (*FIT, "--train", "d/a.csv", "--output", "d/../d/a.csv"),
    "train in the output": (*FIT, "--train", "c/a.csv", "--output", "c"),
    "validation in the output": (*FIT, "--train", "d/a.csv", "--validation", "c/a.csv", "--output", "c"),
    "unlabeled in the output": (*FIT, "--train", "d/a.csv", "--unlabeled", "c/*.csv", "--output", "c"),
    "difficulty in the output": (*FIT, "--train", "d/a.csv", "--difficulty", "c/a.csv", "--output", "c"),
    "a stage in the output": (*FIT, "--train", "d/a.csv", "--stage", "c/stage-1", "--output", "c"),
    "an output in a stage": (*FIT, "--train", "d/a.csv", "--output", "m/new"),
    "an output in a folder of data": (*FIT, "--train", "d", "--output", "d/new"),
    "data in the work folder": (*FIT, "--train", "c.work/a.csv", "--output", "c"),
    "a stage in the work folder": (*FIT, "--train", "d/a.csv", "--stage", "c.work", "--output", "c"),
    "data in a new cascade": (*ASSEMBLE, "--data", "c/a.csv", "--output", "c"),
    "a new cascade in data": (*ASSEMBLE, "--data", "d", "--output", "d/new"),
    "a stage in a new cascade": (*ASSEMBLE, "--data", "d/a.csv", "--stage", "c/stage-1", "--output", "c"),
    "a new cascade in a stage": (*ASSEMBLE, "--data", "d/a.csv", "--output", "link-to-m/new"),
    "a map in a new cascade": (*ASSEMBLE, "--data", "d/a.csv", "--label-map", "c/map.json", "--output", "c"),
    "a corpus in the output": ("distill", "m", "--num-layers", 1, "--corpus", "c/a.csv", "--output", "c"),
    "an output in the corpus": ("distill", "m", "--num-layers", 1, "--corpus", "d", "--output", "d/new"),
    "the encoder in the output": ("distill", "c/stage-1", "--num-layers", 1, "--output", "c", "--overwrite"),
    "an output in the encoder": ("distill", "m", "--num-layers", 1, "--output", "m/new"),
    "a corpus in the work folder": ("distill", "m", "--num-layers", 1, "--corpus", "c.work", "--output", "c"),
    "a folder of data that is tuned": ("tune", "c", "--data", "c", *TARGET),
    "data that tuning rewrites": ("tune", "c", "--data", "spec.json", *TARGET),
    "data that certification rewrites": (
        "tune", "c", "--data", "spec.json", "--min-agreement", 0.9, "--confidence-level", 0.9
    ),
    "a report that is the data": ("evaluate", "c", "d/a.csv", "--report", "page.html"),
    "a report in the cascade": ("evaluate", "c", "d/a.csv", "--report", "c/page.html"),
    "a report in the data": ("evaluate", "c", "d", "--report", "d/page.html"),
    "a report in the baseline": ("evaluate", "c", "d/a.csv", "--baseline", "m", "--report", "m/page.html"),
    "a report that is the map": ("evaluate", "c", "d", "--label-map", "page.html", "--report", "page.html"),
    "a plot that is the data": ("bench", "c", "d/a.csv", "--plot", "d/a.csv"),
    "a plot in the cascade": ("bench", "c", "d/a.csv", "--plot", "c/stage-1/plot.svg"),
    "a plot in the data": ("bench", "c", "d/*.csv", "--plot", "d/a.csv"),
    "results in the data": (*REPRODUCE, "--data", "d", "--output", "d/new"),
    "data in the results": (*REPRODUCE, "--data", "c/stage-1", "--output", "c"),
    "an encoder in the results": (*REPRODUCE, "--small", "c/stage-1", "--output", "c"),
    "results in an encoder": (*REPRODUCE, "--complete", "m", "--output", "m/new"),
    "work in the results": (*REPRODUCE, "--output", "new", "--work", "new/work"),
    "work in the data": (*REPRODUCE, "--data", "d", "--output", "new", "--work", "d/work"),
}  # fmt: skip
FILES = (
    "d/a.csv c/a.csv c/cascade.json c/map.json c/stage-1/config.json m/config.json c.work/a.csv "
    "c.work/half-finished-work-of-cascadebert"
)
RELATION = ("is also", "lies in")


def snapshot(folder: Path) -> dict[str, bytes | str | None]:
    """Content of every file, targets of links, and names of folders."""
    return {
        str(path): str(path.readlink())
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else None
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def places(tmp_path, monkeypatch):
    """What looks like data, models and a cascade, but would fail wherever it is opened."""
    for file in FILES.split():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("not\0readable")
    (tmp_path / "link-to-m").symlink_to("m")
    (tmp_path / "spec.json").hardlink_to(tmp_path / "c" / "cascade.json")
    (tmp_path / "page.html").symlink_to("d/a.csv")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("words", CASES.values(), ids=CASES)
def test_a_file_in_two_roles_is_refused_before_anything_is_opened(run, places, words):
    before = snapshot(places)
    code, _, said = run(*words)
    assert code == 2 and any(relation in said for relation in RELATION), said
    assert "Choose another" in said and len(said) < 600
    assert snapshot(places) == before


@pytest.mark.parametrize(
    "words",
    [
        ("d/a.csv", "--output", "d/a.csv"),
        ("d/a.csv", "--output", "d/../d/a.csv", "--overwrite"),
        ("d/a.csv", "--output", "new.csv", "--rejects", "d/a.csv", "--overwrite"),
        ("d/a.csv", "--output", "linked.csv", "--overwrite"),
        ("d/a.csv", "--output", "new.csv", "--rejects", "d/../new.csv"),
        ("d/a.csv", "--output", "new.csv", "--rejects", "NEW.csv"),
        ("d/a.csv", "--output", "new.csv", "--rejects", "new.csv.work/r.csv"),
        ("new.csv.work/a.csv", "--output", "new.csv"),
        ("d", "--output", "d/new.csv"),
        ("d/a.csv", "--output", "cascade/new.csv"),
        ("d/a.csv", "--output", "new.csv", "--rejects", "cascade/stage-1/r.csv"),
    ],
)
def test_predict_never_writes_over_what_it_reads(run, saved, places, words):
    shutil.copytree(saved, places / "cascade")
    (places / "new.csv.work").mkdir()
    (places / "new.csv.work" / "a.csv").touch()
    (places / "linked.csv").symlink_to("d/a.csv")
    before = snapshot(places)
    code, _, said = run("predict", "cascade", *words)
    assert code == 2 and any(relation in said for relation in RELATION), said
    assert snapshot(places) == before


@pytest.mark.parametrize(
    "words",
    [
        ("predict", "cascade", "d/a.csv", "--output", "gone/o.csv"),
        ("predict", "cascade", "d/a.csv", "--output", "o.csv", "--rejects", "/proc/r.csv"),
        ("predict", "cascade", "d/a.csv", "--output", f"{'n' * 246}.csv"),
        ("evaluate", "cascade", "d/a.csv", "--report", "gone/o.html"),
        ("evaluate", "cascade", "d/a.csv", "--report", "spec.json/o.html"),
        ("bench", "cascade", "d/a.csv", "--plot", "/proc/o.svg"),
        ("bench", "cascade", "d/a.csv", "--plot", "precious.bin"),
        (*FIT, "--train", "d/a.csv", "--output", "/proc/c"),
        (*FIT, "--train", "d/a.csv", "--output", "n" * 250),
        (*FIT, "--train", "d/a.csv", "--output", "foreign"),
        (*ASSEMBLE, "--data", "d/a.csv", "--output", "gone/c"),
        ("distill", "m", "--num-layers", 1, "--output", "gone/c"),
        ("distill", "m", "--num-layers", 1, "--output", "foreign"),
        ("demo", "--output", "gone/c"),
    ],
)
def test_an_output_that_cannot_be_written_is_found_before_anything_is_read(run, saved, places, words):
    shutil.copytree(saved, places / "cascade")
    (places / "foreign.work").mkdir()
    (places / "foreign.work" / "thesis.txt").touch()
    before = snapshot(places)
    code, _, said = run(*words)
    problems = ("does not exist", "not a folder", "cannot be written", "ending in .svg", "was not created by")
    assert code == 2 and any(problem in said for problem in problems), said
    assert snapshot(places) == before


def test_a_cascade_is_saved_over_itself_but_not_into_or_around_itself(saved, tmp_path):
    (tmp_path / "outer").mkdir()
    shutil.copy(saved / "cascade.json", tmp_path / "outer")
    shutil.copytree(saved, tmp_path / "outer" / "c")
    cascade = Cascade.from_pretrained(tmp_path / "outer" / "c")
    for path in (tmp_path / "outer", tmp_path / "outer" / "c" / "new"):
        with pytest.raises(CascadeError, match="lies in"):
            cascade.save_pretrained(path, overwrite=True)
    cascade.save_pretrained(tmp_path / "outer" / "c", overwrite=True)
    assert Cascade.from_pretrained(tmp_path / "outer" / "c").operating_point == cascade.operating_point


def test_difficulty_is_not_labeled_inside_of_what_is_read(places):
    with pytest.raises(CascadeError, match=r"work .* lies in stage"):
        label_difficulty("d/a.csv", stage="m", work=Path("m/work"))
