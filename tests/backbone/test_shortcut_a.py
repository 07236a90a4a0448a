"""Checkpoints of CIFAR networks whose shortcut A pads channels on both sides, such as akamaster's."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from backbone import cifar_resnet, load_weights, resnet18
from backbone.shortcut_a import pad_behind, pads_both_sides

WIDTHS = {"stem_width": 8, "widths": (8, 16, 32)}


class BothSides(nn.Module):
    """akamaster's shortcut: every second pixel, and as many new channels in front as behind."""

    def __init__(self, added):
        super().__init__()
        self.added = added

    def forward(self, x):
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.added // 2, self.added // 2))


def trained(both, plain=False):
    """Return a small network with the statistics that training leaves: those of its own activations."""
    torch.manual_seed(0)
    net = cifar_resnet(20, plain=plain, **WIDTHS)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.2, 1.0)
            nn.init.normal_(module.bias, std=0.5)
            module.momentum = None
    if both:
        for stage in (net.layer2, net.layer3):
            stage[0].downsample = BothSides(stage[0].downsample.added)
    with torch.no_grad():
        for _ in range(2):
            net(torch.randn(16, 3, 32, 32))
    return net.eval()


def renamed(state):
    return {f"module.{name.replace('fc.', 'linear.')}": tensor for name, tensor in state.items()}


@pytest.mark.parametrize("rename", [renamed, dict], ids=["akamaster's names", "torchvision's names"])
def test_padding_on_both_sides_is_loaded_as_the_same_function(tmp_path, rename, caplog):
    theirs = trained(both=True)
    torch.save({"state_dict": rename(theirs.state_dict()), "best_prec1": 91.7}, tmp_path / "net.th")
    net = cifar_resnet(20, **WIDTHS).eval()
    report = load_weights(net, tmp_path / "net.th")
    assert (report.missing, report.unused, report.mismatched) == ((), (), {})
    assert "net.th: its shortcuts A pad channels on both sides" in caplog.text
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(net(x), theirs(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rename", [renamed, dict], ids=["akamaster's names", "torchvision's names"])
@pytest.mark.parametrize("plain", [False, True])
def test_padding_behind_and_plain_networks_stay_as_they_are(tmp_path, rename, plain, caplog):
    ours = trained(both=False, plain=plain)
    torch.save(rename(ours.state_dict()), tmp_path / "net.pth")
    net = cifar_resnet(20, plain=plain, **WIDTHS)
    load_weights(net, tmp_path / "net.pth")
    for name, parameter in net.named_parameters():
        assert torch.equal(parameter, ours.state_dict()[name])
    assert not caplog.text


def test_networks_without_padding_are_not_looked_at():
    for net in (resnet18(num_classes=2), cifar_resnet(20, shortcut="B"), cifar_resnet(20, norm="gn")):
        assert not pads_both_sides(net.state_dict(), undecided=True)
    assert not pads_both_sides({}, undecided=True)
    state = cifar_resnet(20).state_dict()
    assert not pads_both_sides(state | {"layer2.1.conv1.weight": torch.zeros(32, 5, 3, 3)}, undecided=True)


def both_sides_of(state):
    """Return the weights of ../shared, whose channels were reordered to padding behind, in their author's order."""
    index = {name: torch.arange(tensor.numel()).view(tensor.shape) for name, tensor in state.items()}
    moved = pad_behind(state | {name: at.double() for name, at in index.items() if at.dim()})
    restored = {}
    for name, tensor in state.items():
        flat = torch.empty_like(tensor).flatten()
        if tensor.dim():
            flat[moved[name].long().flatten()] = tensor.flatten()
            restored[name] = flat.view(tensor.shape)
        else:
            restored[name] = tensor
    return restored


@pytest.mark.data
@pytest.mark.parametrize("depth", [20, 32, 44, 56])
def test_real_networks_are_told_apart(shared, depth):
    state = torch.load(shared / f"weights/cifar_resnet{depth}.pth", weights_only=True)
    theirs = both_sides_of(state)
    assert not torch.equal(theirs["layer3.1.conv1.weight"], state["layer3.1.conv1.weight"])
    assert pads_both_sides(theirs, undecided=False)
    assert not pads_both_sides(state, undecided=True)
    assert all(np.array_equal(tensor, state[name]) for name, tensor in pad_behind(theirs).items())
