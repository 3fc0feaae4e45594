"""The whole experiment on tiny random models and generated data, from data to tables and pictures."""

from __future__ import annotations

import importlib.util
import json
import shutil
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from cascadebert.cli.app import app
from cascadebert.data.splits import assign_folds
from cascadebert.errors import CascadeError, DataError
from cascadebert.inference.tokenizer import StageTokenizer
from cascadebert.paper.protocol import PRESETS, ExperimentProtocol, TaskConfig
from cascadebert.paper.results import ResultStore, StoredPredictions
from cascadebert.paper.run import report, reproduce
from cascadebert.paper.task_data import load_task
from cascadebert.paper.training import Experiment
from samples import reviews, sentences

pytestmark = pytest.mark.slow
QUICK = {"epochs": 1.0, "batch_size": 16, "learning_rate": 2e-3, "small_learning_rate": 2e-3}
TASKS = (
    TaskConfig("parts", "matthews", rows=60, tune_rows=20, phrases=True, **QUICK),
    TaskConfig("pairs", "accuracy_and_f1", rows=60, tune_rows=20, both_ends=False, **QUICK),
)
GLUE = {
    "mrpc": ("sentence1", "sentence2", 2),
    "sst2": ("sentence", None, 2),
    "rte": ("sentence1", "sentence2", 2),
    "qnli": ("question", "sentence", 2),
    "qqp": ("question1", "question2", 2),
    "mnli": ("premise", "hypothesis", 3),
}


def write_split(folder, split, texts, labels, columns=("sentence", None)):
    """A parquet file in the column format of GLUE."""
    folder.mkdir(parents=True, exist_ok=True)
    table = {columns[0]: list(texts), "label": list(labels), "idx": list(range(len(texts)))}
    if columns[1]:
        table[columns[1]] = list(texts)[::-1]
    pq.write_table(pa.table(table), folder / f"{split}.parquet")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two tasks: sentences with some of their parts, and pairs."""
    root = tmp_path_factory.mktemp("data")
    texts, names = reviews(150, seed=1)
    labels = [int(name == "positive") for name in names]
    parts = [" ".join(text.split()[1:]) for text in texts[:40]]
    write_split(root / "parts", "train", texts[:110] + parts, labels[:110] + labels[:40])
    write_split(root / "parts", "validation", texts[110:], labels[110:])
    write_split(root / "pairs", "train", texts[:110], labels[:110], ("sentence1", "sentence2"))
    write_split(root / "pairs", "validation", texts[110:], labels[110:], ("sentence1", "sentence2"))
    return root


@pytest.fixture(scope="module")
def models(make_model):
    """A large encoder and three small ones, by name."""
    sizes = {"large": (3, 16), "small": (1, 16), "narrow": (1, 8), "complete": (2, 16)}
    made = {k: make_model(layers=a, hidden=b, labels=None) for k, (a, b) in sizes.items()}
    return {path.name: str(path) for path in made.values()}, [path.name for path in made.values()]


@pytest.fixture(scope="module")
def protocol(models):
    large, small, narrow, complete = models[1]
    return ExperimentProtocol(
        "tiny", TASKS, large, (small, narrow), (complete,), seeds=(1, 2), targets=(1.5, 2.0), truncated=(1,),
        students=(2,), early_exits=("deebert", "sweet"), exits_read=("first", "mean"),
        objectives=("plain", "dar", "gatekeeper"), tokens=32, exit_epochs=1.0,
        difficulty_folds=2, difficulty_seeds=1, gatekeeper_epochs=1.0, bf16=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def done(protocol, models, data, tmp_path_factory):
    """The experiment, run once."""
    root = tmp_path_factory.mktemp("paper")
    summary = reproduce(
        protocol, output=root / "out", work=root / "work", models=models[0], data=data, draws=50
    )
    return root, summary


def contents(folder):
    """Every file below a folder, by its path."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_one_command_leaves_arrays_timings_tables_and_pictures_and_no_model(done, protocol):
    root, _ = done
    found = contents(root / "out")
    cells = product(protocol.tasks, protocol.seeds, protocol.models())
    wanted = {f"arrays/tiny/{plan.name}-{seed}-{name}.npz" for plan, seed, name in cells}
    wanted |= {f"timings/tiny/{plan.name}.json" for plan in protocol.tasks}
    wanted |= {"protocol.json", "runs.jsonl", "summary.json", "analyses.json"}
    drawn = ("scores-flops", "scores-time", "scores-time-strengthened", "dis", "ece", "difficulty")
    assert wanted | {f"pictures/{name}.svg" for name in drawn} <= set(found)
    assert not list((root / "work").rglob("*.safetensors"))


