import pytest
import torch
from torch import nn

from detection.training.precise_bn import precise_bn_statistics


def test_statistics_are_means_over_the_batches():
    model = nn.Sequential(nn.BatchNorm2d(1, momentum=0.3))
    model(torch.randn(2, 1, 4, 4) + 50)  # training, which lags behind
    batches = [torch.tensor([0.0, 2]).reshape(2, 1, 1, 1), torch.tensor([4.0, 12]).reshape(2, 1, 1, 1)]
    with precise_bn_statistics(model):
        for batch in batches:
            model(batch)
    # means 1 and 8; unbiased variances 2 and 32
    assert float(model[0].running_mean) == pytest.approx(4.5)
    assert float(model[0].running_var) == pytest.approx(17.0)
    assert model[0].momentum == 0.3


def test_the_order_of_batches_does_not_count():
    batches = [torch.randn(3, 2, 4, 4) * (i + 1) for i in range(4)]
    found = []
    for order in (batches, batches[::-1]):
        norm = nn.BatchNorm2d(2)
        with precise_bn_statistics(norm):
            for batch in order:
                norm(batch)
        found.append(torch.cat((norm.running_mean, norm.running_var)))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("training", [True, False])
def test_mode_and_weights_stay_as_they_are(training):
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)).train(training)
    before = [p.clone() for p in model.parameters()]
    with precise_bn_statistics(model):
        assert model.training
        assert not model(torch.randn(2, 1, 3, 3)).requires_grad
    assert model.training is training
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


def test_without_batches_statistics_are_reset():
    norm = nn.BatchNorm2d(1)
    norm(torch.randn(2, 1, 3, 3) + 9)
    with precise_bn_statistics(norm):
        pass
    assert (float(norm.running_mean), float(norm.running_var)) == (0, 1)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_leaves_the_model_as_it_was(error):
    model = nn.Sequential(nn.BatchNorm2d(2, momentum=0.3), nn.Dropout(), nn.BatchNorm2d(2))
    model(torch.randn(4, 2, 3, 3) + 5)
    model.train()
    model[1].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def fail():
        with precise_bn_statistics(model):
            model(torch.randn(4, 2, 3, 3) - 5)
            raise error

    with pytest.raises(error):
        fail()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [module.training for module in model.modules()] == [True, True, False, True]
    assert model[0].momentum == 0.3
    with torch.enable_grad():
        assert model(torch.randn(4, 2, 3, 3)).requires_grad
