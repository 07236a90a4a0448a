import pytest
import torch
from torch import nn

from backbone.norm import FrozenBatchNorm2d
from backbone.resnet import resnet18
from detection.export.fold import fold_norms


def random_statistics(module):
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d | FrozenBatchNorm2d):
            norm.running_mean.uniform_(-1, 1)
            norm.running_var.uniform_(0.5, 2)
            with torch.no_grad():
                norm.weight.uniform_(0.5, 2)
                norm.bias.uniform_(-1, 1)


@pytest.mark.parametrize("norm", ["bn", "frozen_bn"])
def test_a_folded_network_is_the_same_with_fewer_layers(norm):
    net = resnet18(norm=norm, widths=[8, 16, 32, 64], stem_width=8).eval()
    random_statistics(net)
    x = torch.rand(2, 3, 48, 64)
    with torch.no_grad():
        expected = net(x)
        folded = fold_norms(net, x[:1])
        assert folded == 20
        assert not [m for m in net.modules() if isinstance(m, nn.BatchNorm2d | FrozenBatchNorm2d)]
        assert torch.allclose(net(x), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_what_cannot_be_folded_stays():
    """A convolution that two norms take, a norm of another kind, and one that follows no convolution."""
    shared, norms = nn.Conv2d(3, 4, 1), [nn.BatchNorm2d(4), nn.BatchNorm2d(4)]

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norms = shared, nn.ModuleList([*norms, nn.BatchNorm2d(3), nn.GroupNorm(2, 4)])
            self.last = nn.Conv2d(4, 4, 1)

        def forward(self, x):
            x = self.norms[2](x)
            x = self.norms[0](self.conv(x)) + self.norms[1](self.conv(x))
            return self.norms[3](self.last(x))

    net = Net().eval()
    random_statistics(net)
    x = torch.rand(1, 3, 5, 5)
    with torch.no_grad():
        expected = net(x)
        assert fold_norms(net, x) == 0
        assert torch.equal(net(x), expected)
