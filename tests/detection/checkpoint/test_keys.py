import pytest
import torch

from detection.checkpoint.keys import from_detectron2, is_detectron2, network_name, to_detectron2
from detection.config import AnchorConfig, ModelConfig
from detection.modeling.build import build_model

# ours, detectron2's
SAME = [
    ("trunk.conv1.weight", "backbone.stem.conv1.weight"),
    ("trunk.bn1.running_mean", "backbone.stem.conv1.norm.running_mean"),
    ("trunk.layer1.0.downsample.1.bias", "backbone.res2.0.shortcut.norm.bias"),
    ("trunk.body.layer2.1.conv2.weight", "backbone.bottom_up.res3.1.conv2.weight"),
    ("trunk.fpn.lateral.0.weight", "backbone.fpn_lateral2.weight"),
    ("trunk.fpn.output.3.bias", "backbone.fpn_output5.bias"),
    ("rpn.conv.weight", "proposal_generator.rpn_head.conv.weight"),
    ("rpn.objectness.bias", "proposal_generator.rpn_head.objectness_logits.bias"),
    ("rpn.deltas.bias", "proposal_generator.rpn_head.anchor_deltas.bias"),
    ("roi_head.head.layer4.0.conv1.weight", "roi_heads.res5.0.conv1.weight"),
    ("roi_head.head.fc1.weight", "roi_heads.box_head.fc1.weight"),
    ("roi_head.deltas.weight", "roi_heads.box_predictor.bbox_pred.weight"),
]


@pytest.mark.parametrize(("ours", "theirs"), SAME)
def test_names_of_one_tensor(ours, theirs):
    x = torch.arange(6.0)
    assert list(from_detectron2({theirs: x})) == [ours]
    assert list(to_detectron2({ours: x})) == [theirs]
    assert torch.equal(from_detectron2({theirs: x})[ours], x)


def test_the_background_is_their_last_class_and_our_first():
    theirs = torch.tensor([[1.0], [2], [0]])  # cat, dog, background
    ours = from_detectron2({"roi_heads.box_predictor.cls_score.weight": theirs})
    assert ours["roi_head.classes.weight"].tolist() == [[0], [1], [2]]


@pytest.mark.parametrize("architecture", ["c4", "dc5", "fpn"])
def test_a_whole_detector_comes_back(architecture):
    config = ModelConfig(architecture=architecture, backbone="resnet50", anchors=AnchorConfig((8, 16, 32, 64, 128)))
    with torch.device("meta"):
        names = list(build_model(config, 2).state_dict())
    state = {name: torch.tensor([i, i + 0.25, i + 0.5]) for i, name in enumerate(names)}
    theirs = to_detectron2(state)
    assert is_detectron2(theirs)
    assert not is_detectron2(state)
    assert len(theirs) == len(state)
    back = from_detectron2(theirs)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], value) for name, value in state.items())


def test_what_the_configuration_says_is_left_out():
    old = {"pixel_mean": torch.zeros(3), "proposal_generator.anchor_generator.cell_anchors.0": torch.zeros(3, 4)}
    assert from_detectron2(old) == {}


def test_unknown_names_are_kept_on_the_way_in_and_refused_on_the_way_out():
    x = torch.zeros(1)
    assert from_detectron2({"mask_head.weight": x}) == {"mask_head.weight": x}
    with pytest.raises(ValueError, match=r"2 tensors: mine, trunk\.other"):
        to_detectron2({"mine": x, "trunk.other": x, "rpn.conv.bias": x})
    with pytest.raises(ValueError, match=r"trunk\.layer1\.0\.conv1\.bias"):  # there is none beside a norm
        to_detectron2({"trunk.layer1.0.conv1.bias": x})
    assert from_detectron2({}) == to_detectron2({}) == {}


def test_a_network_alone_is_no_detector():
    assert not is_detectron2({"stem.conv1.weight": 0, "res2.0.conv1.weight": 0})
    assert not is_detectron2({})


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("layer1.0.conv1.weight", "layer1.0.conv1.weight"),
        ("trunk.layer1.0.conv1.weight", "layer1.0.conv1.weight"),
        ("trunk.body.bn1.bias", "bn1.bias"),
        ("roi_head.head.layer4.2.bn3.weight", "layer4.2.bn3.weight"),
        ("roi_head.head.fc1.weight", None),
        ("rpn.conv.weight", None),
        ("trunk.fpn.output.0.weight", None),
    ],
)
def test_the_networks_name_wherever_it_stands(name, wanted):
    assert network_name(name) == wanted
