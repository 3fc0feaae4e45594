"""Engines without torch: the same answers, whatever the neighbors; refusals instead of silent changes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest

from cascadebert import Cascade, OperatingPoint, Stage, Target, assemble
from cascadebert.errors import MissingExtra, StageError
from cascadebert.inference.batching import TokenizedTexts
from cascadebert.inference.engines.load import resolve_engine
from cascadebert.inference.engines.torch import compile_module
from cascadebert.training.export import export_onnx
from cascadebert.tuning.engine_choice import check_engine_parity
from cascadebert.tuning.tune import tune_folder
from samples import reviews, sentences, write_csv

FAMILIES = ["bert", "roberta", "distilbert", "electra", "modernbert"]
TEXTS = sentences(60, seed=2, most=30)


@pytest.fixture(scope="module")
def exported(make_model, tmp_path_factory):
    """A maker of checkpoints with `model.onnx`; each is exported once."""
    root, made = tmp_path_factory.mktemp("exported"), {}

    def make(family):
        if family not in made:
            made[family] = shutil.copytree(make_model(family, layers=2, hidden=32), root / family)
            export_onnx(made[family])
        return made[family]

    return make


def alone(stage: Stage, rows: TokenizedTexts) -> np.ndarray:
    """Each row's logits when it runs by itself."""
    return np.concatenate([stage.engine.logits(rows.batch(np.array([i]))) for i in range(len(rows))])


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_engine_gives_the_logits_of_torch(exported, family):
    folder = exported(family)
    wanted = Stage.from_pretrained(folder, engine="torch").predict(TEXTS)
    for engine in ("openvino", "onnxruntime"):
        stage = Stage.from_pretrained(folder, engine=engine, precision="float32")
        found = stage.predict(TEXTS)
        assert (stage.engine.name, stage.engine.precision) == (engine, "float32")
        assert np.allclose(found.probabilities, wanted.probabilities, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "precision", "last_digit"),
    [("openvino", "float32", 0), ("openvino", "auto", 1e-6), ("onnxruntime", "float32", 0)],
)
def test_a_rows_logits_do_not_depend_on_its_neighbors(exported, engine, precision, last_digit):
    stage = Stage.from_pretrained(exported("bert"), engine=engine, precision=precision)
    rows = stage.encode(TEXTS)
    one_by_one = alone(stage, rows)
    for budget in (1, 64, 4096):
        together = replace(stage, batch_tokens=budget).logits(rows)
        assert np.abs(together - one_by_one).max() <= last_digit


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own, while it compiles
def test_a_compiled_model_gives_the_same_logits_at_any_shape(make_model):
    stage = Stage.from_pretrained(make_model(layers=1, hidden=32), engine="torch")
    rows, plain, made = stage.encode(TEXTS), stage.engine, copy(stage.engine)
    made._model = compile_module(plain._model)  # what a CUDA device is given
    for some in (np.arange(3), np.arange(10, 50), np.array([7])):
        batch = rows.batch(some)
        assert np.allclose(made.logits(batch), plain.logits(batch), atol=1e-5)


def test_a_missing_engine_file_is_named(make_model):
    for engine in ("openvino", "onnxruntime"):
        with pytest.raises(StageError, match=r"no model\.onnx, .*assemble --engine openvino.*--engine torch"):
            Stage.from_pretrained(make_model(), engine=engine)


@pytest.mark.slow
def test_a_precision_that_an_engine_has_not_is_refused(exported):
    for engine, precision in (("openvino", "int4"), ("onnxruntime", "bfloat16")):
        with pytest.raises(StageError, match=f"{engine} engine has no precision"):
            Stage.from_pretrained(exported("bert"), engine=engine, precision=precision)


@pytest.mark.slow
def test_a_processor_without_bfloat16_gets_float32_or_a_refusal_never_another_precision(ready, monkeypatch):
    monkeypatch.setattr("cascadebert.inference.engines.openvino.has_bfloat16", lambda: False)
    assert resolve_engine("openvino", "auto") == ("openvino", "float32")
    with pytest.raises(
        StageError,
        match=r"multiply in bfloat16 on this.*tune --precision auto.*--precision float32",
    ):
        Cascade.from_pretrained(ready, precision="bfloat16")


@pytest.mark.slow
def test_a_damaged_engine_file_is_refused(exported, tmp_path):
    folder = shutil.copytree(exported("bert"), tmp_path / "m")
    (folder / "model.onnx").write_bytes(b"no model")
    for engine in ("openvino", "onnxruntime"):
        with pytest.raises(StageError, match=r"model\.onnx cannot be run"):
            Stage.from_pretrained(folder, engine=engine)


def test_an_unknown_engine_lists_the_known_ones(make_model):
    with pytest.raises(StageError, match="unknown engine 'tpu'; expected auto, openvino, onnxruntime, torch"):
        Stage.from_pretrained(make_model(), engine="tpu")


