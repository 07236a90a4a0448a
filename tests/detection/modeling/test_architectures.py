import pytest
import torch
from tiny import OneMap
from torch import nn

from backbone import FeatureSpec, ResNet
from backbone.blocks import BasicBlock, Bottleneck
from detection.modeling.architectures import make_head, take_apart


def small(block=BasicBlock, **options):
    """A network of four stages with one block each, narrow."""
    return ResNet(block, (1, 1, 1, 1), 2, widths=(4, 4, 8, 8), stem_width=4, **options).eval()


class Splits(nn.Module):
    """A backbone that splits itself."""

    def split_c4(self):
        trunk, head = OneMap(), nn.Identity()
        trunk.spec, head.spec = FeatureSpec(8, 16), FeatureSpec(8, 32)
        return trunk, head


def test_c4_shares_one_map_and_has_conv5_as_head():
    net = small()
    parts = take_apart(net, "c4")
    assert parts.maps == parts.pooled == [FeatureSpec(8, 16)]
    assert (parts.resolution, parts.divisor, parts.bin_stride) == (14, 1, 1)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        # the parts one after the other are the network
        assert torch.equal(parts.head(parts.trunk(x)), net.features(x)["c5"])


def test_regions_of_a_head_that_strides_in_1x1_are_pooled_at_every_second_bin():
    net = small(Bottleneck, stride_in="1x1")
    parts = take_apart(net, "c4")
    assert parts.bin_stride == 2
    regions = torch.randn(2, 32, 14, 14)
    with torch.no_grad():
        torch.testing.assert_close(parts.head(regions[:, :, ::2, ::2]), net.layer4(regions), atol=1e-5, rtol=1e-5)


def test_dc5_ends_with_the_dilated_stage():
    parts = take_apart(small(output_stride=16), "dc5")
    assert parts.maps == parts.pooled == [FeatureSpec(8, 16)]
    assert parts.head is None
    assert parts.resolution == 7
    assert parts.trunk(torch.zeros(1, 3, 64, 96)).shape == (1, 8, 4, 6)


def test_a_pyramid_pools_from_all_levels_but_the_coarsest():
    parts = take_apart(small(), "fpn", fpn_channels=6)
    assert [spec.stride for spec in parts.maps] == [4, 8, 16, 32, 64]
    assert parts.pooled == list(parts.maps)[:-1]
    assert {spec.channels for spec in parts.maps} == {6}
    assert parts.divisor == 32


@pytest.mark.parametrize("architecture", ["c4", "dc5"])
def test_a_module_that_cannot_be_split_gives_its_only_map(architecture):
    parts = take_apart(OneMap(), architecture)
    assert parts.maps == parts.pooled == [FeatureSpec(8, 16)]
    assert parts.head is None
    assert parts.divisor == 16


def test_a_module_that_splits_itself_is_asked_to():
    parts = take_apart(Splits(), "c4")
    assert isinstance(parts.trunk, OneMap)
    assert isinstance(parts.head, nn.Identity)
    assert parts.maps == [FeatureSpec(8, 16)]


def test_other_architectures_are_refused():
    with pytest.raises(ValueError, match="c4, dc5, fpn"):
        take_apart(OneMap(), "c3")
    with pytest.raises(TypeError, match="Identity"):
        take_apart(nn.Identity(), "c4")


def test_the_head_is_the_one_given_else_the_backbones_else_two_layers():
    own = nn.Identity()
    own.out_channels = 5
    c4, one = take_apart(small(), "c4"), take_apart(OneMap(), "c4")
    assert make_head(c4, own, 14, {}) == (own, 5)
    assert make_head(c4, None, 14, {}) == (c4.head, 8)
    head, channels = make_head(one, None, 3, {"fc_channels": 6})
    assert channels == 6
    assert head(torch.zeros(2, 8, 3, 3)).shape == (2, 6)


def test_a_head_that_does_not_say_its_channels_is_refused():
    with pytest.raises(TypeError, match=r"Identity.*out_channels"):
        make_head(take_apart(OneMap(), "c4"), nn.Identity(), 7, {})
