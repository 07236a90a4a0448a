import pytest
import torch

from backbone import resnet18, resnet50
from backbone.layouts import layout_of, to_detectron2, to_torchvision

# torchvision's name, detectron2's, Caffe2's
SAME = [
    ("conv1.weight", "stem.conv1.weight", "conv1_w"),
    ("bn1.weight", "stem.conv1.norm.weight", "conv1_bn_s"),
    ("bn1.bias", "stem.conv1.norm.bias", "conv1_bn_b"),
    ("layer1.0.conv1.weight", "res2.0.conv1.weight", "res2_0_branch2a_w"),
    ("layer1.0.bn1.weight", "res2.0.conv1.norm.weight", "res2_0_branch2a_bn_s"),
    ("layer3.22.conv3.weight", "res4.22.conv3.weight", "res4_22_branch2c_w"),
    ("layer2.0.downsample.0.weight", "res3.0.shortcut.weight", "res3_0_branch1_w"),
    ("layer4.0.downsample.1.bias", "res5.0.shortcut.norm.bias", "res5_0_branch1_bn_b"),
    ("fc.weight", "linear.weight", "fc1000_w"),
    ("fc.bias", "linear.bias", "fc1000_b"),
]


@pytest.mark.parametrize(("ours", "detectron2", "caffe2"), SAME)
def test_names_of_one_tensor(ours, detectron2, caffe2):
    assert to_torchvision(detectron2, "detectron2") == ours
    assert to_torchvision(caffe2, "caffe2") == ours
    assert to_torchvision(ours, "torchvision") == ours
    assert to_detectron2(ours) == detectron2


@pytest.mark.parametrize("net", [resnet18, resnet50])
def test_detectron2s_names_lead_back_for_every_tensor(net):
    with torch.device("meta"):
        names = list(net().state_dict())
    theirs = [to_detectron2(name) for name in names]
    assert None not in theirs
    assert len(set(theirs)) == len(names)
    assert [to_torchvision(name, "detectron2") for name in theirs] == names
    assert layout_of(theirs) == "detectron2"
    assert layout_of(names) == "torchvision"


def test_a_detector_holds_the_network_under_prefixes():
    for prefix in ("backbone.", "backbone.bottom_up.", "roi_heads."):
        assert to_torchvision(f"{prefix}res5.1.conv2.weight", "detectron2") == "layer4.1.conv2.weight"


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("proposal_generator.rpn_head.conv.weight", "detectron2"),
        ("res6.0.conv1.weight", "detectron2"),
        ("res2_0_branch2a_w_momentum", "caffe2"),
        ("lr", "caffe2"),
        ("conv1_b", "caffe2"),  # a bias before a norm
    ],
)
def test_other_names_have_none(name, layout):
    assert to_torchvision(name, layout) is None


def test_names_of_other_networks_have_none_in_detectron2():
    assert to_detectron2("layer5.0.conv1.weight") is None
    assert to_detectron2("features.0.weight") is None


@pytest.mark.parametrize(
    ("names", "layout"),
    [
        ([], "torchvision"),
        (["fc.weight"], "torchvision"),
        (["linear.weight"], "torchvision"),
        (["lr", "res2_0_branch1_w"], "caffe2"),
        (["module.backbone.res2.0.conv1.weight"], "detectron2"),
        (["roi_heads.res5.0.conv1.weight"], "detectron2"),
    ],
)
def test_layout_by_names(names, layout):
    assert layout_of(names) == layout
