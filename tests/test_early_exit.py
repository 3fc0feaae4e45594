"""Early exit on tiny models: rules by hand, the loop against the arrays, training that survives a kill."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cascadebert.errors import CascadeError, StageError
from cascadebert.inference.engines.torch import load_classifier
from cascadebert.inference.stage import Stage
from cascadebert.inference.tokenizer import StageTokenizer
from cascadebert.paper.early_exit.exits import (
    EntropyThreshold,
    ExitOutputs,
    FixedLayer,
    LearnedExitThreshold,
    Patience,
    exit_layers,
)
from cascadebert.paper.early_exit.inference import EarlyExitPredictor, compute_exits, run_early_exit
from cascadebert.paper.early_exit.model import ExitHeads, MultiExitModel, exit_flops
from cascadebert.paper.early_exit.training import (
    METHODS,
    EarlyExitConfig,
    berxit_loss,
    deebert_loss,
    pabee_loss,
    train_multi_exit,
    train_truncated,
)
from cascadebert.persistence.folder import file_hashes
from cascadebert.training.checkpoints import count_flops
from cascadebert.training.config import FitConfig
from cascadebert.training.losses import NO_LABEL
from cascadebert.training.train_stage import TrainingData, train_stage
from killing import run_killed
from samples import reviews, sentences

DEPTH = 4
LABELS = ("negative", "positive")
BOTH = ExitHeads(learned=True)
MEAN = ExitHeads(learned=True, reads="mean")
RULES = [
    EntropyThreshold(0.3),
    EntropyThreshold(0.0),
    EntropyThreshold(9.0),
    Patience(0),
    Patience(1),
    Patience(2),
    Patience(9),
    LearnedExitThreshold(0.4),
    FixedLayer(2),
    FixedLayer(DEPTH),
]
QUICK = EarlyExitConfig(
    FitConfig(max_length=32, epochs=4, batch_size=16, learning_rate=2e-3, bf16=False), exit_epochs=4
)


@pytest.fixture(scope="module")
def classifier_folder(make_model):
    return make_model(layers=DEPTH, hidden=16, seed=3)


@pytest.fixture(scope="module", params=[BOTH, MEAN], ids=["first", "mean"])
def model(classifier_folder, request):
    return MultiExitModel(load_classifier(classifier_folder), request.param, seed=1).eval()


@pytest.fixture(scope="module")
def rows(classifier_folder):
    return StageTokenizer(classifier_folder, max_length=64).encode(sentences(120, seed=2, most=40))


@pytest.fixture(scope="module")
def exit_outputs(model, rows):
    return compute_exits(model, rows)


def two_exits() -> ExitOutputs:
    """Three exits' words on four rows, by hand."""
    return ExitOutputs(
        predictions=np.array([[0, 1, 0, 1], [0, 0, 1, 1], [0, 0, 0, 0]]),
        confidences=np.full((3, 4), 0.9),
        entropies=np.array([[0.1, 0.5, 0.2, 0.6], [0.0, 0.1, 0.3, 0.6], [0.0, 0.0, 0.0, 0.6]]),
        lte=np.array([[0.9, 0.2, 0.5, 0.5], [0.1, 0.0, 0.5, 0.6], [0.0, 0.0, 0.0, 0.0]]),
        label_ids=np.array([0, 0, 1, 1]),
    )


@pytest.mark.parametrize(
    ("rule", "layers"),
    [
        (EntropyThreshold(0.2), [1, 2, 3, 3]),
        (EntropyThreshold(0.21), [1, 2, 1, 3]),
        (Patience(0), [1, 1, 1, 1]),
        (Patience(1), [2, 3, 3, 2]),
        (Patience(2), [3, 3, 3, 3]),
        (LearnedExitThreshold(0.5), [2, 1, 3, 3]),
        (FixedLayer(1), [1, 1, 1, 1]),
        (FixedLayer(3), [3, 3, 3, 3]),
    ],
)
def test_rules_let_rows_leave_where_a_hand_says(rule, layers):
    assert exit_layers(rule, two_exits()).tolist() == layers


def test_patience_needs_one_layer_more_than_its_number_and_starts_anew_when_the_answer_changes():
    answers = np.array([[0, 0], [0, 1], [1, 1], [1, 1], [1, 0]])
    held = ExitOutputs(answers, np.ones((5, 2)), np.zeros((5, 2)))
    assert exit_layers(Patience(1), held).tolist() == [2, 3]
    assert exit_layers(Patience(2), held).tolist() == [5, 4]
    assert exit_layers(Patience(4), held).tolist() == [5, 5]


