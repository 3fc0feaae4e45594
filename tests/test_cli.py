"""The command line: its contract, its exit codes, and nothing written when the input is bad."""

from __future__ import annotations

import csv
import logging
import shutil
import sys
from dataclasses import fields

import pytest
import typer
from typer.testing import CliRunner

import cascadebert
from cascadebert import Cascade
from cascadebert.cli import app as cli
from cascadebert.cli.render import configure_logging, print_notices
from cascadebert.environment import instruction_sets, machine
from cascadebert.server.config import ServerConfig
from cascadebert.training.config import DistillConfig, FitConfig
from samples import reviews, write_csv

VERBS = set("demo build fit assemble distill tune predict evaluate drift bench info reproduce serve".split())


@pytest.fixture
def cascade(saved, tmp_path):
    """A copy of a saved cascade that may be changed."""
    shutil.copytree(saved, tmp_path / "cascade")
    return tmp_path / "cascade"


@pytest.fixture
def rows(tmp_path):
    """A labeled file that no cascade has seen."""
    return write_csv(tmp_path / "rows.csv", *reviews(150, seed=77))


def test_the_verbs_are_these_and_no_others():
    listed = CliRunner().invoke(cli.app, ["--help"])
    assert listed.exit_code == 0
    assert {command.callback.__name__ for command in cli.app.registered_commands} == VERBS


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_verb_explains_itself(verb):
    assert "Usage" in CliRunner().invoke(cli.app, [verb, "--help"]).output


@pytest.mark.parametrize(
    "verb, config", [("fit", FitConfig), ("distill", DistillConfig), ("serve", ServerConfig)]
)
def test_documented_fields_of_a_configuration_are_options_with_its_defaults(verb, config):
    command = typer.main.get_command(cli.app).commands[verb]
    options = {option.name: option for option in command.params}
    documented = [entry for entry in fields(config) if "help" in entry.metadata]
    assert len(documented) > 5
    for entry in documented:
        assert options[entry.name].help == entry.metadata["help"]
        assert options[entry.name].default == entry.default


def test_the_version_is_that_of_the_package(run):
    code, _, said = run("--version")
    assert code == 0 and said == f"cascadebert {cascadebert.__version__}\n"


def test_evaluate_keeps_its_contract(run, cascade, rows):
    code, values, _ = run("evaluate", cascade, rows, "--json")
    assert code == 0 and values["n"] == 150
    assert {"accuracy", "macro_f1", "ece", "exit_rates", "layers_speedup", "flops_speedup"} <= set(values)
    assert values["layers_speedup"] is None  # the widths differ
    assert [set(stage) for stage in values["stages"]] == [{"accuracy", "ece", "dis"}] * 2
    assert values["overlap"] == {"train": 0, "tune": 0, "certify": 0}


def test_evaluate_reports_examples_that_were_already_used(run, cascade, saved):
    _, values, said = run("evaluate", cascade, saved.parent / "data.csv", "--json")
    assert values["overlap"]["tune"] == 160
    assert "160 were used to tune: results are optimistically biased" in said


def test_tune_keeps_its_contract_and_stores_the_point(run, cascade, rows):
    code, values, _ = run("tune", cascade, "--data", rows, "--target-speedup", 1.5, "--json")
    assert code == 0 and values["feasible"] is True and values["nearest"] is None
    assert {"thresholds", "n", "accuracy", "exit_rates", "expected_speedup"} <= set(values)
    _, stored, _ = run("info", cascade, "--check", "--json")
    assert stored["operating_point"]["thresholds"] == values["thresholds"]
    assert stored["checked"] is True


def test_an_infeasible_target_changes_nothing_and_names_the_nearest(run, cascade, rows):
    before = (cascade / "cascade.json").read_bytes()
    code, values, said = run("tune", cascade, "--data", rows, "--target-speedup", 500, "--json")
    assert code == 1 and values["feasible"] is False
    assert (cascade / "cascade.json").read_bytes() == before
    nearest = values["nearest"]["value"]
    assert f"Nearest: --target-speedup {nearest:g}" in said
    code, values, _ = run("tune", cascade, "--data", rows, "--target-speedup", nearest, "--json")
    assert code == 0 and values["feasible"] is True


def test_exactly_one_target_must_be_given(run, cascade, rows):
    code, _, said = run("tune", cascade, "--data", rows)
    assert code == 2 and "exactly one of" in said
    code, _, said = run("tune", cascade, "--data", rows, "--target-speedup", 2, "--min-accuracy", 0.5)
    assert code == 2 and "given: --target-speedup, --min-accuracy" in said


