"""Custom backbones and heads, and constructor defaults."""

import dataclasses

import pytest
import torch
from tiny import OneMap
from torch import nn

from backbone import FeatureSpec, resnet18
from backbone.resnet import FACTORIES
from detection import FasterRCNN, build_model
from detection.config import AnchorConfig, ModelConfig, RoIConfig, RPNConfig
from detection.modeling.faster_rcnn import keyword_defaults
from detection.modeling.roi_head import RoIHead, TwoLayerHead
from detection.modeling.roi_pooler import RoIPooler
from detection.modeling.rpn import RPN

IMAGES = [torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(i)) for i in range(2)]
TARGETS = [
    {"boxes": torch.tensor([[5.0, 5, 50, 60]]), "labels": torch.tensor([2])},
    {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
]


def trains_and_detects(model, unused=()):
    model.train()
    losses = model(IMAGES, TARGETS)
    total = sum(losses.values())
    assert total.isfinite()
    total.backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if p.requires_grad and not n.startswith(unused))
    detections = model.eval()(IMAGES)
    assert set(detections[0]) == {"boxes", "labels", "scores"}


@pytest.mark.usefixtures("thin_networks")
def test_constructor_defaults_equal_the_configuration():
    torch.manual_seed(0)
    model = FasterRCNN(FACTORIES["resnet18"](norm="frozen_bn", freeze_at=2), num_classes=20)
    torch.manual_seed(0)
    configured = build_model(ModelConfig(backbone="resnet18"), 20)
    assert model.state_dict().keys() == configured.state_dict().keys()
    assert all(torch.equal(v, configured.state_dict()[k]) for k, v in model.state_dict().items())
    assert vars(model.rpn.test_limits) == vars(configured.rpn.test_limits)
    assert model.roi_head.pooler.resolution == configured.roi_head.pooler.resolution == 14
    torch.manual_seed(1)
    losses = model.train()(IMAGES, TARGETS)
    torch.manual_seed(1)
    assert all(torch.equal(v, losses[k]) for k, v in configured.train()(IMAGES, TARGETS).items())


@pytest.mark.parametrize(("config", "constructors", "others"), [
    (RPNConfig, [RPN], set()),
    (RoIConfig, [RoIPooler, RoIHead, TwoLayerHead], {"class_start"}),
])  # fmt: skip
def test_every_setting_has_a_constructor_default(config, constructors, others):
    defaults = {key: value for c in constructors for key, value in keyword_defaults(c).items()}
    settings = {f.name: f.default for f in dataclasses.fields(config)}
    assert settings.keys() - others == defaults.keys() - {"bin_stride", "chunk_size"}
    assert {k: v for k, v in settings.items() if k in defaults} == {k: v for k, v in defaults.items() if k in settings}


@pytest.mark.parametrize("architecture", ["dc5", "fpn"])
def test_architectures_by_name(architecture):
    model = FasterRCNN(resnet18(norm="frozen_bn"), 3, architecture=architecture, rpn={"after_nms_train": 50})
    assert model.roi_head.pooler.resolution == 7
    trains_and_detects(model)


class NamedMap(OneMap):
    """A backbone with one feature map under a name, described by out_channels and stride, as in torchvision."""

    def forward(self, x):
        return {"0": super().forward(x)}


class Pyramid(nn.Module):
    def __init__(self, output):
        super().__init__()
        self.output = output
        self.specs = {f"c{i}": FeatureSpec(4 * i, 2**i) for i in range(2, 5)}
        self.convs = nn.ModuleList(nn.Conv2d(3, 4 * i, 2**i, 2**i) for i in range(2, 5))

    def forward(self, x):
        maps = [conv(x) for conv in self.convs]
        return maps if self.output == "list" else dict(zip(self.specs, maps, strict=True))


def test_module_with_out_channels_and_stride():
    model = FasterRCNN(NamedMap(), 3, rpn={"after_nms_train": 50})
    assert model.roi_head.pooler.strides == (16,)
    trains_and_detects(model)