def test_runs_have_a_line_for_every_task_method_seed_basis_and_target(done, protocol):
    lines = [json.loads(line) for line in (done[0] / "out" / "runs.jsonl").read_text("utf-8").splitlines()]
    keys = ["task", "method", "seed", "basis", "target", "achieved", "interpolated", "metric", "score"]
    assert all(list(line) == keys for line in lines)
    methods = {line["method"] for line in lines}
    exits = {f"{name}{reads}" for name in ("deebert", "sweet") for reads in ("", "-mean")}
    small = {f"{name}-{objective}" for name in protocol.small for objective in protocol.objectives}
    assert {"large", "truncated", "student", *exits, *small} < methods
    assert len(methods) == 3 + 4 + 2 * 3 + 3 * 3  # and three lists of stages
    assert len(lines) == 2 * 2 * 2 * ((len(methods) - 1) * 2 + 1)
    mixed = [line for line in lines if line["method"] == "truncated" and line["interpolated"]]
    assert mixed and all(line["basis"] in ("flops", "time") for line in lines)


def test_the_summary_compares_every_cascade_with_one_early_exit(done, protocol):
    summary = json.loads((done[0] / "out" / "summary.json").read_text("utf-8"))
    assert summary == json.loads(json.dumps(done[1]))
    keys = ["basis", "target", "cascade", "baselines", "best_early_exit", "tasks", "relative_improvement"]
    keys += ["ci_low", "ci_high", "chance_corrected", "chance_ci_low", "chance_ci_high"]
    assert all(list(one) == keys for one in summary["comparisons"])
    assert len(summary["comparisons"]) == 2 * 2 * 2 * 9
    published = {one["best_early_exit"] for one in summary["comparisons"] if one["baselines"] == "published"}
    assert not any("mean" in name for name in published)
    assert {(one["task"], one["metric"]) for one in summary["dar"]} == set(
        product(("parts", "pairs", "all"), ("accuracy", "dis", "ece"))
    )


def test_a_relative_improvement_is_what_the_lines_say_by_hand(done):
    lines = [json.loads(line) for line in (done[0] / "out" / "runs.jsonl").read_text("utf-8").splitlines()]
    one = done[1]["comparisons"][0]

    def mean(method):
        same = [r for r in lines if (r["method"], r["basis"], r["target"]) == (method, "flops", 1.5)]
        return np.mean([[r["score"] for r in same if r["task"] == task] for task in one["tasks"]])

    ours, theirs = mean(one["cascade"]), mean(one["best_early_exit"])
    assert one["relative_improvement"] == pytest.approx((ours - theirs) / theirs)


def test_the_lead_of_the_best_cascade_has_two_parts(done):
    found = json.loads((done[0] / "out" / "analyses.json").read_text("utf-8"))
    lines = [json.loads(line) for line in (done[0] / "out" / "runs.jsonl").read_text("utf-8").splitlines()]

    def mean(method, one):
        same = [
            r
            for r in lines
            if (r["method"], r["basis"], r["target"]) == (method, one["basis"], one["target"])
        ]
        return np.mean([[r["score"] for r in same if r["task"] == task] for task in ("parts", "pairs")])

    assert [one["part"] for one in found["gain_parts"]] == ["complete", "routing"] * 4
    for complete, routing in zip(*[iter(found["gain_parts"])] * 2, strict=True):
        lead = mean(routing["cascade"], routing) - mean(complete["early_exit"], complete)
        assert complete["delta"] + routing["delta"] == pytest.approx(lead)
    assert {one["cascade"] for one in found["against_student"]} >= {
        "cascade-" + found["picked"][0]["cascade"][8:]
    }


