"""The training terms against loops written out by hand, value and gradient."""

from __future__ import annotations

import pytest
import torch

from cascadebert.training.losses import NO_LABEL, Objective, dar_loss, distillation_loss, gatekeeper_loss


def dar_by_hand(logits: torch.Tensor, hard: torch.Tensor, margin: float, seed: int) -> torch.Tensor:
    """The term row by row, drawing partners as the implementation does."""
    confidences = []
    for row in logits:
        exponents = [torch.exp(value - row.max()) for value in row]
        confidences.append(max(exponents) / sum(exponents))
    easy_rows = [i for i in range(len(hard)) if not hard[i]]
    hard_rows = [i for i in range(len(hard)) if hard[i]]
    torch.manual_seed(seed)
    drawn = torch.randint(len(hard_rows), (len(easy_rows),))
    total = torch.zeros((), dtype=logits.dtype)
    for place, i in enumerate(easy_rows):
        j = hard_rows[int(drawn[place])]
        total = total + max(torch.zeros((), dtype=logits.dtype), -(confidences[i] - confidences[j]) + margin)
    return total / len(easy_rows)


@pytest.mark.parametrize("num_labels", [2, 5])
@pytest.mark.parametrize("seed", range(3))
def test_value_and_gradient_equal_a_loop_over_the_rows(num_labels, seed):
    torch.manual_seed(seed)
    logits = torch.randn(12, num_labels, dtype=torch.float64, requires_grad=True)
    hard = torch.tensor([False, True] * 6)
    torch.manual_seed(seed)
    ours = dar_loss(logits, hard, margin=0.3)
    (gradient,) = torch.autograd.grad(ours, logits)
    oracle = dar_by_hand(logits, hard, 0.3, seed)
    (expected,) = torch.autograd.grad(oracle, logits)
    assert ours.item() == pytest.approx(oracle.item(), rel=1e-12)
    assert torch.allclose(gradient, expected, atol=1e-14)
    assert gradient[hard].abs().sum() > 0 and gradient[~hard].abs().sum() > 0


@pytest.mark.parametrize("hard", [torch.ones(4, dtype=torch.bool), torch.zeros(4, dtype=torch.bool)])
def test_a_batch_of_one_kind_adds_nothing(hard):
    logits = torch.randn(4, 3, requires_grad=True)
    loss = dar_loss(logits, hard, margin=0.3)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.item() == 0 and not gradient.any()


def test_partners_are_drawn_from_all_hard_rows():
    logits = torch.tensor([[0.0, 0.0], [0.0, 3.0], [0.0, 1.0]])
    hard = torch.tensor([False, True, True])
    values = {round(dar_loss(logits, hard, margin=0.3).item(), 6) for _ in range(50)}
    assert len(values) == 2


def test_with_two_labels_a_margin_of_one_half_keeps_every_pair_active():
    logits = torch.randn(200, 2) * 5
    hard = torch.arange(200) % 2 == 0
    confidence = logits.softmax(-1).amax(-1)
    torch.manual_seed(0)
    loss = dar_loss(logits, hard, margin=0.5)
    torch.manual_seed(0)
    partner = confidence[hard][torch.randint(100, (100,))]
    assert loss.item() == pytest.approx((0.5 - (confidence[~hard] - partner)).mean().item(), abs=1e-6)


def test_distillation_is_zero_at_the_teacher_and_needs_no_label():
    logits = torch.randn(6, 4)
    assert distillation_loss(logits, logits, temperature=2.0).item() == pytest.approx(0.0, abs=1e-6)
    objective = Objective(distill_weight=1.0)
    nothing = torch.full((6,), NO_LABEL)
    loss = objective(logits, nothing, teacher=torch.randn(6, 4))
    assert loss.item() > 0


def test_rows_without_a_label_add_nothing_to_the_cross_entropy_or_the_regularization():
    logits, labels = torch.randn(6, 3), torch.tensor([0, 1, 2, NO_LABEL, NO_LABEL, NO_LABEL])
    known = Objective()(logits[:3], labels[:3]).item()
    assert Objective()(logits, labels).item() == pytest.approx(known / 2)  # each row weighs 1 / 6
    hard = torch.tensor([False, True, True, False, False, False])
    regular = Objective(dar_weight=0.5)
    torch.manual_seed(0)
    whole = regular(logits, labels, hard).item() - Objective()(logits, labels).item()
    torch.manual_seed(0)
    part = regular(logits[:3], labels[:3], hard[:3]).item() - known
    assert whole == pytest.approx(part)


def test_the_objective_is_the_weighted_sum_of_its_terms():
    logits, teacher = torch.randn(8, 3), torch.randn(8, 3)
    labels, hard = torch.randint(3, (8,)), torch.arange(8) < 4
    plain = torch.nn.functional.cross_entropy(logits, labels).item()
    torch.manual_seed(1)
    dar = dar_loss(logits, hard, margin=0.2).item()
    softened = distillation_loss(logits, teacher, temperature=3.0).item()
    torch.manual_seed(1)
    whole = Objective(0.5, 0.2, 0.7, 3.0)(logits, labels, hard, teacher)
    assert whole.item() == pytest.approx(plain + 0.5 * dar + 0.7 * softened, rel=1e-5)


def test_gatekeeper_is_sure_where_right_and_even_where_wrong():
    torch.manual_seed(0)
    logits = torch.randn(40, 4, dtype=torch.float64)
    labels = torch.randint(4, (40,))
    labels[:3] = NO_LABEL
    total = torch.zeros((), dtype=torch.float64)
    for row, label in zip(logits, labels.tolist(), strict=True):
        said = row.softmax(dim=0)
        if label == NO_LABEL:
            continue
        if int(row.argmax()) == label:
            total = total - 0.3 * said[label].log()
        else:
            total = total + 0.7 * sum(p * (p * 4).log() for p in said)
    assert torch.allclose(gatekeeper_loss(logits, labels, alpha=0.3), total / 40)
    assert torch.allclose(Objective(gatekeeper=0.3)(logits, labels), total / 40)


def test_an_objective_without_gatekeeper_has_the_key_that_it_had_before_there_was_one():
    assert set(Objective().key()) == {"dar_weight", "dar_margin", "distill_weight", "distill_temperature"}
    assert Objective(gatekeeper=0.5).key() != Objective().key()
