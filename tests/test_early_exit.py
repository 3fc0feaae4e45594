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
    ConfidenceThreshold,
    EntropyThreshold,
    ExitOutputs,
    FixedExit,
    LearnedExitThreshold,
    Patience,
    exits_taken,
)
from cascadebert.paper.early_exit.inference import EarlyExitPredictor, compute_exits, run_early_exit
from cascadebert.paper.early_exit.model import ExitHeads, MultiExitModel, exit_flops
from cascadebert.paper.early_exit.training import (
    METHODS,
    EarlyExitConfig,
    berxit_loss,
    deebert_loss,
    pabee_loss,
    sweet_loss,
    taught_loss,
    train_multi_exit,
    train_truncated,
)
from cascadebert.persistence.folder import file_hashes
from cascadebert.training.config import FitConfig
from cascadebert.training.losses import NO_LABEL, distillation_loss
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
    FixedExit(2),
    FixedExit(DEPTH),
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
        (FixedExit(1), [1, 1, 1, 1]),
        (FixedExit(3), [3, 3, 3, 3]),
    ],
)
def test_rules_let_rows_leave_where_a_hand_says(rule, layers):
    assert exits_taken(rule, two_exits()).tolist() == layers


def test_patience_needs_one_layer_more_than_its_number_and_starts_anew_when_the_answer_changes():
    answers = np.array([[0, 0], [0, 1], [1, 1], [1, 1], [1, 0]])
    held = ExitOutputs(answers, np.ones((5, 2)), np.zeros((5, 2)))
    assert exits_taken(Patience(1), held).tolist() == [2, 3]
    assert exits_taken(Patience(2), held).tolist() == [5, 4]
    assert exits_taken(Patience(4), held).tolist() == [5, 5]


def test_answers_are_taken_from_the_exit_that_a_row_left_at():
    assert two_exits().predictions_at(np.array([3, 1, 2, 1])).tolist() == [0, 1, 1, 1]


def test_rules_out_of_range_are_refused():
    for make in (
        lambda: Patience(-1),
        lambda: EntropyThreshold(float("nan")),
        lambda: FixedExit(9).evaluated_exits(4),
    ):
        with pytest.raises(CascadeError):
            make()
    with pytest.raises(CascadeError, match="not learned when to exit"):
        exits_taken(LearnedExitThreshold(0.5), replace(two_exits(), lte=None))


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_the_running_loop_leaves_where_the_rule_on_cached_arrays_says(model, rows, exit_outputs, rule):
    run = run_early_exit(model, rows, rule, batch_tokens=256)
    assert run.numbers.tolist() == exits_taken(rule, exit_outputs).tolist()
    assert run.logits.argmax(axis=1).tolist() == exit_outputs.predictions_at(run.numbers).tolist()


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES[:8], ids=str)
@pytest.mark.parametrize("budget", [1, 100, 5000])
def test_a_rows_exit_is_that_of_its_own_run_alone_at_any_batch_size(model, rows, rule, budget):
    some = np.arange(0, len(rows), 5)
    together = run_early_exit(model, rows, rule, positions=some, batch_tokens=budget)
    alone = [run_early_exit(model, rows, rule, positions=some[i : i + 1]) for i in range(len(some))]
    assert together.numbers.tolist() == [int(one.numbers[0]) for one in alone]
    assert np.abs(together.logits - np.concatenate([one.logits for one in alone])).max() < 1e-5


def test_rows_do_leave_at_several_layers_in_these_tests(model, rows):
    for rule in (EntropyThreshold(0.3), Patience(1), LearnedExitThreshold(0.4)):
        assert len(set(run_early_exit(model, rows, rule).numbers.tolist())) > 1


def test_patience_does_not_depend_on_neighbors_or_on_their_order(model, rows):
    rule, rng = Patience(2), np.random.default_rng(0)
    whole = run_early_exit(model, rows, rule)
    order = rng.permutation(len(rows))[:50]
    part = run_early_exit(model, rows, rule, positions=order, batch_tokens=300)
    assert part.numbers.tolist() == whole.numbers[order].tolist()
    assert np.abs(part.logits - whole.logits[order]).max() < 1e-5


def test_pairs_keep_their_token_types(classifier_folder, model):
    stage = Stage.from_pretrained(classifier_folder, engine="torch", precision="float32", max_length=64)
    given = stage.encode([*zip(sentences(30, seed=1), sentences(30, seed=2), strict=True)])
    assert np.abs(run_early_exit(model, given, FixedExit(DEPTH)).logits - stage.logits(given)).max() < 1e-5


def test_exits_before_the_last_may_read_the_mean_of_all_tokens_but_no_padding(classifier_folder):
    model = MultiExitModel(load_classifier(classifier_folder), MEAN)
    hidden, mask = torch.randn(2, 5, 16), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    read = model.features(hidden, mask)
    assert torch.allclose(read, torch.stack([hidden[0].mean(dim=0), hidden[1, :2].mean(dim=0)]), atol=1e-6)
    first = MultiExitModel(load_classifier(classifier_folder), BOTH)
    assert torch.equal(first.features(hidden, mask), hidden[:, 0])