def test_tables_computed_again_from_the_arrays_alone_are_the_same(done, tmp_path):
    shutil.copytree(done[0] / "out", tmp_path / "out")
    before = contents(tmp_path / "out")
    for name in ("runs.jsonl", "summary.json", "analyses.json"):
        (tmp_path / "out" / name).unlink()
    report(tmp_path / "out", draws=50)
    assert contents(tmp_path / "out") == before


def test_a_run_goes_on_from_its_arrays_and_makes_a_lost_one_again_byte_by_byte(
    done, protocol, models, data, tmp_path
):
    shutil.copytree(done[0] / "out", tmp_path / "out")
    store = ResultStore(protocol, tmp_path / "out")
    lost = [store.arrays_path("parts", 2, name) for name in ("deebert", f"{protocol.small[0]}-dar")]
    before = contents(tmp_path / "out")
    for path in lost:
        path.unlink()
    with pytest.raises(DataError, match="2 files of the experiment are missing"):
        report(tmp_path / "out")
    places = {"output": tmp_path / "out", "work": tmp_path / "work"}
    reproduce(protocol, models=models[0], data=data, draws=50, **places)
    assert contents(tmp_path / "out") == before


def test_timing_may_wait_for_a_later_run_which_finds_the_models(done, protocol, models, data, tmp_path):
    shutil.copytree(done[0] / "out", tmp_path / "out")
    store, where = ResultStore(protocol, tmp_path / "out"), {"models": models[0], "data": data, "draws": 20}
    places = {"output": tmp_path / "out", "work": tmp_path / "work", "only": ("parts",)}
    for path in (
        store.timings_path("parts"),
        *(store.arrays_path("parts", seed, "sweet") for seed in (1, 2)),
    ):
        path.unlink()
    assert reproduce(protocol, **places, **where, timed=False) is None
    assert not store.timings_path("parts").exists()
    kept = {path.parent.parent.name for path in (tmp_path / "work").rglob("*.safetensors")}
    assert kept == {"seed-1"}
    assert reproduce(protocol, **places, **where) is not None
    assert store.timings_path("parts").exists() and not list((tmp_path / "work").rglob("*.safetensors"))


def test_arrays_of_another_recipe_are_not_taken_for_these(done, protocol, models, data, tmp_path):
    shutil.copytree(done[0] / "out", tmp_path / "out")
    other = replace(protocol, dar_weight=0.1)
    where = {"output": tmp_path / "out", "work": tmp_path / "work", "models": models[0], "data": data}
    with pytest.raises(CascadeError, match="other settings"):
        reproduce(other, **where)
    (tmp_path / "out" / "protocol.json").unlink()
    with pytest.raises(DataError, match="was made from other examples, encoders or settings"):
        reproduce(other, **where)


def test_the_last_exit_of_deebert_predicts_what_the_large_model_predicts(done, protocol):
    store = ResultStore(protocol, done[0] / "out")
    large, deebert = (
        StoredPredictions.load(store.arrays_path("parts", 1, name)) for name in ("large", "deebert")
    )
    assert deebert.outputs.predictions[-1].tolist() == large.outputs.predictions[0].tolist()
    assert deebert.flops()[-1].mean() > large.flops().mean() > deebert.flops()[0].mean()


def test_train_tune_and_test_rows_are_disjoint_with_all_their_parts(data):
    rows = load_task(replace(TASKS[0], rows=None), data, seed=0)
    parts = [set(part.texts) for part in (rows.train, rows.tune, rows.test)]
    assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
    whole = [f" {text} " for text in rows.tune.texts]
    groups = {text for text in rows.train.texts if any(f" {text} " in one for one in whole)}
    assert groups == set() and len(rows.tune) == 20
    together = assign_folds(rows.train, 3, np.random.default_rng(0))
    parents = {group: fold for group, fold in zip(rows.train.groups, together, strict=True)}
    assert len(parents) < len(rows.train)
    assert [parents[group] for group in rows.train.groups] == together.tolist()


