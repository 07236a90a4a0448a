import pytest
import torch
from torch import nn

from backbone.features import FeatureSpec, FeatureTrunk, feature_specs


class Body(nn.Module):
    """Maps of 2 and 5 channels, in the form that ``give`` makes of them."""

    def __init__(self, give=list):
        super().__init__()
        self.give = give
        self.specs = {"fine": FeatureSpec(2, 4), "coarse": FeatureSpec(5, 8)}

    def forward(self, x):
        return self.give([x.new_full((len(x), 2, 4, 4), 1.0), x.new_full((len(x), 5, 2, 2), 2.0)])


IMAGE = torch.zeros(1, 3, 16, 16)


def named(maps):
    return dict(zip(("fine", "coarse"), maps, strict=True))


def test_specs_keep_their_order():
    assert list(feature_specs(Body())) == ["fine", "coarse"]


def test_a_module_of_one_map_names_it_map():
    module = nn.Identity()
    module.out_channels, module.stride = 7, 16
    assert feature_specs(module) == {"map": FeatureSpec(7, 16)}


@pytest.mark.parametrize("attributes", [{}, {"specs": {}}, {"specs": {"a": 3}}, {"out_channels": 3, "stride": (2, 2)}])
def test_a_module_that_does_not_say_its_maps_is_refused(attributes):
    module = nn.Identity()
    for name, value in attributes.items():
        setattr(module, name, value)
    with pytest.raises(TypeError, match=r"Identity.*specs"):
        feature_specs(module)


@pytest.mark.parametrize("give", [list, tuple, named])
def test_maps_are_picked_by_name_from_any_container(give):
    both = FeatureTrunk(Body(give), ["fine", "coarse"])
    assert [float(m.mean()) for m in both.maps(IMAGE)] == [1, 2]
    fine = FeatureTrunk(Body(give), ["fine"])
    assert float(fine(IMAGE).mean()) == 1
    assert fine.spec == FeatureSpec(2, 4)
    assert both.spec == FeatureSpec(5, 8)
    assert float(both(IMAGE).mean()) == 2  # the last


def test_a_single_tensor_is_the_only_map():
    body = nn.Conv2d(3, 4, 1, stride=1)
    body.stride = 1
    trunk = FeatureTrunk(body, ["map"])
    assert torch.equal(trunk(IMAGE), body(IMAGE))


def test_a_module_that_gives_fewer_maps_than_it_names_is_refused():
    with pytest.raises(ValueError, match="1 maps"):
        FeatureTrunk(Body(lambda maps: maps[:1]), ["coarse"]).maps(IMAGE)


def test_a_dictionary_that_lacks_the_name_is_refused():
    with pytest.raises(ValueError, match="coarse"):
        FeatureTrunk(Body(lambda maps: {"fine": maps[0], "other": maps[1]}), ["coarse"]).maps(IMAGE)


def test_other_channels_than_named_are_refused():
    with pytest.raises(ValueError, match="fine"):
        FeatureTrunk(Body(lambda maps: maps[::-1]), ["fine"]).maps(IMAGE)