def test_own_poolers_start_as_the_models_own_and_a_shared_one_is_one(classifier_folder):
    classifier = load_classifier(classifier_folder)
    weight = classifier.bert.pooler.dense.weight.clone()
    own = MultiExitModel(classifier, ExitHeads())
    copies = [one["bert/pooler/dense/weight"] for one in own.exits]
    assert len(copies) == DEPTH - 1 and all(torch.equal(one, weight) for one in copies)
    assert len({one.data_ptr() for one in copies}) == DEPTH - 1
    shared = MultiExitModel(load_classifier(classifier_folder), ExitHeads(shared_pooler=True))
    assert [sorted(one) for one in shared.exits] == [["classifier/bias", "classifier/weight"]] * (DEPTH - 1)


def test_there_may_be_few_exits_which_no_other_rule_can_tell_apart(make_model, rows):
    model = MultiExitModel(load_classifier(make_model(layers=6, hidden=16)), ExitHeads(few=True)).eval()
    assert model.exit_layers == (1, 2, 3, 6) and model.num_exits == 4
    outputs = compute_exits(model, rows)
    assert outputs.num_exits == 4 and len(exit_flops(model, EntropyThreshold(0.1))) == 4
    rule = ConfidenceThreshold(float(np.median(outputs.confidences)) + 1e-4)
    found = run_early_exit(model, rows, rule)
    assert found.numbers.tolist() == exits_taken(rule, outputs).tolist()
    predicted = EarlyExitPredictor(
        model, StageTokenizer(make_model(layers=6, hidden=16), max_length=64), rule
    )
    assert set(predicted.predict(sentences(50, seed=3, most=40)).stages.tolist()) <= {1, 2, 3, 6}


def test_gradients_of_separate_exits_stop_at_the_exit_before(make_model, rows):
    heads = ExitHeads(few=True, separate=True)
    model = MultiExitModel(load_classifier(make_model(layers=6, hidden=16)), heads)
    ids = torch.from_numpy(rows.batch(np.arange(4)).input_ids)
    logits, _ = model(input_ids=ids, attention_mask=torch.ones_like(ids))
    logits[1].sum().backward()
    first, second = (model.layered.classifier.bert.encoder.layer[i].output.dense.weight for i in (0, 1))
    assert first.grad.abs().sum() == 0 and second.grad.abs().sum() > 0
    joint = MultiExitModel(model.layered.classifier, ExitHeads(few=True))
    joint(input_ids=ids, attention_mask=torch.ones_like(ids))[0][1].sum().backward()
    assert first.grad.abs().sum() > 0


def test_exits_that_are_never_taken_cost_something(model):
    lengths = np.array([8, 8, 16, 24])
    without = exit_flops(model, FixedExit(DEPTH))[-1].cost_of(lengths)
    assert (exit_flops(model, Patience(1))[-1].cost_of(lengths) > without).all()


def test_the_losses_are_the_papers():
    logits = torch.tensor([[[2.0, 0.0]], [[0.0, 1.0]], [[0.0, 3.0]]])
    labels = torch.tensor([1])
    each = [torch.nn.functional.cross_entropy(one, labels).item() for one in logits]
    assert deebert_loss(logits, None, labels, 0).item() == pytest.approx(each[0] + each[1])
    wanted = (each[0] + 2 * each[1] + 3 * each[2]) / 6
    assert pabee_loss(logits, None, labels, 0).item() == pytest.approx(wanted)
    assert sweet_loss(logits, None, labels, 0).item() == pytest.approx(sum(each))
    taught = taught_loss(FitConfig(distill_weight=0.5, distill_temperature=2.0))(logits, None, labels, 0)
    divergence = sum(distillation_loss(one, logits[-1], temperature=2.0) for one in logits[:-1]).item()
    assert taught.item() == pytest.approx(each[0] + each[1] + 0.5 * divergence)
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
    rules = {"pabee": Patience(1), "berxit": LearnedExitThreshold(0.45), "deebert": EntropyThreshold(0.4)}
    rule = rules.get(name, ConfidenceThreshold(0.55))
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
    assert changed == {f"exits.{i}" for i in (0, 1)}
    assert file_hashes(made) == file_hashes(trained["deebert"])  # its own first stage is that fine-tuning


@pytest.mark.slow
def test_deeberts_exits_start_from_the_pretrained_pooler(encoder_folder, make_model, data, tmp_path):
    from cascadebert.paper.early_exit.training import _load_model

    tuned = train_stage(encoder_folder, data, QUICK.fit, work=tmp_path, description="large")
    model = _load_model(encoder_folder, tuned, data, METHODS["deebert"], QUICK)
    pretrained = load_classifier(encoder_folder, num_labels=2).bert.pooler.dense.weight
    assert torch.equal(model.exits[0]["bert/pooler/dense/weight"], pretrained)
    assert not torch.equal(model.layered.classifier.bert.pooler.dense.weight, pretrained)


@pytest.mark.slow
def test_the_frozen_encoder_runs_once_for_all_exits_that_read_the_same(encoder_folder, data, tmp_path):
    tuned = train_stage(encoder_folder, data, QUICK.fit, work=tmp_path, description="large")
    for method in ("deebert", "deebert-distil"):
        train_multi_exit(encoder_folder, data, QUICK, method=method, work=tmp_path, fine_tuned=tuned)
    (states,) = tmp_path.glob("states-first-*")
    assert np.load(states / "states.npy").shape == (2, 300, 16)
    mean = replace(QUICK, reads="mean")
    train_multi_exit(encoder_folder, data, mean, method="deebert", work=tmp_path, fine_tuned=tuned)
    assert len(list(tmp_path.glob("states-*"))) == 2


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
