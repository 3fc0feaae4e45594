"""Eight-bit products: close to float32, the same whatever the neighbors, refused where they do not exist."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest

from cascadebert import Cascade, OperatingPoint, Stage, Target, assemble
from cascadebert.errors import MissingExtra, StageError
from cascadebert.inference.engines import int8, load, onnxruntime, openvino
from cascadebert.inference.trial import trial_texts
from cascadebert.training.export import export_onnx
from cascadebert.tuning.engine_choice import choose_engine
from cascadebert.tuning.tune import tune_folder
from samples import reviews, sentences, write_csv

TEXTS = sentences(60, seed=2, most=30)
ENGINES = ("openvino", "onnxruntime")
needs_int8 = pytest.mark.skipif(not openvino.has_int8(), reason="this processor has no int8 for OpenVINO")
BOTH = [pytest.param("openvino", marks=needs_int8), "onnxruntime"]


@pytest.fixture(scope="module")
def exported(make_model, tmp_path_factory):
    """A checkpoint of two layers with `model.onnx`."""
    folder = shutil.copytree(make_model(layers=2, hidden=64), tmp_path_factory.mktemp("int8") / "model")
    export_onnx(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("engine", BOTH)
def test_its_logits_are_near_those_of_float32_and_not_equal(exported, engine):
    exact = Stage.from_pretrained(exported, engine=engine, precision="float32")
    stage = Stage.from_pretrained(exported, engine=engine, precision="int8")
    assert stage.engine.precision == "int8"
    tokens = exact.encode(TEXTS)
    expected, found = exact.logits(tokens), stage.logits(tokens)
    assert 0.9 < np.corrcoef(found.ravel(), expected.ravel())[0, 1] < 1


@pytest.mark.parametrize("engine", BOTH)
def test_a_layer_multiplies_what_was_quantized(tmp_path, engine):
    onnx = pytest.importorskip("onnx")
    random = np.random.default_rng(0)
    width = 2 * openvino.GROUP
    rows, weights = (random.normal(size=shape).astype(np.float32) for shape in ((3, 5, width), (width, 8)))
    rows[0, 0] = 0
    given, wanted = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["rows", "tokens", width])
        for name, width in (("given", width), ("wanted", 8))
    )
    layer = onnx.helper.make_node("MatMul", ["given", "weights"], ["wanted"])
    constants = [onnx.numpy_helper.from_array(weights, "weights")]
    graph = onnx.helper.make_graph([layer], "layer", [given], [wanted], constants)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, tmp_path / "layer.onnx")
    if engine == "onnxruntime":
        session = onnxruntime.onnxruntime.InferenceSession(int8.quantize_onnx(tmp_path / "layer.onnx"))
        found, largest, groups = session.run(None, {"given": rows})[0], int8.LARGEST_WEIGHT, 1
    else:
        network = openvino.openvino.Core().read_model(tmp_path / "layer.onnx")
        settings = openvino._settings("int8", openvino._quantize(network))
        (found,) = openvino.openvino.compile_model(network, "CPU", settings)(rows).values()
        largest, groups = openvino.LARGEST_WEIGHT, 2
    values, scales = int8.quantize_weights(weights.reshape(groups, -1, 8), axis=1, largest=largest)
    grouped = rows.reshape(3, 5, groups, -1)
    steps = np.maximum(np.abs(grouped).max(axis=3, keepdims=True), 1e-30) / 127
    wanted = np.einsum("rtgk,gko->rto", np.rint(grouped / steps) * steps, values * scales)
    assert np.allclose(found, wanted, atol=1e-4)


def one_layer(path, weights):
    """A model file of one layer that reads embeddings of tokens."""
    onnx = pytest.importorskip("onnx")
    table = np.random.default_rng(1).normal(size=(50, len(weights))).astype(np.float32)
    table[:, 3] *= 100  # a column that is far larger than the others
    ids = onnx.helper.make_tensor_value_info("input_ids", onnx.TensorProto.INT64, ["rows", "tokens"])
    shape = ["rows", "tokens", weights.shape[1]]
    wanted = onnx.helper.make_tensor_value_info("wanted", onnx.TensorProto.FLOAT, shape)
    nodes = [
        onnx.helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        onnx.helper.make_node("MatMul", ["rows", "weights"], ["wanted"]),
    ]
    constants = {"table": table, "weights": weights}
    initializers = [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = onnx.helper.make_graph(nodes, "layer", [ids], [wanted], initializers)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, path)
    return table


@pytest.mark.parametrize("width", [96, 1536])
def test_columns_far_larger_than_the_others_leave_these_their_steps(tmp_path, monkeypatch, width):
    weights = np.random.default_rng(0).normal(size=(width, 8)).astype(np.float32)
    table = one_layer(tmp_path / "layer.onnx", weights)
    ids = np.arange(50).reshape(5, 10)
    run = onnxruntime.onnxruntime.InferenceSession

    def error():
        (found,) = run(int8.quantize_onnx(tmp_path / "layer.onnx")).run(None, {"input_ids": ids})
        return float(np.abs(found - table[ids] @ weights).mean())

    even = error()
    monkeypatch.setattr(int8, "_largest_inputs", lambda *_: {})
    assert even < error() / 2


def test_wide_layers_are_sums_of_narrower_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(int8, "_largest_inputs", lambda *_: {})
    weights = np.random.default_rng(0).normal(size=(1536, 8)).astype(np.float32)
    table = one_layer(tmp_path / "layer.onnx", weights)
    session = onnxruntime.onnxruntime.InferenceSession(int8.quantize_onnx(tmp_path / "layer.onnx"))
    ids = np.arange(50).reshape(5, 10)
    values, scales = int8.quantize_weights(weights.reshape(2, 768, 8), axis=1, largest=int8.LARGEST_WEIGHT)
    grouped = table[ids].reshape(5, 10, 2, 768)
    steps = np.abs(grouped).max(axis=3, keepdims=True) / 127
    wanted = np.einsum("rtgk,gko->rto", np.rint(grouped / steps) * steps, values * scales)
    assert np.allclose(session.run(None, {"input_ids": ids})[0], wanted, atol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("engine", BOTH)
@pytest.mark.parametrize("length", [4, 31])
def test_its_logits_do_not_depend_on_the_neighbors(exported, engine, length):
    stage = Stage.from_pretrained(exported, engine=engine, precision="int8")
    tokens = trial_texts(stage.tokenizer, 128, length, vary=True)
    alone = np.concatenate([stage.engine.logits(tokens.batch(np.array([i]))) for i in range(128)])
    for size in (2, 3, 7, 16, 33, 128):
        for start in range(0, 128, size):
            rows = np.arange(start, min(start + size, 128))
            assert np.array_equal(stage.engine.logits(tokens.batch(rows)), alone[rows])


@pytest.mark.slow
def test_a_row_of_zeros_stays_finite(exported, tmp_path):
    onnx = pytest.importorskip("onnx")
    model = onnx.load(exported / "model.onnx")
    norms = [node.input[1] for node in model.graph.node if node.op_type == "LayerNormalization"]
    for tensor in model.graph.initializer:
        if tensor.name in norms or "LayerNorm.bias" in tensor.name:
            zeros = np.zeros(tensor.dims, np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(zeros, tensor.name))
    folder = shutil.copytree(exported, tmp_path / "zeros")
    onnx.save(model, folder / "model.onnx")
    exact, found = (
        Stage.from_pretrained(folder, engine="onnxruntime", precision=one).predict(TEXTS).probabilities
        for one in ("float32", "int8")
    )
    assert np.allclose(found, exact, atol=1e-3)


def test_weights_keep_half_a_step_and_columns_of_zeros():
    weights = np.random.default_rng(0).normal(size=(32, 8)).astype(np.float32)
    weights[:, 3] = 0
    for axis, shape in ((0, (1, 8)), (1, (32, 1))):
        values, scales = int8.quantize_weights(weights, axis=axis, largest=64)
        assert scales.shape == shape and np.abs(values).max() == 64
        assert (np.abs(values * scales - weights) <= 0.5001 * scales).all()


def test_two_products_of_the_largest_factors_fit_in_sixteen_bits():
    assert 2 * 255 * int8.LARGEST_WEIGHT <= np.iinfo(np.int16).max


@pytest.mark.slow
def test_a_model_without_layers_to_quantize_is_refused(exported, tmp_path):
    onnx = pytest.importorskip("onnx")
    model = onnx.load(exported / "model.onnx")
    for node in model.graph.node:
        node.op_type = {"MatMul": "Other"}.get(node.op_type, node.op_type)
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(StageError, match="no linear layers that run in int8"):
        int8.quantize_onnx(tmp_path / "model.onnx")


@pytest.mark.slow
def test_where_it_cannot_run_it_is_refused_and_no_option(exported, monkeypatch):
    monkeypatch.setattr(openvino, "has_int8", lambda: False)
    assert "int8" not in openvino.precisions()
    with pytest.raises(StageError, match=r"does not multiply in int8.*tune --precision auto"):
        Stage.from_pretrained(exported, engine="openvino", precision="int8")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtra, match=r"onnx.*pip install 'cascadebert\[onnxruntime\]'"):
        Stage.from_pretrained(exported, engine="onnxruntime", precision="int8")
    monkeypatch.setattr(onnxruntime, "find_spec", lambda name: None)
    assert onnxruntime.precisions() == ("float32",)


def test_the_options_are_those_of_this_machine(monkeypatch):
    monkeypatch.setattr(openvino, "has_bfloat16", lambda: False)
    monkeypatch.setattr(openvino, "has_int8", lambda: True)
    monkeypatch.setattr("cascadebert.inference.engines.torch.has_cuda", lambda: False)
    both = [(engine, precision) for engine in ENGINES for precision in ("float32", "int8")]
    assert load.engine_options("auto", "auto") == both
    assert load.engine_options("auto", "int8") == [("openvino", "int8"), ("onnxruntime", "int8")]
    assert load.engine_options("onnxruntime", "auto") == both[2:]
    assert load.engine_options("torch", "auto") == [("torch", "float32")]
    assert load.engine_options("torch", "bfloat16") == [("torch", "bfloat16")]
    with pytest.raises(StageError, match="does not multiply in bfloat16"):
        load.engine_options("auto", "bfloat16")


def engines(monkeypatch, stage: Stage, seconds: dict, changed: set) -> None:
    """Let options take the given seconds, and change all labels or none; None for one that cannot run."""

    def load_fake(path, *, engine, precision):
        if seconds[engine, precision] is None:
            raise StageError("cannot run")
        fake = Mock(precision=precision, streams=1)
        sign = -1 if (engine, precision) in changed else 1
        fake.logits = lambda batch: sign * stage.engine.logits(batch)
        return fake

    monkeypatch.setattr("cascadebert.tuning.engine_choice.load_engine", load_fake)
    take(monkeypatch, [took for took in seconds.values() if took is not None])


def take(monkeypatch, seconds: list[float], *, first: float = 0.001) -> None:
    """Let options take the given seconds, and the first of them alone others."""

    def interleaved(runs, *, repeats):
        return [[took] * repeats for took in seconds] if len(runs) > 1 else [[first]]

    monkeypatch.setattr("cascadebert.tuning.engine_choice.interleaved", interleaved)


def test_fewer_texts_are_timed_where_they_take_long(make_model, monkeypatch):
    stage = Stage.from_pretrained(make_model(), engine="torch")
    options, texts = [("torch", "float32"), ("torch", "bfloat16")], sentences(200, seed=3)
    for first, timed in ((0.01, 128), (2.0, 48), (60.0, 32)):
        take(monkeypatch, [1.0, 2.0], first=first)
        found = choose_engine(stage, options, texts).timed
        assert found[0].texts_per_second == pytest.approx(timed)


OPTIONS = [("openvino", "float32"), ("openvino", "bfloat16"), ("openvino", "int8"), ("onnxruntime", "int8")]


@pytest.mark.parametrize(
    ("seconds", "changed", "expected", "counted"),
    [
        ((8, 4, 2, 3), set(), 2, [2, 3]),
        ((8, 4, 2, 3), {2}, 3, [2, 3, 1]),
        ((8, 4, 2, 3), {2, 3}, 1, [2, 3, 1, 0]),
        ((8, 4, 3.9, 9), set(), 1, [2, 1]),  # not worth 3 % to be less exact
        ((4.1, 4, 9, 9), set(), 0, [1, 0]),
        ((8, 4, None, 3), set(), 3, [3, 1]),
    ],
)
def test_the_fastest_that_keeps_the_labels_is_chosen(
    monkeypatch, make_model, seconds, changed, expected, counted
):
    stage = Stage.from_pretrained(make_model(), engine="torch")
    engines(monkeypatch, stage, dict(zip(OPTIONS, seconds, strict=True)), {OPTIONS[i] for i in changed})
    choice = choose_engine(stage, OPTIONS, TEXTS)
    assert (choice.engine, choice.precision) == OPTIONS[expected]
    assert [(one.engine, one.precision) for one in choice.timed if one.changed is not None] == [
        OPTIONS[i] for i in counted
    ]
    fastest_first = sorted((60 / took for took in seconds if took is not None), reverse=True)
    assert [one.texts_per_second for one in choice.timed] == pytest.approx(fastest_first)


def test_one_option_is_not_timed(make_model):
    stage = Stage.from_pretrained(make_model(), engine="torch")
    choice = choose_engine(stage, [("torch", "float32")], TEXTS)
    assert (choice.engine, choice.precision, choice.timed) == ("torch", "float32", ())


def test_int8_alone_is_compared_with_float32_and_refused_where_all_change_labels(make_model, monkeypatch):
    stage = Stage.from_pretrained(make_model(), engine="torch")
    wrong = replace(stage, engine=Mock(streams=1, logits=lambda batch: -stage.engine.logits(batch)))
    engines(monkeypatch, stage, dict.fromkeys(OPTIONS, 1.0), set(OPTIONS[2:]))
    take(monkeypatch, [1.0, 2.0])
    with pytest.raises(StageError, match=r"100.0 % of labels changed; none keeps them\. .*float32"):
        choose_engine(wrong, OPTIONS[2:], TEXTS)


@pytest.mark.slow
def test_a_cascade_keeps_what_was_timed_and_can_be_moved_to_another_processor(
    make_model, tmp_path, monkeypatch
):
    rows = write_csv(tmp_path / "rows.csv", *reviews(160, seed=5))
    stages = [make_model(layers=i, hidden=32 * i, seed=i) for i in (1, 2)]
    options = [("openvino", "float32"), ("onnxruntime", "float32"), ("onnxruntime", "int8")]
    for module in ("training.assemble", "tuning.tune"):
        monkeypatch.setattr(f"cascadebert.{module}.engine_options", lambda *_: options)
    take(monkeypatch, [3.0, 1.0, 2.0])
    made = assemble(stages, data=rows, target=Target(speedup=1.5), output=tmp_path / "made")
    assert {stage.engine.name for stage in made.stages} == {"onnxruntime"} and len(made.spec.engines) == 3
    assert made.spec.engines[0].description.endswith("texts/s, 0.0 % of labels changed")
    take(monkeypatch, [1.0, 2.0, 3.0])
    more = write_csv(tmp_path / "more.csv", *reviews(160, seed=6))
    tune_folder(tmp_path / "made", more, target=Target(speedup=1.4), precision="auto")
    moved = Cascade.from_pretrained(tmp_path / "made")
    assert {stage.engine.name for stage in moved.stages} == {"openvino"} and moved.uncertified_reason is None
    assert moved.spec.engines[0].engine == "openvino"


@pytest.mark.slow
def test_tuning_a_cascade_of_torch_for_any_engine_leaves_it_on_torch(make_model, tmp_path, monkeypatch):
    rows = write_csv(tmp_path / "rows.csv", *reviews(160, seed=5))
    stages = [make_model(layers=i, hidden=32 * i, seed=i) for i in (1, 2)]
    assemble(stages, data=rows, target=Target(speedup=1.5), output=tmp_path / "made", engine="torch")
    monkeypatch.setattr("cascadebert.tuning.tune.engine_options", load.engine_options)
    more = write_csv(tmp_path / "more.csv", *reviews(160, seed=6))
    tune_folder(tmp_path / "made", more, target=Target(speedup=1.4), precision="auto")
    made = Cascade.from_pretrained(tmp_path / "made")
    assert made.spec.tuned_on.engine == "torch" and made.uncertified_reason is None
    by_hand = made.with_operating_point(OperatingPoint((0.7,)))
    by_hand.save_pretrained(tmp_path / "by-hand")
    tune_folder(tmp_path / "by-hand", more, target=Target(speedup=1.4))
    assert Cascade.from_pretrained(tmp_path / "by-hand").spec.tuned_on.engine == "torch"