def test_tune_with_a_confidence_level_keeps_its_contract(run, cascade, tmp_path):
    rows = write_csv(tmp_path / "many.csv", *reviews(600, seed=78))
    asked = ("--min-agreement", 0.3, "--max-false-negative-rate", "positive=0.95", "--confidence-level", 0.9)
    code, values, said = run("tune", cascade, "--data", rows, *asked, "--json")
    assert code == 0 and values["feasible"] is True
    certificate = values["certificate"]
    assert {"guarantees", "delta", "points", "engine", "precision"} <= set(certificate)
    assert {"guarantee", "n", "bound"} == set(certificate["guarantees"][0])
    guarantee, other = (result["guarantee"] for result in certificate["guarantees"])
    assert (guarantee["name"], guarantee["level"], certificate["delta"]) == ("min_agreement", 0.3, 0.1)
    assert certificate["points"][-1]["thresholds"] == values["thresholds"]
    assert other["label"] == "positive"
    assert "Certified at 90.0 % confidence: agreement of at least 0.3" in said
    code, values, said = run("tune", cascade, "--data", rows, *asked, "--json")
    assert code == 2 and "cannot be used for another" in said


def test_what_cannot_be_guaranteed_is_reported_with_what_can(run, cascade, tmp_path):
    rows = write_csv(tmp_path / "many.csv", *reviews(600, seed=78))
    asked = ("--min-accuracy", 0.97, "--confidence-level", 0.95)
    code, values, said = run("tune", cascade, "--data", rows, *asked, "--json")
    assert code == 1 and values["feasible"] is False and values["certificate"] is None
    assert values["nearest"]["guarantee"] == "min_accuracy" and "cannot be guaranteed" in said


@pytest.mark.parametrize(
    "words, message",
    [
        (["--target-speedup", 2, "--confidence-level", 0.9], "a speed-up has no guarantee"),
        (["--min-early-exit-accuracy", 0.9], "add --confidence-level"),
        (["--max-false-negative-rate", "positive", "--confidence-level", 0.9], "takes LABEL=R"),
        (["--max-false-negative-rate", "positive=many", "--confidence-level", 0.9], "takes LABEL=R"),
        (["--confidence-level", 0.9], "one guarantee or more"),
    ],
)
def test_guarantees_that_make_no_sense_are_refused(run, cascade, rows, words, message):
    code, _, said = run("tune", cascade, "--data", rows, *words)
    assert code == 2 and message in said


@pytest.mark.slow
def test_bench_keeps_its_contract(run, cascade, rows, tmp_path):
    picture = tmp_path / "bench.svg"
    code, values, _ = run("bench", cascade, rows, "--repeats", 2, "--plot", picture, "--json")
    assert code == 0 and picture.read_text("utf-8").startswith("<?xml")
    engine = Cascade.from_pretrained(cascade).stages[-1].engine
    for name in ("cascade", "last_stage"):
        assert {"examples_per_second", "accuracy", "accuracy_drop", "agreement"} <= set(values[name])
        assert (values[name]["engine"], values[name]["precision"]) == (engine.name, engine.precision)
    assert values["machine"] == machine() and values["instruction_sets"] == list(instruction_sets())
    assert {"measured_speedup", "expected_speedup", "routing_overhead"} <= set(values)
    assert [one["name"].split(",")[0] for one in values["others"]] == [
        "stage 1 alone",
        *["transformers pipeline"] * 3,
    ]
    assert values["last_stage"]["agreement"] == 1 and values["last_stage"]["accuracy_drop"]["value"] == 0
    for one in values["others"][1:]:
        assert one["agreement"] > 0.95 and one["n"] == 128  # of 150 texts
        assert (one["engine"], one["precision"]) == ("torch", "float32")
    assert values["uncertified_reason"] is None
    assert values["peak_memory_mb"] > 0