@pytest.fixture(scope="module")
def ready(make_model, tmp_path_factory):
    """A cascade saved with the default engine, and the rows it was tuned on."""
    root = tmp_path_factory.mktemp("ready")
    rows = write_csv(root / "rows.csv", *reviews(160, seed=5))
    stages = [make_model(layers=i, hidden=16 * i, seed=i) for i in (1, 3)]
    assemble(stages, data=rows, target=Target(speedup=2.0), output=root / "cascade", precision="float32")
    return root / "cascade"


@pytest.mark.slow
def test_a_cascade_opens_on_the_engine_that_its_thresholds_were_picked_on(ready):
    cascade = Cascade.from_pretrained(ready)
    assert cascade.uncertified_reason is None
    assert {stage.engine.name for stage in cascade.stages} == {"openvino"} == {cascade.spec.tuned_on.engine}
    assert (ready / "stage-1" / "model.onnx").is_file() and "model.onnx" in cascade.spec.stages[0].sha256


@pytest.mark.slow
def test_elsewhere_it_says_uncertified_until_it_is_tuned_there(ready, tmp_path):
    other = Cascade.from_pretrained(ready, engine="onnxruntime")
    assert (
        "selected on openvino float32 cpu" in other.uncertified_reason
        and "this is onnxruntime float32 cpu" in other.uncertified_reason
    )
    assert (
        other.predict(TEXTS).labels.tolist() == Cascade.from_pretrained(ready).predict(TEXTS).labels.tolist()
    )
    by_hand = Cascade.from_pretrained(ready).with_operating_point(OperatingPoint((0.7,)))
    assert by_hand.uncertified_reason == "its thresholds were set by hand"
    copy = shutil.copytree(ready, tmp_path / "copy")
    tune_folder(copy, ready.parent / "rows.csv", target=Target(speedup=1.5), engine="torch")
    again = Cascade.from_pretrained(copy)
    assert again.uncertified_reason is None and again.stages[0].engine.name == "torch"


@pytest.mark.slow
def test_an_engine_that_changes_labels_is_refused(ready):
    cascade = Cascade.from_pretrained(ready)
    logits = cascade.stage_logits(TEXTS)
    assert check_engine_parity(cascade.stages, TEXTS, logits) == ()
    with pytest.raises(
        StageError, match=r"changes the label of 60 of 60 tuning examples at stage 2.*0\.5 %.*--precision"
    ):
        check_engine_parity(cascade.stages, TEXTS, np.stack([logits[0], -logits[1]]))


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "most"), [(0, 6), (1, 2)])
def test_an_earlier_stage_may_change_two_labels_in_a_hundred(ready, stage, most):
    cascade = Cascade.from_pretrained(ready)
    texts = sentences(300, seed=4, most=30)
    logits = cascade.stage_logits(texts)
    logits[stage, :most] *= -1
    assert check_engine_parity(cascade.stages, texts, logits) == ()
    logits[stage, most] *= -1
    with pytest.raises(StageError, match=f"label of {most + 1} of 300 .* at stage {stage + 1}"):
        check_engine_parity(cascade.stages, texts, logits)


@pytest.mark.slow
def test_where_torch_is_not_installed_nothing_is_compared_and_that_is_said(ready, monkeypatch):
    cascade = Cascade.from_pretrained(ready)
    absent = {"side_effect": MissingExtra("torch")}
    monkeypatch.setattr("cascadebert.tuning.engine_choice.load_engine", Mock(**absent))
    (said,) = check_engine_parity(cascade.stages, TEXTS, cascade.stage_logits(TEXTS))
    assert "not compared with torch" in said


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_pairs_are_told_apart_by_every_engine(exported, engine):
    pairs = [(text, TEXTS[i - 1]) for i, text in enumerate(TEXTS)]
    wanted = Stage.from_pretrained(exported("bert"), engine="torch").predict(pairs)
    found = Stage.from_pretrained(exported("bert"), engine=engine, precision="float32").predict(pairs)
    assert np.allclose(found.probabilities, wanted.probabilities, atol=1e-5)
    turned = Stage.from_pretrained(exported("bert"), engine=engine, precision="float32").predict(
        [(b, a) for a, b in pairs]
    )
    assert not np.allclose(turned.probabilities, wanted.probabilities, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_several_threads_may_ask_at_the_same_time(exported, engine):
    stage = Stage.from_pretrained(exported("bert"), engine=engine, precision="float32")
    wanted = stage.predict(TEXTS).probabilities
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: stage.predict(TEXTS).probabilities, range(24)))
    assert all(np.array_equal(one, wanted) for one in found)


FIRST_USE = """
import sys, threading, os
import cascadebert.inference.engines.openvino
import openvino
sys.setswitchinterval(1e-6)
together = threading.Barrier(4)
def use():
    together.wait()
    openvino.Type.i64.to_dtype()
threads = [threading.Thread(target=use, daemon=True) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join(20)
os._exit(any(thread.is_alive() for thread in threads))
"""


@pytest.mark.slow
@pytest.mark.parametrize("attempt", range(3))
def test_threads_that_use_openvino_first_at_the_same_time_do_not_hang(attempt):
    """Without a first use beforehand every second process hangs."""
    assert subprocess.run([sys.executable, "-c", FIRST_USE], timeout=60).returncode == 0