def test_answers_are_taken_from_the_exit_that_a_row_left_at():
    assert two_exits().predictions_at(np.array([3, 1, 2, 1])).tolist() == [0, 1, 1, 1]


def test_rules_out_of_range_are_refused():
    for make in (
        lambda: Patience(-1),
        lambda: EntropyThreshold(float("nan")),
        lambda: FixedLayer(9).evaluated_exits(4),
    ):
        with pytest.raises(CascadeError):
            make()
    with pytest.raises(CascadeError, match="not learned when to exit"):
        exit_layers(LearnedExitThreshold(0.5), replace(two_exits(), lte=None))


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_the_running_loop_leaves_where_the_rule_on_cached_arrays_says(model, rows, exit_outputs, rule):
    run = run_early_exit(model, rows, rule, batch_tokens=256)
    assert run.layers.tolist() == exit_layers(rule, exit_outputs).tolist()
    assert run.logits.argmax(axis=1).tolist() == exit_outputs.predictions_at(run.layers).tolist()


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES[:8], ids=str)
@pytest.mark.parametrize("budget", [1, 100, 5000])
def test_a_rows_exit_is_that_of_its_own_run_alone_at_any_batch_size(model, rows, rule, budget):
    some = np.arange(0, len(rows), 5)
    together = run_early_exit(model, rows, rule, positions=some, batch_tokens=budget)
    alone = [run_early_exit(model, rows, rule, positions=some[i : i + 1]) for i in range(len(some))]
    assert together.layers.tolist() == [int(one.layers[0]) for one in alone]
    assert np.abs(together.logits - np.concatenate([one.logits for one in alone])).max() < 1e-5


def test_rows_do_leave_at_several_layers_in_these_tests(model, rows):
    for rule in (EntropyThreshold(0.3), Patience(1), LearnedExitThreshold(0.4)):
        assert len(set(run_early_exit(model, rows, rule).layers.tolist())) > 1


def test_patience_does_not_depend_on_neighbors_or_on_their_order(model, rows):
    rule, rng = Patience(2), np.random.default_rng(0)
    whole = run_early_exit(model, rows, rule)
    order = rng.permutation(len(rows))[:50]
    part = run_early_exit(model, rows, rule, positions=order, batch_tokens=300)
    assert part.layers.tolist() == whole.layers[order].tolist()
    assert np.abs(part.logits - whole.logits[order]).max() < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert", "roberta", "electra"])
@pytest.mark.parametrize("exits", [BOTH, MEAN, ExitHeads(shared_pooler=True)])
def test_with_exits_switched_off_the_model_is_its_classifier(make_model, family, exits):
    folder = make_model(family, layers=3, hidden=16, seed=4)
    stage = Stage.from_pretrained(folder, engine="torch", precision="float32", max_length=64)
    given = stage.encode([*sentences(40, seed=1, most=30)])
    model = MultiExitModel(load_classifier(folder), exits).eval()
    wanted = stage.logits(given)
    for rule in (FixedLayer(3), EntropyThreshold(0.0)):
        outputs = run_early_exit(model, given, rule)
        assert set(outputs.layers.tolist()) == {3}
        assert np.abs(outputs.logits - wanted).max() < 1e-5


def test_pairs_keep_their_token_types(classifier_folder, model):
    stage = Stage.from_pretrained(classifier_folder, engine="torch", precision="float32", max_length=64)
    given = stage.encode([*zip(sentences(30, seed=1), sentences(30, seed=2), strict=True)])
    assert np.abs(run_early_exit(model, given, FixedLayer(DEPTH)).logits - stage.logits(given)).max() < 1e-5


def test_exits_before_the_last_may_read_the_mean_of_all_tokens_but_no_padding(classifier_folder):
    model = MultiExitModel(load_classifier(classifier_folder), MEAN)
    hidden, mask = torch.randn(2, 5, 16), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    read = model.features(1, hidden, mask)
    assert torch.allclose(read, torch.stack([hidden[0].mean(dim=0), hidden[1, :2].mean(dim=0)]), atol=1e-6)
    assert torch.equal(model.features(DEPTH, hidden, mask), hidden[:, 0])
    first = MultiExitModel(load_classifier(classifier_folder), BOTH)
    assert torch.equal(first.features(1, hidden, mask), hidden[:, 0])


