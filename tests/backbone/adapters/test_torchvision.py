import pytest
import torch
from torchvision.models.detection import FCOS, FasterRCNN, MaskRCNN, RetinaNet, fasterrcnn_resnet50_fpn

from backbone import resnet18, resnet50
from backbone.adapters.torchvision import TorchvisionBackbone

IMAGES = [torch.rand(3, 70, 90), torch.rand(3, 64, 64)]
SMALL = {"min_size": 160, "max_size": 200}


@pytest.mark.parametrize(
    ("detector", "levels", "extra"),
    [
        (FasterRCNN, ("c2", "c5"), "pool"),
        (MaskRCNN, ("c2", "c5"), "pool"),
        (RetinaNet, ("c3", "c5"), "p6p7"),
        (FCOS, ("c3", "c5"), "p6p7"),
    ],
)
def test_torchvision_detectors(detector, levels, extra):
    backbone = TorchvisionBackbone(resnet18(norm="frozen_bn"), levels, channels=32, extra=extra)
    model = detector(backbone, num_classes=3, **SMALL)
    target = {"boxes": torch.tensor([[5.0, 5, 40, 40]]), "labels": torch.tensor([1])}
    target["masks"] = torch.ones(1, 70, 90, dtype=torch.uint8)
    losses = model(IMAGES[:1], [target])
    sum(losses.values()).backward()
    assert model.backbone.body.layer4[1].conv2.weight.grad.abs().sum() > 0
    detections = model.eval()(IMAGES)
    assert set(detections[0]) >= {"boxes", "labels", "scores"}


def test_equals_torchvision_detector():
    """Weights load strictly, and outputs are equal up to rounding (frozen norms are folded into convolutions)."""
    torch.manual_seed(1)
    reference = fasterrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=4, box_score_thresh=0.0, **SMALL
    )
    for module in reference.modules():
        if hasattr(module, "running_var"):
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.3, 0.7)
    backbone = TorchvisionBackbone(resnet50(norm=type_of_norm(reference)))
    model = FasterRCNN(backbone, num_classes=4, box_score_thresh=0.0, **SMALL)
    model.load_state_dict(reference.state_dict())
    with torch.no_grad():
        x = torch.rand(1, 3, 64, 96)
        a, b = model.eval().backbone(x), reference.eval().backbone(x)
        assert list(a) == list(b) == ["0", "1", "2", "3", "pool"]
        for name in a:
            torch.testing.assert_close(a[name], b[name], rtol=1e-5, atol=1e-5 * float(b[name].abs().max()))
        result, expected = model(IMAGES), reference(IMAGES)
    for i in range(2):
        torch.testing.assert_close(result[i]["scores"], expected[i]["scores"], rtol=0, atol=1e-5)


def type_of_norm(model):
    return "bn" if isinstance(model.backbone.body.bn1, torch.nn.BatchNorm2d) else "frozen_bn"


def test_single_feature_map():
    backbone = TorchvisionBackbone(resnet50(), ("c4", "c4"), channels=None)
    assert backbone.out_channels == 1024
    assert {name: tuple(m.shape) for name, m in backbone(torch.rand(1, 3, 64, 64)).items()} == {"0": (1, 1024, 4, 4)}
    with pytest.raises(ValueError, match="need an FPN"):
        TorchvisionBackbone(resnet18(), channels=None)
    for levels, extra in ((("c1", "c5"), "pool"), (("c5", "c2"), "pool"), (("c2", "c5"), "p6")):
        with pytest.raises(ValueError, match="expected levels"):
            TorchvisionBackbone(resnet18(), levels, extra=extra)
