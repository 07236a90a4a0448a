import pytest
import torch
from torch import nn
from torchvision.ops import FeaturePyramidNetwork

from backbone import FPN, FeatureSpec, PyramidTrunk, cifar_resnet


def identity_pyramid(levels):
    """A pyramid of one channel whose convolutions copy their input."""
    fpn = FPN([1] * levels, channels=1)
    with torch.no_grad():
        for lateral, output in zip(fpn.lateral, fpn.output, strict=True):
            lateral.weight.fill_(1)
            output.weight.zero_()
            output.weight[0, 0, 1, 1] = 1
    return fpn


class Maps(nn.Module):
    """A backbone that averages its input to maps of the strides given, one channel each."""

    def __init__(self, *strides):
        super().__init__()
        self.strides = strides
        self.specs = {f"map{stride}": FeatureSpec(1, stride) for stride in strides}

    def forward(self, x):
        return [nn.functional.avg_pool2d(x.mean(1, keepdim=True), stride) for stride in self.strides]


def test_a_finer_level_adds_the_coarser_one_upsampled_to_nearest():
    fine = torch.arange(16.0).reshape(1, 1, 4, 4)
    coarse = torch.tensor([[[[100.0, 200], [300, 400]]]])
    p2, p3, p4 = identity_pyramid(2)([fine, coarse])
    repeated = coarse.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    assert torch.equal(p3, coarse)
    assert torch.equal(p2, fine + repeated)
    assert p4.tolist() == [[[[100.0]]]]  # every second row and column


def test_levels_equal_torchvisions():
    ours, theirs = FPN([3, 5, 7], channels=4), FeaturePyramidNetwork([3, 5, 7], 4)
    with torch.no_grad():
        for i in range(3):
            ours.lateral[i].bias.normal_()
            for own, other in (
                (ours.lateral[i], theirs.inner_blocks[i][0]),
                (ours.output[i], theirs.layer_blocks[i][0]),
            ):
                other.load_state_dict(own.state_dict())
        maps = [torch.randn(2, c, 16 >> i, 24 >> i) for i, c in enumerate((3, 5, 7))]
        wanted = theirs(dict(enumerate(maps)))
        got = ours(maps)
    assert len(got) == 4
    for i in range(3):
        torch.testing.assert_close(got[i], wanted[i])


def test_maps_that_do_not_halve_are_refused():
    with pytest.raises(ValueError, match="halve"):
        identity_pyramid(2)([torch.zeros(1, 1, 5, 4), torch.zeros(1, 1, 2, 2)])


def test_biases_start_at_zero():
    fpn = FPN([3, 5], 4)
    assert all(not m.bias.any() for m in fpn.modules() if isinstance(m, nn.Conv2d))


def test_a_pyramid_on_a_module_has_its_strides_and_one_level_more():
    trunk = PyramidTrunk(Maps(2, 4, 8, 16), channels=6)
    assert [(spec.channels, spec.stride) for spec in trunk.specs] == [(6, 4), (6, 8), (6, 16), (6, 32)]
    assert trunk.divisor == 16
    levels = trunk(torch.randn(2, 3, 32, 48))
    assert [tuple(level.shape) for level in levels] == [(2, 6, 32 // s, 48 // s) for s in (4, 8, 16)] + [(2, 6, 1, 2)]


@pytest.mark.parametrize("strides", [(4,), (2, 4), (4, 16), (8, 4)])
def test_strides_that_do_not_double_are_refused(strides):
    with pytest.raises(ValueError, match="strides double"):
        PyramidTrunk(Maps(*strides))


def test_a_network_of_three_stages_is_refused():
    with pytest.raises(ValueError, match="c4"):
        PyramidTrunk(cifar_resnet(20))
