"""Stages, score and thresholds chosen as one: the cheapest that meets a target on held-out examples."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from cascadebert.errors import CascadeError
from cascadebert.thresholds.operating_point import Target
from cascadebert.thresholds.select import InfeasibleTarget, TuningArrays, search_thresholds
from cascadebert.thresholds.stage_choice import CandidateStages, choose_stages

N = 400
RNG = np.random.default_rng


def outputs(correct: list[float], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of stages that are right this often, surer where they are; and the labels."""
    rng = RNG(seed)
    labels = rng.integers(2, size=N)
    probabilities = np.empty((len(correct), N, 2))
    for i, rate in enumerate(correct):
        confidence = rng.uniform(0.5, 1, size=N)
        right = rng.uniform(size=N) < np.clip(rate + (confidence - 0.75), 0, 1)
        answers = np.where(right, labels, 1 - labels)
        probabilities[i, np.arange(N), answers] = confidence
        probabilities[i, np.arange(N), 1 - answers] = 1 - confidence
    return probabilities, labels


def candidates(
    correct: list[float], costs: list[float], *, seed: int = 0, **changes: object
) -> CandidateStages:
    """Stages of these costs that share a tokenizer of cost 1."""
    probabilities, labels = outputs(correct, seed)
    found = CandidateStages(
        probabilities,
        np.repeat(np.array(costs)[:, None], N, axis=1),
        np.ones((len(costs), N)),
        ("one",) * len(costs),
        labels,
    )
    return replace(found, **changes)


def test_one_stage_before_the_last_gives_the_thresholds_of_the_plain_search():
    stages = candidates([0.8, 0.95], [2.0, 20.0])
    target = Target(min_agreement=0.9)
    found = choose_stages(stages, target)
    predictions = stages.probabilities.argmax(axis=2)
    plain = search_thresholds(
        TuningArrays(
            stages.probabilities.max(axis=2), predictions != predictions[-1], np.array([3.0, 20.0]), 21.0
        ),
        Target(min_agreement=found.level),
    )
    assert found.choice.selection == plain and found.choice.stages == (0, 1)


def test_the_fastest_of_all_chains_is_chosen():
    stages = candidates([0.7, 0.85, 0.9, 0.95], [0.5, 2.0, 5.0, 30.0])
    found = choose_stages(stages, Target(min_agreement=0.93))
    chains = [choice.stages for choice in found.tried]
    assert chains == [(*c, 3) for k in (1, 2) for c in combinations(range(3), k)]
    assert found.choice.selection.speedup == max(choice.selection.speedup for choice in found.tried)
    assert found.held_out.agreement >= 0.93 and found.meets_target


def test_a_stage_that_always_agrees_answers_everything():
    stages = candidates([0.6, 0.9, 0.9], [1.0, 1.0, 99.0])
    probabilities = stages.probabilities.copy()
    probabilities[1] = probabilities[2]
    found = choose_stages(replace(stages, probabilities=probabilities), Target(min_agreement=1.0))
    assert found.choice.stages == (1, 2)
    assert found.choice.selection.speedup == pytest.approx(50)
    # texts of lower confidence than any that it was chosen on are deferred
    assert found.held_out.agreement == 1 and 40 < found.held_out.speedup <= 50


def test_a_useless_stage_gives_no_speed_up():
    found = choose_stages(candidates([0.5, 1.0], [5.0, 20.0]), Target(min_agreement=1.0))
    assert found.choice.selection.speedup < 1 and found.held_out.agreement > 0.99


def test_a_chain_pays_once_for_each_tokenizer():
    stages = candidates([0.7, 0.8, 0.9], [1.0, 2.0, 3.0], tokenizers=("a", "b", "a"))
    first = np.arange(1)
    assert stages.costs((0, 1, 2), first).ravel().tolist() == [2, 3, 3]
    assert stages.costs((1, 2), first).ravel().tolist() == [3, 4]
    assert stages.last_stage_cost == 4


def test_the_level_rises_until_held_out_examples_meet_the_target():
    stages = candidates([0.75, 0.9, 0.93], [1.0, 4.0, 30.0])
    stages = replace(stages, labels=stages.probabilities[-1].argmax(axis=1))  # the last stage is never wrong
    loose, strict = (choose_stages(stages, Target(max_accuracy_drop=drop)) for drop in (0.15, 0.02))
    assert loose.level < strict.level and loose.held_out.speedup > strict.held_out.speedup
    assert loose.held_out.accuracy_drop <= 0.15 and strict.held_out.accuracy_drop <= 0.02
    assert loose.meets_target and strict.meets_target


def test_held_out_metrics_have_their_standard_errors():
    stages = candidates([0.75, 0.9, 0.93], [1.0, 4.0, 30.0])
    found = choose_stages(stages, Target(min_agreement=0.93)).held_out
    assert found.agreement_error == pytest.approx((found.agreement * (1 - found.agreement) / N) ** 0.5)
    assert 0 < found.drop_error <= ((1 - found.agreement) / N) ** 0.5
    assert choose_stages(replace(stages, labels=None), Target(min_agreement=0.93)).held_out.drop_error is None


def test_labels_play_no_part_in_a_choice_by_agreement():
    stages = candidates([0.75, 0.9, 0.93], [1.0, 4.0, 30.0])
    target = Target(min_agreement=0.95)
    without = choose_stages(replace(stages, labels=None), target)
    shuffled = choose_stages(replace(stages, labels=RNG(1).permutation(stages.labels)), target)
    assert without.choice == shuffled.choice == choose_stages(stages, target).choice
    assert without.held_out.accuracy is None and without.held_out.agreement == shuffled.held_out.agreement


def test_a_choice_on_noise_is_not_believed():
    # on its own examples a stage of coin flips is as good as asked for; held-out examples tell
    probabilities, _ = outputs([0.5, 0.5, 0.5, 0.9], seed=5)
    stages = candidates([0.5, 0.5, 0.5, 0.9], [1.0, 1.0, 1.0, 50.0], probabilities=probabilities)
    found = choose_stages(stages, Target(min_agreement=0.9))
    assert found.held_out.agreement >= 0.9
    assert found.level > 0.9


def test_a_speed_up_is_reached_with_the_least_disagreement():
    stages = candidates([0.7, 0.9, 0.95], [1.0, 4.0, 30.0])
    found = choose_stages(stages, Target(speedup=3))
    assert found.level is None and found.choice.selection.speedup >= 3
    assert found.choice.selection.loss == min(choice.selection.loss for choice in found.tried)
    with pytest.raises(InfeasibleTarget, match=r"speed-up 100x cannot be reached"):
        choose_stages(stages, Target(speedup=100))


def test_scores_are_chosen_too():
    stages = candidates([0.75, 0.9, 0.93], [1.0, 4.0, 30.0])
    found = choose_stages(stages, Target(min_agreement=0.95), scores=("max_probability", "margin", "entropy"))
    assert len(found.tried) == 9
    assert {choice.score.name for choice in found.tried} == {"max_probability", "margin", "entropy"}


def test_accuracy_needs_labels_and_shapes_must_fit():
    stages = candidates([0.8, 0.9], [1.0, 2.0])
    with pytest.raises(CascadeError, match="--max-accuracy-drop needs labels"):
        choose_stages(replace(stages, labels=None), Target(max_accuracy_drop=0.01))
    with pytest.raises(CascadeError, match="at least one stage beside the last"):
        choose_stages(candidates([0.8], [1.0]), Target(min_agreement=0.9))
    with pytest.raises(CascadeError, match="candidates of shape"):
        replace(stages, model_costs=np.ones((3, N)))
