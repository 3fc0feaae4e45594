"""Paths: no file in two roles, however it is spelled, and outputs that can be written."""

from __future__ import annotations

import errno
import os
import threading
import unicodedata
from pathlib import Path

import pytest

from cascadebert.atomic import (
    atomic_file,
    check_work_directory,
    open_descriptor,
    work_directory,
    work_directory_path,
)
from cascadebert.errors import CascadeError, DataError
from cascadebert.paths import WORK, check_roles, ensure_creatable, ensure_writable_file, is_standard_output
from cascadebert.persistence.folder import atomic_directory, ensure_writable_directory


@pytest.fixture
def file(tmp_path):
    """An existing file in a folder."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.csv").write_text("text\nfine\n")
    return tmp_path / "d" / "a.csv"


def linked(path: Path, target: Path, *, hard: bool = False) -> Path:
    """A link to a file or folder."""
    (path.hardlink_to if hard else path.symlink_to)(target)
    return path


SPELLINGS = {
    "the same": lambda file: file,
    "a detour": lambda file: file.parent / ".." / file.parent.name / "." / file.name,
    "relative": lambda file: Path(os.path.relpath(file)),
    "a link": lambda file: linked(file.parent.parent / "link.csv", file),
    "a link to a link": lambda file: linked(file.parent / "b", linked(file.parent / "c", file)),
    "a relative link": lambda file: linked(file.parent / "near.csv", Path(file.name)),
    "a link of its folder": lambda file: linked(file.parent.parent / "e", file.parent) / file.name,
    "a hard link": lambda file: linked(file.parent.parent / "hard.csv", file, hard=True),
}


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)
def test_an_existing_file_in_two_roles_is_found_in_every_spelling(file, spelling):
    other = spelling(file)
    with pytest.raises(DataError, match=r"^--output .* is also IN .*no command replaces its input"):
        check_roles({"--output": other}, {"IN": file})
    with pytest.raises(DataError, match=r"^--output .* is also --rejects .*Choose another --rejects"):
        check_roles({"--output": file, "--rejects": other}, {})


@pytest.mark.parametrize(
    "name, other",
    [
        ("new.csv", "new.csv"),
        ("new.csv", "x/../new.csv"),
        ("new.csv", "link/new.csv"),
        ("new.csv", "dangling.csv"),
        ("new.csv", "NEW.csv"),
        ("stra\u00dfe.csv", "STRASSE.csv"),
        (
            unicodedata.normalize("NFC", "\u00e9t\u00e9.csv"),
            unicodedata.normalize("NFD", "\u00c9t\u00e9.csv"),
        ),
    ],
)
def test_two_outputs_that_do_not_exist_yet_are_compared_too(tmp_path, name, other):
    (tmp_path / "x").mkdir()
    linked(tmp_path / "link", tmp_path)
    linked(tmp_path / "dangling.csv", tmp_path / "new.csv")
    with pytest.raises(DataError, match="is also"):
        check_roles({"--output": tmp_path / name, "--rejects": tmp_path / other}, {})


def test_other_names_and_other_folders_are_no_conflict(file, tmp_path):
    outputs = {
        "--output": tmp_path / "a.csv",
        "--rejects": tmp_path / "d2.csv",
        WORK: tmp_path / "a.csv.work",
    }
    check_roles(outputs, {"IN": file, "DIR": tmp_path / "d", "--baseline": None, "DATA": "owner/name"})


@pytest.mark.parametrize("pattern", ["d/*.jsonl", "*.csv", "d/deep/*.csv"])
def test_an_output_that_a_pattern_does_not_find_is_no_conflict(file, tmp_path, pattern):
    check_roles({"--output": tmp_path / "d/new.csv"}, {"IN": tmp_path / pattern})


@pytest.mark.parametrize(
    "output, inputs, problem",
    [
        ("d/out.csv", {"IN": "d"}, "--output .* lies in IN"),
        ("d/deep/out.csv", {"IN": "d"}, "--output .* lies in IN"),
        ("d", {"--train": "d/a.csv"}, "--train .* lies in --output .*, which is written"),
        ("d", {"--stage": ["x/a", "d/a.csv"]}, "--stage .* lies in --output"),
        ("link", {"--train": "d/a.csv"}, "--train .* lies in --output"),
        ("d/a.csv", {"IN": "d/*.csv"}, "is also IN"),
        ("d/new.csv", {"IN": "d/*.csv"}, "--output .* matches IN .*: the next run would read it"),
        ("d/deep/new.csv", {"IN": "d/**/*.csv"}, "--output .* matches IN"),
        ("d/a.csv", {"IN": "d@train"}, "lies in IN"),
        ("d/a.csv", {"IN": "d/a.csv@train"}, "is also IN"),
        ("d/a.csv", {"IN": "linking"}, "is also IN .*inner.csv"),
        ("x/new", {"IN": "x"}, "lies in IN"),
    ],
)
def test_a_file_inside_a_folder_of_another_role_is_refused(
    file, tmp_path, monkeypatch, output, inputs, problem
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x" / "a").mkdir(parents=True)
    (tmp_path / "linking").mkdir()
    linked(tmp_path / "linking" / "inner.csv", file)
    linked(tmp_path / "link", file.parent)
    with pytest.raises(DataError, match=problem):
        check_roles({"--output": Path(output)}, inputs)


@pytest.mark.parametrize(
    "outputs, inputs, problem",
    [
        ({"--rejects": "o.csv.work"}, {}, "the work folder .* is also --rejects .* another --rejects"),
        ({"--rejects": "o.csv.work/r.csv"}, {}, "--rejects .* lies in the work folder .* another --rejects"),
        ({}, {"IN": "o.csv.work/in.csv"}, "IN .* lies in the work folder .* another --output"),
        ({}, {"IN": "o.csv.work"}, "the work folder .* is also IN .* another --output"),
    ],
)
def test_the_work_folder_has_no_other_role(tmp_path, outputs, inputs, problem):
    (tmp_path / "o.csv.work").mkdir()
    (tmp_path / "o.csv.work" / "in.csv").touch()
    output = tmp_path / "o.csv"
    roles = {"--output": output, WORK: work_directory_path(output)}
    roles |= {role: tmp_path / name for role, name in outputs.items()}
    with pytest.raises(DataError, match=problem):
        check_roles(roles, {role: tmp_path / name for role, name in inputs.items()})


def test_devices_may_have_several_roles_but_a_pipe_is_not_read_and_written(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    null, pipe = Path("/dev/null"), tmp_path / "pipe"
    check_roles({"--output": null, "--rejects": null}, {"IN": "-", "DIR": null})
    check_roles({"--output": pipe, "--rejects": pipe}, {"IN": "-"})
    check_roles({"--output": "-", "--rejects": "-"}, {"IN": "/dev/stdin"})
    with pytest.raises(DataError, match=r"--output .* is also IN"):
        check_roles({"--output": pipe}, {"IN": linked(tmp_path / "same", pipe)})


def test_standard_input_from_a_file_is_that_file(file, monkeypatch):
    status = file.stat()
    with monkeypatch.context() as patched:
        patched.setattr("cascadebert.paths.os.fstat", lambda _: status)
        with pytest.raises(DataError, match=r"--output .* is also IN -"):
            check_roles({"--output": file}, {"IN": "-"})


def test_messages_stay_short_with_the_longest_paths(tmp_path):
    folder = tmp_path / ("f" * 250) / ("g" * 250)
    folder.mkdir(parents=True)
    name = folder / ("a" * 200)
    name.touch()
    for check in (
        lambda: check_roles({"--output": name}, {"IN": name}),
        lambda: ensure_writable_file(name, overwrite=False),
        lambda: ensure_writable_file(folder / ("b" * 255), overwrite=False),
        lambda: ensure_writable_file(folder / "gone" / ("b" * 255), overwrite=False),
    ):
        with pytest.raises(DataError) as error:
            check()
        assert len(str(error.value)) < 600


@pytest.mark.parametrize(
    "name, problem",
    [
        ("gone/o.csv", "the folder .*gone does not exist"),
        ("d/a.csv/o.csv", "a.csv is not a folder"),
        ("d", "expected a file to write"),
        ("d/a.csv", "exists already.*--overwrite"),
        ("n" * 256, "File name too long"),
        ("n" * 246, "File name too long"),  # of the temporary
        ("n" * 256 + "/o.csv", "File name too long|does not exist"),
        ("a\0.csv", "null"),
        ("/proc/o.csv", "cannot be written"),
        ("/", "is a folder|cannot be written"),
    ],
)
def test_an_output_that_cannot_be_written_is_found_beforehand(file, tmp_path, name, problem):
    with pytest.raises(DataError, match=problem):
        ensure_writable_file(tmp_path / name, overwrite=False)
    if "a.csv" not in name and name != "d":
        with pytest.raises(DataError, match=problem):
            ensure_creatable(tmp_path / name)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.csv", "d"]


@pytest.mark.parametrize("length", [246, 248, 250, 251, 255, 256, 260])
def test_a_name_that_is_too_long_is_told_before_its_work_folder_is_looked_for(run, saved, tmp_path, length):
    source = tmp_path / "in.csv"
    source.write_text("text\nfine\n")
    code, _, said = run("predict", saved, source, "--output", tmp_path / f"{'n' * (length - 4)}.csv")
    assert code == 2 and "cannot be written (File name too long). Choose a shorter name" in said
    assert "Errno" not in said and "half-finished" not in said


def test_a_folder_that_may_not_be_looked_into_is_one_message(run, saved, tmp_path, monkeypatch):
    source, locked = tmp_path / "in.csv", tmp_path / "locked"
    source.write_text("text\nfine\n")
    original = Path.stat

    def stat(self, **options):  # as for anybody but root
        if locked in self.parents:
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return original(self, **options)

    monkeypatch.setattr(Path, "stat", stat)
    locked.mkdir()
    code, _, said = run("predict", saved, source, "--output", locked / "in" / "o.csv")
    assert code == 2 and "cannot be written (Permission denied). Choose a path that you may use" in said
    code, _, said = run("predict", saved, locked / "in.csv", "--output", tmp_path / "o.csv")
    assert code == 2 and "in.csv: permission denied. Choose a path that you may use" in said


@pytest.mark.parametrize(
    ("name", "number"),
    [
        *(("/dev/stdin", 0), ("/dev/stdout", 1), ("/dev/fd/7", 7), ("/proc/self/fd/1", 1), ("link", 1)),
        *((name, None) for name in ("loop", "/dev/null", "a.csv", "-", "/dev/fd/x", "a\0", "n" * 300)),
    ],
)
def test_names_of_descriptors_are_known(tmp_path, monkeypatch, name, number):
    monkeypatch.chdir(tmp_path)
    linked(Path("near"), Path("/dev/stdout"))
    linked(Path("link"), Path("near"))
    linked(Path("loop"), Path("loop"))
    assert open_descriptor(Path(name)) == number
    assert is_standard_output(Path(name)) == (number == 1 or name == "-")


def test_another_name_of_the_pipe_that_is_standard_output_is_known(tmp_path, monkeypatch):
    for name in ("one", "other"):
        os.mkfifo(tmp_path / name)
    status = (tmp_path / "one").stat()
    monkeypatch.setattr("cascadebert.paths.os.fstat", lambda _: status)
    assert is_standard_output(tmp_path / "one") and not is_standard_output(tmp_path / "other")


def test_an_output_in_a_folder_without_permission_is_found_beforehand(file):
    file.parent.chmod(0o500)
    if os.access(file.parent, os.W_OK):
        pytest.skip("root writes everywhere")
    with pytest.raises(DataError, match="Permission denied"):
        ensure_writable_file(file, overwrite=True)


def test_the_longest_name_that_is_accepted_can_be_written(tmp_path):
    path = tmp_path / ("n" * 245)
    ensure_writable_file(path, overwrite=False)
    with atomic_file(path) as temporary:
        temporary.write_text("new")
    ensure_writable_directory(tmp_path / ("d" * 245), overwrite=False)
    with atomic_directory(tmp_path / ("d" * 245), overwrite=False):
        pass
    work_directory(path)


def test_a_link_stays_and_what_it_leads_to_is_replaced(file, tmp_path):
    link = linked(tmp_path / "link.csv", file)
    with atomic_file(link) as temporary:
        temporary.write_text("new")
    assert link.is_symlink() and file.read_text() == "new"
    dangling = linked(tmp_path / "dangling.csv", tmp_path / "d" / "later.csv")
    ensure_writable_file(dangling, overwrite=False)
    with atomic_file(dangling) as temporary:
        temporary.write_text("later")
    assert dangling.is_symlink() and (tmp_path / "d" / "later.csv").read_text() == "later"
    with pytest.raises(DataError, match="does not exist"):
        ensure_writable_file(linked(tmp_path / "nowhere", tmp_path / "gone" / "x"), overwrite=False)


def test_a_link_for_an_output_folder_is_refused(tmp_path):
    for name, target in (("there", tmp_path), ("dangling", tmp_path / "gone")):
        with pytest.raises(CascadeError, match="is a link"):
            ensure_writable_directory(linked(tmp_path / name, target), overwrite=True)


def test_a_pipe_is_written_to_and_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    ensure_writable_file(tmp_path / "pipe.csv", overwrite=False)
    received: list[str] = []
    reader = threading.Thread(target=lambda: received.append((tmp_path / "pipe.csv").read_text()))
    reader.start()
    with atomic_file(tmp_path / "pipe.csv") as temporary:
        assert temporary.suffix == ".csv"
        temporary.write_text("rows")
    reader.join()
    assert received == ["rows"] and (tmp_path / "pipe.csv").is_fifo()


def test_a_device_is_written_to_and_not_replaced():
    ensure_writable_file(Path("/dev/null"), overwrite=False)
    with atomic_file(Path("/dev/null")) as temporary:
        temporary.write_text("rows")
    assert Path("/dev/null").is_char_device()


def test_nothing_is_written_to_a_pipe_if_the_block_fails(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(KeyError), atomic_file(tmp_path / "pipe") as temporary:
        temporary.write_text("rows")
        raise KeyError
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


@pytest.mark.parametrize("output", [".", "..", "x/..", "/"])
def test_every_output_has_a_work_folder_beside_it(tmp_path, monkeypatch, output):
    (tmp_path / "y" / "x").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "y")
    real = Path(output).resolve()
    assert work_directory_path(Path(output)).resolve() == real.parent / f"{real.name}.work"


def test_a_work_folder_of_somebody_else_is_left_alone(tmp_path):
    for name, make in (("a", Path.touch), ("b", lambda path: path.symlink_to(tmp_path / "gone"))):
        make(tmp_path / f"{name}.work")
        with pytest.raises(CascadeError, match="was not created by cascadebert"):
            check_work_directory(tmp_path / name)
    (tmp_path / "c.work").mkdir()  # of a run that was interrupted right there
    assert work_directory(tmp_path / "c") == tmp_path / "c.work"


def test_an_output_folder_that_cannot_be_replaced_keeps_its_content(tmp_path, monkeypatch):
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "cascade.json").write_text("old")
    original = Path.replace

    def replace(self, target):
        if self.is_dir() and not (self / "cascade.json").is_file():
            raise OSError("another process")
        return original(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(OSError, match="another"), atomic_directory(tmp_path / "c", overwrite=True):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["c"]
    assert (tmp_path / "c" / "cascade.json").read_text() == "old"