def test_own_poolers_start_as_the_models_own_and_a_shared_one_is_one(classifier_folder):
    classifier = load_classifier(classifier_folder)
    weight = classifier.bert.pooler.dense.weight.clone()
    own = MultiExitModel(classifier, ExitHeads())
    assert len(own.poolers) == DEPTH and all(torch.equal(one.dense.weight, weight) for one in own.poolers)
    assert len({one.dense.weight.data_ptr() for one in own.poolers}) == DEPTH
    assert len(MultiExitModel(load_classifier(classifier_folder), ExitHeads(shared_pooler=True)).poolers) == 1


@pytest.mark.parametrize("family", ["distilbert", "modernbert"])
def test_other_families_are_refused_with_those_that_can(make_model, family):
    with pytest.raises(StageError, match=f"{family}.*expected an encoder of one of bert"):
        MultiExitModel(load_classifier(make_model(family)), ExitHeads())


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert", "roberta", "electra"])
def test_operations_are_those_of_the_layers_run_and_the_exits_tried(make_model, family):
    folders = [make_model(family, layers=i, hidden=16, seed=4) for i in (1, 2, 3)]
    whole = [count_flops(folder) for folder in folders]
    model = MultiExitModel(load_classifier(folders[-1]), BOTH)
    assert [exit_flops(model, FixedLayer(i))[i - 1] for i in (1, 2, 3)] == whole
    head = 2 * (16 * 16 + 16 * 2)
    lengths = np.array([8, 20])
    for rule, doubt in ((EntropyThreshold(0.1), 0), (Patience(1), 0), (LearnedExitThreshold(0.1), 2 * 16)):
        flops = exit_flops(model, rule)
        for layer in (1, 2, 3):
            wanted = whole[layer - 1].cost_of(lengths) + (layer - 1) * head + min(layer, 2) * doubt
            assert flops[layer - 1].cost_of(lengths).tolist() == wanted.tolist()


def test_exits_that_are_never_taken_cost_something(model):
    lengths = np.array([8, 8, 16, 24])
    without = exit_flops(model, FixedLayer(DEPTH))[-1].cost_of(lengths)
    assert (exit_flops(model, Patience(1))[-1].cost_of(lengths) > without).all()


def test_the_losses_are_the_papers():
    logits = torch.tensor([[[2.0, 0.0]], [[0.0, 1.0]], [[0.0, 3.0]]])
    labels = torch.tensor([1])
    each = [torch.nn.functional.cross_entropy(one, labels).item() for one in logits]
    assert deebert_loss(logits, None, labels, 0).item() == pytest.approx(each[0] + each[1])
    wanted = (each[0] + 2 * each[1] + 3 * each[2]) / 6
    assert pabee_loss(logits, None, labels, 0).item() == pytest.approx(wanted)
    lte = torch.tensor([[0.9], [0.2], [0.7]])
    assert berxit_loss(logits, lte, labels, 0).item() == pytest.approx(each[2])
    assert berxit_loss(logits, lte, labels, 1).item() == pytest.approx(sum(each) + 0.01 + 0.04, abs=1e-6)
    nobody = torch.tensor([NO_LABEL])
    assert berxit_loss(logits, lte, nobody, 1).item() == 0


@pytest.fixture(scope="module")
def encoder_folder(make_model):
    return make_model(layers=3, hidden=16, labels=None)


@pytest.fixture(scope="module")
def data():
    texts, labels = reviews(300, seed=0)
    return TrainingData(texts, np.array([LABELS.index(one) for one in labels]), LABELS)


@pytest.fixture(scope="module")
def trained(encoder_folder, data, tmp_path_factory):
    work = tmp_path_factory.mktemp("baselines")
    return {name: train_multi_exit(encoder_folder, data, QUICK, method=name, work=work) for name in METHODS}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(METHODS))
def test_a_trained_model_answers_new_rows_and_leaves_early(trained, name):
    texts, labels = reviews(200, seed=9)
    rule = {"deebert": EntropyThreshold(0.4), "pabee": Patience(1), "berxit": LearnedExitThreshold(0.45)}[
        name
    ]
    found = EarlyExitPredictor.from_folder(trained[name], rule).predict(texts)
    assert np.mean(found.labels == np.array(labels)) > 0.8
    assert found.stages.mean() < 3 and found.stages.min() >= 1


