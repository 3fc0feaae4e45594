"""Scores: what they are, when one replaces the highest probability, and that a folder keeps them."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from cascadebert import Cascade, Target
from cascadebert.evaluation.evaluate import scaled_probabilities
from cascadebert.thresholds.confidence import (
    SCORES,
    Score,
    margin,
    max_probability,
    normalized_confidence,
    softmax,
)
from cascadebert.thresholds.deferral_score import score_outputs, select_score
from cascadebert.thresholds.select import exit_stages
from cascadebert.tuning.tune import tune_folder
from samples import reviews, sentences, write_csv

COSTS = np.array([1.0, 3.0, 10.0])


def misled(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Three stages of three labels: the second is confident even where it contradicts the first."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, n)
    first = np.where(rng.random(n) < 0.7, truth, (truth + 1) % 3)
    wrong = (first != truth) & (rng.random(n) < 0.5)
    second = np.where(wrong, (truth + 2) % 3, truth)
    predictions = np.stack([first, second, truth])
    logits = np.eye(3)[predictions] * rng.uniform(1.0, 3.0, (3, n, 1)) + rng.normal(0, 0.1, (3, n, 3))
    return softmax(logits), (predictions != truth).astype(float)


def test_scores_of_two_labels_have_the_same_order():
    probabilities = softmax(np.random.default_rng(0).normal(size=(300, 2)))
    wanted = np.argsort(max_probability(probabilities))
    assert (np.argsort(margin(probabilities)) == wanted).all()
    assert (np.argsort(normalized_confidence(probabilities)) == wanted).all()


@pytest.mark.parametrize("name", SCORES)
def test_every_score_lies_between_zero_and_one(name):
    probabilities, _ = misled(400, 0)
    extreme = np.eye(3)[np.zeros((3, 400), dtype=int)]
    score = score_outputs(name, probabilities).score
    for example in (probabilities, extreme, np.full((3, 400, 3), 1 / 3)):
        confidences = score.all_stages(example)
        assert confidences.shape == (3, 400) and np.isfinite(confidences).all()
        assert (confidences >= 0).all() and (confidences <= 1).all()


@pytest.mark.slow
def test_a_learned_score_is_chosen_where_stages_contradict_each_other():
    outputs = select_score(*misled(2000, 1), COSTS)
    assert outputs.score.name == "learned" and "score: learned" in outputs.notices[-1]
    probabilities, losses = misled(2000, 2)
    for name, confidences in (
        ("max", max_probability(probabilities)),
        ("learned", outputs.score.all_stages(probabilities)),
    ):
        threshold = np.quantile(confidences[1], 0.3)
        exits = exit_stages(confidences, (1.0, float(threshold)))
        lost = losses[exits, np.arange(2000)].mean()
        assert lost > 0.08 if name == "max" else lost < 0.05


def test_ties_go_to_max_probability():
    rng = np.random.default_rng(3)
    probabilities = softmax(rng.normal(size=(2, 500, 2)) * 3)
    losses = (probabilities.argmax(axis=2) != probabilities[-1].argmax(axis=1)).astype(float)
    outputs = select_score(probabilities, losses, np.array([1.0, 6.0]))
    assert outputs.score == Score() and "score: max_probability" in outputs.notices[-1]


def test_confidences_of_a_learned_score_come_from_a_model_not_fitted_to_the_example():
    probabilities, _ = misled(500, 4)
    outputs = score_outputs("learned", probabilities)
    again = outputs.score.all_stages(probabilities)
    assert 0 < np.abs(outputs.confidences[1] - again[1]).max() < 0.2
    assert (outputs.confidences[-1] == again[-1]).all()


def test_stages_that_always_agree_give_a_notice_that_nothing_is_learned():
    probabilities = np.stack([softmax(np.random.default_rng(5).normal(size=(100, 2)))] * 2)
    outputs = score_outputs("learned", probabilities)
    assert "nothing to learn" in outputs.notices[0]
    assert len(set(outputs.confidences[0])) == 1 and outputs.confidences[0][0] > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("score", ["margin", "learned", "auto"])
def test_a_folder_keeps_its_score_and_routes_by_it(saved, tmp_path, score):
    shutil.copytree(saved, tmp_path / "cascade")
    rows = write_csv(tmp_path / "rows.csv", *reviews(200, seed=88))
    tuned = tune_folder(tmp_path / "cascade", rows, target=Target(speedup=1.3), score=score)
    cascade = Cascade.from_pretrained(tmp_path / "cascade")
    assert cascade.score == tuned.score and cascade.score.name == (
        score if score != "auto" else "max_probability"
    )
    texts = sentences(60, seed=9)
    confidences = cascade.score.all_stages(scaled_probabilities(cascade, cascade.stage_logits(texts)))
    predictions = cascade.predict(texts)
    assert (predictions.stages - 1 == exit_stages(confidences, cascade.operating_point.thresholds)).all()
    assert np.allclose(predictions.confidences, confidences[predictions.stages - 1, np.arange(60)], atol=1e-6)
    retuned = tune_folder(tmp_path / "cascade", rows, target=Target(speedup=1.3))
    assert retuned.score == tuned.score
