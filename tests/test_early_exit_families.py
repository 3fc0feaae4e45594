"""Exits in encoders of many families, by their own forward."""

from __future__ import annotations

import numpy as np
import pytest

from cascadebert.errors import StageError
from cascadebert.inference.engines.torch import load_classifier
from cascadebert.inference.stage import Stage
from cascadebert.inference.tokenizer import StageTokenizer
from cascadebert.paper.early_exit.exits import (
    EntropyThreshold,
    FixedExit,
    LearnedExitThreshold,
    Patience,
    exits_taken,
)
from cascadebert.paper.early_exit.inference import compute_exits, run_early_exit
from cascadebert.paper.early_exit.model import ExitHeads, MultiExitModel, exit_flops
from cascadebert.training.checkpoints import count_flops
from samples import sentences

BOTH = ExitHeads(learned=True)
MEAN = ExitHeads(learned=True, reads="mean")
FAMILIES = ("bert", "roberta", "electra", "mpnet", "distilbert", "modernbert", "deberta-v2")


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("exits", [BOTH, MEAN, ExitHeads(shared_pooler=True), ExitHeads(few=True)])
def test_with_exits_switched_off_the_model_is_its_classifier(make_model, family, exits):
    folder = make_model(family, layers=3, hidden=16, seed=4)
    stage = Stage.from_pretrained(folder, engine="torch", precision="float32", max_length=64)
    given = stage.encode([*sentences(40, seed=1, most=30)])
    model = MultiExitModel(load_classifier(folder), exits).eval()
    wanted = stage.logits(given)
    for rule in (FixedExit(model.num_exits), EntropyThreshold(0.0)):
        outputs = run_early_exit(model, given, rule)
        assert set(outputs.numbers.tolist()) == {model.num_exits}
        assert np.abs(outputs.logits - wanted).max() < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_runs_layer_by_layer_as_in_one_pass(make_model, family):
    folder = make_model(family, layers=4, hidden=16, seed=4)
    tokens = StageTokenizer(folder, max_length=64).encode(sentences(60, seed=2, most=40))
    model = MultiExitModel(load_classifier(folder), BOTH, seed=1).eval()
    outputs = compute_exits(model, tokens)
    for number in range(1, model.num_exits + 1):
        found = run_early_exit(model, tokens, FixedExit(number), batch_tokens=200).logits
        assert found.argmax(axis=1).tolist() == outputs.predictions[number - 1].tolist()
    alone = run_early_exit(model, tokens, Patience(1), positions=np.array([7]))
    assert alone.numbers.tolist() == exits_taken(Patience(1), outputs)[[7]].tolist()


@pytest.mark.parametrize(
    ("family", "reason"),
    [("albert", "no single stack"), ("bart", "expected an encoder"), ("xlnet", "states of shape")],
)
def test_models_without_a_stack_of_layers_are_refused(make_model, family, reason):
    with pytest.raises(StageError, match=reason):
        MultiExitModel(load_classifier(make_model(family)), ExitHeads())


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_operations_are_those_of_the_layers_run_and_the_exits_tried(make_model, family):
    folders = [make_model(family, layers=i, hidden=16, seed=4) for i in (1, 2, 3)]
    whole = [count_flops(folder) for folder in folders]
    model = MultiExitModel(load_classifier(folders[-1]), BOTH)
    assert [exit_flops(model, FixedExit(i))[i - 1] for i in (1, 2, 3)] == whole
    head = 2 * (16 * 16 + 16 * 2)
    lengths = np.array([8, 20])
    for rule, doubt in ((EntropyThreshold(0.1), 0), (Patience(1), 0), (LearnedExitThreshold(0.1), 2 * 16)):
        flops = exit_flops(model, rule)
        for layer in (1, 2, 3):
            wanted = whole[layer - 1].cost_of(lengths) + (layer - 1) * head + min(layer, 2) * doubt
            assert flops[layer - 1].cost_of(lengths).tolist() == wanted.tolist()