@pytest.mark.slow
def test_deeberts_second_stage_changes_neither_the_encoder_nor_the_last_classifier(
    trained, encoder_folder, data, tmp_path
):
    tuned = train_stage(encoder_folder, data, QUICK.fit, work=tmp_path, description="large")
    before = MultiExitModel(load_classifier(tuned), ExitHeads()).state_dict()
    made = train_multi_exit(encoder_folder, data, QUICK, method="deebert", work=tmp_path, fine_tuned=tuned)
    after = MultiExitModel.load(made)[0].state_dict()
    changed = {name.rsplit(".", 1)[0] for name in before if not torch.equal(before[name], after[name])}
    exits = {f"poolers.{i}.dense" for i in (0, 1)} | {f"classifiers.{i}" for i in (0, 1)}
    assert changed == exits
    assert file_hashes(made) == file_hashes(trained["deebert"])  # its own first stage is that fine-tuning


@pytest.mark.slow
def test_deeberts_exits_start_from_the_pretrained_pooler(encoder_folder, make_model, data, tmp_path):
    from cascadebert.paper.early_exit.training import _load_model

    tuned = train_stage(encoder_folder, data, QUICK.fit, work=tmp_path, description="large")
    model = _load_model(encoder_folder, tuned, data, METHODS["deebert"], QUICK)
    pretrained = (
        MultiExitModel(load_classifier(encoder_folder, num_labels=2), ExitHeads()).poolers[-1].dense.weight
    )
    assert torch.equal(model.poolers[0].dense.weight, pretrained)
    assert not torch.equal(model.poolers[-1].dense.weight, pretrained)


@pytest.mark.slow
def test_training_again_from_the_same_seed_gives_the_same_arrays(trained, encoder_folder, data, tmp_path):
    made = train_multi_exit(encoder_folder, data, QUICK, method="berxit", work=tmp_path)
    read = []
    for folder in (trained["berxit"], made):
        model, length = MultiExitModel.load(folder)
        read.append(compute_exits(model, StageTokenizer(folder, max_length=length).encode(data.texts)))
    for name in ("predictions", "confidences", "entropies", "lte"):
        assert np.array_equal(getattr(read[0], name), getattr(read[1], name))
    other = train_multi_exit(
        encoder_folder, data, replace(QUICK, fit=replace(QUICK.fit, seed=5)), method="berxit", work=tmp_path
    )
    assert other != made and file_hashes(other) != file_hashes(made)


KILLED = """
from pathlib import Path
from cascadebert.training.trainer import LossTrainer
import test_early_exit as t
kill_at(LossTrainer, "compute_loss", int(sys.argv[1]))
texts, labels = t.reviews(300, seed=0)
data = t.TrainingData(texts, t.np.array([t.LABELS.index(one) for one in labels]), t.LABELS)
t.train_multi_exit(Path(sys.argv[3]), data, t.QUICK, method=sys.argv[4], work=Path(sys.argv[2]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "step"), [("berxit", 60), ("deebert", 140)])
def test_a_killed_training_goes_on_and_ends_in_the_same_weights(
    trained, encoder_folder, data, tmp_path, name, step
):
    run_killed(KILLED, step, tmp_path, encoder_folder, name)
    assert list(tmp_path.glob(f"{name}-*.part/checkpoints/checkpoint-50"))
    made = train_multi_exit(encoder_folder, data, QUICK, method=name, work=tmp_path)
    assert file_hashes(made) == file_hashes(trained[name])
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.slow
def test_a_model_cut_short_is_a_plain_stage_of_so_many_layers(encoder_folder, data, tmp_path):
    options = {"layers": 2, "work": tmp_path, "description": "truncated"}
    made = train_truncated(encoder_folder, data, QUICK.fit, **options)
    assert Stage.from_pretrained(made, engine="torch").layers == 2
    assert (
        train_truncated(encoder_folder, data, QUICK.fit, layers=2, work=tmp_path, description="truncated")
        == made
    )


def test_what_does_not_belong_together_is_refused(encoder_folder, make_model, data, tmp_path):
    other = make_model(layers=2, hidden=16)
    with pytest.raises(CascadeError, match="for deebert alone"):
        train_multi_exit(encoder_folder, data, QUICK, method="pabee", work=tmp_path, fine_tuned=other)
    with pytest.raises(StageError, match="num_hidden_layers differs"):
        train_multi_exit(encoder_folder, data, QUICK, method="deebert", work=tmp_path, fine_tuned=other)
    with pytest.raises(StageError, match="not a model with exits"):
        MultiExitModel.load(other)
    with pytest.raises(StageError, match="two layers or more"):
        MultiExitModel(load_classifier(make_model(layers=1, hidden=16)), ExitHeads())
