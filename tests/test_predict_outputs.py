"""Outputs of `predict`: standard output by any name, devices, and what an interrupted run may replace."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cascadebert import Cascade, CascadeError
from cascadebert.cli import main
from cascadebert.data.columns import Columns
from cascadebert.data.readers import read_table
from cascadebert.errors import DataError
from cascadebert.inference.predict_file import predict_file
from cascadebert.inference.predict_work import Work
from cascadebert.thresholds.confidence import Score
from killing import run_killed

MODULE = "cascadebert.inference.predict_chunks"
STANDARD = ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "link.csv")
ROWS = "text,label,confidence,stage\na good film,"


@pytest.fixture(scope="module")
def cascade(saved):
    return Cascade.from_pretrained(saved)


@pytest.fixture
def source(tmp_path):
    """Three rows, of which the second has no text."""
    return write(tmp_path / "in.csv", 'text\na good film\n""\nbad\n')


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def stop(monkeypatch, function: str, number: int = 1, owner: str = MODULE) -> None:
    """Stand for a kill: raise at the call of that number, and go back to the original after that."""
    count = 0

    def stopping(*args: object, **kwargs: object) -> object:
        nonlocal count
        count += 1
        if count == number:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    original = getattr(Work if owner == "Work" else sys.modules[owner], function)
    monkeypatch.setattr(Work if owner == "Work" else sys.modules[owner], function, stopping)


RUN = "import sys; from cascadebert.cli import main; sys.argv[0] = 'cascadebert'; main()"


def shell(command: str, folder: Path, cascade: Path) -> None:
    """Run a line of a shell in which `predict` stands for the command line."""
    words = f"predict() {{ '{sys.executable}' -c \"{RUN}\" predict '{cascade}' \"$@\"; }}; {command}"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run(["bash", "-c", words], cwd=folder, env=environment, check=True)


@pytest.mark.parametrize("name", STANDARD)
def test_rows_on_standard_output_stand_alone(capfd, monkeypatch, saved, tmp_path, source, name):
    monkeypatch.chdir(tmp_path)
    Path("link.csv").symlink_to("/dev/stdout")
    monkeypatch.setattr(
        "sys.argv", ["", "predict", str(saved), "in.csv", "--rejects", "r.csv", "--output", name]
    )
    sys.stdout.write("before\n")
    with pytest.raises(SystemExit) as ended:
        main()
    sys.stdout.write("after\n")
    (before, header, first, second, after), said = (text.splitlines() for text in capfd.readouterr())
    assert not ended.value.code and (before, after) == ("before", "after")
    assert f"{header}\n{first}".startswith(ROWS) and second.startswith("bad,")
    assert said[0].startswith("2 predictions written to standard output")
    assert said[1] == "note: 1 row is invalid and was written to r.csv"


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        "(echo before; predict in.csv --rejects r.csv --output /dev/stdout; echo after) > out.csv",
        "echo before > out.csv; (predict in.csv --rejects r.csv --output -; echo after) >> out.csv",
        "(echo before; predict in.csv --rejects r.csv --output link.csv; echo after) | cat > out.csv",
        "exec 3> out.csv; echo before >&3; predict in.csv --rejects r.csv --output /dev/fd/3; echo after >&3",
    ],
)
def test_rows_are_written_where_the_shell_has_got_to(saved, tmp_path, source, command):
    (tmp_path / "link.csv").symlink_to("/dev/stdout")
    shell(command, tmp_path, saved)
    before, header, *rows, after = (tmp_path / "out.csv").read_text().splitlines()
    assert (before, after) == ("before", "after") and f"{header}\n{rows[0]}".startswith(ROWS)


@pytest.mark.parametrize("name", STANDARD)
def test_json_beside_rows_on_standard_output_is_refused(run, saved, tmp_path, source, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("link.csv").symlink_to("/dev/fd/1")
    code, _, said = run("predict", saved, source, "--output", name, "--json")
    assert code == 2 and f"--output {name} and --json both write to standard output" in said
    code, _, said = run("predict", saved, source, "--output", "o.csv", "--rejects", "link.csv", "--json")
    assert code == 2 and "--rejects link.csv and --json both write to standard output" in said


def test_a_descriptor_that_is_not_open_for_writing_is_refused_beforehand(cascade, tmp_path, source):
    descriptor = os.open(write(tmp_path / "read.csv", ""), os.O_RDONLY)
    for close in (True, False):
        with pytest.raises(DataError, match=r"/dev/fd/\d+ may not be written to"):
            predict_file(cascade, source, Path(f"/dev/fd/{descriptor}"))
        if close:
            os.close(descriptor)


@pytest.mark.parametrize("name", ["pipe.jsonl.gz", "pipe"])
def test_a_pipe_has_the_format_of_its_name_or_else_of_the_input(cascade, tmp_path, name):
    os.mkfifo(tmp_path / name)
    source = write(tmp_path / "in.csv", "text\na good film\n")
    reader = subprocess.Popen(["cat", tmp_path / name], stdout=subprocess.PIPE)
    predict_file(cascade, source, tmp_path / name)
    content = reader.communicate()[0]
    if name == "pipe":
        assert content.decode().startswith(ROWS)
    else:
        whole = tmp_path / "copy.jsonl.gz"
        whole.write_bytes(content)
        assert read_table(whole).columns["text"] == ["a good film"]


def test_a_device_that_takes_nothing_leaves_no_rejects_so_that_the_command_can_be_repeated(
    run, saved, tmp_path, source
):
    for _ in range(2):
        code, _, said = run(
            "predict", saved, source, "--output", "/dev/full", "--rejects", tmp_path / "bad.csv"
        )
        assert code == 2 and "no space left" in said
        assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


# where a run ends, and the outputs that are there then
ENDS = {
    "joining": ("join_parts", 1, MODULE, []),
    "between the outputs": ("write_table", 3, MODULE, ["out.csv"]),
    "noting the second": ("write_text_atomically", 5, "cascadebert.inference.predict_work", ["out.csv"]),
    "removing": ("remove", 1, "Work", ["bad.csv", "out.csv"]),
}


@pytest.fixture(params=ENDS, ids=ENDS)
def ended(request, cascade, tmp_path, source, monkeypatch):
    """The names of the outputs of a run that ended while it wrote them."""
    function, number, owner, left = ENDS[request.param]
    monkeypatch.setattr("cascadebert.inference.predict_file.CHUNK_ROWS", 2)
    with monkeypatch.context() as patch:
        stop(patch, function, number, owner)
        with pytest.raises(KeyboardInterrupt):
            predict_file(cascade, source, tmp_path / "out.csv", rejects=tmp_path / "bad.csv")
    assert sorted(path.name for path in tmp_path.glob("*.csv")) == sorted([*left, "in.csv"])
    return left


def test_a_run_that_ended_while_it_wrote_its_outputs_is_finished(cascade, tmp_path, source, ended):
    done = predict_file(cascade, source, tmp_path / "out.csv", rejects=tmp_path / "bad.csv")
    assert (done.n, done.rejected) == (2, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.csv", "in.csv", "out.csv"]


@pytest.mark.parametrize("role", ["out.csv", "bad.csv", "new.csv"])
def test_finishing_a_run_replaces_no_file_of_others(cascade, tmp_path, source, ended, role):
    (tmp_path / role).unlink(missing_ok=True)
    write(tmp_path / role, "precious")
    rejects = tmp_path / ("new.csv" if role == "new.csv" else "bad.csv")
    with pytest.raises(DataError, match=rf"{role} exists already"):
        predict_file(cascade, source, tmp_path / "out.csv", rejects=rejects)
    assert (tmp_path / role).read_text() == "precious"


WITH_OUTPUT = pytest.mark.parametrize(
    "ended", [name for name, end in ENDS.items() if "out.csv" in end[-1]], indirect=True
)


@WITH_OUTPUT
def test_an_output_that_was_edited_is_no_longer_that_of_the_run(cascade, tmp_path, source, ended):
    with (tmp_path / "out.csv").open("a") as file:
        file.write("a note\n")
    with pytest.raises(DataError, match=r"out\.csv exists already"):
        predict_file(cascade, source, tmp_path / "out.csv", rejects=tmp_path / "bad.csv")


@WITH_OUTPUT
@pytest.mark.parametrize(
    "content",
    [
        "text\nanother film\n",
        'text\na good film\n""\n',
        'text,n\na good film,1\n"",2\nbad,3\n',
        'text\na good film\n""\nbad\nmore\n',
    ],
    ids=["other rows", "fewer", "other columns", "more"],
)
def test_outputs_of_other_rows_are_not_replaced(cascade, tmp_path, source, ended, content):
    before = (tmp_path / "out.csv").read_bytes()
    write(source, content)
    for _ in range(2):
        with pytest.raises(DataError, match=r"out\.csv exists already"):
            predict_file(cascade, source, tmp_path / "out.csv", rejects=tmp_path / "bad.csv")
        assert (tmp_path / "out.csv").read_bytes() == before
    if "bad.csv" in ended:
        (tmp_path / "bad.csv").unlink()
    predict_file(cascade, source, tmp_path / "out.csv", rejects=tmp_path / "bad.csv", overwrite=True)
    assert len(read_table(tmp_path / "out.csv")) == content.count("\n") - 1 - content.count('""')


def test_outputs_that_were_given_up_with_overwrite_stay_given_up(cascade, tmp_path, monkeypatch):
    source, output = write(tmp_path / "in.csv", "text\na good film\n"), tmp_path / "out.csv"
    with monkeypatch.context() as patch:
        stop(patch, "remove", 1, "Work")
        with pytest.raises(KeyboardInterrupt):
            predict_file(cascade, source, output)
    write(source, "text\nbad\n")
    with monkeypatch.context() as patch:
        stop(patch, "join_parts")
        with pytest.raises(KeyboardInterrupt):
            predict_file(cascade, source, output, overwrite=True)
    with pytest.raises(DataError, match=r"out\.csv exists already"):
        predict_file(cascade, source, output)


@pytest.mark.parametrize("first", ["half-finished-work-of-cascadebert", "job.json", "written.json"])
def test_a_kill_while_the_work_folder_is_removed_leaves_a_finished_run(
    cascade, tmp_path, source, monkeypatch, first
):
    def killed(folder: Path) -> None:
        (folder / first).unlink()
        raise KeyboardInterrupt

    output, rejects = tmp_path / "o.csv", tmp_path / "r.csv"
    with monkeypatch.context() as patch:
        patch.setattr("cascadebert.inference.predict_work.shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            predict_file(cascade, source, output, rejects=rejects)
    before = output.read_bytes(), rejects.read_bytes()
    assert not (tmp_path / "o.csv.work").exists()
    with pytest.raises(DataError, match=r"o\.csv exists already"):
        predict_file(cascade, source, output, rejects=rejects)
    predict_file(cascade, source, output, rejects=rejects, overwrite=True)
    assert before == (output.read_bytes(), rejects.read_bytes())


def test_the_work_of_an_output_with_the_longest_possible_name_is_removed(cascade, tmp_path, source):
    output = tmp_path / f"{'o' * 241}.csv"  # 10 more characters are those of its temporary name
    predict_file(cascade, write(source, "text\na good film\n"), output)
    assert sorted(tmp_path.iterdir()) == [source, output]


KILLED = """
from pathlib import Path
from cascadebert import Cascade
from cascadebert.inference.predict_file import predict_file
from cascadebert.inference.predict_work import Work
kill_at(Work, "remove", 1)
predict_file(Cascade.from_pretrained(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
"""


@pytest.mark.slow
def test_the_finished_output_of_a_killed_run_is_kept_from_another_input(cascade, saved, tmp_path):
    one, other = (write(tmp_path / f"{text}.csv", f"text\n{text}\n") for text in ("good", "bad"))
    run_killed(KILLED, saved, one, tmp_path / "out.csv")
    before = (tmp_path / "out.csv").read_bytes()
    with pytest.raises(DataError, match=r"out\.csv exists already"):
        predict_file(cascade, other, tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_bytes() == before
    assert predict_file(cascade, one, tmp_path / "out.csv").n == 1


def begun(cascade: Cascade, source: Path, output: Path, monkeypatch, **options: object) -> None:
    """Leave all chunks done and nothing written."""
    with monkeypatch.context() as patch:
        stop(patch, "join_parts")
        with pytest.raises(KeyboardInterrupt):
            predict_file(cascade, source, output, **options)


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        ({}, {"delimiter": ";"}, r"--delimiter \(then not given, now ;\)"),
        ({"encoding": "latin-1"}, {}, r"--encoding \(then iso8859-1, now utf-8\)"),
    ],
)
def test_a_rerun_with_another_form_of_files_says_so(cascade, tmp_path, monkeypatch, before, now, said):
    source, output = write(tmp_path / "in.csv", "text\na good film\n"), tmp_path / "out.csv"
    begun(cascade, source, output, monkeypatch, columns=Columns(**before))
    with pytest.raises(CascadeError, match=said):
        predict_file(cascade, source, output, columns=Columns(**now))


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ({}, {"delimiter": ","}),
        ({"delimiter": ","}, {}),
        ({}, {"encoding": "UTF8"}),
        ({"encoding": "latin-1"}, {"encoding": "ISO-8859-1"}),
    ],
)
def test_a_form_of_files_that_changes_nothing_is_no_other(cascade, tmp_path, monkeypatch, before, now):
    source, output = write(tmp_path / "in.csv", "text,n\na good film,1\n"), tmp_path / "out.csv"
    begun(cascade, source, output, monkeypatch, columns=Columns(**before))
    monkeypatch.setattr(Cascade, "predict", None)  # all rows are done
    assert predict_file(cascade, source, output, columns=Columns(**now)).n == 1


def test_work_goes_on_where_a_file_got_another_delimiter(cascade, tmp_path, monkeypatch):
    source, output = write(tmp_path / "in.csv", "text,n\na good film,1\n"), tmp_path / "out.csv"
    begun(cascade, source, output, monkeypatch)
    write(source, "text;n\na good film;1\n")
    monkeypatch.setattr(Cascade, "predict", None)
    assert predict_file(cascade, source, output).n == 1


def other_labels(cascade: Cascade) -> Cascade:
    stages = tuple(replace(stage, label_names=("bad", "good")) for stage in cascade.stages)
    return replace(cascade, stages=stages)


WEIGHTS = [(0.0, *[w] * 3) for w in (0.5, 0.25)]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda c: c, lambda c: replace(c, score=Score("entropy"))),
        (
            lambda c: replace(c, score=Score("learned", (WEIGHTS[0],))),
            lambda c: replace(c, score=Score("learned", (WEIGHTS[1],))),
        ),
        (lambda c: c, other_labels),
        (lambda c: c, lambda c: replace(c, temperatures=(3.0, 4.0))),
        (lambda c: c, lambda c: replace(c, spec=None, stages=(c.stages[1], c.stages[1]))),
        (
            lambda c: replace(c, spec=None, path=None),
            lambda c: replace(c, spec=None, path=None, stages=(c.stages[0], c.stages[0])),
        ),
    ],
    ids=["score", "weights", "labels", "temperatures", "unsaved", "unsaved both"],
)
def test_a_rerun_with_another_cascade_is_refused(cascade, tmp_path, monkeypatch, one, other):
    source, output = write(tmp_path / "in.csv", "text\na good film\n"), tmp_path / "out.csv"
    begun(one(cascade), source, output, monkeypatch)
    with pytest.raises(CascadeError, match=r"with other options: the cascade\."):
        predict_file(other(cascade), source, output)
    assert predict_file(one(cascade), source, output).n == 1


def test_the_work_of_a_model_without_files_is_never_resumed(cascade, tmp_path, monkeypatch, caplog):
    stages = tuple(replace(stage, path=tmp_path / "gone") for stage in cascade.stages)
    unsaved = replace(cascade, spec=None, path=None, stages=stages)
    source, output = write(tmp_path / "in.csv", "text\na good film\n"), tmp_path / "out.csv"
    begun(unsaved, source, output, monkeypatch)
    texts, original = [], Cascade.predict
    monkeypatch.setattr(
        Cascade, "predict", lambda self, given: (texts.extend(given), original(self, given))[1]
    )
    assert predict_file(unsaved, source, output).n == 1
    assert texts == ["a good film"] and "its model may be another: all rows are predicted" in caplog.text


@pytest.mark.parametrize(
    ("content", "output", "kept"),
    [
        ('text\n""\nbad\n', "out.csv", False),
        ('text\nbad\nbad\n""\n', "out.csv", True),
        ('text\nbad\nbad\n""\n', "-", False),
    ],
)
def test_a_bad_row_tells_whether_rows_are_kept(cascade, tmp_path, monkeypatch, content, output, kept):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("cascadebert.inference.predict_file.CHUNK_ROWS", 2)
    with pytest.raises(DataError, match="Mend the row and run the same command again") as error:
        predict_file(cascade, write(Path("in.csv"), content), Path(output))
    assert ("(rows that are done are kept)" in str(error.value)) == kept == Path("out.csv.work").exists()


def test_counts_of_one_are_singular(run, saved, tmp_path):
    source = write(tmp_path / "in.csv", 'text\na good film\n""\n')
    code, _, said = run(
        "predict", saved, source, "--output", tmp_path / "o.csv", "--rejects", tmp_path / "r.csv"
    )
    assert code == 0 and "1 prediction written to" in said and "1 row is invalid and was written to" in said