@pytest.mark.parametrize("output", ["list", "dict"])
def test_module_with_several_feature_maps(output):
    sizes = {"sizes": [16, 32, 64, 128]}
    pyramid = FasterRCNN(Pyramid(output), 3, architecture="fpn", anchors=sizes, fpn_channels=8)
    assert pyramid.divisor == 16
    trains_and_detects(pyramid)
    last = FasterRCNN(Pyramid(output), 3, rpn={"after_nms_train": 50})
    assert last.rpn.conv.in_channels == 16
    trains_and_detects(last, unused=("trunk.body.convs.0", "trunk.body.convs.1"))


class Mean(nn.Module):
    """A head: global average pooling and one linear layer."""

    out_channels = 12

    def __init__(self, channels):
        super().__init__()
        self.layer = nn.Linear(channels, 12)

    def forward(self, x):
        return self.layer(x.mean(dim=(2, 3))).relu()


@pytest.mark.parametrize("architecture", ["c4", "fpn"])
def test_custom_head(architecture):
    channels = 256  # of C4 and FPN
    model = FasterRCNN(
        resnet18(norm="frozen_bn"), 3, architecture=architecture, head=Mean(channels), roi={"resolution": 5}
    )
    assert model.roi_head.classes.in_features == 12
    trains_and_detects(model)


def test_incompatible_arguments_raise():
    net = resnet18(norm="frozen_bn")
    with pytest.raises(TypeError, match=r"Linear does not say what its feature maps are: wanted \.specs"):
        FasterRCNN(nn.Linear(2, 2), 3)
    with pytest.raises(TypeError, match=r"rpn has no option 'nms'; it has .*nms_iou"):
        FasterRCNN(net, 3, rpn={"nms": 0.5})
    with pytest.raises(TypeError, match=r"roi has no option 'fc'; it has .*fc_channels"):
        FasterRCNN(net, 3, roi={"fc": 5})
    with pytest.raises(TypeError, match="Linear as a head wants an integer attribute out_channels"):
        FasterRCNN(net, 3, head=nn.Linear(2, 2))
    with pytest.raises(ValueError, match="one of c4, dc5, fpn, got 'c5'"):
        FasterRCNN(net, 3, architecture="c5")
    with pytest.raises(ValueError, match="two maps or more whose strides double"):
        FasterRCNN(NamedMap(), 3, architecture="fpn")
    wrong = Pyramid("list")
    wrong.specs = {"c2": FeatureSpec(5, 4), "c3": FeatureSpec(12, 8), "c4": FeatureSpec(16, 16)}
    with pytest.raises(ValueError, match=r"map c2 is \[2, 8, 16, 24\], wanted \[N, 5, H, W\]"):
        FasterRCNN(wrong, 3, architecture="fpn", anchors={"sizes": [8, 16, 32, 64]})(IMAGES, TARGETS)


@pytest.mark.parametrize("architecture", ["c4", "fpn"])
def test_padded_equals_compact(architecture):
    config = ModelConfig(
        architecture=architecture,
        backbone="resnet18",
        norm="frozen_bn",
        anchors=AnchorConfig((16, 32, 64, 128, 256)),
        rpn=RPNConfig(after_nms_train=60, after_nms_test=40),
        roi=RoIConfig(resolution=7, batch_per_image=32, score_threshold=0.0),
    )
    torch.manual_seed(0)
    model = build_model(config, 3).double()
    images = [image.double() for image in IMAGES]
    targets = [{"boxes": t["boxes"].double(), "labels": t["labels"]} for t in TARGETS]
    results = {}
    for padded in (False, True):
        model.padded = padded
        model.train().zero_grad()
        losses = model(images, targets, torch.Generator().manual_seed(7))
        sum(losses.values()).backward()
        gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        results[padded] = losses, gradients, model.eval()(images)
    for key, value in results[False][0].items():
        torch.testing.assert_close(results[True][0][key], value, rtol=1e-12, atol=0)
    for key, value in results[False][1].items():
        torch.testing.assert_close(results[True][1][key], value, rtol=1e-9, atol=1e-15)
    for compact, padded in zip(results[False][2], results[True][2], strict=True):
        assert len(compact["boxes"]) > 10
        for key, value in compact.items():
            torch.testing.assert_close(padded[key], value, rtol=1e-12, atol=0)
