import pytest
import torch
from torch import nn

from detection.config import SolverConfig
from detection.training.optimizer import make_optimizer, parameter_groups, slower


def net():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.Linear(4, 2))
    model[3].weight.requires_grad_(False)
    return model


def ids(parameters):
    return [id(p) for p in parameters]


def test_everything_decays_where_norms_do():
    model = net()
    (group,) = parameter_groups(model, 0.01, norm_decay=True)
    assert group["weight_decay"] == 0.01
    assert ids(group["params"]) == ids(p for p in model.parameters() if p.requires_grad)


def test_norms_and_biases_do_not_decay():
    model = net()
    weights, plain = parameter_groups(model, 0.01, norm_decay=False)
    assert (weights["weight_decay"], plain["weight_decay"]) == (0.01, 0.0)
    assert ids(weights["params"]) == [id(model[0].weight)]
    norms = [model[1].weight, model[1].bias, model[2].weight, model[2].bias]
    assert sorted(ids(plain["params"])) == sorted(ids([model[0].bias, *norms, model[3].bias]))


def test_a_model_without_trainable_weights_has_empty_groups():
    assert all(not group["params"] for group in parameter_groups(net().requires_grad_(False), 0.1, norm_decay=False))


def test_slower_modules_have_groups_of_their_own_at_the_end():
    model = net()
    groups = slower(parameter_groups(model, 0.01, norm_decay=False), [model[0]], lr=0.5)
    assert [group.get("lr") for group in groups] == [None, 0.5, 0.5]
    assert [ids(group["params"]) for group in groups[1:]] == [[id(model[0].weight)], [id(model[0].bias)]]
    assert [group["weight_decay"] for group in groups] == [0.0, 0.01, 0.0]
    every = [i for group in groups for i in ids(group["params"])]
    assert sorted(every) == sorted(ids(p for p in model.parameters() if p.requires_grad))


def test_slower_without_modules_changes_nothing():
    groups = parameter_groups(net(), 0.01, norm_decay=True)
    assert slower(groups, [], lr=0.5) == groups


def test_a_step_of_sgd_by_hand():
    """Velocity is the gradient and decay; the second step adds momentum times the first."""
    weight = nn.Parameter(torch.tensor([2.0]))
    solver = SolverConfig(momentum=0.5)
    optimizer = make_optimizer(solver, [{"params": [weight], "weight_decay": 0.1}], lr=0.1)
    wanted, velocity = 2.0, 0.0
    for _ in range(2):
        weight.grad = torch.tensor([3.0])
        optimizer.step()
        velocity = 0.5 * velocity + 3.0 + 0.1 * wanted
        wanted -= 0.1 * velocity
        assert weight.item() == pytest.approx(wanted, rel=1e-6)


def test_a_step_of_adamw_by_hand():
    """Decay shrinks the weight; the first step moves by the rate whatever the gradient's size."""
    weight = nn.Parameter(torch.tensor([2.0]))
    solver = SolverConfig(optimizer="adamw")
    optimizer = make_optimizer(solver, [{"params": [weight], "weight_decay": 0.1}], lr=0.01)
    weight.grad = torch.tensor([1000.0])
    optimizer.step()
    assert weight.item() == pytest.approx(2.0 * (1 - 0.01 * 0.1) - 0.01, rel=1e-5)


def test_a_groups_own_rate_wins():
    a, b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    optimizer = make_optimizer(SolverConfig(momentum=0.0), [{"params": [a]}, {"params": [b], "lr": 0.01}], lr=1.0)
    a.grad = b.grad = torch.ones(1)
    optimizer.step()
    assert (a.item(), b.item()) == pytest.approx((-1.0, -0.01))
