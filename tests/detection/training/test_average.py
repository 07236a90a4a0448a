"""The moving average is torch's AveragedModel, step by step and after a resume."""

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils._python_dispatch import TorchDispatchMode

from detection.training.average import MovingAverage


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(2, 2).double())


def change(net, seed):
    generator = torch.Generator().manual_seed(seed)
    for p in net.parameters():
        p.data.add_(torch.randn(p.shape, generator=generator, dtype=p.dtype))
    net[1].running_mean.add_(1)
    net[1].num_batches_tracked.add_(1)


def test_it_is_torchs_bit_for_bit():
    net = model()
    ours, theirs = MovingAverage(net, 0.9), AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    for step in range(4):
        change(net, step)
        ours.update_parameters(net)
        theirs.update_parameters(net)
        assert ours.state_dict().keys() == theirs.state_dict().keys()
        assert all(torch.equal(v, theirs.state_dict()[k]) for k, v in ours.state_dict().items())
    assert int(ours.n_averaged) == 4


class NoReads(TorchDispatchMode):
    """Refuses what would be a host-device synchronisation on a GPU."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert "_local_scalar_dense" not in str(func), "a value is read back"
        return func(*args, **(kwargs or {}))


def test_only_the_first_update_reads_a_value():
    net = model()
    average = MovingAverage(net, 0.9)
    with pytest.raises(AssertionError, match="read back"), NoReads():
        average.update_parameters(net)
    average.update_parameters(net)
    with NoReads():
        average.update_parameters(net)


def test_by_hand():
    net = nn.Linear(1, 1, bias=False)
    average = MovingAverage(net, 0.75)
    for value in (8.0, 4.0, 0.0):
        net.weight.data.fill_(value)
        average.update_parameters(net)
    assert float(average.module.weight) == 0.75 * (0.75 * 8 + 0.25 * 4)
    assert not any(p.requires_grad for p in average.parameters())


def test_a_loaded_average_goes_on_or_begins_anew():
    net = model()
    first = MovingAverage(net, 0.9)
    start = {k: v.clone() for k, v in first.state_dict().items()}
    for step in range(2):
        change(net, step)
        first.update_parameters(net)
    resumed = MovingAverage(net, 0.9)
    resumed.load_state_dict(first.state_dict())
    change(net, 5)
    for average in (first, resumed):
        average.update_parameters(net)
    assert all(torch.equal(v, resumed.state_dict()[k]) for k, v in first.state_dict().items())
    # a snapshot from before the first update: the next one copies the weights
    first.load_state_dict(start)
    first.update_parameters(net)
    assert torch.equal(first.module[0].weight, net[0].weight)
