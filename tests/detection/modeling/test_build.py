import dataclasses

import pytest
import torch
from tiny import OneMap

from backbone import RECIPES, FrozenBatchNorm2d
from detection.config import AnchorConfig, ModelConfig, RoIConfig, RPNConfig
from detection.modeling.build import anchor_generators, assemble, build_backbone, build_model

SMALL = ModelConfig(backbone="resnet18", anchors=AnchorConfig((16, 64), (0.5, 1.0)))


def on_meta(config, classes=3):
    with torch.device("meta"):
        return build_model(config, classes)


def test_what_a_configuration_says_is_in_the_model():
    rpn = RPNConfig(channels=32, nms_iou=0.6, after_nms_test=7)
    roi = RoIConfig(resolution=10, score_threshold=0.3, max_detections=9)
    model = on_meta(dataclasses.replace(SMALL, rpn=rpn, roi=roi, padded=True))
    assert model.padded is True
    assert (model.rpn.conv.out_channels, model.rpn.test_limits.after_nms) == (32, 7)
    assert (model.roi_head.score_threshold, model.roi_head.max_detections) == (0.3, 9)
    assert model.roi_head.pooler.resolution == 10
    assert model.roi_head.classes.out_features == 4  # the background is one
    assert model.roi_head.deltas.out_features == 12
    assert model.rpn.anchors[0].per_position == 4


@pytest.mark.parametrize(
    ("recipe", "stride_in", "wanted"),
    [("torchvision", None, ("3x3", "pad1")), ("msra", None, ("1x1", "ceil")), ("msra", "3x3", ("3x3", "ceil"))],
)
def test_the_recipe_says_where_bottlenecks_stride_unless_the_configuration_does(recipe, stride_in, wanted):
    config = ModelConfig(backbone="resnet50", recipe=recipe, stride_in=stride_in)
    with torch.device("meta"):
        net = build_backbone(config)
    assert (net.stride_in, net.stem_pool) == wanted
    assert on_meta(config).recipe == RECIPES[recipe]


def test_dc5_dilates_the_last_stage():
    with torch.device("meta"):
        assert build_backbone(dataclasses.replace(SMALL, architecture="dc5")).specs["c5"].stride == 16
        assert build_backbone(SMALL).specs["c5"].stride == 32


def test_frozen_stages_and_norms():
    config = dataclasses.replace(SMALL, norm="bn", freeze_at=2)
    with torch.device("meta"):
        net = build_backbone(config)
    trained = {name.partition(".")[0] for name, p in net.named_parameters() if p.requires_grad}
    assert trained == {"layer2", "layer3", "layer4", "fc"}
    assert isinstance(net.bn1, FrozenBatchNorm2d)
    assert isinstance(net.layer2[0].bn1, torch.nn.BatchNorm2d)


def test_a_network_of_ones_own_is_shared():
    net = OneMap()
    model = assemble(net, SMALL, 2)
    assert any(p is net.conv.weight for p in model.trunk.parameters())
    net.recipe = "msra"
    assert assemble(net, SMALL, 2).recipe == RECIPES["msra"]


def test_fewer_than_one_class_is_refused():
    with pytest.raises(ValueError, match="at least one class"):
        on_meta(SMALL, 0)


def test_a_pyramid_wants_a_size_for_every_level():
    pyramid = dataclasses.replace(SMALL, architecture="fpn")
    with pytest.raises(ValueError, match="5 levels"):
        anchor_generators(pyramid)
    generators = anchor_generators(dataclasses.replace(pyramid, anchors=AnchorConfig((8, 16, 32, 64, 128), (1.0,))))
    assert [g.stride for g in generators] == [4, 8, 16, 32, 64]
    # the anchor at the first position is a centred square of its level's size
    assert [g(1, 1).tolist() for g in generators] == [[[-s, -s, s, s]] for s in (4, 8, 16, 32, 64)]


def test_no_sizes_are_the_usual_ones():
    auto = dataclasses.replace(SMALL, anchors=AnchorConfig(()))
    (generator,) = anchor_generators(auto)
    sides = (generator(1, 1)[:, 2:] - generator(1, 1)[:, :2]).prod(dim=1).sqrt()
    torch.testing.assert_close(sides, torch.tensor([32.0, 64, 128, 256, 512]).repeat_interleave(3))
