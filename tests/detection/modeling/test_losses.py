import math

import pytest
import torch
from torchvision.ops import sigmoid_focal_loss

from detection.modeling.losses import box_loss, classification_loss, normaliser, objectness_loss, smooth_l1

CPU = torch.device("cpu")


def test_smooth_l1_computed_by_hand():
    difference = torch.tensor([0.0, 0.5, -2.0])
    zero = torch.zeros(3)
    # beta 1: 0, 0.125, 1.5; L1: 0, 0.5, 2; beta 1/9: 0, 0.5 - 1/18, 2 - 1/18
    for beta, expected in ((1.0, 1.625), (0.0, 2.5), (1 / 9, 2.5 - 1 / 9)):
        assert smooth_l1(difference, zero, beta).item() == pytest.approx(expected)


def test_losses_computed_by_hand():
    count = normaliser(4, CPU, over_ranks=True)
    log2 = torch.log(torch.tensor(2.0))
    torch.testing.assert_close(objectness_loss(torch.zeros(2), torch.tensor([1, 0]), count), 2 * log2 / 4)
    torch.testing.assert_close(classification_loss(torch.zeros(3, 2), torch.tensor([0, 1, 1]), count), 3 * log2 / 4)
    all_of_them = torch.tensor([True, True])
    assert box_loss(torch.ones(2, 4), torch.zeros(2, 4), all_of_them, 0.0, count).item() == 2.0


def test_no_samples_give_zero_loss_with_a_gradient():
    deltas = torch.zeros(0, 4, requires_grad=True)
    none = torch.zeros(0, dtype=torch.bool)
    loss = box_loss(deltas, torch.zeros(0, 4), none, 0.0, normaliser(0, CPU, over_ranks=True))
    loss.backward()
    assert loss.item() == 0
    assert deltas.grad.shape == (0, 4)


def test_ignored_samples_add_neither_loss_nor_gradient():
    one, two = normaliser(1, CPU, over_ranks=False), normaliser(torch.tensor(2), CPU, over_ranks=False)
    assert (one.item(), two.item()) == (1, 2)
    logits = torch.tensor([0.3, float("inf"), -0.2], requires_grad=True)
    loss = objectness_loss(logits[[0, 2]], torch.tensor([1, -1], dtype=torch.int8), one)
    loss.backward()
    assert loss.item() == pytest.approx(-torch.sigmoid(torch.tensor(0.3)).log().item())
    assert logits.grad.tolist()[1:] == [0, 0]
    scores = torch.randn(3, 4, requires_grad=True)
    loss = classification_loss(scores, torch.tensor([2, -1, 0]), one)
    torch.testing.assert_close(loss, classification_loss(scores[[0, 2]], torch.tensor([2, 0]), one))
    loss.backward()
    assert (scores.grad[1] == 0).all()
    for beta in (0.0, 1.0):
        deltas = torch.randn(2, 4, requires_grad=True)
        wild = torch.tensor([[1.0, 2, 3, 4], [float("nan"), float("inf"), 0, 0]])
        loss = box_loss(deltas, wild, torch.tensor([True, False]), beta, one)
        loss.backward()
        assert loss.item() == smooth_l1(deltas[:1], wild[:1], beta).item()
        assert (deltas.grad[1] == 0).all()
        assert deltas.grad[0].any()


def test_half_precision_losses_are_computed_in_float32():
    count = normaliser(1, CPU, over_ranks=False)
    assert classification_loss(torch.zeros(1, 3, dtype=torch.bfloat16), torch.tensor([1]), count).dtype == torch.float32


def drawn(rows=40, classes=4, dtype=torch.float64):
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(rows, classes, generator=generator, dtype=dtype).mul(3).requires_grad_()
    return logits, torch.randint(-1, classes, (rows,), generator=generator)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("weights", [None, (0.25, 1.0, 3.0, 0.0)])
def test_weights_and_focal_loss_equal_the_formula(gamma, weights):
    """A row at a time: -w (1 - p)^gamma log p of its label's softmax p; label -1 is ignored."""
    logits, labels = drawn()
    given = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    loss = classification_loss(logits, labels, torch.tensor(7.0), given, gamma)
    wanted = 0.0
    for row, label in zip(logits.detach().tolist(), labels.tolist(), strict=True):
        if label >= 0:
            p = math.exp(row[label]) / sum(math.exp(x) for x in row)
            wanted -= (1.0 if weights is None else weights[label]) * (1 - p) ** gamma * math.log(p)
    assert loss.item() == pytest.approx(wanted / 7, rel=1e-9)
    assert torch.autograd.gradcheck(lambda x: classification_loss(x, labels, torch.tensor(7.0), given, gamma), logits)


def test_of_two_classes_it_is_torchvisions_focal_loss():
    """A softmax of two is a sigmoid of their difference; alpha is the weight of class 1, and 1 - alpha that of class 0."""
    logits, labels = drawn(classes=2)
    labels = labels.clamp(min=0)
    weights, one = torch.tensor([0.75, 0.25], dtype=torch.float64), torch.tensor(1.0)
    target = labels.double()
    wanted = sigmoid_focal_loss(logits[:, 1] - logits[:, 0], target, alpha=0.25, gamma=2, reduction="sum")
    torch.testing.assert_close(classification_loss(logits, labels, one, weights, 2.0), wanted)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_a_certain_row_has_no_loss_and_a_finite_gradient(gamma):
    logits = torch.tensor([[1000.0, 0.0], [-1000.0, 0.0]], requires_grad=True)
    loss = classification_loss(logits, torch.tensor([0, 0]), torch.tensor(1.0), None, gamma)
    loss.backward()
    assert loss.item() == pytest.approx(1000)
    assert logits.grad[0].abs().max() == 0
    assert logits.grad[1].tolist() == pytest.approx([-1, 1])


def test_without_weights_it_is_the_plain_cross_entropy():
    logits, labels = drawn(dtype=torch.float32)
    one = torch.tensor(1.0)
    plain = torch.nn.functional.cross_entropy(logits, labels, reduction="sum", ignore_index=-1)
    assert torch.equal(classification_loss(logits, labels, one), plain)
