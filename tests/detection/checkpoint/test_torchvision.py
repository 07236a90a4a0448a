"""torchvision's whole detectors: read, converted, and equal to torchvision's own detections at its settings."""

import logging

import pytest
import torch
from torch import nn
from torchvision.models.detection import FasterRCNN as TorchvisionFasterRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import (
    FastRCNNConvFCHead,
    FastRCNNPredictor,
    TwoMLPHead,
    _default_anchorgen,
)
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops.misc import FrozenBatchNorm2d

from backbone import load_weights, resnet18
from backbone.layouts import is_torchvision_detector
from backbone.weights import read_weights
from detection import build_model, load_config, load_detector
from detection.checkpoint.convert import TORCHVISION
from detection.checkpoint.keys import from_torchvision
from detection.checkpoint.label_maps import class_names
from detection.checkpoint.metadata import Classes
from detection.checkpoint.start import start_weights
from detection.cli import run

SMALL = ["model.backbone=resnet18", "model.roi.fc_channels=32"]


def theirs(num_classes=3, second_version=False, eps=1e-5):
    """Return a torchvision detector on a ResNet-18 whose layers are scaled so that it detects something."""
    torch.manual_seed(0)
    frozen = nn.BatchNorm2d if second_version else lambda channels: FrozenBatchNorm2d(channels, eps)
    backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None, norm_layer=frozen)
    head, options = TwoMLPHead(256 * 49, 32), {}
    if second_version:
        for blocks in (backbone.fpn.inner_blocks, backbone.fpn.layer_blocks):
            for block in blocks:
                block[0].bias = None
                block.append(nn.BatchNorm2d(256))
        head = FastRCNNConvFCHead((256, 7, 7), [8], [32], norm_layer=nn.BatchNorm2d)
        options = {"rpn_head": RPNHead(256, 3, conv_depth=2), "rpn_anchor_generator": _default_anchorgen()}
    predictor = FastRCNNPredictor(32, num_classes + 1)
    model = TorchvisionFasterRCNN(backbone, box_head=head, box_predictor=predictor, **options).eval()
    outputs = {
        model.rpn.head.cls_logits: 3.0,
        model.rpn.head.bbox_pred: 0.3,
        predictor.cls_score: 2.0,
        predictor.bbox_pred: 1.0,
    }

    def scale(layer, _, out):
        factor = outputs[layer] / out.std()
        layer.weight.data *= factor
        return out * factor

    for module in model.modules():
        if isinstance(module, (nn.BatchNorm2d, FrozenBatchNorm2d)):
            for tensor, low in ((module.weight, 0.3), (module.running_var, 1e-3 if eps == 0 else 0.5)):
                tensor.data.uniform_(low, 2 * low)
            module.bias.data.normal_(std=0.1)
            module.running_mean.normal_(std=0.1)
    hooks = [layer.register_forward_hook(scale) for layer in outputs]
    with torch.no_grad():
        for layer in outputs:
            nn.init.zeros_(layer.bias)
        at_size(model, [torch.rand(3, 96, 128)])
    for hook in hooks:
        hook.remove()
    return model


def at_size(model, images):
    """Return torchvision's detections without resizing."""
    model.transform.resize = lambda image, target: (image, target)
    with torch.no_grad():
        return model(images)


@pytest.fixture
def config(tmp_path):
    """Return the shipped configuration with a small network."""
    small = "{backbone: resnet18, roi: {fc_channels: 32}}"
    (tmp_path / "small.yaml").write_text(f"_base_: {TORCHVISION}\nmodel: {small}\n")
    return tmp_path / "small.yaml"


def converted(model, config, tmp_path, state=None):
    torch.save(state or model.state_dict(), tmp_path / "tv.pth")
    arguments = [tmp_path / "tv.pth", tmp_path / "ours.pth", "--config", config, "--classes", "ant,bee,cow"]
    assert run("convert-weights", [str(a) for a in arguments]) == 0
    return load_detector(tmp_path / "ours.pth")


def assert_equal_detections(ours, model, images):
    """Compare in float64: random layers amplify the rounding of float32."""
    ours, model, images = ours.double(), model.double(), [image.double() for image in images]
    with torch.no_grad():
        found = ours(images)
    for a, b in zip(found, at_size(model, images), strict=True):
        assert len(a["boxes"]) == len(b["boxes"]) > 20
        assert torch.equal(a["labels"], b["labels"])
        torch.testing.assert_close(a["boxes"], b["boxes"], rtol=0, atol=0.01)
        torch.testing.assert_close(a["scores"], b["scores"], rtol=0, atol=1e-5)


def test_detections_equal_torchvisions(config, tmp_path):
    """Two sizes in a batch, padded to 160 rows: its coarsest level has 3 rows, 53 px apart in torchvision."""
    model = theirs()
    ours, classes = converted(model, config, tmp_path)
    assert classes == ("ant", "bee", "cow")
    assert_equal_detections(ours, model, [torch.rand(3, 150, 200), torch.rand(3, 96, 160)])


def old_names(state):
    """Return a state dict as torchvision before its version 0.13 wrote it."""
    renamed = {name.replace("rpn.head.conv.0.0.", "rpn.head.conv."): tensor for name, tensor in state.items()}
    return {
        name.replace(".0.weight", ".weight").replace(".0.bias", ".bias") if "_blocks." in name else name: tensor
        for name, tensor in renamed.items()
    }