def test_both_stages_of_deebert_last_as_long_as_the_task_says():
    for name, stages in (("minilm", (6.0, 6.0)), ("paper", (3.0, 3.0))):
        plan = PRESETS[name].tasks[-2]
        cell = Experiment(PRESETS[name], plan, None, 1, {}, None)
        config = cell.early_exit_config(PRESETS[name].models()["deebert"])
        assert (config.fit.epochs, config.exit_epochs) == stages


def test_long_texts_are_cut_to_their_first_and_last_words(models):
    encoder = StageTokenizer(Path(models[0][models[1][0]]), max_length=10)
    (cut,) = encoder.head_and_tail(["the film was a warm story and the song was dull book"])
    assert cut == "the film was a song was dull book"
    assert encoder.head_and_tail(["the film"]) == ["the film"]
    assert int(encoder.encode([cut]).lengths[0]) == 10
    with pytest.raises(DataError, match="pairs"):
        encoder.head_and_tail([("a", "b")])


@pytest.fixture(scope="module")
def glue(tmp_path_factory):
    """Six tasks in the columns of GLUE."""
    root = tmp_path_factory.mktemp("glue")
    for plan in PRESETS["paper"].tasks:
        first, second, labels = GLUE[plan.name]
        for split, seed in (("train", 1), (plan.test_split, 2)):
            texts = list(dict.fromkeys(sentences(60, seed=seed, most=14)))
            given = [i % labels for i in range(len(texts))]
            write_split(root / plan.name, split, texts, given, (first, second))
    return root


def test_the_paper_preset_reads_all_six_tasks(glue):
    for plan in PRESETS["paper"].tasks:
        rows = load_task(plan, glue, seed=0)
        assert len(rows.label_names) == GLUE[plan.name][2]
        assert isinstance(rows.train.texts[0], str) == (GLUE[plan.name][1] is None)


def test_the_paper_preset_runs_on_tiny_models(glue, make_model, tmp_path):
    large, small = make_model(layers=3, hidden=16, labels=None), make_model(layers=1, hidden=16, labels=None)
    paper = PRESETS["paper"]
    plans = tuple(replace(paper.task(name), epochs=0.5, rows=24) for name in ("mnli",))
    brief = replace(
        paper, tasks=plans, seeds=(1234,), objectives=("plain", "both"), truncated=(1,), tokens=32,
        bf16=False, exit_epochs=0.5,
    ).with_models(str(large), (str(small),))  # fmt: skip
    where = {large.name: str(large), small.name: str(small)}
    summary = reproduce(
        brief, output=tmp_path / "out", work=tmp_path / "work", models=where, data=glue, draws=20
    )
    assert summary is not None and len(summary["comparisons"]) == 2 * 3 * 2
    made = StoredPredictions.load(
        ResultStore(brief, tmp_path / "out").arrays_path("mnli", 1234, f"{small.name}-both")
    )
    assert "train rows are hard" in made.about.notes


def test_the_verb_recomputes_and_says_what_it_lacks(done, tmp_path):
    shutil.copytree(done[0] / "out", tmp_path / "out")
    result = CliRunner().invoke(
        app, ["reproduce", "--output", str(tmp_path / "out"), "--from-arrays", "--json"]
    )
    assert result.exit_code == 0, result.output
    assert "comparisons" in json.loads(result.output.splitlines()[-1])
    failed = CliRunner().invoke(app, ["reproduce", "--output", str(tmp_path / "new")])
    assert isinstance(failed.exception, CascadeError) and "--large" in str(failed.exception)


def test_the_tables_of_the_docs_are_made_from_its_files(done, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[1] / "benchmarks")
    tables, cells = importlib.import_module("table_paper"), importlib.import_module("table_cells")
    (tmp_path / "results").mkdir()
    shutil.copytree(done[0] / "out", tmp_path / "results" / "paper")
    for module in (tables, cells):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    made = [tables.paper_table(), tables.paper_scores_table(target=2.0), tables.paper_dar_table()]
    rows = [9, 3 + 4 + 6 + 9, 3]
    assert [table.count("\n") - 1 for table in made] == rows
    assert tables.paper_shallow_table().startswith("| early exit |")