@pytest.mark.slow
def test_bench_tells_the_cost_of_a_million_texts(run, cascade, rows, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    code, _, said = run("bench", cascade, rows, "--repeats", 1, "--price-per-hour", 3600)
    assert code == 0 and "cost of a million" in said
    (line,) = [line.replace(",", "") for line in said.splitlines() if line.startswith("cascade ")]
    rate = float(line.split()[3])
    assert float(line.split()[-1]) == pytest.approx(1e6 / rate, rel=0.01)


def test_drift_keeps_its_contract_and_leaves_the_folder_as_it_was(run, cascade, rows, tmp_path):
    new, before = (
        write_csv(tmp_path / "new.csv", *reviews(120, seed=79)),
        (cascade / "cascade.json").read_bytes(),
    )
    code, values, said = run("drift", cascade, rows, new, "--min-agreement", 0.2, "--json")
    assert code == 0 and values["verdict"] == "yes" and values["headline"] in said
    assert {"traffic", "agreement", "level", "stages", "examples_needed", "reasons", "notices"} <= set(values)
    assert {"n_reference", "n_new", "tolerance", "confidence_level", "uncertified_reason"} <= set(values)
    assert [set(stage) for stage in values["stages"]] == [{"exit_rate", "mean_confidences", "distance"}] * 2
    assert set(values["agreement"]["new"]) == {"value", "low", "high"}
    assert values["level"] == {"value": 0.2, "origin": "requested"}
    assert (cascade / "cascade.json").read_bytes() == before


def test_drift_exits_with_1_for_a_no_and_with_0_and_a_note_if_inconclusive(run, cascade, rows, tmp_path):
    new = write_csv(tmp_path / "new.csv", *reviews(120, seed=79))
    code, values, said = run("drift", cascade, rows, new, "--min-agreement", 0.999, "--json")
    assert code == 1 and values["verdict"] == "no" and "no: the thresholds do not hold" in said
    code, values, said = run("drift", cascade, rows, rows, "--min-agreement", 0.999, "--json")
    assert code == 0 and values["verdict"] == "inconclusive" and "the exit code is 0" in said
    code, _, said = run("drift", cascade, rows, new, "--tolerance", 2)
    assert code == 2 and "the tolerance must be in" in said


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_predict_adds_label_confidence_and_stage(run, cascade, rows, tmp_path, ending):
    from cascadebert.data.readers import read_table

    output = tmp_path / f"answers.{ending}"
    code, values, _ = run("predict", cascade, rows, "--output", output, "--json")
    table = read_table(output)
    assert code == 0 and values["n"] == 150
    assert list(table.columns) == ["text", "input_label", "label", "confidence", "stage"]
    assert {str(stage) for stage in table.columns["stage"]} <= {"1", "2"}
    given = read_table(rows)
    assert list(table.columns["text"]) == given.columns["text"]
    assert list(table.columns["input_label"]) == given.columns["label"]


def test_assemble_keeps_the_contract_of_fit(run, make_model, rows, tmp_path):
    small, large = make_model(layers=1, hidden=16, seed=1), make_model(layers=3, hidden=48, seed=3)
    code, values, _ = run(
        "assemble", "--stage", small, "--stage", large, "--data", rows, "--target-speedup", 1.5,
        "--output", tmp_path / "made", "--engine", "torch", "--json",
    )  # fmt: skip
    assert code == 0 and values["output"] == str(tmp_path / "made")
    assert {"accuracy", "stages", "thresholds", "exit_rates", "layers_speedup", "flops_speedup"} <= set(
        values
    )
    assert {"expected_speedup", "seconds"} <= set(values)
    assert [stage["layers"] for stage in values["stages"]] == [1, 3]


@pytest.mark.slow
def test_fit_keeps_its_contract(run, make_model, tmp_path):
    train = write_csv(tmp_path / "train.csv", *reviews(300, seed=1))
    small, large = make_model(layers=1, labels=None), make_model(layers=2, hidden=32, labels=None)
    code, values, _ = run(
        "fit", "--train", train, "--stage", small, "--stage", large, "--target-speedup", 1.5,
        "--output", tmp_path / "made", "--epochs", 1, "--max-length", 32, "--json",
    )  # fmt: skip
    assert code == 0
    wanted = {"output", "accuracy", "stages", "thresholds", "exit_rates", "layers_speedup"}
    assert wanted | {"flops_speedup", "expected_speedup", "seconds"} <= set(values)
    assert run("info", tmp_path / "made", "--check")[0] == 0


BAD = {
    "empty file": (b"", "is empty"),
    "header only": (b"text,label\n", "is empty"),
    "missing column": (b"review,stars\nfine,1\n", "columns found: review, stars"),
    "one class": (b"text,label\na,1\nb,1\n", "at least two labels"),
    "NaN label": (b"text,label\na,1\nb,nan\nc,0\n", "row 2, column 'label'"),
    "empty text": (b"text,label\na,1\n  ,0\n", "row 2, column 'text': empty text"),
    "list of labels": (b"text,label\na,1\nb,[1]\nc,-1\n", "row 3, column 'label': no label (-1 marks"),
    "measurements": (b"text,label\na,1\nb,0.5\n", "column 'label': the label 0.5 has a fraction"),
    "ids": (
        b"text,label\n" + b"".join(b"a%d,%d\n" % (i, i) for i in range(30)),
        "30 different labels in 30 rows: it seems to hold ids or texts. Name the column of the labels with "
        "--label-column",
    ),
    "non-UTF-8": (b"text,label\nok,1\ncaf\xe9,0\n", "row 2, column 'text': bytes that are not UTF-8"),
    "ragged row": (b"text,label\na,1\nb,0,7\n", "row 2"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_to_fit_is_one_message_exit_code_2_and_nothing_written(run, make_model, tmp_path, case):
    content, message = BAD[case]
    train = tmp_path / "train.csv"
    train.write_bytes(content)
    small, large = make_model(layers=1, labels=None), make_model(layers=2, hidden=32, labels=None)
    code, _, said = run(
        "fit", "--train", train, "--stage", small, "--stage", large, "--target-speedup", 2,
        "--output", tmp_path / "made",
    )  # fmt: skip
    assert code == 2 and "error:" in said and message in said and "Traceback" not in said
    assert "train.csv" in said
    assert [path.name for path in tmp_path.iterdir()] == ["train.csv"]


def test_an_unknown_label_is_named_by_row_and_column(run, cascade, tmp_path):
    file = write_csv(tmp_path / "odd.csv", ["a fine film", "a dull film"], ["positive", "neutral"])
    code, _, said = run("evaluate", cascade, file)
    assert code == 2 and "row 2, column 'label': unknown label 'neutral'" in said


def test_a_bad_row_stops_predict_before_anything_is_written(run, cascade, tmp_path):
    file = tmp_path / "in.jsonl"
    file.write_text('{"text": "fine"}\n{"text": 7}\n')
    code, _, said = run("predict", cascade, file, "--output", tmp_path / "out.csv")
    assert code == 2 and "in.jsonl, row 2, column 'text': expected text, found int" in said
    assert not (tmp_path / "out.csv").exists()


def test_an_output_that_exists_is_kept_unless_overwrite_is_given(run, cascade, rows, tmp_path):
    output = tmp_path / "out.csv"
    output.write_text("precious")
    assert run("predict", cascade, rows, "--output", output)[0] == 2
    assert output.read_text() == "precious"
    assert run("predict", cascade, rows, "--output", output, "--overwrite")[0] == 0
    with output.open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 150


def test_a_changed_folder_is_refused_by_every_verb(run, cascade, rows, tmp_path):
    (cascade / "stage-1" / "config.json").write_text("{}")
    for words in (["info", cascade, "--check"], ["evaluate", cascade, rows], ["bench", cascade, rows],
                  ["drift", cascade, rows, rows],
                  ["predict", cascade, rows, "--output", tmp_path / "o.csv"],
                  ["tune", cascade, "--data", rows, "--target-speedup", 2]):  # fmt: skip
        code, _, said = run(*words)
        assert code == 2 and "config.json was changed" in said


def test_a_missing_folder_says_so(run, tmp_path, rows):
    code, _, said = run("evaluate", tmp_path / "nowhere", rows)
    assert code == 2 and "neither a folder nor a repository" in said


LONG = "a.csv: " + "a long sentence " * 20 + "[bold]in brackets[/bold]"


@pytest.fixture
def log(monkeypatch):
    """The package's log as the command line sets it up."""
    log = logging.getLogger("cascadebert")
    for name in ("handlers", "level", "propagate"):
        monkeypatch.setattr(log, name, getattr(log, name))
    configure_logging()
    return log


def test_each_record_is_one_plain_line_and_a_warning_is_a_note(log, capsys):
    log.info("%s", LONG)
    log.warning("%s\n%d rows", LONG, 3)
    assert capsys.readouterr().err == f"{LONG}\nnote: {LONG} 3 rows\n"


def test_notes_are_yellow_on_a_terminal_and_notices_look_the_same(log, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    log.warning("three rows")
    log.info("two rows")
    print_notices(["three rows"])
    first, second, third = capsys.readouterr().err.splitlines()
    assert first == third == "\x1b[33mnote: \x1b[0mthree rows" and second == "two rows"


def test_a_log_without_standard_error_does_not_stop_anything(log, monkeypatch):
    monkeypatch.setattr("sys.stderr", None)
    log.warning("three rows")