def test_old_names_have_an_eps_of_zero(config, tmp_path, caplog):
    """As torchvision's COCO_V1 weights, for which torchvision overwrites the eps of its frozen norms."""
    model = theirs(eps=0.0)
    state = old_names(model.state_dict())
    assert {"rpn.head.conv.weight", "backbone.fpn.inner_blocks.2.bias"} <= set(state)
    ours, _ = converted(model, config, tmp_path, state)
    assert "tv.pth: its frozen norms have an eps of 0" in caplog.text
    assert_equal_detections(ours, model, [torch.rand(3, 96, 128)])


def test_shipped_configuration_is_the_default(tmp_path, capsys):
    """Its ResNet-50 does not fit this ResNet-18, which one message says."""
    torch.save(theirs(num_classes=90).state_dict(), tmp_path / "tv.pth")
    assert run("convert-weights", [str(tmp_path / "tv.pth"), str(tmp_path / "ours.pth")]) == 2
    error = capsys.readouterr().err
    assert "tv.pth does not hold this detector's weights" in error
    assert "conv3.weight" in error
    assert load_config(TORCHVISION).model.backbone == "resnet50"


def test_names_of_coco_with_its_unused_ids():
    classes = class_names(None, 90)
    assert classes.category_ids == tuple(range(1, 91))
    assert classes.names[11:13] == ("N/A 12", "stop sign")
    assert set(class_names("coco", 80).names) == {name for name in classes.names if not name.startswith("N/A")}


def start(path, classes, caplog, *keys):
    torch.manual_seed(1)
    config = load_config(TORCHVISION, [*SMALL, f"model.weights={path}", *keys]).model
    model = build_model(config, len(classes))
    with caplog.at_level(logging.INFO):
        start_weights(model, config, Classes(classes, tuple(range(1, len(classes) + 1))))
    return model


def test_training_starts_from_the_whole_detector(tmp_path, caplog):
    model = theirs(num_classes=90)
    torch.save({"model": model.state_dict()}, tmp_path / "tv.pth")
    started = start(tmp_path / "tv.pth", ("stop sign", "ant"), caplog)
    assert torch.equal(started.roi_head.head.fc1.weight, model.roi_heads.box_head.fc6.weight)
    assert torch.equal(started.rpn.objectness.weight, model.rpn.head.cls_logits.weight)
    rows = model.roi_heads.box_predictor
    assert torch.equal(started.roi_head.classes.weight[:2], rows.cls_score.weight[[0, 13]])
    assert torch.equal(started.roi_head.deltas.weight[:4], rows.bbox_pred.weight[52:56])
    assert "rows of stop sign are kept; ant begin anew" in caplog.text
    assert "was trained with" not in caplog.text
    start(tmp_path / "tv.pth", ("ant",), caplog, "model.roi.aligned=true", "model.anchors.rounded=false")
    assert "was trained with model.anchors.rounded=true model.roi.aligned=false: the configuration" in caplog.text


def test_other_architectures_and_networks_take_the_backbone(tmp_path, caplog):
    model = theirs()
    torch.save(model.state_dict(), tmp_path / "tv.pth")
    c4 = start(tmp_path / "tv.pth", ("ant",), caplog, "model.architecture=c4", "model.roi.resolution=14")
    assert "model.architecture is c4: its backbone alone is loaded" in caplog.text
    assert torch.equal(c4.roi_head.head.layer4[1].conv2.weight, model.backbone.body.layer4[1].conv2.weight)
    net = resnet18(norm="frozen_bn")
    assert load_weights(net, tmp_path / "tv.pth").missing == ("fc.weight", "fc.bias")
    arguments = [str(tmp_path / "tv.pth"), str(tmp_path / "net.pth"), "--backbone"]
    assert run("convert-weights", arguments) == 0
    assert torch.equal(read_weights(tmp_path / "net.pth").tensors["conv1.weight"], net.conv1.weight)


def test_of_the_second_version_backbone_and_pyramid_are_taken(config, tmp_path, caplog, capsys):
    """The norms of its pyramid are folded; its RPN and head have no counterpart, which is said."""
    model = theirs(second_version=True)
    torch.save(model.state_dict(), tmp_path / "tv.pth")
    started = start(tmp_path / "tv.pth", ("ant",), caplog).eval()
    assert "of roi_heads.box_head, roi_heads.box_predictor, rpn.head are left out" in caplog.text
    assert "backbone and pyramid are loaded, rpn. and roi_head. begin anew" in caplog.text
    x = torch.rand(1, 3, 96, 128)
    with torch.no_grad():
        for ours, level in zip(started.trunk(x), model.backbone(x).values(), strict=True):
            torch.testing.assert_close(ours, level, rtol=1e-4, atol=1e-5)
    arguments = [tmp_path / "tv.pth", tmp_path / "ours.pth", "--config", config]
    assert run("convert-weights", [str(a) for a in arguments]) == 2
    assert "its backbone and pyramid alone can be used, with --weights of training" in capsys.readouterr().err


def test_masks_and_keypoints_are_left_out(caplog):
    state = theirs().state_dict()
    assert is_torchvision_detector(state)
    branches = {
        "roi_heads.mask_predictor.conv5_mask.bias": torch.ones(1),
        "roi_heads.keypoint_head.0.bias": torch.ones(1),
    }
    tensors, left_out = from_torchvision(state | branches)
    assert left_out == tuple(branches)
    assert tensors.keys() == from_torchvision(state)[0].keys()


def test_a_file_as_it_is_names_the_command(tmp_path):
    torch.save(theirs().state_dict(), tmp_path / "tv.pth")
    with pytest.raises(ValueError, match=r"it is torchvision's; resdet convert-weights makes one of this project"):
        load_detector(tmp_path / "tv.pth")
